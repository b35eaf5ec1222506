//! The two halves of the pipeline with their networks.

use engines::models::Store;
use engines::{Networks, Options};
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

/// Loads the networks of `store` into ONNX Runtime with `threads` threads each. Detection and anonymization get a
/// place of their own, so that they can run side by side.
///
/// # Errors
/// When a network is missing or not what it should be, or a setting is out of range.
pub fn on_cpu(
    store: &Store,
    threads: usize,
    settings: &Settings,
) -> Result<(Detect<Cpu>, Anonymize<Cpu>), Error> {
    settings.check()?;
    let mut kernels = Cpu::default();
    let options = Options {
        threads,
        max_faces: settings.max_faces,
        largest: LARGEST_INPUT,
    };
    let Networks {
        detector,
        landmarker,
        embedder,
        generator,
    } = engines::networks_on_cpu(store, &mut kernels, &options)?;
    let detect = Detect::new(Cpu::default(), detector, settings)?;
    let anonymize = Anonymize::new(kernels, landmarker, embedder, generator, settings)?;
    Ok((detect, anonymize))
}
