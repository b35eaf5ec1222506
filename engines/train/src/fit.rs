//! The training run: what it reads, writes and shows, from start to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use engines::models::Store;
use indicatif::{ProgressBar, ProgressStyle};
use tch::Device;

use crate::curve::{self, Curve};
use crate::data::{self, Faces};
use crate::preset::Preset;
use crate::trainer::Trainer;

/// Where a run reads and writes, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Cache of aligned faces, made by `train prepare`
    #[arg(long)]
    pub faces: PathBuf,
    /// Data directory to make the cache of, when it is not there
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Store of the frozen networks [default: the product's]
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// Directory of the run: checkpoint, curve and sheets
    #[arg(long)]
    pub run: PathBuf,
    /// Built-in preset or TOML file; a resumed run keeps its own unless this is given
    #[arg(long)]
    pub preset: Option<String>,
    /// Train so many steps instead of the preset's; the stages of lambda move in proportion
    #[arg(long)]
    pub steps: Option<u64>,
    /// Weights to start from
    #[arg(long, conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Continue from the run's checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 5)]
    pub checkpoint: u64,
    /// Steps between sheets
    #[arg(long, default_value_t = 500)]
    pub sheet: u64,
    /// Steps between kept copies of the averaged generator
    #[arg(long, default_value_t = 2000)]
    pub keep: u64,
    /// Threads of the CPU
    #[arg(long, default_value_t = 2)]
    pub threads: i32,
}

const ROW: u64 = 50;

/// Trains until the preset's last step, or until the process is asked to end; then the checkpoint is written. Says
/// whether the last step was done.
///
/// # Errors
/// When a file is missing, or a loss stops being a number.
pub fn fit(options: &Options) -> Result<bool> {
    tch::set_num_threads(options.threads);
    let device = Device::cuda_if_available();
    let preset = preset(options)?;
    if let (Some(data), Some(preset), false) = (&options.data, &options.preset, options.faces.exists()) {
        data::prepare(&data::Options {
            data: data.clone(),
            prefix: "train/".into(),
            models: options.models.clone(),
            preset: preset.clone(),
            out: options.faces.clone(),
        })?;
    }
    let faces = Faces::read(&options.faces)?;
    let mut trainer = Trainer::new(preset, faces, &store(options.models.as_deref())?, device)?;
    let checkpoint = options.run.join("checkpoint.safetensors");
    if options.resume {
        trainer.restore(&checkpoint)?;
    } else {
        ensure!(
            !checkpoint.exists(),
            "{} holds a run already: add --resume or choose another directory",
            options.run.display()
        );
        if let Some(path) = &options.init {
            trainer.initialize(path)?;
        }
    }
    fs::create_dir_all(options.run.join("sheets"))?;
    fs::write(options.run.join("preset.toml"), toml::to_string(&trainer.preset)?)?;
    let (csv, png) = (options.run.join("curve.csv"), options.run.join("curve.png"));
    let mut curve = Curve::open(&csv, trainer.step)?;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let last = trainer.preset.optimizer.steps;
    let bar = ProgressBar::new(last).with_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len} steps, {per_sec}, {eta} left {msg}",
    )?);
    bar.set_position(trainer.step);
    bar.reset_eta();
    let (began, mut saved) = (Instant::now(), Instant::now());
    while trainer.step < last && !stop.load(Ordering::Relaxed) {
        let terms = trainer.advance()?;
        curve.add(&terms)?;
        let step = trainer.step;
        bar.set_position(step);
        if step.is_multiple_of(ROW) {
            let row = curve.write(
                step,
                step * trainer.preset.optimizer.batch as u64,
                began.elapsed(),
            )?;
            bar.set_message(row.clone());
            if bar.is_hidden() {
                println!("{row}");
            }
        }
        if step.is_multiple_of(options.sheet) {
            trainer.draw(&options.run.join("sheets").join(format!("{step:07}.png")))?;
            curve::draw(&csv, &png)?;
        }
        if step.is_multiple_of(options.keep) {
            trainer.export(&options.run.join(format!("generator-{step:07}.safetensors")))?;
        }
        if saved.elapsed() >= Duration::from_secs(60 * options.checkpoint) {
            trainer.save(&checkpoint)?;
            saved = Instant::now();
        }
    }
    trainer.save(&checkpoint)?;
    trainer.export(&options.run.join("generator.safetensors"))?;
    curve::draw(&csv, &png)?;
    bar.finish();
    println!(
        "step {}: checkpoint written to {}",
        trainer.step,
        checkpoint.display()
    );
    Ok(trainer.step >= last)
}

/// The store of networks in `dir`, or the product's own.
///
/// # Errors
/// When the built-in list of networks is malformed.
pub fn store(dir: Option<&Path>) -> Result<Store> {
    let dir = dir.map_or_else(engines::models::default_dir, Path::to_path_buf);
    Ok(Store::open(dir)?)
}

fn preset(options: &Options) -> Result<Preset> {
    let kept = options.run.join("preset.toml");
    let preset = match &options.preset {
        Some(name) => Preset::load(name),
        None if options.resume => Preset::load(&kept.to_string_lossy()),
        None => bail!("say --preset"),
    }?;
    Ok(match options.steps {
        Some(steps) => preset.in_steps(steps),
        None => preset,
    })
}
