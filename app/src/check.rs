//! `persona check`: what is present and what is missing, with the remedy.

use std::fmt;
use std::path::Path;

use engines::models::Store;
use gstreamer as gst;

use crate::run::REQUIREMENTS;
use crate::serve::config::{Certificate, Config, Secret, Source};

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Present and usable.
    Present,
    /// Needed, and missing or unusable.
    Missing,
    /// Of no use to this build, whether it is there or not.
    Unused,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Present => "present",
            Self::Missing => "MISSING",
            Self::Unused => "not used",
        })
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// Whether it is there.
    pub state: State,
    /// What it is for, or what to do about it.
    pub note: String,
}

/// Everything that the program needs or could use. `root` is `/`, or where a test has put a copy of it.
///
/// # Errors
/// When the list of networks is malformed.
pub fn check(models: &Path, root: &Path) -> Result<Vec<Row>, engines::Error> {
    let store = Store::open(models)?;
    let mut rows = networks(&store);
    rows.push(runtime(&store));
    rows.extend(elements());
    rows.extend(hardware(root));
    rows.extend(crate::tensorrt::rows(models));
    Ok(rows)
}

/// Whether nothing that is needed is missing.
pub fn is_complete(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.state != State::Missing)
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|row| format!("{:<width$}  {:<8}  {}\n", row.what, row.state, row.note))
        .collect()
}

/// What a configuration refers to: passwords, certificates, folders, devices.
pub fn configured(config: &Config) -> Vec<Row> {
    let row = |what: String, found: Result<String, String>| {
        let (state, note) = match found {
            Ok(note) => (State::Present, note),
            Err(note) => (State::Missing, note),
        };
        Row { what, state, note }
    };
    let readable = |path: &Path| {
        std::fs::File::open(path)
            .map(|_| path.display().to_string())
            .map_err(|error| format!("{}: cannot be read: {error}", path.display()))
    };
    let password = |path: &Path, least| {
        Secret::read(path, least)
            .map(|_| path.display().to_string())
            .map_err(|error| error.to_string())
    };
    let mut rows = Vec::new();
    for (place, user) in config
        .rtsp
        .user
        .iter()
        .map(|user| ("viewer", user))
        .chain(config.page.user.iter().map(|user| ("operator", user)))
    {
        rows.push(row(
            format!("password of the {place} {}", user.name),
            password(&user.password_file, Secret::LEAST),
        ));
    }
    for (place, tls) in [("streams", &config.rtsp.tls), ("page", &config.page.tls)] {
        if let Some(tls) = tls {
            let found = Certificate::read(tls)
                .map(|_| format!("{}, and its key", tls.certificate.display()))
                .map_err(|error| error.to_string());
            rows.push(row(format!("certificate of the {place}"), found));
        }
    }
    if config.page.is_in_the_clear() {
        rows.push(Row {
            what: "certificate of the page".into(),
            state: State::Unused,
            note: crate::serve::in_the_clear(&config.page),
        });
    }
    for camera in config.cameras() {
        let source = match &camera.source {
            Source::Device(path) | Source::File(path) => readable(path),
            other => Ok(other.to_string()),
        };
        rows.push(row(format!("camera {}", camera.name), source));
        if let Some(user) = &camera.user {
            rows.push(row(
                format!("password for the camera {}", camera.name),
                password(&user.password_file, 1),
            ));
        }
        if let Some(recording) = &camera.recording {
            let folder = &recording.folder;
            let usable = std::fs::create_dir_all(folder)
                .and_then(|()| tempfile::tempfile_in(folder))
                .map(|_| folder.display().to_string())
                .map_err(|error| format!("{}: cannot write there: {error}", folder.display()));
            rows.push(row(format!("recording of {}", camera.name), usable));
        }
    }
    rows
}

fn networks(store: &Store) -> Vec<Row> {
    let row = |status: engines::models::Status| {
        let file = status
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (state, note) = match &status.state {
            Ok(()) => (State::Present, format!("{}, {}", status.package, status.licence)),
            Err(engines::Error::NotFetched { .. }) => {
                (State::Missing, "not fetched: persona models fetch".to_owned())
            }
            Err(error) => (State::Missing, error.to_string()),
        };
        Row {
            what: format!("network {}: {file}", status.name),
            state,
            note,
        }
    };
    store.verify().into_iter().map(row).collect()
}

