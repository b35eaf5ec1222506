//! Marks in a stream of work, and what is ordered by them.

use std::sync::Arc;

use cudarc::driver::{CudaStream, sys};

use super::Tensor;
use super::module::{Device, refused};
use crate::Result;

/// A mark behind everything that was asked of a stream.
#[derive(Debug)]
pub(super) struct Event {
    handle: sys::CUevent,
    device: Arc<Device>,
}

// SAFETY: the driver's handles may be used from any thread in which the context is current, which every use sees to.
#[allow(unsafe_code)]
unsafe impl Send for Event {}

impl Event {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        device.bind()?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32
            | sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the context is current.
        #[allow(unsafe_code)]
        unsafe { sys::cuEventCreate(&mut handle, flags) }
            .result()
            .map_err(refused("making an event"))?;
        Ok(Self {
            handle,
            device: device.clone(),
        })
    }

    /// Moves the mark behind everything that `stream` was asked for.
    pub(super) fn record(&self, stream: &CudaStream) -> Result<()> {
        self.device.bind()?;
        // SAFETY: event and stream belong to the current context.
        #[allow(unsafe_code)]
        unsafe { sys::cuEventRecord(self.handle, stream.cu_stream()) }
            .result()
            .map_err(refused("recording an event"))
    }

    /// Waits, asleep, until the stream has come to the mark.
    pub(super) fn wait(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the event belongs to the current context.
        #[allow(unsafe_code)]
        unsafe { sys::cuEventSynchronize(self.handle) }
            .result()
            .map_err(refused("waiting for the GPU"))
    }

    /// Lets `stream` wait for the mark; the processor does not.
    fn hold(&self, stream: &CudaStream) -> Result<()> {
        self.device.bind()?;
        // SAFETY: event and stream belong to the current context; 0 are the only flags.
        #[allow(unsafe_code)]
        unsafe { sys::cuStreamWaitEvent(stream.cu_stream(), self.handle, 0) }
            .result()
            .map_err(refused("ordering two streams"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made in this context, and used nowhere else.
            #[allow(unsafe_code)]
            let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
        }
    }
}

/// Lets pieces of work follow each other on the GPU though they are asked of different streams: for what works in memory
/// of its own, as a network does. Nobody waits for it on the processor.
#[derive(Debug)]
pub struct Order(Event);

impl Order {
    /// An order in which nothing came yet.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the driver has no event left.
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        Event::new(device).map(Self)
    }

    /// What is asked of the stream of `tensor` from now on begins when the piece before is done.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the GPU has failed.
    pub fn begin(&self, tensor: &Tensor) -> Result<()> {
        self.0.hold(tensor.cuda_stream())
    }

    /// What was asked of the stream of `tensor` until now belongs to this piece.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the GPU has failed.
    pub fn end(&self, tensor: &Tensor) -> Result<()> {
        self.0.record(tensor.cuda_stream())
    }

    /// Copies all entries in use of each of `from` into the tensor of the same number of `to`, which may be another place's,
    /// from its entry `first` on: a piece of this order, on the stream of `from`. This order has to be dropped before `to`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when an entry is not like those of `to`, or there are not so many in use;
    /// [`crate::Error::Device`] when the GPU has failed.
    pub fn put(&self, from: &[&Tensor], first: usize, to: &mut [Tensor]) -> Result<()> {
        let Some(stream) = from.first().map(|tensor| tensor.cuda_stream().clone()) else {
            return Ok(());
        };
        self.piece(&stream, || {
            from.iter().zip(to).try_for_each(|(from, to)| {
                from.is_of(&stream)?;
                to.copy(first, from, 0, from.shape()[0], &stream)
            })
        })
    }

    /// Copies as many entries of each of `from`, beginning with its `first`, as the tensor of the same number of `to` has in
    /// use: a piece of this order, on the stream of `to`. This order has to be dropped before `from`.
    ///
    /// # Errors
    /// As [`Order::put`].
    pub fn take(&self, from: &[Tensor], first: usize, to: &mut [Tensor]) -> Result<()> {
        let Some(stream) = to.first().map(|tensor| tensor.cuda_stream().clone()) else {
            return Ok(());
        };
        self.piece(&stream, || {
            from.iter().zip(to).try_for_each(|(from, to)| {
                to.is_of(&stream)?;
                to.copy(0, from, first, to.shape()[0], &stream)
            })
        })
    }

    fn piece(&self, stream: &CudaStream, copies: impl FnOnce() -> Result<()>) -> Result<()> {
        self.0.hold(stream)?;
        let copied = copies();
        // Also after an error, which may have come when some copies were asked for.
        self.0.record(stream)?;
        copied
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        // A GPU that cannot wait any more does not work any more.
        let _ = self.0.wait();
    }
}
