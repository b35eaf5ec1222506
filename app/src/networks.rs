//! The networks, on the place that was chosen for them and for the pixels.
//!
//! A place is the processor ([`kernels::cpu`] with ONNX Runtime) or an NVIDIA GPU (`kernels::cuda` with TensorRT). On the
//! GPU each network has to prove itself first; [`Place::Auto`] takes the processor where there is no GPU, no TensorRT, or a
//! network that does not pass.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use engines::models::Store;
use engines::{Engines, Networks, Precision};
use gst::glib;
use gstreamer as gst;
use kernels::Kernels;
use kernels::cpu::Cpu;
use serde::Deserialize;

use crate::element::{Gpu, VideoBuffer};
use crate::frame::{Anonymized, Pixels};
use crate::pipeline::{self, Anonymize, Detect, LARGEST_INPUT, Settings, Threads};
use crate::tensorrt;

/// Why the pipeline cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A network cannot be loaded.
    #[error(transparent)]
    Engines(#[from] engines::Error),
    /// The settings cannot be used.
    #[error(transparent)]
    Pipeline(#[from] pipeline::Error),
    /// There is no GPU or no TensorRT, or this build knows none.
    #[error("{0}; leave out the place, or choose cpu")]
    Absent(String),
}

/// Where pixels and networks are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize, glib::Enum)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
#[enum_type(name = "GstPersonaPlace")]
pub enum Place {
    /// On the GPU where there is one on which every network proves itself, else on the processor
    #[default]
    #[enum_value(
        name = "On the GPU where there is one on which every network proves itself, else on the processor",
        nick = "auto"
    )]
    Auto,
    /// On the processor
    #[enum_value(name = "On the processor", nick = "cpu")]
    Cpu,
    /// On an NVIDIA GPU, or nowhere
    #[enum_value(name = "On an NVIDIA GPU, or nowhere", nick = "cuda")]
    Cuda,
}

/// What the networks compute with on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize, glib::Enum)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
#[enum_type(name = "GstPersonaPrecision")]
pub enum GpuPrecision {
    /// 16-bit floating point
    #[default]
    #[enum_value(name = "16-bit floating point", nick = "fp16")]
    Fp16,
    /// 8-bit integers where a network proves itself with them, else as fp16
    #[enum_value(
        name = "8-bit integers where a network proves itself with them, else as fp16",
        nick = "int8"
    )]
    Int8,
}

impl From<GpuPrecision> for Precision {
    fn from(precision: GpuPrecision) -> Self {
        match precision {
            GpuPrecision::Fp16 => Self::Fp16,
            GpuPrecision::Int8 => Self::Int8,
        }
    }
}

/// Which networks to load, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Folder with the networks.
    pub folder: PathBuf,
    /// Where pixels and networks are to be.
    pub place: Place,
    /// What the networks compute with on a GPU.
    pub precision: GpuPrecision,
    /// Threads per network on the processor.
    pub threads: usize,
}

/// The networks of a box, for any number of pipelines.
pub struct Loaded {
    on: Box<dyn Starts>,
    gpu: Option<Gpu>,
    place: String,
}

impl Loaded {
    /// Loads the networks of `choice`, and lets each prove itself.
    ///
    /// # Errors
    /// When a network is missing or not what it should be; for [`Place::Cuda`] also when there is no GPU or no TensorRT,
    /// or a network does not prove itself on it.
    pub fn load(choice: &Choice) -> Result<Self, Error> {
        let reason = match choice.place {
            Place::Cpu => "as asked for".to_owned(),
            Place::Cuda => return tensorrt::load(choice),
            Place::Auto => match tensorrt::load(choice) {
                Ok(loaded) => return Ok(loaded),
                // As on most machines.
                Err(Error::Absent(reason)) => reason,
                Err(error) => {
                    log::warn!("the networks run on the CPU, not on the GPU: {error}");
                    error.to_string()
                }
            },
        };
        let store = Store::open(&choice.folder)?;
        let engines = Engines::on_cpu(&store, &mut Cpu::default(), choice.threads)?;
        let loaded = Self::on_cpu(engines, &reason);
        log::info!("{loaded}");
        Ok(loaded)
    }

    /// Networks that are loaded on the processor; `reason` is for people.
    pub(crate) fn on_cpu(engines: Engines<Cpu>, reason: &str) -> Self {
        let name = format!("the CPU ({reason})");
        Self::new(engines, || Ok(Cpu::default()), None, name)
    }

