//! Sheets of pictures, to be looked at.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

/// Writes a PNG: one row per entry of `rows`, each a batch `[n, 3 or 1, s, s]` in -1 to 1 set side by side.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, rows: &[Tensor]) -> Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| Tensor::cat(&row.expand([-1, 3, -1, -1], false).unbind(0), 2))
        .collect();
    let sheet = Tensor::cat(&rows, 1);
    let (height, width) = (sheet.size()[1] as u32, sheet.size()[2] as u32);
    let bytes = ((sheet.clamp(-1.0, 1.0) + 1.0) * 127.5)
        .round()
        .to_kind(Kind::Uint8)
        .permute([1, 2, 0])
        .contiguous();
    let bytes = Vec::<u8>::try_from(bytes.flatten(0, -1))?;
    image::save_buffer(path, &bytes, width, height, image::ColorType::Rgb8)
        .with_context(|| format!("cannot write {}", path.display()))
}
