//! In place of `gpu` in builds without it: there is never one.

/// The caps feature of memory that only a GPU reaches.
pub const FEATURE: Option<&str> = None;

/// A GPU as the buffers of a stream know it.
#[derive(Debug, Clone)]
pub enum Gpu {}

impl Gpu {
    /// Whether buffers with [`FEATURE`] can be used.
    pub fn check(&self) -> Result<(), String> {
        match *self {}
    }
}

/// How a GPU reaches a buffer's pixels.
#[derive(Debug)]
pub enum Lent {}

impl From<Gpu> for Lent {
    fn from(gpu: Gpu) -> Self {
        match gpu {}
    }
}
