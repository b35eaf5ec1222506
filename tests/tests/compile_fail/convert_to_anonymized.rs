//! A raw frame does not turn into an anonymized one.

use persona::frame::{Anonymized, RawFrame};

fn main() {
    let raw = RawFrame::new(vec![0u8], std::time::Duration::ZERO);
    let _: Anonymized<Vec<u8>> = raw.into();
}
