#![no_main]

use tests::parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("dlib_edits"), |bytes: &[u8]| parsers::feed("dlib_edits", bytes));
