//! A raw frame cannot reach a sink: each program in `compile_fail/` tries one way, and does not compile.
//!
//! The `.stderr` beside each says why. After a change of wording in the compiler or of the types, look at what is new
//! and write it with `TRYBUILD=overwrite cargo test -p tests --test privacy_by_type`.

use kernels::cpu::Cpu;
use persona::frame::{Anonymized, Pixels, RawFrame};
use persona::pipeline::Pipeline;

/// The one way, which compiles: a raw frame goes into the pipeline, and what comes out goes into a sink. The programs
/// differ from it by what they try, so they fail for that and nothing else.
#[allow(dead_code)]
fn the_one_way<B: Pixels<Cpu>>(
    pipeline: &mut Pipeline<Cpu, B>,
    frame: RawFrame<B>,
    mut sink: impl FnMut(Anonymized<B>),
) {
    pipeline.submit(frame, &mut sink);
}

#[test]
fn a_raw_frame_cannot_reach_a_sink() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
