//! Sheets of pictures, to be looked at.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use crate::data::Faces;
use crate::{export, losses, preset::Preset};

/// Which weights to set side by side.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Cache of aligned faces, made by `train prepare`
    #[arg(long)]
    pub faces: PathBuf,
    /// Weights files or checkpoints, one row of the sheet each
    #[arg(long, required = true, num_args = 1..)]
    pub weights: Vec<PathBuf>,
    /// The preset whose size they have
    #[arg(long, default_value = "edge128")]
    pub preset: String,
    /// Faces, spread over the cache
    #[arg(long, default_value_t = 12)]
    pub columns: usize,
    /// PNG to write
    #[arg(long)]
    pub out: PathBuf,
}

/// Writes a sheet of the same faces replaced by several weights (paper figures 6 and 7): the first row is the source,
/// the others are what the product would show, in the order given.
///
/// # Errors
/// When a file cannot be read or written.
pub fn compare(options: &Options) -> Result<()> {
    let size = Preset::load(&options.preset)?.generator;
    let faces = Faces::read(&options.faces)?;
    let columns = options.columns.clamp(1, faces.len());
    let indices: Vec<i64> = (0..columns).map(|i| (i * faces.len() / columns) as i64).collect();
    let batch = faces.batch(&indices, &indices, &vec![false; columns], Device::Cpu);
    let mut rows = vec![batch.pictures.shallow_clone()];
    for path in &options.weights {
        let (raw, mask) = export::load(path, &size)?.forward(&batch.pictures, &batch.targets);
        rows.push(losses::composite(&batch.pictures, &raw, &(mask * &batch.hulls)));
    }
    write(&options.out, &rows)
}

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
