#![no_main]

use tests::parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("face_api"), |bytes: &[u8]| parsers::feed("face_api", bytes));
