//! The CPU engine: ONNX Runtime, loaded at run time.

use std::path::Path;

use kernels::cpu::Cpu;

use crate::{Engine, Result, Signature};

/// A loaded ONNX Runtime.
pub struct Runtime {
    threads: usize,
}

impl Runtime {
    /// Loads the library.
    ///
    /// # Errors
    /// [`crate::Error::Library`] when the file is missing or not a usable ONNX Runtime.
    pub fn load(library: &Path, threads: usize) -> Result<Self> {
        let _ = library;
        Ok(Self { threads })
    }

    /// Loads a network and compares it with what is expected.
    ///
    /// # Errors
    /// [`crate::Error::Signature`], [`crate::Error::Runtime`].
    pub fn engine(&self, onnx: &[u8], expected: &Signature) -> Result<Box<dyn Engine<Cpu>>> {
        let _ = (onnx, self.threads);
        Err(crate::Error::Runtime {
            network: expected.network.clone(),
            reason: "not written yet".into(),
        })
    }
}
