//! The GPU of [`kernels::cuda`] as a place for TensorRT.

use std::ffi::c_void;

use kernels::cuda::{Cuda, Order, Precision, Tensor};

use super::Device;
use crate::{Engine, Result};

/// A network whose runs follow each other on the GPU.
struct InTurn {
    // Dropped first: its memory is in use until the last run is done.
    order: Order,
    engine: Box<dyn Engine<Cuda>>,
}

impl Engine<Cuda> for InTurn {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
        let Some(first) = inputs.first() else {
            return self.engine.run(inputs, outputs);
        };
        self.order.begin(first)?;
        let ran = self.engine.run(inputs, outputs);
        // Also after an error, which may have come when some of the work was enqueued.
        self.order.end(first)?;
        ran
    }
}

// SAFETY: `Tensor::address` is the address of as many numbers of the tensor's precision as its shape has, and the memory is
// given back in the order of the tensor's stream. `InTurn` orders the runs.
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

    fn in_turn(kernels: &mut Cuda, engine: Box<dyn Engine<Cuda>>) -> Result<Box<dyn Engine<Cuda>>> {
        Ok(Box::new(InTurn {
            order: Order::new(kernels.device())?,
            engine,
        }))
    }
}
