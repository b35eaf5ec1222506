//! Plans on disk: kept as long as nothing that they depend on changes, and loaded only as they were written.
//!
//! A plan is code for the GPU, compiled for one version of TensorRT and one kind of GPU. Each file begins with one line
//! that says what the plan was compiled from and for, with a SHA-256 over that and the plan. What differs, in the line or
//! in the bytes, is compiled again. Whoever can write files as this program's user can forge both, as he could replace the
//! program; so a file or folder that others may write to is not read at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Profile, Version};
use crate::{Error, Precision, Result};

/// Changes when files that were written before must not be read any more.
const FORMAT: u32 = 1;
/// No line is longer.
const LONGEST_HEADER: usize = 64 << 10;
const LOCK: &str = "lock";
const TEMPORARY: &str = ".plan-";
/// A note is written without the lock, so it must not be among what a process that compiles takes for left over.
const TEMPORARY_NOTE: &str = ".note-";

/// What can be chosen when a plan is compiled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Most memory that layers may take while they compute, in MiB; without it, all of the device's.
    pub workspace: Option<u32>,
    /// The deep learning accelerator to compute on, as far as it can.
    pub dla: Option<u32>,
}

/// What a plan is compiled from and for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    format: u32,
    tensorrt: String,
    gpu: String,
    network: String,
    onnx: String,
    precision: String,
    profiles: Vec<String>,
}

impl Key {
    /// `gpu` is the name of the device, `onnx` the file that the plan is compiled from.
    pub fn new(
        version: Version,
        gpu: &str,
        network: &str,
        precision: Precision,
        profiles: &[Profile],
        onnx: &[u8],
    ) -> Self {
        Self {
            format: FORMAT,
            tensorrt: version.to_string(),
            gpu: gpu.into(),
            network: network.into(),
            onnx: hexadecimal(Sha256::new().chain_update(onnx)),
            precision: precision.to_string(),
            profiles: profiles.iter().map(ToString::to_string).collect(),
        }
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first line of a file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    key: Key,
    settings: Settings,
    /// SHA-256 of key, settings and plan.
    sha256: String,
}

impl Header {
    fn new(key: &Key, settings: Settings, plan: &[u8]) -> Self {
        let text = serde_json::to_vec(&(key, settings)).unwrap_or_default();
        Self {
            key: key.clone(),
            settings,
            sha256: hexadecimal(Sha256::new().chain_update(text).chain_update(plan)),
        }
    }
}

/// A plan that is what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was compiled with.
    pub settings: Settings,
    /// What TensorRT gave.
    pub bytes: Vec<u8>,
}

/// A folder with plans.
#[derive(Debug, Clone)]
pub struct Plans {
    dir: PathBuf,
}

