//! Networks in, tensors out: which networks Persona uses, running them, and what their numbers mean.
//!
//! # From a fresh machine to a generated face
//! ```no_run
//! use engines::models::{Store, default_dir};
//! use engines::{InputSize, Options, networks_on_cpu};
//! use kernels::{MEAN_FACE, Rect, Similarity, cpu::Cpu};
//!
//! # fn frame<'a>() -> kernels::Frame<'a> { unimplemented!() }
//! # fn main() -> Result<(), engines::Error> {
//! let store = Store::open(default_dir())?;
//! store.fetch(&indicatif::ProgressBar::new(0))?;
//! let mut kernels = Cpu::default();
//! let largest = InputSize::covering(640, 360);
//! let options = Options { threads: 1, max_faces: 8, largest };
//! let mut networks = networks_on_cpu(&store, &mut kernels, &options)?;
//!
//! let frame = frame();
//! let whole = Rect::new(0.0, 0.0, frame.width() as f32, frame.height() as f32);
//! let (mut found, mut landmarks, mut embeddings) = (Vec::new(), Vec::new(), Vec::new());
//! networks.detector.detect(&mut kernels, &frame, whole, largest, 0.35, &mut found)?;
//! let boxes: Vec<_> = found.iter().map(|face| face.rect).collect();
//! networks.landmarker.locate(&mut kernels, &frame, &boxes, &mut landmarks)?;
//! let aligns: Vec<_> = landmarks.iter().filter_map(|points| Similarity::estimate(points, &MEAN_FACE)).collect();
//! networks.embedder.embed(&mut kernels, &frame, &aligns, &mut embeddings)?;
//! networks.generator.generate(&mut kernels, &frame, &aligns, &embeddings)?;
//! let (faces, masks) = (networks.generator.image(), networks.generator.mask());
//! # Ok(())
//! # }
//! ```
//!
//! # Parts
//! * [`models`]: which files, where from, and whether they are what they should be. The only part that touches files.
//! * [`onnx`]: reading, writing and converting ONNX. No network of others is run in a form that this program has not
//!   proven equal to its original.
//! * [`golden`]: every network is run on a known input when it is loaded; one that gives other numbers is refused.
//! * [`quantize`]: the same networks as typed FP16 and as INT8 with explicit quantization, for TensorRT.
//! * [`admission`]: a network in another precision or on another device must give what it gives in FP32 on the CPU.
//! * [`drawing`]: a face of nobody, for comparisons and tests where no photograph may be.
//! * [`Engine`]: one loaded network on one place where pixels live. [`cpu`] runs it in ONNX Runtime, `trt` in TensorRT
//!   (feature `tensorrt`).
//! * [`Detector`], [`Landmarker`], [`Embedder`], [`Generator`]: what goes in and what the numbers mean. Generic over
//!   the place, and without allocation once every number of faces and input size has been seen.
//!
//! # Errors are for covering
//! A network that fails, or gives a number that is not finite, tells nothing about a face. Every such case is an
//! [`Error`], never a default: whoever gets one covers the face, or the frame. Results of before the error are cleared.

use kernels::Kernels;
use kernels::cpu::Cpu;

use models::{Network, Store};

pub mod admission;
pub mod cpu;
pub mod detector;
mod distance;
pub mod drawing;
pub mod embedding;
mod error;
pub mod generator;
pub mod golden;
pub mod landmarks;
pub mod models;
pub mod onnx;
mod precision;
pub mod quantize;
mod shared;
mod signature;
mod together;
#[cfg(feature = "tensorrt")]
pub mod trt;

pub use detector::{Detection, Detector, InputSize, Look, suppress};
pub use embedding::{Asked, Embedder, Embedding};

pub use error::{Error, Result};
pub use generator::Generator;
pub use golden::Golden;
pub use landmarks::Landmarker;
pub use precision::Precision;
pub use shared::Shared;
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

/// The four networks of the pipeline on one place. They can be used on different threads, one thread each.
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

/// The four networks on one place, loaded and admitted, for any number of pipelines.
pub struct Engines<K: Kernels> {
    pub(crate) detector: Shared<K>,
    pub(crate) landmarks: Shared<K>,
    pub(crate) embedding: Shared<K>,
    pub(crate) generator: Shared<K>,
    /// Side of the generator's pictures.
    pub(crate) side: usize,
}

