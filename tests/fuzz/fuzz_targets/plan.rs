#![no_main]

use tests::parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("plan"), |bytes: &[u8]| parsers::feed("plan", bytes));
