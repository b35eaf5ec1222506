use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
/// When it goes away while the device may be at work on it, it waits, so that nobody touches the memory while a kernel
/// does. Whether the kernels succeeded only [`crate::Kernels::finish`] tells.
#[derive(Debug)]
pub struct Frame<'a> {
    raw: layout::Frame,
    size: [usize; 2],
    color: Color,
    /// Who works on it.
    borrower: RefCell<Option<Arc<Borrower>>>,
    changed: bool,
    memory: PhantomData<&'a mut [u8]>,
}

/// A stream to which frames are lent.
#[derive(Debug)]
pub(super) struct Borrower {
    stream: Arc<CudaStream>,
    /// Whether it may still be at work on one.
    is_at_work: AtomicBool,
}

impl Borrower {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Self {
        Self {
            stream: stream.clone(),
            is_at_work: AtomicBool::new(false),
        }
    }

    /// Everything that was asked of the stream is done.
    pub(super) fn give_back(&self) {
        self.is_at_work.store(false, Ordering::Release);
    }

    fn wait(&self) -> Result<()> {
        if self.is_at_work.load(Ordering::Acquire) {
            let waited = self.stream.synchronize();
            waited.map_err(refused("waiting for a stream that works on a frame"))?;
            self.give_back();
        }
        Ok(())
    }
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
            borrower: RefCell::default(),
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

    /// Notes that `borrower` is going to change the frame.
    pub(super) fn lend_to_change(&mut self, borrower: &Arc<Borrower>) -> Result<()> {
        self.changed = true;
        self.lend_to(borrower)
    }

    /// Whether anybody was to change it.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Notes that `borrower` is asked for work on the frame next.
    pub(super) fn lend_to(&self, borrower: &Arc<Borrower>) -> Result<()> {
        let mut last = self.borrower.borrow_mut();
        match &*last {
            Some(last) if Arc::ptr_eq(last, borrower) => {}
            other => {
                if let Some(other) = other {
                    // Two streams do not wait for each other.
                    other.wait()?;
                }
                *last = Some(borrower.clone());
            }
        }
        borrower.is_at_work.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        if let Some(borrower) = self.borrower.get_mut() {
            // What went wrong is told by `finish`.
            let _ = borrower.wait();
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
