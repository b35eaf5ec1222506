//! The GPU of [`kernels::cuda`] as a place for TensorRT.

use std::ffi::c_void;
use std::sync::Arc;

use kernels::cuda::{self, Cuda, Order, Precision, Tensor};

use super::Device;
use crate::together::Gather;
use crate::{Engine, Result, Shared, Signature};

/// A network whose runs follow each other on the GPU.
struct InTurn {
    // Dropped first: its memory is in use until the last run is done.
    order: Order,
    engine: Box<dyn Engine<Cuda>>,
}

/// Asks for work on the stream of a tensor that begins when the piece before is done.
fn in_order(order: &Order, of: &Tensor, work: impl FnOnce() -> Result<()>) -> Result<()> {
    order.begin(of)?;
    let done = work();
    // Also after an error, which may have come when some of the work was enqueued.
    order.end(of)?;
    done
}

impl Engine<Cuda> for InTurn {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
        let Some(first) = inputs.first() else {
            return self.engine.run(inputs, outputs);
        };
        in_order(&self.order, first, || self.engine.run(inputs, outputs))
    }
}

/// Memory of the GPU that pipelines copy their entries into and out of, each on its own stream, and a stream of its own for
/// the run between: one piece after the other, so that no processor waits.
struct Group {
    order: Order,
    place: Cuda,
}

impl Group {
    fn new(device: &Arc<cuda::Device>) -> kernels::Result<Self> {
        Ok(Self {
            order: Order::new(device)?,
            place: Cuda::new(device)?,
        })
    }
}

impl Gather<Cuda> for Group {
    fn place(&mut self) -> &mut Cuda {
        &mut self.place
    }

    fn shape(tensor: &Tensor) -> [usize; 4] {
        tensor.shape()
    }

    fn put(&self, from: &[&Tensor], first: usize, to: &mut [Tensor]) -> Result<()> {
        Ok(self.order.put(from, first, to)?)
    }

    fn in_order(&self, of: &Tensor, work: impl FnOnce() -> Result<()>) -> Result<()> {
        in_order(&self.order, of, work)
    }

    fn take(&self, from: &[Tensor], first: usize, to: &mut [Tensor]) -> Result<()> {
        Ok(self.order.take(from, first, to)?)
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

    fn share(
        kernels: &mut Cuda,
        engine: Box<dyn Engine<Cuda>>,
        signature: &Signature,
        most: usize,
    ) -> Result<Shared<Cuda>> {
        let device = kernels.device();
        let order = Order::new(device)?;
        let engine = Box::new(InTurn { order, engine });
        if most == 1 {
            return Ok(Shared::new(&signature.network, engine));
        }
        let group = || Group::new(device);
        Shared::gathering(engine, signature, most, [group()?, group()?])
    }
}
