use crate::{Kernels, Result};

/// Tensors of one shape: as many as were needed at once until now, so that all of them can be fetched before the first is
/// read.
pub struct Pool<K: Kernels> {
    shape: [usize; 4],
    tensors: Vec<[K::Tensor; 1]>,
}

impl<K: Kernels> Pool<K> {
    /// Of tensors of `shape`, one of which is made now.
    ///
    /// # Errors
    /// The place's own when the shape is empty or memory is short.
    pub fn new(kernels: &mut K, shape: [usize; 4]) -> Result<Self> {
        let mut pool = Self {
            shape,
            tensors: Vec::new(),
        };
        pool.get(kernels, 0)?;
        Ok(pool)
    }

    /// Entries of each tensor.
    pub fn entries(&self) -> usize {
        self.shape[0]
    }

    /// Tensor `index`, made if it is not there yet.
    ///
    /// # Errors
    /// The place's own when memory is short.
    pub fn get(&mut self, kernels: &mut K, index: usize) -> Result<&mut [K::Tensor; 1]> {
        while self.tensors.len() <= index {
            self.tensors.push([kernels.tensor(self.shape)?]);
        }
        Ok(&mut self.tensors[index])
    }
}
