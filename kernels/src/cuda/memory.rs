//! Memory of the device, memory that it shares with the processor, and the way of small things to the device.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::{CudaStream, result, sys};

use super::layout::Plain;
use super::module::{Device, refused};
use crate::{Error, Result};

/// Memory of the device, zeroed.
#[derive(Debug)]
pub(super) struct Buffer {
    address: sys::CUdeviceptr,
    bytes: usize,
    /// Whoever writes to the memory does it there.
    stream: Arc<CudaStream>,
    device: Arc<Device>,
}

impl Buffer {
    pub(super) fn new(device: &Arc<Device>, stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        device.bind()?;
        // SAFETY: the context is current.
        #[allow(unsafe_code)]
        let address = unsafe { result::malloc_sync(bytes) }.map_err(refused("taking device memory"))?;
        let buffer = Self {
            address,
            bytes,
            stream: stream.clone(),
            device: device.clone(),
        };
        buffer.clear()?;
        Ok(buffer)
    }

    /// Asks for zeroes.
    pub(super) fn clear(&self) -> Result<()> {
        // SAFETY: the memory is this buffer's, of that length, and freed only after the stream is done.
        #[allow(unsafe_code)]
        unsafe { result::memset_d8_async(self.address, 0, self.bytes, self.stream.cu_stream()) }
            .map_err(refused("clearing device memory"))
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Asks for a copy of `from[range]` to the same place of this buffer. Until the stream has done it, `from` must
    /// neither change nor go away.
    pub(super) fn receive(&self, from: &Pinned, range: std::ops::Range<usize>) -> Result<()> {
        let bytes = from
            .bytes()
            .get(range.clone())
            .filter(|_| range.end <= self.bytes);
        let Some(bytes) = bytes else {
            return Err(out_of_range("copying to the device", &range, self.bytes));
        };
        // SAFETY: both ranges were checked; the callers keep `from` beside this buffer, and wait before they change it.
        #[allow(unsafe_code)]
        unsafe {
            result::memcpy_htod_async(self.address + range.start as u64, bytes, self.stream.cu_stream())
        }
        .map_err(refused("copying to the device"))
    }

    /// Asks `stream` for a copy of `bytes` of `from`, beginning at `start`, to this buffer, beginning at `at`. Both must stay
    /// until the stream has done it; the callers see to the order with what else is asked of them.
    pub(super) fn copy(
        &self,
        at: usize,
        from: &Self,
        start: usize,
        bytes: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        for (buffer, first) in [(self, at), (from, start)] {
            if first.saturating_add(bytes) > buffer.bytes {
                let range = first..first.saturating_add(bytes);
                return Err(out_of_range("copying on the device", &range, buffer.bytes));
            }
        }
        // SAFETY: both ranges were checked; that both stay is the callers' promise.
        #[allow(unsafe_code)]
        unsafe {
            result::memcpy_dtod_async(
                self.address + at as u64,
                from.address + start as u64,
                bytes,
                stream.cu_stream(),
            )
        }
        .map_err(refused("copying on the device"))
    }

    /// Asks for a copy of the first `bytes` of this buffer to `to`, which must not be looked at before the stream has
    /// done it.
    pub(super) fn send(&self, to: &mut Pinned, bytes: usize) -> Result<()> {
        let to = to.bytes_mut().get_mut(..bytes).filter(|_| bytes <= self.bytes);
        let Some(to) = to else {
            return Err(out_of_range("copying from the device", &(0..bytes), self.bytes));
        };
        // SAFETY: both ranges were checked; the callers wait for the stream before they look.
        #[allow(unsafe_code)]
        unsafe { result::memcpy_dtoh_async(to, self.address, self.stream.cu_stream()) }
            .map_err(refused("copying from the device"))
    }
}

fn out_of_range(operation: &'static str, range: &std::ops::Range<usize>, bytes: usize) -> Error {
    Error::Device {
        operation,
        reason: format!("bytes {range:?} lie beyond {bytes}"),
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A device that cannot wait any more has lost the memory anyway.
        let _ = self.stream.synchronize();
        if self.device.bind().is_ok() {
            // SAFETY: the stream is done with it and nobody else knows the address.
            #[allow(unsafe_code)]
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Memory that processor and device share: page-locked, and mapped into the device.
#[derive(Debug)]
pub(super) struct Pinned {
    host: NonNull<u8>,
    address: sys::CUdeviceptr,
    bytes: usize,
    device: Arc<Device>,
}

// SAFETY: it owns its memory, like a Vec.
#[allow(unsafe_code)]
unsafe impl Send for Pinned {}

/// Boundaries of everything that is put into staging memory.
const ALIGNMENT: usize = 16;

impl Pinned {
    /// Zeroed memory.
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        let failed = refused("taking memory that the device can see");
        device.bind()?;
        // SAFETY: the context is current; CU_MEMHOSTALLOC_DEVICEMAP is the flag of memory that the device can see.
        #[allow(unsafe_code)]
        let host =
            unsafe { result::malloc_host(bytes.max(1), sys::CU_MEMHOSTALLOC_DEVICEMAP) }.map_err(&failed)?;
        let Some(host) = NonNull::new(host.cast::<u8>()) else {
            return Err(Error::Device {
                operation: "taking memory that the device can see",
                reason: "the driver gave none".into(),
            });
        };
        // SAFETY: the memory was just taken, is that long, and nobody else knows it.
        #[allow(unsafe_code)]
        unsafe {
            host.write_bytes(0, bytes);
        }
        let mut pinned = Self {
            host,
            address: 0,
            bytes,
            device: device.clone(),
        };
        // SAFETY: the memory was taken with CU_MEMHOSTALLOC_DEVICEMAP in this context.
        #[allow(unsafe_code)]
        unsafe { sys::cuMemHostGetDevicePointer_v2(&mut pinned.address, host.as_ptr().cast(), 0) }
            .result()
            .map_err(failed)?;
        Ok(pinned)
    }

    /// Where the device sees it.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is this value's, of that length, and was written at the start.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.host.as_ptr(), self.bytes)
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and borrowed uniquely.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.host.as_ptr(), self.bytes)
        }
    }

