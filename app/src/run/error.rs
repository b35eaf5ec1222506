use std::path::PathBuf;

use thiserror::Error;

/// Why a run could not start or did not come to its end. Every message is one sentence: what, where, what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The input does not exist.
    #[error("{path}: no such file or folder", path = .0.display())]
    NotFound(PathBuf),

    /// The input has no bytes.
    #[error("{path}: the file is empty (0 bytes); copy it again from where it came", path = .0.display())]
    Empty(PathBuf),

    /// A folder without a picture in it.
    #[error("{path}: no PNG or JPEG file in this folder", path = .0.display())]
    NoPictures(PathBuf),

    /// Input and output are the same file or folder.
    #[error("{path}: the output is the input; give another output, the input is never overwritten", path = .0.display())]
    SameFile(PathBuf),

    /// The output exists.
    #[error("{path}: exists already; give another output, or --overwrite to replace it", path = .0.display())]
    Exists(PathBuf),

    /// The output's extension names no format that can be written.
    #[error("{path}: cannot tell the format from the name; end it in {wanted}", path = path.display())]
    Extension {
        /// The output.
        path: PathBuf,
        /// The extensions that would do.
        wanted: &'static str,
    },

    /// An address that cannot be used.
    #[error("{address}: {reason}")]
    Address {
        /// As it was given, without a password.
        address: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A GStreamer element is not installed.
    #[error("the GStreamer element {element}, which {purpose}, is missing: sudo apt-get install {package}")]
    Element {
        /// Name of its factory.
        element: &'static str,
        /// What it does.
        purpose: &'static str,
        /// Debian package.
        package: &'static str,
    },

    /// The stream's format has no decoder here.
    #[error("{input}: no {codec} is installed: sudo apt-get install {package}")]
    Codec {
        /// The input.
        input: String,
        /// What is missing, in GStreamer's words.
        codec: String,
        /// The package that most likely holds it.
        package: &'static str,
    },

    /// The input has no video track.
    #[error("{input}: there is no video track in it")]
    NoVideo {
        /// The input.
        input: String,
    },

    /// A file ends before its own header says.
    #[error("{input}: the file ends after {seconds:.1} s of {wanted:.1} s; it is damaged or was cut off")]
    Truncated {
        /// The input.
        input: String,
        /// Seconds that were there.
        seconds: f64,
        /// Seconds that the header promises.
        wanted: f64,
    },

    /// A camera delivers nothing.
    #[error(
        "{input}: no frame for {seconds} s; check the camera and the network (--timeout sets how long to wait)"
    )]
    Stalled {
        /// The input.
        input: String,
        /// How long nothing came.
        seconds: u64,
    },

    /// GStreamer reports a fault.
    #[error("{input}: {reason}")]
    Stream {
        /// Where: the input or the output.
        input: String,
        /// GStreamer's words and what they mean.
        reason: String,
    },

    /// A picture cannot be read or written.
    #[error("{path}: {reason}", path = path.display())]
    Picture {
        /// The picture.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// A file or folder cannot be read or written.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },

    /// The element `persona` cannot start; its own sentence.
    #[error("{0}")]
    Persona(String),

    /// The front panel cannot be used.
    #[error(transparent)]
    Panel(#[from] crate::panel::Error),

    /// The networks cannot be loaded.
    #[error(transparent)]
    Networks(#[from] crate::networks::Error),
}
