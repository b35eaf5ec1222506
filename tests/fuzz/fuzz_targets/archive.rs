#![no_main]

use tests::parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("archive"), |bytes: &[u8]| parsers::feed("archive", bytes));
