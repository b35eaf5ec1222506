//! The half of the pipeline that releases frames cannot be asked to release one.

use kernels::cpu::Cpu;
use persona::frame::RawFrame;
use persona::pipeline::Anonymize;

fn release(anonymize: &mut Anonymize<Cpu>, raw: RawFrame<Vec<u8>>) {
    anonymize.finish(raw);
}

fn main() {}