impl Engines<Cpu> {
    /// Loads the four networks into ONNX Runtime, with `threads` threads each, and admits each by its golden values.
    ///
    /// # Errors
    /// [`Error::NotFetched`] and [`Error::Hash`] when the store is incomplete, [`Error::Library`] when the runtime cannot
    /// be loaded, [`Error::Signature`] and [`Error::Golden`] when a network is not what this program was made for.
    pub fn on_cpu(store: &Store, kernels: &mut Cpu, threads: usize) -> Result<Self> {
        let runtime = cpu::Runtime::load(&store.runtime_library()?, threads)?;
        let mut admitted = |network, signature: &Signature, golden: &Golden| {
            let mut engine = runtime.engine(&store.load(network)?, signature)?;
            golden::admit(kernels, engine.as_mut(), golden)?;
            match network {
                // A picture at a time, each of its own size.
                Network::Detector => Ok(Shared::new(&signature.network, engine)),
                _ => Shared::merging(engine, signature, cpu::TOGETHER),
            }
        };
        let golden = Golden::generator()?;
        let side = golden.side();
        Ok(Self {
            detector: admitted(Network::Detector, &detector::signature(), &Golden::detector())?,
            landmarks: admitted(Network::Landmarks, &landmarks::signature(), &Golden::landmarks())?,
            embedding: admitted(Network::Embedding, &embedding::signature(), &Golden::embedding())?,
            generator: admitted(Network::Generator, &generator::signature(side), &golden)?,
            side,
        })
    }
}

impl<K: Kernels + 'static> Engines<K> {
    /// Engines that nobody has admitted, for measuring and for tests: what they show may be anybody. `side` is that of the
    /// generator's pictures.
    pub fn unproved(
        detector: Box<dyn Engine<K>>,
        landmarks: Box<dyn Engine<K>>,
        embedding: Box<dyn Engine<K>>,
        generator: Box<dyn Engine<K>>,
        side: usize,
    ) -> Self {
        Self {
            detector: Shared::new(detector::NETWORK, detector),
            landmarks: Shared::new(landmarks::NETWORK, landmarks),
            embedding: Shared::new(embedding::NETWORK, embedding),
            generator: Shared::new(generator::NETWORK, generator),
            side,
        }
    }

    /// The networks for one pipeline, with memory of its own for their inputs and outputs: the detector's on the place
    /// `detect`, the others' on `kernels`.
    ///
    /// # Errors
    /// [`Error::Kernels`] when memory is short.
    pub fn networks(
        &self,
        [detect, kernels]: [&mut K; 2],
        max_faces: usize,
        largest: InputSize,
    ) -> Result<Networks<K>> {
        let shared = |engine: &Shared<K>| Box::new(engine.clone());
        Ok(Networks {
            detector: Detector::new(detect, shared(&self.detector), largest)?,
            landmarker: Landmarker::new(kernels, shared(&self.landmarks), max_faces)?,
            embedder: Embedder::new(kernels, shared(&self.embedding), max_faces)?,
            generator: Generator::new(kernels, shared(&self.generator), self.side, max_faces)?,
        })
    }

    /// Whether a run of one of them has panicked: they have to be loaded anew.
    pub fn is_broken(&self) -> bool {
        [&self.detector, &self.landmarks, &self.embedding, &self.generator]
            .into_iter()
            .any(Shared::is_broken)
    }
}

/// Loads the four networks for one pipeline: [`Engines::on_cpu`] and [`Engines::networks`].
///
/// # Errors
/// As those.
pub fn networks_on_cpu(store: &Store, kernels: &mut Cpu, options: &Options) -> Result<Networks<Cpu>> {
    let engines = Engines::on_cpu(store, kernels, options.threads)?;
    engines.networks([&mut Cpu::default(), kernels], options.max_faces, options.largest)
}

#[cfg(test)]
mod testing {
    //! An engine with known outputs, and a frame for it.

    use kernels::cpu::{Cpu, Tensor};
    use kernels::{Color, Frame, Matrix, Plane, Planes, Range};

    use crate::{Engine, Result};

    pub struct Scripted<F>(pub F);

    impl<F: FnMut(&[&Tensor], &mut [Tensor]) + Send> Engine<Cpu> for Scripted<F> {
        fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
            (self.0)(inputs, outputs);
            Ok(())
        }
    }

    pub fn grey<R>(width: usize, height: usize, work: impl FnOnce(&Frame<'_>) -> R) -> R {
        let (mut luma, mut chroma) = (vec![128; width * height], vec![128; width * height.div_ceil(2)]);
        let planes = Planes::Nv12 {
            y: Plane {
                data: &mut luma,
                stride: width,
            },
            uv: Plane {
                data: &mut chroma,
                stride: width,
            },
        };
        let color = Color {
            matrix: Matrix::Bt601,
            range: Range::Full,
        };
        work(&Frame::new(width, height, color, planes).unwrap())
    }
}
