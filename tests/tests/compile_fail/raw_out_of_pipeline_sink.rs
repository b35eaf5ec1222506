//! A sink for raw frames does not fit the pipeline.

use kernels::cpu::Cpu;
use persona::frame::{Pixels, RawFrame};
use persona::pipeline::Pipeline;

fn stream<B: Pixels<Cpu>>(
    pipeline: &mut Pipeline<Cpu, B>,
    frame: RawFrame<B>,
    mut sink: impl FnMut(RawFrame<B>),
) {
    pipeline.submit(frame, &mut sink);
}

fn main() {}
