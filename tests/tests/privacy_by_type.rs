//! A raw frame cannot reach a sink: each program in `compile_fail/` tries one way, and does not compile.
//!
//! The `.stderr` beside each says why. After a change of wording in the compiler or of the types, look at what is new
//! and write it with `TRYBUILD=overwrite cargo test -p tests --test privacy_by_type`.

#[test]
fn a_raw_frame_cannot_reach_a_sink() {
    let programs = trybuild::TestCases::new();
    // One that compiles shows that the others fail for their own reason.
    programs.pass("tests/compile_pass/anonymized_to_sink.rs");
    programs.compile_fail("tests/compile_fail/*.rs");
}
