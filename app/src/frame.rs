//! Privacy by type: a frame is raw until the pipeline has decided about every face in it.
//!
//! [`RawFrame`] gives its buffer to nobody outside of this crate's pipeline; a sink takes [`Anonymized`], and
//! only [`crate::pipeline`] makes one. `tests/tests/privacy_by_type.rs` shows that the other ways do not compile.

use std::time::Duration;

use kernels::Kernels;

/// A buffer whose pixels can be looked at where the kernels `K` live.
pub trait Pixels<K: Kernels>: Send {
    /// Width and height in pixels of the frame that [`Pixels::with_frame`] gives.
    fn size(&self) -> (usize, usize);

    /// Calls `work` with the frame's pixels, in place. Only a place that cannot see the buffer's memory gets a copy, which
    /// is brought back if it was changed.
    ///
    /// # Errors
    /// [`Unmappable`] when the buffer cannot be mapped or its planes do not fit its size.
    fn with_frame<R>(&mut self, work: impl FnOnce(&mut K::Frame<'_>) -> R) -> Result<R, Unmappable>;

    /// Covers the whole picture without the place, once that one has failed.
    ///
    /// # Errors
    /// [`Unmappable`] when nobody else reaches the pixels.
    fn cover(&mut self) -> Result<(), Unmappable> {
        Err(Unmappable(
            "its place has failed, and nobody else reaches its pixels".into(),
        ))
    }
}

/// A buffer whose pixels cannot be reached. Such a frame is dropped, never passed on.
#[derive(Debug, thiserror::Error)]
#[error("the frame's buffer cannot be mapped: {0}")]
pub struct Unmappable(pub String);

/// A frame as the source delivered it. Its pixels can be reached only inside of this crate.
#[derive(Debug)]
pub struct RawFrame<B> {
    buffer: B,
    time: Duration,
}

impl<B> RawFrame<B> {
    /// Takes a buffer from a source. `time` is its presentation time.
    pub fn new(buffer: B, time: Duration) -> Self {
        Self { buffer, time }
    }

    /// Presentation time.
    pub fn time(&self) -> Duration {
        self.time
    }

    pub(crate) fn buffer_mut(&mut self) -> &mut B {
        &mut self.buffer
    }

    /// Declares that every face in the frame has been replaced or covered.
    ///
    /// Only `pipeline::anonymize` may call this, after it has done so.
    pub(crate) fn into_anonymized(self) -> Anonymized<B> {
        Anonymized {
            buffer: self.buffer,
            time: self.time,
        }
    }
}

/// A frame that may be shown: the only thing that a sink accepts.
#[derive(Debug)]
pub struct Anonymized<B> {
    buffer: B,
    time: Duration,
}

impl<B> Anonymized<B> {
    /// Presentation time.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// The buffer, to look at.
    pub fn buffer(&self) -> &B {
        &self.buffer
    }

    /// The buffer, to pass on.
    pub fn into_buffer(self) -> B {
        self.buffer
    }
}