/// Loading is more than being there: another processor's library, or one that needs a newer C library, fails here.
fn runtime(store: &Store) -> Row {
    let loaded = store
        .runtime_library()
        .and_then(|library| engines::cpu::Runtime::load(&library, 1).map(|_| library));
    let (state, note) = match loaded {
        Ok(library) => (State::Present, library.display().to_string()),
        Err(engines::Error::NotFetched { .. }) => {
            (State::Missing, "not fetched: persona models fetch".to_owned())
        }
        Err(error) => (State::Missing, error.to_string()),
    };
    Row {
        what: "ONNX Runtime".into(),
        state,
        note,
    }
}

fn elements() -> impl Iterator<Item = Row> {
    REQUIREMENTS.iter().map(|requirement| {
        let found = gst::ElementFactory::find(requirement.element).is_some();
        let note = if found {
            requirement.purpose.to_owned()
        } else {
            format!(
                "{}: sudo apt-get install {}",
                requirement.purpose, requirement.package
            )
        };
        let state = if found { State::Present } else { State::Missing };
        Row {
            what: format!("GStreamer {}", requirement.element),
            state,
            note,
        }
    })
}

/// Where Debian, Ubuntu and JetPack put NVIDIA's libraries.
const LIBRARIES: [&str; 6] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu/nvidia",
    "usr/lib/aarch64-linux-gnu/tegra",
    "usr/local/cuda/lib64",
    "usr/lib",
];

/// What this build cannot use yet; it says so rather than asking for an installation that would change nothing.
pub(crate) fn hardware(root: &Path) -> Vec<Row> {
    let library = |name: &str| {
        LIBRARIES
            .iter()
            .any(|folder| starts_with(&root.join(folder), name))
    };
    let row = |what: &str, found: bool, build: &str| Row {
        what: what.into(),
        state: State::Unused,
        note: format!(
            "{}; {build}",
            if found {
                "on this machine"
            } else {
                "not on this machine"
            }
        ),
    };
    let mut rows = vec![row(
        "GPIO",
        starts_with(&root.join("dev"), "gpiochip"),
        "this build has no front panel",
    )];
    if cfg!(not(feature = "tensorrt")) {
        for (what, name, build) in [
            ("CUDA", "libcuda.so", "this build works on the CPU"),
            (
                "TensorRT",
                "libnvinfer.so",
                "this build runs its networks in ONNX Runtime",
            ),
        ] {
            rows.push(row(what, library(name), build));
        }
    }
    rows
}

fn starts_with(folder: &Path, prefix: &str) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_is_missing_with_the_remedy() {
        gst::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let rows = check(&dir.path().join("models"), dir.path()).unwrap();
        assert!(!is_complete(&rows));
        let missing: Vec<_> = rows
            .iter()
            .filter(|row| row.what.starts_with("network"))
            .collect();
        assert!(!missing.is_empty());
        for row in missing
            .into_iter()
            .chain(rows.iter().filter(|row| row.what == "ONNX Runtime"))
        {
            assert_eq!(row.state, State::Missing, "{row:?}");
            assert!(row.note.contains("persona models fetch"), "{row:?}");
        }
        let table = table(&rows);
        assert_eq!(table.lines().count(), rows.len());
    }

    #[test]
    fn hardware_is_looked_for_and_never_asked_for() {
        let root = tempfile::tempdir().unwrap();
        for (folder, file) in [
            ("usr/lib/aarch64-linux-gnu/tegra", "libcuda.so.1.1"),
            ("dev", "gpiochip0"),
        ] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            std::fs::write(root.path().join(folder).join(file), b"").unwrap();
        }
        let rows = hardware(root.path());
        assert!(is_complete(&rows));
        let found: Vec<_> = rows
            .iter()
            .map(|row| row.note.starts_with("on this machine"))
            .collect();
        // A build for a GPU has its own rows for CUDA and TensorRT.
        let wanted = [true, true, false];
        assert_eq!(found, wanted[..if cfg!(feature = "tensorrt") { 1 } else { 3 }]);
    }
}
