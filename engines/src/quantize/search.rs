//! The best recipe that measurement finds.

use indicatif::ProgressBar;

use super::accuracy::{Accuracy, Reference, Samples};
use super::{Calibrator, Recipe, Statistics, correct_biases, int8, sensitivity};
use crate::Result;
use crate::cpu::Runtime;
use crate::models::Network;

/// The calibrators that are tried.
pub const CALIBRATORS: [Calibrator; 7] = [
    Calibrator::Max,
    Calibrator::Percentile(99.9),
    Calibrator::Percentile(99.99),
    Calibrator::Percentile(99.999),
    Calibrator::Percentile(99.9999),
    Calibrator::Entropy,
    Calibrator::Mse,
];
/// Samples that a trial, or the ranking of a layer, is measured on.
const TRIAL_SAMPLES: usize = 8;
/// Corrected biases are kept when the noise is lower than this part of what it was, half a decibel: they would be most of a
/// recipe.
const WORTH: f64 = 0.89;

/// What one way of calibrating costs with every layer in INT8.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// How the scales were chosen.
    pub calibrator: Calibrator,
    /// Whether channels were scaled to about the same size.
    pub equalized: bool,
    /// Whether biases were corrected.
    pub corrected: bool,
    /// See [`Reference::noise`].
    pub noise: f64,
}

/// A recipe, and how it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The recipe.
    pub recipe: Recipe,
    /// Everything that was tried.
    pub trials: Vec<Trial>,
    /// The layers by what rounding each alone costs.
    pub ranking: Vec<(String, f64)>,
    /// What it reaches on the calibration samples.
    pub accuracy: Accuracy,
}

/// Calibrates in every way, with the network's channels as they are and scaled to about the same size, and takes the one
/// with the least noise, with biases corrected if that lowers it by half a decibel; then keeps the layers in FP16 that cost
/// most, as few as make `accept` take the network. Only the given samples are looked at: what the recipe is worth is to be
/// measured on others.
///
/// # Errors
/// As [`Statistics::collect`] and [`Reference::compare`].
pub fn best_recipe(
    runtime: &Runtime,
    network: Network,
    onnx: &[u8],
    samples: &Samples,
    accept: impl Fn(&Accuracy) -> bool,
    progress: &ProgressBar,
) -> Result<Found> {
    let layers = sensitivity::layers(onnx)?;
    let steps = 3 * samples.inputs.len() + 2 * CALIBRATORS.len() + 1 + layers.len() + 1;
    progress.set_length(steps as u64);
    progress.set_message("calibrating");
    let few = samples.thinned(TRIAL_SAMPLES);
    let plain = Statistics::collect(runtime, onnx, &samples.inputs, progress)?;
    let equalized = Statistics::equalized(runtime, onnx, &samples.inputs, progress)?;
    let reference = Reference::run(runtime, network, onnx, &few)?;

    progress.set_message("comparing calibrators");
    let mut trials = Vec::with_capacity(2 * CALIBRATORS.len() + 1);
    let mut measure = |recipe: &Recipe| -> Result<f64> {
        let noise = reference.noise(runtime, &int8(onnx, recipe)?, &few)?;
        progress.inc(1);
        trials.push(Trial {
            calibrator: recipe.calibrator,
            equalized: !recipe.doublings.is_empty(),
            corrected: !recipe.corrections.is_empty(),
            noise,
        });
        Ok(noise)
    };
    let mut recipe = plain.recipe(Calibrator::Max);
    let mut least = f64::INFINITY;
    for statistics in [Some(&plain), equalized.as_ref()].into_iter().flatten() {
        for calibrator in CALIBRATORS {
            let other = statistics.recipe(calibrator);
            let noise = measure(&other)?;
            if noise < least {
                (least, recipe) = (noise, other);
            }
        }
    }
    let mut corrected = recipe.clone();
    // On more samples than the noise is measured on, which it would else fit.
    correct_biases(
        runtime,
        onnx,
        &mut corrected,
        &samples.inputs,
        &ProgressBar::hidden(),
    )?;
    if measure(&corrected)? < WORTH * least {
        recipe = corrected;
    }

    progress.set_message("rounding one layer at a time");
    let cost = |onnx: &[u8]| reference.noise(runtime, onnx, &few);
    let ranking = sensitivity::rank(onnx, &recipe, cost, progress)?;

    progress.set_message("keeping what costs most in FP16");
    let reference = Reference::run(runtime, network, onnx, samples)?;
    let enough = |onnx: &[u8]| Ok(accept(&reference.compare(runtime, onnx, samples)?));
    sensitivity::keep_costliest(onnx, &mut recipe, &ranking, enough)?;
    let accuracy = reference.compare(runtime, &int8(onnx, &recipe)?, samples)?;
    progress.inc(1);
    Ok(Found {
        recipe,
        trials,
        ranking,
        accuracy,
    })
}
