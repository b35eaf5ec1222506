//! A sink for raw frames does not fit the pipeline.

use kernels::cpu::Cpu;
use persona::frame::{Pixels, RawFrame};
use persona::pipeline::Pipeline;

fn sink(_: RawFrame<Vec<u8>>) {}

fn stream(pipeline: &mut Pipeline<Cpu, Vec<u8>>, frame: RawFrame<Vec<u8>>)
where
    Vec<u8>: Pixels<Cpu>,
{
    pipeline.submit(frame, &mut sink);
}

fn main() {}
