//! The one way: a raw frame goes into the pipeline, and what comes out goes into a sink.

use kernels::cpu::Cpu;
use persona::frame::{Anonymized, Pixels, RawFrame};
use persona::pipeline::Pipeline;

fn sink(frame: Anonymized<Vec<u8>>) -> Vec<u8> {
    frame.into_buffer()
}

fn stream(pipeline: &mut Pipeline<Cpu, Vec<u8>>, frame: RawFrame<Vec<u8>>)
where
    Vec<u8>: Pixels<Cpu>,
{
    pipeline.submit(frame, &mut |frame| drop(sink(frame)));
}

fn main() {}
