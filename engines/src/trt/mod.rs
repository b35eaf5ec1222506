//! TensorRT: networks compiled for the GPU of the very machine.
//!
//! TensorRT is found when the program runs. Nothing of it is needed to build: no header, no C++ compiler, no library. Three
//! layers: `sys` knows the binary interface, `result` calls it, `safe` owns what comes back. This and `sys`' tables are the
//! only unsafe code of this package.
//!
//! [`Library`] compiles ([`Library::build`]) and loads ([`Library::load`]); an [`Executor`] is an [`crate::Engine`] on every
//! place whose tensors lie on the GPU ([`Device`]). Precision lies in the ONNX file: see [`crate::Precision`].
//!
//! docs/tensorrt.md says which versions, how plans are kept, and what has been checked where.

// The only place outside of kernels/src/cuda that may, block by block.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod cuda;
mod logger;
mod networks;
pub mod operators;
mod plans;
mod profile;
mod result;
mod safe;
mod sys;
#[cfg(test)]
mod tests;

pub use networks::{Admission, REPORT, Source};
pub use plans::{Key, Plan, Plans, Settings};
pub use profile::Profile;
pub use safe::{Device, Executor, Library, Recipe};
pub use sys::{Family, Version};
