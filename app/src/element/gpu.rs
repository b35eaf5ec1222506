//! The pixels of a `gst::Buffer` on a GPU: of NVMM buffers in place, of others in a copy that both can see.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gstreamer as gst;
use kernels::cpu::Cpu;
use kernels::cuda::nvmm::{Mapped, Nvmm};
use kernels::cuda::{Cuda, Device, Format, Frame, Picture, Rows};
use kernels::{Kernels, Region};

use super::pixels::VideoBuffer;
use crate::frame::{Pixels, Unmappable};

/// The caps feature of a Jetson's camera and decoder buffers.
pub const FEATURE: Option<&str> = Some("memory:NVMM");

/// A GPU as the buffers of its streams know it.
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Arc<Device>,
    /// Memory of buffers that have left.
    spare: Mutex<Vec<Picture>>,
    /// The library of NVMM buffers, or why there is none.
    nvmm: OnceLock<Result<Nvmm, String>>,
}

impl Gpu {
    /// The GPU, for any number of streams.
    pub fn new(device: Arc<Device>) -> Self {
        Self(Arc::new(Inner {
            device,
            spare: Mutex::default(),
            nvmm: OnceLock::new(),
        }))
    }

    /// Whether buffers with [`FEATURE`] can be used.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        self.nvmm().map(drop)
    }

    fn nvmm(&self) -> Result<&Nvmm, String> {
        let open = || Nvmm::open(&self.0.device).map_err(|error| error.to_string());
        self.0.nvmm.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Picture>> {
        self.0.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory of so many bytes, used before or new.
    fn picture(&self, bytes: usize) -> Result<Picture, Unmappable> {
        let mut spare = self.spare();
        while let Some(picture) = spare.pop() {
            // One of another size is of a stream that has changed its own.
            if picture.bytes().len() == bytes {
                return Ok(picture);
            }
        }
        Picture::new(&self.0.device, bytes).map_err(unmappable)
    }
}

/// How a GPU reaches a buffer's pixels, until this goes away.
#[derive(Debug)]
pub struct Lent {
    gpu: Gpu,
    memory: Memory,
}

/// Where the GPU sees the pixels.
#[derive(Debug)]
// A box would be a heap allocation per frame.
#[allow(clippy::large_enum_variant)]
enum Memory {
    /// It was not asked to see them yet.
    Nowhere,
    /// In the buffer.
    Mapped(Mapped<gst::MappedBuffer<gst::buffer::Readable>>),
    /// In a copy.
    Copied(Picture),
}

impl From<Gpu> for Lent {
    fn from(gpu: Gpu) -> Self {
        let memory = Memory::Nowhere;
        Self { gpu, memory }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Memory::Copied(picture) = std::mem::replace(&mut self.memory, Memory::Nowhere) {
            self.gpu.spare().push(picture);
        }
    }
}

fn unmappable(error: impl ToString) -> Unmappable {
    Unmappable(error.to_string())
}

impl VideoBuffer {
    /// Lets the GPU see the pixels.
    fn lend(&mut self, gpu: &Gpu) -> Result<Memory, Unmappable> {
        // Nobody else may hold the buffer now; for as long as it is mapped this value holds it twice.
        let is_nvmm = self.layout.is_nvmm();
        let own = self.own()?;
        if !is_nvmm {
            let map = own.map_readable();
            let map = map.map_err(|_| unmappable("its memory is not readable"))?;
            let mut picture = gpu.picture(map.len())?;
            picture.bytes_mut().copy_from_slice(&map);
            return Ok(Memory::Copied(picture));
        }
        let buffer = self.buffer.clone().into_mapped_buffer_readable();
        let buffer = buffer.map_err(|_| unmappable("its memory is not readable"))?;
        let mapped = gpu.nvmm().map_err(unmappable)?.map(buffer).map_err(unmappable)?;
        let (width, height) = Pixels::<Cuda>::size(self);
        if mapped.size() != [width, height] {
            return Err(unmappable("its surface contradicts the caps"));
        }
        Ok(Memory::Mapped(mapped))
    }

    /// Where the planes of ordinary memory lie.
    fn format(&self) -> Result<Format, Unmappable> {
        let (offsets, strides) = self.planes()?;
        let rows = |plane: usize| Rows {
            offset: offsets[plane],
            stride: strides[plane],
        };
        let (y, second, third) = (rows(0), rows(1), rows(2));
        Ok(match self.layout.is_nv12() {
            true => Format::Nv12 { y, uv: second },
            false => Format::I420 {
                y,
                u: second,
                v: third,
            },
        })
    }
}

impl Pixels<Cuda> for VideoBuffer {
    fn size(&self) -> (usize, usize) {
        Pixels::<Cpu>::size(self)
    }

    fn with_frame<R>(&mut self, work: impl FnOnce(&mut Frame<'_>) -> R) -> Result<R, Unmappable> {
        let no_gpu = || unmappable("it is of a stream without a GPU");
        let lent = self.lent.as_ref().ok_or_else(no_gpu)?;
        if matches!(lent.memory, Memory::Nowhere) {
            let gpu = lent.gpu.clone();
            let memory = self.lend(&gpu)?;
            self.lent = Some(Lent { gpu, memory });
        }
        let (width, height) = Pixels::<Cuda>::size(self);
        let format = self.format();
        let picture = match self.lent.as_mut().map(|lent| &mut lent.memory) {
            Some(Memory::Mapped(mapped)) => return mapped.with_frame(work).map_err(unmappable),
            Some(Memory::Copied(picture)) => picture,
            Some(Memory::Nowhere) | None => return Err(no_gpu()),
        };
        let done = picture.with_frame([width, height], self.layout.color, format?, |frame| {
            (work(frame), frame.is_changed())
        });
        let (result, changed) = done.map_err(unmappable)?;
        if changed {
            let buffer = self.buffer.get_mut();
            let map = buffer
                .ok_or_else(|| unmappable("somebody else holds it"))?
                .map_writable();
            let mut map = map.map_err(|_| unmappable("its memory is not writable"))?;
            map.copy_from_slice(picture.bytes());
        }
        Ok(result)
    }

    fn cover(&mut self) -> Result<(), Unmappable> {
        let covered = Pixels::<Cpu>::with_frame(self, |frame| Cpu::default().cover(frame, &[Region::Frame]))?;
        covered.map_err(unmappable)
    }
}
