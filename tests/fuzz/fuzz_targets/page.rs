#![no_main]

use tests::parsers;

libfuzzer_sys::fuzz_target!(init: parsers::write_seeds("page"), |bytes: &[u8]| parsers::feed("page", bytes));
