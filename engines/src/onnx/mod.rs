//! ONNX files: reading, writing, and converting the networks of others into them.
//!
//! One file per source: [`centerface`] frees the detector's fixed shape, [`dlib`] reads dlib's serialised network,
//! [`face_api`] reads a TensorFlow.js manifest with 8-bit weights, [`generator`] writes our own network from its
//! weights. [`basic`] rewrites a network for old versions of TensorRT. What they read is untrusted: a damaged file gives
//! an [`crate::Error::Parse`], never a panic, and memory in proportion to the file.

pub mod basic;
mod builder;
pub mod centerface;
pub mod dlib;
pub mod face_api;
pub mod generator;
pub mod proto;

pub use builder::{Builder, Dim, Setting, Value};
pub(crate) use builder::{OPSET, write};
