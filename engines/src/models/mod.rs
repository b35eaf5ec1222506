//! Which networks, where they come from, and whether they are what they should be.

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use crate::Result;

/// The networks by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// Whether one pinned file is in the store.
#[derive(Debug)]
pub struct Status {
    /// What it is for, in words.
    pub name: String,
    /// Package and version it comes from.
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
}

impl Store {
    /// A store in `dir`, which need not exist yet.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fetches what is missing.
    ///
    /// # Errors
    /// See [`crate::Error`].
    pub fn fetch(&self, progress: &ProgressBar) -> Result<()> {
        let _ = progress;
        Ok(())
    }

    /// The state of every pinned file.
    pub fn verify(&self) -> Vec<Status> {
        Vec::new()
    }

    /// A network as ONNX bytes, converted if its source is another format.
    ///
    /// # Errors
    /// See [`crate::Error`].
    pub fn load(&self, network: Network) -> Result<Vec<u8>> {
        Err(crate::Error::NotFetched {
            name: format!("{network:?}"),
            path: self.dir.clone(),
        })
    }

    /// The ONNX Runtime library.
    ///
    /// # Errors
    /// See [`crate::Error`].
    pub fn runtime_library(&self) -> Result<PathBuf> {
        Err(crate::Error::NotFetched {
            name: "ONNX Runtime".into(),
            path: self.dir.clone(),
        })
    }
}

/// `$PERSONA_MODELS`, else `$XDG_DATA_HOME/persona/models`, else `~/.local/share/persona/models`.
pub fn default_dir() -> PathBuf {
    let var = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    var("PERSONA_MODELS").unwrap_or_else(|| {
        var("XDG_DATA_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".local/share")))
            .unwrap_or_else(|| PathBuf::from("."))
            .join("persona/models")
    })
}
