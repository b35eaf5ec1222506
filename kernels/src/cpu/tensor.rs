use crate::{Error, Result};

/// A tensor in ordinary memory: NCHW, `f32`.
#[derive(Debug, Clone)]
pub struct Tensor {
    shape: [usize; 4],
    data: Vec<f32>,
}

impl Tensor {
    pub(super) fn new(shape: [usize; 4]) -> Result<Self> {
        let count = shape
            .iter()
            .try_fold(1_usize, |count, side| count.checked_mul(*side))
            .filter(|count| *count > 0 && *count <= isize::MAX as usize / size_of::<f32>());
        match count {
            Some(count) => Ok(Self {
                shape,
                data: vec![0.0; count],
            }),
            None => Err(Error::Shape {
                operation: "tensor",
                got: shape,
                wanted: "four sides of at least 1 that fit into memory".into(),
            }),
        }
    }

    /// The shape in use; `shape()[0]` is the number of entries set by `resize_batch`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The number of values in one entry: channels x height x width.
    pub fn entry_len(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// The largest number of entries that the tensor was made for.
    pub fn capacity(&self) -> usize {
        self.data.len() / self.entry_len()
    }

    /// The values of the entries in use.
    pub fn data(&self) -> &[f32] {
        &self.data[..self.shape.iter().product()]
    }

    /// The values of the entries in use, to change.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let used = self.shape.iter().product();
        &mut self.data[..used]
    }

    /// The values of one entry.
    ///
    /// # Panics
    /// Like a slice's index, when the entry is not in use.
    pub fn entry(&self, entry: usize) -> &[f32] {
        let length = self.entry_len();
        &self.data()[entry * length..][..length]
    }

    /// The values of one entry, to change.
    ///
    /// # Panics
    /// Like a slice's index, when the entry is not in use.
    pub fn entry_mut(&mut self, entry: usize) -> &mut [f32] {
        let length = self.entry_len();
        &mut self.data_mut()[entry * length..][..length]
    }

    pub(super) fn resize_batch(&mut self, entries: usize) -> Result<()> {
        if entries > self.capacity() {
            let [_, channels, height, width] = self.shape;
            return Err(Error::Shape {
                operation: "resize_batch",
                got: [entries, channels, height, width],
                wanted: format!("at most {} entries", self.capacity()),
            });
        }
        self.shape[0] = entries;
        Ok(())
    }

    pub(super) fn write(&mut self, entry: usize, values: &[f32]) -> Result<()> {
        if entry >= self.shape[0] || values.len() != self.entry_len() {
            return Err(Error::Shape {
                operation: "write",
                got: self.shape,
                wanted: format!("an entry {entry} of {} values", values.len()),
            });
        }
        self.entry_mut(entry).copy_from_slice(values);
        Ok(())
    }
}
