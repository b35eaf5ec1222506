//! The buffer of a raw frame is out of reach: its field, a copy of the frame, and the pipeline's own access.

use persona::frame::RawFrame;

fn main() {
    let mut raw = RawFrame::new(vec![0u8], std::time::Duration::ZERO);
    raw.buffer_mut();
    let _ = raw.clone();
    let _ = raw.buffer;
}
