//! Sheets of pictures, to be looked at.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;
use tch::{Device, Kind, Tensor};

use crate::data::{Batch, Faces};
use crate::network::Size;
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
    let batch = spread(&faces, options.columns);
    let mut rows = vec![batch.pictures.shallow_clone()];
    for path in &options.weights {
        rows.push(shown(path, &size, &batch)?);
    }
    write(&options.out, &rows)
}

/// So many faces, spread over the cache; the target is the face itself.
pub fn spread(faces: &Faces, columns: usize) -> Batch {
    let columns = columns.clamp(1, faces.len());
    let indices: Vec<i64> = (0..columns).map(|i| (i * faces.len() / columns) as i64).collect();
    faces.batch(&indices, &indices, &vec![false; columns], Device::Cpu)
}

/// What the product would show with these weights: `[n, 3, s, s]` in -1 to 1.
///
/// # Errors
/// When the file cannot be read or holds a generator of another size.
pub fn shown(weights: &Path, size: &Size, batch: &Batch) -> Result<Tensor> {
    let (raw, mask) = export::load(weights, size)?.forward(&batch.pictures, &batch.targets);
    Ok(losses::composite(&batch.pictures, &raw, &(mask * &batch.hulls)))
}

/// One row per entry of `rows`, each a batch `[n, 3 or 1, s, s]` in -1 to 1 set side by side.
///
/// # Errors
/// When the rows differ in length.
pub fn picture(rows: &[Tensor]) -> Result<RgbImage> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| Tensor::cat(&row.expand([-1, 3, -1, -1], false).unbind(0), 2))
        .collect();
    let sheet = Tensor::f_cat(&rows, 1)?;
    let (height, width) = (sheet.size()[1] as u32, sheet.size()[2] as u32);
    let bytes = ((sheet.clamp(-1.0, 1.0) + 1.0) * 127.5)
        .round()
        .to_kind(Kind::Uint8)
        .permute([1, 2, 0])
        .contiguous();
    let bytes = Vec::<u8>::try_from(bytes.flatten(0, -1))?;
    RgbImage::from_raw(width, height, bytes).context("a sheet without pixels")
}

/// Writes [`picture`] as a PNG.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, rows: &[Tensor]) -> Result<()> {
    picture(rows)?
        .save(path)
        .with_context(|| format!("cannot write {}", path.display()))
}
