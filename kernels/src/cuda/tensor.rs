use std::sync::Arc;

use cudarc::driver::{CudaStream, sys};
use half::f16;

use super::memory::{Buffer, Pinned};
use super::module::Device;
use crate::{Error, Result};

/// The numbers in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits: what [`crate::Kernels::tensor`] makes.
    F32,
    /// 16 bits: what a network in half precision takes and gives, in half the memory traffic.
    F16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// A tensor in the device's memory: NCHW.
///
/// Everything that is asked for on a tensor happens in the order of the [`super::Cuda`] that made it.
#[derive(Debug)]
pub struct Tensor {
    shape: [usize; 4],
    capacity: usize,
    precision: Precision,
    data: Buffer,
    /// The same in memory of the processor, for `write` and `read`.
    mirror: Pinned,
    /// What `read` gives of a tensor of 16-bit numbers.
    widened: Vec<f32>,
    /// When each entry was last written to the mirror, by the number of the wait that came next.
    written: Vec<u64>,
    /// Since which wait the mirror is being filled for `read`, by the same numbers.
    fetched: Option<u64>,
    stream: Arc<CudaStream>,
}

impl Tensor {
    pub(super) fn new(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        precision: Precision,
        shape: [usize; 4],
    ) -> Result<Self> {
        let count = shape
            .iter()
            .try_fold(1_usize, |count, side| count.checked_mul(*side))
            .filter(|count| *count > 0 && *count <= isize::MAX as usize / size_of::<f32>());
        let Some(count) = count else {
            return Err(Error::Shape {
                operation: "tensor",
                got: shape,
                wanted: "four sides of at least 1 that fit into memory".into(),
            });
        };
        let bytes = count * precision.bytes();
        Ok(Self {
            shape,
            capacity: shape[0],
            precision,
            data: Buffer::new(device, stream, bytes)?,
            mirror: Pinned::new(device, bytes)?,
            widened: match precision {
                Precision::F32 => Vec::new(),
                Precision::F16 => vec![0.0; count],
            },
            written: vec![0; shape[0]],
            fetched: None,
            stream: stream.clone(),
        })
    }

    /// The shape in use; `shape()[0]` is the number of entries set by `resize_batch`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The largest number of entries that the tensor was made for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The numbers in it.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The number of values in one entry: channels x height x width.
    pub fn entry_len(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Where the device finds the first value: what a network is given.
    pub fn address(&self) -> u64 {
        self.data.address()
    }

    /// The driver's stream (`CUstream`) in whose order everything happens to the tensor: where a network that reads
    /// or writes it has to be enqueued.
    pub fn stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    pub(super) fn cuda_stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Where entry `entry` begins.
    pub(super) fn entry_address(&self, entry: usize) -> u64 {
        self.address() + (entry * self.entry_len() * self.precision.bytes()) as u64
    }

    pub(super) fn is_of(&self, stream: &Arc<CudaStream>) -> Result<()> {
        if Arc::ptr_eq(&self.stream, stream) {
            return Ok(());
        }
        Err(Error::Device {
            operation: "taking a tensor",
            reason: "it was made by another place, whose work is not waited for".into(),
        })
    }

    pub(super) fn resize_batch(&mut self, entries: usize) -> Result<()> {
        let [_, channels, height, width] = self.shape;
        if entries > self.capacity {
            return Err(Error::Shape {
                operation: "resize_batch",
                got: [entries, channels, height, width],
                wanted: format!("at most {} entries", self.capacity),
            });
        }
        self.shape[0] = entries;
        self.fetched = None;
        Ok(())
    }

    /// Notes that the device is going to write to the tensor.
    pub(super) fn change(&mut self) {
        self.fetched = None;
    }

    /// Since which wait the mirror is being filled, if it is and nothing was written since.
    pub(super) fn fetched(&self) -> Option<u64> {
        self.fetched
    }

    /// When `entry` was last written.
    pub(super) fn written(&self, entry: usize) -> u64 {
        self.written.get(entry).copied().unwrap_or(0)
    }

    /// Writes an entry and asks for its copy. Nothing may be on its way out of the entry's mirror.
    pub(super) fn write(&mut self, entry: usize, values: &[f32], wait: u64) -> Result<()> {
        let length = self.entry_len();
        if entry >= self.shape[0] || values.len() != length {
            return Err(Error::Shape {
                operation: "write",
                got: self.shape,
                wanted: format!("an entry {entry} of {} values", values.len()),
            });
        }
        let size = self.precision.bytes();
        let range = entry * length * size..(entry + 1) * length * size;
        let bytes = self.mirror.bytes_mut()[range.clone()].chunks_exact_mut(size);
        match self.precision {
            Precision::F32 => {
                for (bytes, value) in bytes.zip(values) {
                    bytes.copy_from_slice(&value.to_ne_bytes());
                }
            }
            Precision::F16 => {
                for (bytes, value) in bytes.zip(values) {
                    bytes.copy_from_slice(&f16::from_f32(*value).to_ne_bytes());
                }
            }
        }
        self.written[entry] = wait;
        self.fetched = None;
        self.data.receive(&self.mirror, range)
    }

    /// Asks `stream` for a copy of `count` entries of `from`, beginning with its `first`, to the entries from `at` on. Both
    /// tensors must stay until it is done, and the caller sees to the order.
    pub(super) fn copy(
        &mut self,
        at: usize,
        from: &Self,
        first: usize,
        count: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        let fits = self.shape[1..] == from.shape[1..]
            && self.precision == from.precision
            && at + count <= self.shape[0]
            && first + count <= from.shape[0];
        if !fits {
            return Err(Error::Shape {
                operation: "copy",
                got: from.shape,
                wanted: format!(
                    "{count} entries from {first} on as those from {at} on of {:?}",
                    self.shape
                ),
            });
        }
        self.fetched = None;
        let entry = self.entry_len() * self.precision.bytes();
        self.data
            .copy(at * entry, &from.data, first * entry, count * entry, stream)
    }

    /// Asks for a copy of the used entries to where [`Self::values`] finds them after the wait with this number.
    pub(super) fn fetch(&mut self, wait: u64) -> Result<()> {
        self.fetched = Some(wait);
        let used = self.shape.iter().product::<usize>() * self.precision.bytes();
        if used == 0 {
            return Ok(());
        }
        self.data.send(&mut self.mirror, used)
    }

    /// The fetched entries.
    pub(super) fn values(&mut self) -> &[f32] {
        let count = self.shape.iter().product();
        match self.precision {
            Precision::F32 => self.mirror.floats(count),
            Precision::F16 => {
                let halves = self.mirror.bytes().chunks_exact(2);
                for (value, bytes) in self.widened[..count].iter_mut().zip(halves) {
                    *value = f16::from_ne_bytes([bytes[0], bytes[1]]).to_f32();
                }
                &self.widened[..count]
            }
        }
    }
}

// SAFETY: the stream's handle may be used from any thread in which its context is current, which every use sees to;
// all other parts may move by themselves.
#[allow(unsafe_code)]
unsafe impl Send for Tensor {}