    /// Networks that are loaded, and how to make more places of their kind. `name` is for people.
    pub(crate) fn new<K>(
        engines: Engines<K>,
        place: impl Fn() -> kernels::Result<K> + Send + Sync + 'static,
        gpu: Option<Gpu>,
        name: String,
    ) -> Self
    where
        K: Kernels + Send + 'static,
        VideoBuffer: Pixels<K>,
    {
        let place = Box::new(place);
        Self {
            on: Box::new(On { engines, place }),
            gpu,
            place: name,
        }
    }

    /// The two threads of a pipeline with these networks.
    ///
    /// # Errors
    /// When memory is short, a setting is out of range, or the system gives no thread.
    pub fn start(&self, settings: &Settings, sink: Sink) -> Result<Threads<VideoBuffer>, Error> {
        self.on.start(settings, sink)
    }

    /// The GPU that the pixels of a buffer have to be brought to.
    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// Whether they have to be loaded anew: a run has panicked, or the place does not answer any more.
    pub fn is_broken(&self) -> bool {
        self.on.is_broken()
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pixels and networks are on {}", self.place)
    }
}

/// Takes each anonymized frame.
pub type Sink = Box<dyn FnMut(Anonymized<VideoBuffer>) + Send>;

/// What networks can do on any place.
trait Starts: Send + Sync {
    fn start(&self, settings: &Settings, sink: Sink) -> Result<Threads<VideoBuffer>, Error>;
    fn is_broken(&self) -> bool;
}

/// Networks on one place.
struct On<K: Kernels> {
    engines: Engines<K>,
    place: Box<dyn Fn() -> kernels::Result<K> + Send + Sync>,
}

impl<K> Starts for On<K>
where
    K: Kernels + Send + 'static,
    VideoBuffer: Pixels<K>,
{
    fn start(&self, settings: &Settings, sink: Sink) -> Result<Threads<VideoBuffer>, Error> {
        let place = || (self.place)().map_err(pipeline::Error::from);
        let (detect, anonymize) = halves(&self.engines, [place()?, place()?], settings)?;
        Ok(Threads::start(detect, anonymize, settings, sink)?)
    }

    fn is_broken(&self) -> bool {
        self.engines.is_broken() || (self.place)().and_then(|mut place| place.finish()).is_err()
    }
}

/// The two halves of a pipeline that shares `engines` with others, each on a place of its own, so that they can run side
/// by side.
fn halves<K: Kernels + 'static>(
    engines: &Engines<K>,
    [mut first, mut second]: [K; 2],
    settings: &Settings,
) -> Result<(Detect<K>, Anonymize<K>), Error> {
    settings.check()?;
    let Networks {
        detector,
        landmarker,
        embedder,
        generator,
    } = engines.networks([&mut first, &mut second], settings.max_faces, LARGEST_INPUT)?;
    let detect = Detect::new(first, detector, settings)?;
    let anonymize = Anonymize::new(second, landmarker, embedder, generator, settings)?;
    Ok((detect, anonymize))
}

/// Loads the networks of `store` into ONNX Runtime with `threads` threads each, for one pipeline on the processor.
///
/// # Errors
/// When a network is missing or not what it should be, or a setting is out of range.
pub fn on_cpu(
    store: &Store,
    threads: usize,
    settings: &Settings,
) -> Result<(Detect<Cpu>, Anonymize<Cpu>), Error> {
    settings.check()?;
    let engines = Engines::on_cpu(store, &mut Cpu::default(), threads)?;
    halves(&engines, [Cpu::default(), Cpu::default()], settings)
}

/// The networks of a box: loaded once, shared by its streams, and loaded anew should one of them break.
pub struct Pool {
    choice: Choice,
    loaded: Mutex<Arc<Loaded>>,
}

impl Pool {
    /// Loads the networks.
    ///
    /// # Errors
    /// As [`Loaded::load`].
    pub fn load(choice: Choice) -> Result<Self, Error> {
        let loaded = Mutex::new(Arc::new(Loaded::load(&choice)?));
        Ok(Self { choice, loaded })
    }

    /// The networks, proved anew if a run of one of them has panicked or their place is lost.
    ///
    /// # Errors
    /// When they have to be loaded anew and cannot be.
    pub fn engines(&self) -> Result<Arc<Loaded>, Error> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.is_broken() {
            *loaded = Arc::new(Loaded::load(&self.choice)?);
        }
        Ok(loaded.clone())
    }
}
