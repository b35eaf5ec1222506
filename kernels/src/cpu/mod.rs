//! Pixels in ordinary memory: the specification that every other place must agree with.

/// The CPU as a place for pixels.
#[derive(Debug, Default)]
pub struct Cpu {}

/// A tensor in ordinary memory: NCHW, `f32`.
#[derive(Debug, Clone)]
pub struct Tensor {
    shape: [usize; 4],
    data: Vec<f32>,
}

impl Tensor {
    /// The shape in use; `shape()[0]` is the number of entries set by `resize_batch`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
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
}
