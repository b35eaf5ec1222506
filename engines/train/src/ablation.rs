//! The paper's ablations, trained one after the other and set side by side (figures 6 and 7).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use image::{Rgb, RgbImage, imageops};

use crate::data::Faces;
use crate::fit::{self, fit};
use crate::preset::Preset;
use crate::{sheet, text};

/// Which presets, and how long.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    fit: fit::Options,
    /// Presets, one row of the sheet each
    #[arg(long, num_args = 1.., default_values_t = PRESETS.map(str::to_owned))]
    presets: Vec<String>,
    /// Faces on the sheet, spread over the cache
    #[arg(long, default_value_t = 10)]
    columns: usize,
}

/// Figure 6 and figure 7, without their sources. The row (b) of figure 7 is the paper's recipe.
const PRESETS: [&str; 10] = [
    "figure6b", "figure6c", "figure6d", "figure6e", "paper128", "figure7c", "figure7d", "figure7e",
    "figure7f", "figure7g",
];

/// Room for a row's name.
const MARGIN: u32 = 10 * text::GLYPH;

/// Trains every preset in a directory of its own under the run's, from the same weights and for the same steps, and
/// writes `ablation.png` there: the first row is the source, the others what the product would show. A run that was
/// interrupted is resumed, one that is complete is kept.
///
/// # Errors
/// When a run fails or the sheet cannot be written.
pub fn ablate(options: &Options) -> Result<()> {
    let faces = Faces::read(&options.fit.faces)?;
    let columns = options.columns.clamp(1, faces.len());
    let mut rows = Vec::new();
    let batch = sheet::spread(&faces, columns);
    rows.push(batch.pictures.shallow_clone());
    for name in &options.presets {
        let run: PathBuf = options.fit.run.join(name);
        let resume = run.join("checkpoint.safetensors").exists();
        println!("{name}");
        let done = fit(&fit::Options {
            run: run.clone(),
            preset: Some(name.clone()),
            init: options.fit.init.clone().filter(|_| !resume),
            resume,
            ..options.fit.clone()
        })?;
        ensure!(
            done,
            "{name} was interrupted: give the same command again to go on"
        );
        let size = Preset::load(name)?.generator;
        rows.push(sheet::shown(&run.join("generator.safetensors"), &size, &batch)?);
    }
    let pictures = sheet::picture(&rows)?;
    let side = pictures.height() / rows.len() as u32;
    let mut labelled = RgbImage::from_pixel(pictures.width() + MARGIN, pictures.height(), Rgb([255; 3]));
    imageops::replace(&mut labelled, &pictures, i64::from(MARGIN), 0);
    let names = ["source"]
        .into_iter()
        .chain(options.presets.iter().map(String::as_str));
    for (row, name) in (0..).zip(names) {
        text::write(&mut labelled, name, text::GLYPH / 2, row * side + side / 2);
    }
    let path = options.fit.run.join("ablation.png");
    labelled
        .save(&path)
        .with_context(|| format!("cannot write {}", path.display()))
}
