//! The two halves of the pipeline with their networks.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use engines::models::Store;
use engines::{Engines, Networks};
use kernels::cpu::Cpu;

use crate::pipeline::{self, Anonymize, Detect, LARGEST_INPUT, Settings};

/// Why the pipeline cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A network cannot be loaded.
    #[error(transparent)]
    Engines(#[from] engines::Error),
    /// The settings cannot be used.
    #[error(transparent)]
    Pipeline(#[from] pipeline::Error),
}

/// Loads the networks of `store` into ONNX Runtime with `threads` threads each, for one pipeline.
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
    with(&engines, settings)
}

/// The two halves of a pipeline that shares `engines` with others. Detection and anonymization get a place of their
/// own, so that they can run side by side.
///
/// # Errors
/// When memory is short or a setting is out of range.
pub fn with(engines: &Engines<Cpu>, settings: &Settings) -> Result<(Detect<Cpu>, Anonymize<Cpu>), Error> {
    settings.check()?;
    let mut kernels = Cpu::default();
    let Networks {
        detector,
        landmarker,
        embedder,
        generator,
    } = engines.networks(&mut kernels, settings.max_faces, LARGEST_INPUT)?;
    let detect = Detect::new(Cpu::default(), detector, settings)?;
    let anonymize = Anonymize::new(kernels, landmarker, embedder, generator, settings)?;
    Ok((detect, anonymize))
}

/// The networks of a box: loaded once, shared by its streams, and loaded anew should one of them break.
pub struct Pool {
    store: Store,
    threads: usize,
    engines: Mutex<Arc<Engines<Cpu>>>,
}

impl Pool {
    /// Loads the networks.
    ///
    /// # Errors
    /// When a network is missing or not what it should be.
    pub fn load(folder: &Path, threads: usize) -> Result<Self, Error> {
        let store = Store::open(folder)?;
        let engines = Engines::on_cpu(&store, &mut Cpu::default(), threads)?;
        Ok(Self {
            store,
            threads,
            engines: Mutex::new(Arc::new(engines)),
        })
    }

    /// The networks, proved anew if a run of one of them has panicked.
    ///
    /// # Errors
    /// When they have to be loaded anew and cannot be.
    pub fn engines(&self) -> Result<Arc<Engines<Cpu>>, Error> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if engines.is_broken() {
            *engines = Arc::new(Engines::on_cpu(&self.store, &mut Cpu::default(), self.threads)?);
        }
        Ok(engines.clone())
    }
}
