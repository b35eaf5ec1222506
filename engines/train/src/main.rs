//! Trains, exports and evaluates Persona's de-identification network, after *Live Face De-Identification in
//! Video*. `docs/training.md` is the manual.

mod augment;
mod curve;
mod data;
mod evaluate;
mod export;
mod fit;
mod losses;
mod network;
mod onnx;
mod optimizer;
mod preset;
mod recognizer;
mod sheet;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Align the faces of a data set and cache them as one file
    Prepare {
        /// Directory with FACES.tsv and the pictures
        #[arg(long)]
        data: PathBuf,
        /// Take the pictures whose path begins so
        #[arg(long, default_value = "train/")]
        prefix: String,
        /// Store of the frozen networks [default: the product's]
        #[arg(long)]
        models: Option<PathBuf>,
        /// The preset that the faces are for
        #[arg(long, default_value = "edge128")]
        preset: String,
        /// File to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Train
    Fit(fit::Options),
    /// Measure how well a generator de-identifies, on pictures and clips
    Evaluate(evaluate::Options),
    /// Measure what an attacker gains who trains on a generator's outputs
    Attack(evaluate::attack::Options),
    /// Write trained weights as the files that the product loads
    Export(export::Options),
    /// Draw the same faces replaced by several weights, one row each
    Compare(sheet::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Prepare {
            data,
            prefix,
            models,
            preset,
            out,
        } => {
            let preset = preset::Preset::load(&preset)?;
            let store = fit::store(models.as_deref())?;
            let device = tch::Device::Cpu;
            let spec = preset
                .recognizer
                .first()
                .ok_or_else(|| anyhow::anyhow!("the preset names no recognizer"))?;
            let recognizer = recognizer::Recognizer::load(&store, spec, device)?;
            let landmarker = recognizer::Landmarker::load(&store, "landmarks", device)?;
            data::prepare(&data, &prefix, preset.generator.side, &landmarker, &recognizer)?.write(&out)
        }
        Command::Fit(options) => fit::fit(&options),
        Command::Evaluate(options) => evaluate::evaluate(&options),
        Command::Attack(options) => evaluate::attack::attack(&options),
        Command::Export(options) => export::export(&options),
        Command::Compare(options) => sheet::compare(&options),
    }
}

/// Waits until no other test draws from libtorch's random generator: there is one for all threads.
#[cfg(test)]
fn take_turn() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
