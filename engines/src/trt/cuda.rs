//! The GPU of [`kernels::cuda`] as a place for TensorRT.

use std::ffi::c_void;

use kernels::cuda::{Cuda, Precision, Tensor};

use super::Device;

// SAFETY: `Tensor::address` is the address of as many numbers of the tensor's precision as its shape has, and the memory is
// given back in the order of the tensor's stream.
unsafe impl Device for Cuda {
    fn address(tensor: &Tensor) -> Option<u64> {
        (tensor.precision() == Precision::F32).then(|| tensor.address())
    }

    fn shape(tensor: &Tensor) -> [usize; 4] {
        tensor.shape()
    }

    fn stream(tensor: &Tensor) -> *mut c_void {
        tensor.stream().cast()
    }
}
