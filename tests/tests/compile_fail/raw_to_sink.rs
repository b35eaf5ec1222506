//! A sink does not take a raw frame.

use persona::frame::{Anonymized, RawFrame};

fn sink(_: Anonymized<Vec<u8>>) {}

fn main() {
    sink(RawFrame::new(Vec::new(), std::time::Duration::ZERO));
}
