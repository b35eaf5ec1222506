//! Trains, exports and evaluates Persona's de-identification network, after *Live Face De-Identification in
//! Video*. `docs/training.md` is the manual.

mod ablation;
mod attributes;
mod augment;
mod curve;
mod data;
mod evaluate;
mod export;
mod fit;
mod inverter;
mod losses;
mod network;
mod onnx;
mod optimizer;
mod preset;
mod reader;
mod recognizer;
mod sheet;
mod text;
mod trainer;

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
    Prepare(data::Options),
    /// Train
    Fit(fit::Options),
    /// Train the paper's ablations one after the other and set them side by side
    Ablate(ablation::Options),
    /// Measure how well a generator de-identifies, on pictures and clips
    Evaluate(evaluate::Options),
    /// Measure what an attacker gains who trains on a generator's outputs
    Attack(evaluate::attack::Options),
    /// Make a blinded study for human raters, and score their answers
    #[command(subcommand)]
    Study(evaluate::study::Action),
    /// Write trained weights as the files that the product loads
    Export(export::Options),
    /// Draw the same faces replaced by several weights, one row each
    Compare(sheet::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Prepare(options) => data::prepare(&options),
        Command::Fit(options) => fit::fit(&options).map(drop),
        Command::Ablate(options) => ablation::ablate(&options),
        Command::Evaluate(options) => evaluate::evaluate(&options),
        Command::Attack(options) => evaluate::attack::attack(&options),
        Command::Study(action) => evaluate::study::run(&action),
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
