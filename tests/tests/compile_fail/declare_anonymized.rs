//! Only the pipeline declares a frame anonymized.

use persona::frame::RawFrame;

fn main() {
    let raw = RawFrame::new(vec![0u8], std::time::Duration::ZERO);
    raw.into_anonymized();
}