impl Plans {
    /// The plans in `dir`, which is made, for this user alone, if it is not there.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made, or when others may write to it.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.and_then(|()| refuse_shared(&dir))
            .map_err(failed(&dir, "use the folder"))?;
        Ok(Self { dir })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, network: &str, precision: &str) -> PathBuf {
        self.dir.join(format!("{network}-{precision}.plan"))
    }

    /// Removes the plan of a network, which will then be compiled.
    ///
    /// # Errors
    /// [`Error::File`] when it is there and stays.
    pub fn discard(&self, network: &str, precision: Precision) -> Result<()> {
        let path = self.path(network, &precision.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, "remove")(error)),
            _ => Ok(()),
        }
    }

    /// The plan for `key`, with these settings or with whichever it was compiled. `Err` says why there is none that can be
    /// used.
    pub fn read(&self, key: &Key, settings: Option<Settings>) -> std::result::Result<Plan, String> {
        let path = self.path(&key.network, &key.precision);
        let read = refuse_shared(&path).and_then(|()| fs::read(&path));
        let file = read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is none".to_owned(),
            _ => error.to_string(),
        })?;
        let head = &file[..file.len().min(LONGEST_HEADER)];
        let end = head
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("it is no plan of this program")?;
        let header: Header =
            serde_json::from_slice(&file[..end]).map_err(|_| "it is no plan of this program")?;
        if header.key != *key {
            return Err("it is for another network, GPU or version".into());
        }
        if settings.is_some_and(|settings| settings != header.settings) {
            return Err("it was compiled with other settings".into());
        }
        let bytes = file[end + 1..].to_vec();
        if header != Header::new(key, header.settings, &bytes) {
            return Err("it is not as it was written".into());
        }
        Ok(Plan {
            settings: header.settings,
            bytes,
        })
    }

    /// Gives the plan for `key` as [`Plans::read`] does, or calls `compile` and keeps what it gives. One process compiles at
    /// a time; another one that wants the same plan waits and then finds it.
    ///
    /// # Errors
    /// What `compile` gives; [`Error::File`] when the plan cannot be written. The old file is then still there.
    pub fn get(
        &self,
        key: &Key,
        settings: Option<Settings>,
        compile: impl FnOnce(Settings) -> Result<Vec<u8>>,
    ) -> Result<Plan> {
        if let Ok(plan) = self.read(key, settings) {
            return Ok(plan);
        }
        let _lock = self.lock()?;
        let why = match self.read(key, settings) {
            Ok(plan) => return Ok(plan),
            Err(why) => why,
        };
        log::info!(
            "{}: {why}; compiling",
            self.path(&key.network, &key.precision).display()
        );
        self.compile(key, settings.unwrap_or_default(), compile)
    }

    fn lock(&self) -> Result<File> {
        let path = self.dir.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let locked = file.and_then(|file| file.lock().map(|()| file));
        locked.map_err(failed(&path, "lock"))
    }

    /// The lock is held.
    fn compile(
        &self,
        key: &Key,
        settings: Settings,
        compile: impl FnOnce(Settings) -> Result<Vec<u8>>,
    ) -> Result<Plan> {
        self.remove_leftovers();
        let bytes = compile(settings)?;
        let path = self.path(&key.network, &key.precision);
        let header = Header::new(key, settings, &bytes);
        let write = || {
            // Readable for this user alone, as the folder.
            let mut temporary = tempfile::Builder::new()
                .prefix(TEMPORARY)
                .tempfile_in(&self.dir)?;
            serde_json::to_writer(&mut temporary, &header)?;
            temporary.write_all(b"\n")?;
            temporary.write_all(&bytes)?;
            // On disk before it has its name, and the name on disk before anybody is told: a loss of power leaves the old
            // file or the new one.
            temporary.as_file().sync_all()?;
            temporary.persist(&path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(failed(&path, "write"))?;
        Ok(Plan { settings, bytes })
    }

    /// What a process that was killed while it wrote has left behind.
    fn remove_leftovers(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY)) {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Keeps a text beside the plans.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_note(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let write = || {
            let mut temporary = tempfile::Builder::new()
                .prefix(TEMPORARY_NOTE)
                .tempfile_in(&self.dir)?;
            temporary.write_all(text.as_bytes())?;
            temporary.persist(&path)?;
            Ok(())
        };
        write().map_err(failed(&path, "write"))
    }
}

fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        path: path.clone(),
        action,
        source,
    }
}