    /// The first values as numbers.
    pub(super) fn floats(&self, count: usize) -> &[f32] {
        // SAFETY: every pattern of bits is an f32; `align_to` cares for the alignment, which page-locked memory has.
        #[allow(unsafe_code)]
        let (_, floats, _) = unsafe { self.bytes().align_to::<f32>() };
        &floats[..count.min(floats.len())]
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: taken with `malloc_host`; whoever asked the device to use it has waited.
            #[allow(unsafe_code)]
            let _ = unsafe { result::free_host(self.host.as_ptr().cast()) };
        }
    }
}

/// Small things on their way to the device: written here, copied once per kernel, used again after a wait.
#[derive(Debug)]
pub(super) struct Staging {
    host: Pinned,
    device: Buffer,
    sent: usize,
    used: usize,
}

impl Staging {
    pub(super) fn new(device: &Arc<Device>, stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        Ok(Self {
            host: Pinned::new(device, bytes)?,
            device: Buffer::new(device, stream, bytes)?,
            sent: 0,
            used: 0,
        })
    }

    /// Whether `bytes` more fit.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.used + bytes <= self.host.bytes
    }

    /// How large it is.
    pub(super) fn capacity(&self) -> usize {
        self.host.bytes
    }

    /// Everything that was sent has been used.
    pub(super) fn reset(&mut self) {
        (self.sent, self.used) = (0, 0);
    }

    /// How much room `count` values of a type take at most.
    pub(super) fn room<T: Plain>(count: usize) -> usize {
        count * size_of::<T>() + ALIGNMENT
    }

    /// Writes values one after another and gives the address where the device will find them once they are sent.
    pub(super) fn push<T: Plain>(&mut self, values: impl Iterator<Item = T>) -> Result<u64> {
        let start = self.used.next_multiple_of(ALIGNMENT);
        let mut end = start;
        for value in values {
            let place = self.host.bytes_mut().get_mut(end..end + size_of::<T>());
            let Some(place) = place else {
                return Err(out_of_range(
                    "passing arguments",
                    &(end..end + size_of::<T>()),
                    self.host.bytes,
                ));
            };
            // SAFETY: the place is that long, and `Plain` types have no padding.
            #[allow(unsafe_code)]
            unsafe {
                place.as_mut_ptr().cast::<T>().write_unaligned(value);
            }
            end += size_of::<T>();
        }
        self.used = end;
        Ok(self.device.address() + start as u64)
    }

    /// Asks for one copy of everything that was pushed since the last one.
    pub(super) fn send(&mut self) -> Result<()> {
        self.device.receive(&self.host, self.sent..self.used)?;
        self.sent = self.used;
        Ok(())
    }
}
