use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::layout;
use super::memory::Pinned;
use super::module::{Device, refused};
use crate::frame::{Extent, check};
use crate::{Color, Error, Result};

/// Where a plane lies in its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Bytes before the first row.
    pub offset: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// The planes of a frame in one piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Three planes: Y at full size, U and V at half size, rounded up.
    I420 {
        /// Luma.
        y: Rows,
        /// Blue difference.
        u: Rows,
        /// Red difference.
        v: Rows,
    },
    /// Two planes: Y at full size, U and V interleaved at half size, rounded up.
    Nv12 {
        /// Luma.
        y: Rows,
        /// Blue and red difference, alternating.
        uv: Rows,
    },
}

/// A plane that the device can see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plane {
    pub(super) address: u64,
    pub(super) stride: usize,
    /// Bytes from the address on that belong to the plane.
    pub(super) bytes: usize,
}

/// A frame that the device can see, borrowed from whoever owns the memory.
///
/// It waits for the device when it goes away, so that nobody touches the memory while a kernel does. Whether the
/// kernels succeeded only [`crate::Kernels::finish`] tells.
#[derive(Debug)]
pub struct Frame<'a> {
    raw: layout::Frame,
    size: [usize; 2],
    color: Color,
    /// The stream that works on it.
    stream: RefCell<Option<Arc<CudaStream>>>,
    changed: bool,
    memory: PhantomData<&'a mut [u8]>,
}

impl Frame<'_> {
    /// A frame over planes: two of NV12 or three of I420.
    ///
    /// # Safety
    /// The device must be able to read and write every plane for as long as the frame lives.
    #[allow(unsafe_code)]
    pub(super) unsafe fn new(size: [usize; 2], color: Color, planes: &[Plane]) -> Result<Self> {
        let [width, height] = size;
        let wrong = |reason: &str| Error::Frame {
            width,
            height,
            reason: reason.into(),
        };
        let mut extents = [Extent { stride: 0, bytes: 0 }; 3];
        for (extent, plane) in extents.iter_mut().zip(planes) {
            *extent = Extent {
                stride: plane.stride,
                bytes: plane.bytes,
            };
        }
        let at = |plane: &Plane| (plane.address, plane.stride);
        let raw = match planes {
            [y, uv] => {
                check(width, height, &extents[..2])?;
                let v = (uv.address + 1, uv.stride);
                layout::Frame::new(size, [at(y), at(uv), v], 2, color)
            }
            [y, u, v] => {
                check(width, height, &extents)?;
                layout::Frame::new(size, [at(y), at(u), at(v)], 1, color)
            }
            _ => return Err(wrong("a frame has two or three planes")),
        };
        Ok(Self {
            raw,
            size,
            color,
            stream: RefCell::default(),
            changed: false,
            memory: PhantomData,
        })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.size[0]
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.size[1]
    }

    /// What the bytes mean.
    pub fn color(&self) -> Color {
        self.color
    }

    pub(super) fn size(&self) -> [usize; 2] {
        self.size
    }

    pub(super) fn raw(&self) -> &layout::Frame {
        &self.raw
    }

    /// Notes that `stream` is going to change the frame.
    pub(super) fn lend_to_change(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        self.changed = true;
        self.lend_to(stream)
    }

    /// Whether anybody was to change it.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Notes that `stream` is going to work on the frame.
    pub(super) fn lend_to(&self, stream: &Arc<CudaStream>) -> Result<()> {
        let mut last = self.stream.borrow_mut();
        match &*last {
            Some(last) if Arc::ptr_eq(last, stream) => return Ok(()),
            // Two streams do not wait for each other.
            Some(last) => last
                .synchronize()
                .map_err(refused("waiting for another stream"))?,
            None => {}
        }
        *last = Some(stream.clone());
        Ok(())
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.get_mut() {
            // What went wrong is told by `finish`.
            let _ = stream.synchronize();
        }
    }
}

/// A frame's memory that processor and device share: for cameras that write to ordinary memory.
///
/// On a Jetson both use the same memory, so nothing is copied.
#[derive(Debug)]
pub struct Picture {
    memory: Pinned,
}

impl Picture {
    /// `bytes` of memory, zeroed.
    ///
    /// # Errors
    /// [`Error::Device`] when memory is short.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        Ok(Self {
            memory: Pinned::new(device, bytes)?,
        })
    }

    /// The bytes, as the processor sees them.
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// The bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// Lends the memory as a frame of `size` pixels, and waits for the device at the end.
    ///
    /// # Errors
    /// [`Error::Frame`] when the planes do not fit into the memory or the size.
    pub fn with_frame<R>(
        &mut self,
        size: [usize; 2],
        color: Color,
        format: Format,
        work: impl FnOnce(&mut Frame<'_>) -> R,
    ) -> Result<R> {
        let (address, length) = (self.memory.address(), self.memory.bytes().len());
        let plane = |Rows { offset, stride }: Rows| Plane {
            address: address + offset.min(length) as u64,
            stride,
            bytes: length.saturating_sub(offset),
        };
        let (planes, count) = match format {
            Format::I420 { y, u, v } => ([y, u, v].map(plane), 3),
            Format::Nv12 { y, uv } => ([y, uv, uv].map(plane), 2),
        };
        // SAFETY: the planes lie in memory that the device can see and that is borrowed for as long as the frame.
        #[allow(unsafe_code)]
        let mut frame = unsafe { Frame::new(size, color, &planes[..count]) }?;
        Ok(work(&mut frame))
    }
}