/// Whatever others may write to could hold anything.
fn refuse_shared(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let reason = format!("others may write to it (mode {:o}); chmod go-w", mode & 0o7777);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn key(gpu: &str, onnx: &[u8]) -> Key {
        let version = Version::decode(100_300).unwrap();
        Key::new(version, gpu, "generator", Precision::Fp16, &[], onnx)
    }

    fn plans() -> (tempfile::TempDir, Plans) {
        let dir = tempfile::tempdir().unwrap();
        let plans = Plans::open(dir.path().join("plans")).unwrap();
        (dir, plans)
    }

    fn file(plans: &Plans) -> PathBuf {
        plans.dir().join("generator-fp16.plan")
    }

    #[test]
    fn a_plan_is_compiled_once() {
        let (_dir, plans) = plans();
        let compiled = AtomicUsize::new(0);
        let get = |key: &Key, settings| {
            let compile = |settings: Settings| {
                compiled.fetch_add(1, Ordering::SeqCst);
                Ok(format!("plan {:?}", settings.dla).into_bytes())
            };
            plans.get(key, settings, compile).unwrap()
        };
        let on_dla = Settings {
            dla: Some(0),
            workspace: None,
        };
        let orin = key("Orin", b"onnx");
        // In order: the key, the settings asked for, whether it compiles, the settings of what comes.
        for (step, (key, asked, compiles, got)) in [
            (&orin, None, true, Settings::default()),
            (&orin, None, false, Settings::default()),
            (&orin, Some(Settings::default()), false, Settings::default()),
            (&orin, Some(on_dla), true, on_dla),
            (&orin, None, false, on_dla),
            (&key("Xavier", b"onnx"), None, true, Settings::default()),
            (&key("Xavier", b"other"), None, true, Settings::default()),
            (&orin, None, true, Settings::default()),
        ]
        .into_iter()
        .enumerate()
        {
            let before = compiled.load(Ordering::SeqCst);
            let plan = get(key, asked);
            assert_eq!(compiled.load(Ordering::SeqCst) > before, compiles, "{step}");
            assert_eq!(plan.settings, got, "{step}");
            assert_eq!(plan.bytes, format!("plan {:?}", got.dla).into_bytes(), "{step}");
        }
    }

    #[test]
    fn two_at_once_compile_once() {
        let (_dir, plans) = plans();
        let compiled = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                // Each opens the folder anew, as another process does.
                let plans = Plans::open(plans.dir()).unwrap();
                let compiled = &compiled;
                scope.spawn(move || {
                    let compile = |_| {
                        compiled.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(50));
                        Ok(vec![7; 1000])
                    };
                    assert_eq!(
                        plans.get(&key("Orin", b"onnx"), None, compile).unwrap().bytes,
                        [7; 1000]
                    );
                });
            }
        });
        assert_eq!(compiled.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_is_interrupted_leaves_the_old_plan() {
        let (_dir, plans) = plans();
        let key = key("Orin", b"onnx");
        plans.get(&key, None, |_| Ok(b"old".to_vec())).unwrap();
        // Power lost while a new one was being written: a part of it, under another name.
        let leftover = plans.dir().join(".plan-a1b2c3");
        fs::write(&leftover, &fs::read(file(&plans)).unwrap()[..20]).unwrap();
        assert_eq!(plans.read(&key, None).unwrap().bytes, b"old");
        // A compilation that fails.
        let refuse = |_| {
            Err(Error::TensorRt {
                network: "generator".into(),
                reason: "no".into(),
            })
        };
        let on_dla = Some(Settings {
            dla: Some(0),
            workspace: None,
        });
        assert!(plans.get(&key, on_dla, refuse).is_err());
        assert_eq!(plans.read(&key, None).unwrap().bytes, b"old");
        assert!(!leftover.exists());
        plans.get(&key, on_dla, |_| Ok(b"new".to_vec())).unwrap();
        assert_eq!(plans.read(&key, None).unwrap().bytes, b"new");
    }

    #[test]
    fn what_others_may_write_to_is_not_read() {
        let (dir, plans) = plans();
        let key = key("Orin", b"onnx");
        plans.get(&key, None, |_| Ok(b"plan".to_vec())).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(plans.dir()), mode(&file(&plans))), (0o700, 0o600));
        fs::set_permissions(file(&plans), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(
            plans
                .read(&key, None)
                .unwrap_err()
                .contains("others may write to it (mode 666)")
        );
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            Plans::open(&shared)
                .unwrap_err()
                .to_string()
                .contains("cannot use the folder")
        );
    }

    proptest! {
        /// Whatever byte of a file changes, wherever it ends, it is not loaded, and the next call compiles.
        #[test]
        fn a_changed_file_is_never_loaded(
            at in any::<proptest::sample::Index>(),
            change in 1..=255u8,
            is_cut in any::<bool>(),
        ) {
            let (_dir, plans) = plans();
            let key = key("Orin", b"onnx");
            plans.get(&key, None, |_| Ok(b"the plan".to_vec())).unwrap();
            let mut bytes = fs::read(file(&plans)).unwrap();
            let at = at.index(bytes.len());
            if is_cut { bytes.truncate(at) } else { bytes[at] ^= change }
            fs::write(file(&plans), &bytes).unwrap();
            prop_assert!(plans.read(&key, None).is_err());
            let plan = plans.get(&key, None, |_| Ok(b"compiled anew".to_vec())).unwrap();
            prop_assert_eq!(plan.bytes, b"compiled anew");
        }
    }
}
