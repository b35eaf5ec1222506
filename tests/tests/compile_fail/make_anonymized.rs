//! An anonymized frame cannot be written down.

use persona::frame::Anonymized;

fn main() {
    let _ = Anonymized { buffer: vec![0u8], time: std::time::Duration::ZERO };
}
