//! Networks in, tensors out.

use kernels::Kernels;
use kernels::cpu::Cpu;

pub mod cpu;
pub mod detector;
pub mod embedding;
mod error;
pub mod generator;
pub mod landmarks;
pub mod models;
pub mod onnx;
mod signature;

pub use detector::{Detection, Detector, InputSize, suppress};
pub use embedding::{Embedder, Embedding};
pub use error::{Error, Result};
pub use generator::Generator;
pub use landmarks::Landmarker;
pub use signature::{Port, Signature};

/// One loaded network on one place.
pub trait Engine<K: Kernels>: Send {
    /// Runs the network once over the entries in use of `inputs`. The caller has set the shapes of `outputs`
    /// (same number of entries); the engine writes into them without allocating once it has seen the shapes.
    ///
    /// # Errors
    /// When a shape is not the network's, or the runtime fails. The outputs are then undefined.
    fn run(&mut self, inputs: &[&K::Tensor], outputs: &mut [K::Tensor]) -> Result<()>;
}

/// The four networks of the pipeline on one place.
pub struct Networks<K: Kernels> {
    /// Faces in a frame.
    pub detector: Detector<K>,
    /// 68 landmarks of a face.
    pub landmarker: Landmarker<K>,
    /// Identity of a face.
    pub embedder: Embedder<K>,
    /// Another face.
    pub generator: Generator<K>,
}

/// How to make the networks.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads per network; 1 when several networks run side by side.
    pub threads: usize,
    /// Most faces in one run.
    pub max_faces: usize,
    /// Largest detector input.
    pub largest: InputSize,
}

/// Loads the four networks into ONNX Runtime and admits each by its golden values.
///
/// # Errors
/// See [`Error`].
pub fn networks_on_cpu(store: &models::Store, kernels: &mut Cpu, options: &Options) -> Result<Networks<Cpu>> {
    let runtime = cpu::Runtime::load(&store.runtime_library()?, options.threads)?;
    let engine = |network, signature: Signature| runtime.engine(&store.load(network)?, &signature);
    let faces = options.max_faces;
    Ok(Networks {
        detector: Detector::new(
            kernels,
            engine(models::Network::Detector, detector::signature())?,
            options.largest,
        )?,
        landmarker: Landmarker::new(
            kernels,
            engine(models::Network::Landmarks, landmarks::signature())?,
            faces,
        )?,
        embedder: Embedder::new(
            kernels,
            engine(models::Network::Embedding, embedding::signature())?,
            faces,
        )?,
        generator: Generator::new(
            kernels,
            engine(models::Network::Generator, generator::signature(128))?,
            128,
            faces,
        )?,
    })
}
