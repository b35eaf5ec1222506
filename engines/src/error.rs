use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// What can go wrong between a network's file and its tensors. Every message is one sentence that says what,
/// where, and what to do about it where something can be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The pixels could not be read or the tensors not be made.
    #[error(transparent)]
    Kernels(#[from] kernels::Error),

    /// A loaded network has not the inputs and outputs that its role needs.
    #[error(
        "{network}: {tensor} is {got}, wanted {wanted}; the network's file is not the one that this program was made for"
    )]
    Signature {
        /// The network's name.
        network: String,
        /// Which tensor.
        tensor: String,
        /// What the role needs.
        wanted: String,
        /// What the file declares.
        got: String,
    },

    /// A tensor passed to a network has a shape that it cannot take.
    #[error("{network}: {tensor} has shape {got}, wanted {wanted}")]
    Shape {
        /// The network's name.
        network: String,
        /// Which tensor.
        tensor: String,
        /// What would have been right.
        wanted: String,
        /// What was passed.
        got: String,
    },

    /// A network gave a number that is not finite, or was given one.
    #[error("{network}: {tensor} holds a number that is not finite; whatever it describes must be covered")]
    NotFinite {
        /// The network's name.
        network: &'static str,
        /// Which tensor.
        tensor: &'static str,
    },

    /// A face's box or transform has no area.
    #[error("{network}: face {index} has no area or coordinates that are not finite; it must be covered")]
    Face {
        /// The network's name.
        network: &'static str,
        /// Index of the face in the call.
        index: usize,
    },

    /// More faces than the tensors were made for.
    #[error("{network}: {got} faces in one run, made for {wanted}; ask for more when the network is made")]
    Faces {
        /// The network's name.
        network: &'static str,
        /// The largest number.
        wanted: usize,
        /// The number in the call.
        got: usize,
    },

    /// The runtime refused to load or run a network.
    #[error("{network}: ONNX Runtime says: {reason}")]
    Runtime {
        /// The network's name.
        network: String,
        /// The runtime's own words.
        reason: String,
    },

    /// A run of a network for several pipelines together failed: each of them gets this.
    #[error(transparent)]
    Together(Arc<Error>),

    /// The runtime library cannot be loaded.
    #[error("{path}: not a usable ONNX Runtime: {reason}; run `persona models fetch`", path = path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// The loader's own words.
        reason: String,
    },

    /// TensorRT cannot be used.
    #[error("{path}: not a usable TensorRT: {reason}", path = path.display())]
    TensorRtLibrary {
        /// The library, by its path or by the name that the system's loader looks for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// TensorRT refused to compile, load or run a network.
    #[error("{network}: TensorRT says: {reason}")]
    TensorRt {
        /// The network's name.
        network: String,
        /// TensorRT's own words.
        reason: String,
    },

    /// A network does not give the numbers that it gave when it was admitted into this program.
    #[error(
        "{network}: {tensor} gives {got} for the golden input, wanted {wanted} within {tolerance}; \
             the file or the runtime computes something else, run `persona models verify`"
    )]
    Golden {
        /// The network's name.
        network: &'static str,
        /// Which value of which tensor.
        tensor: String,
        /// The admitted value.
        wanted: f32,
        /// What came out.
        got: f32,
        /// The largest difference.
        tolerance: f32,
    },

    /// A network is not near enough to the same network in FP32 on the CPU.
    #[error("{network}: not admitted: {reason}; whatever it decides must be covered")]
    NotAdmitted {
        /// The network's name.
        network: String,
        /// What was found and what was wanted.
        reason: String,
    },

    /// A network or the runtime is not in the store.
    #[error("{path}: {name} is not there; networks are not fetched: run `cargo xtask test` or `persona models fetch`", path = path.display())]
    NotFetched {
        /// What is missing.
        name: String,
        /// Where it should be.
        path: PathBuf,
    },

    /// A file has other contents than `models.toml` pins.
    #[error("{path}: contents differ from models.toml: sha256 {got} ({got_bytes} bytes), wanted {wanted} ({wanted_bytes} bytes); \
             nothing was written; delete the file if it exists and run `persona models fetch`", path = path.display())]
    Hash {
        /// The file, in the store or inside the package.
        path: PathBuf,
        /// The pinned hash.
        wanted: String,
        /// The pinned size.
        wanted_bytes: u64,
        /// The file's hash.
        got: String,
        /// The file's size.
        got_bytes: u64,
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

    /// A package client is missing or failed.
    #[error("{package}: {client} could not fetch it: {reason}; {remedy}")]
    Client {
        /// Package and version.
        package: String,
        /// The client's command.
        client: &'static str,
        /// The client's last words.
        reason: String,
        /// What to do.
        remedy: String,
    },

    /// A package does not hold what `models.toml` says.
    #[error("{package}: {reason}")]
    Package {
        /// Package and version.
        package: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A network's file is malformed.
    #[error("{format}: {reason} (at byte {offset}); the file is damaged, run `persona models fetch`")]
    Parse {
        /// The file format.
        format: &'static str,
        /// Where in the file.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },

    /// A network cannot be written in another precision.
    #[error("{network}: cannot be quantized: {reason}")]
    Quantize {
        /// The network's name.
        network: String,
        /// Why not, and what to do about it.
        reason: String,
    },

    /// A pinned list (models.toml or golden values) is malformed.
    #[error("{file}: {reason}")]
    Manifest {
        /// Which list.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Result of this package.
pub type Result<T> = std::result::Result<T, Error>;
