//! Presets: everything that decides what a training run does, in one TOML file. Keys of the losses carry the
//! paper's symbols.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::network::Size;

/// One training recipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The generator's sizes.
    pub generator: Size,
    /// Optimisation.
    pub optimizer: Optimizer,
    /// Weights of the losses.
    pub loss: Loss,
    /// The strength of the push away from the target, lambda of equation 6, by step.
    pub lambda: Vec<Stage>,
    /// Augmentation of the pictures and distortion of the generator's input.
    pub augment: Augment,
    /// Frozen recognisers for the perceptual loss; one is drawn per step by its `share`.
    pub recognizer: Vec<Recognizer>,
    /// A frozen landmark network that ties output to source.
    pub landmarks: Option<Landmarks>,
    /// A frozen network of sex and age that ties output to source.
    pub attributes: Option<Attributes>,
}

/// Optimisation (paper section 4: Adam, 1e-4, 0.5, 0.99, batches of 32, 230,000 steps).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Steps to train.
    pub steps: u64,
    /// Pictures per step.
    pub batch: i64,
    /// Adam's learning rate of the generator.
    pub learning_rate: f64,
    /// Adam's learning rate of the discriminator.
    pub discriminator_rate: f64,
    /// Share of the run, at its end, over which both rates fall to a tenth along a cosine.
    pub decay: f64,
    /// Adam's decay of the mean.
    pub beta_1: f64,
    /// Adam's decay of the variance.
    pub beta_2: f64,
    /// Share of the present weights in the moving average, per step.
    pub ema: f64,
    /// Seed of everything drawn.
    pub seed: i64,
}

/// Weights of the losses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Adversarial loss of the generator (L_G).
    pub lambda_0: f64,
    /// Reconstruction (L_R).
    pub lambda_1: f64,
    /// Edges (L_x, L_y).
    pub lambda_2: f64,
    /// Perceptual loss (L_p).
    pub lambda_3: f64,
    /// Size of the mask (L_m).
    pub lambda_4: f64,
    /// Roughness of the mask (L_x^m, L_y^m).
    pub lambda_5: f64,
    /// Parameter of the beta distribution of the mixup.
    pub alpha: f64,
    /// Share of the low maps' ties in the perceptual loss.
    pub low: f64,
    /// Share of the high map's tie to the target in the perceptual loss.
    pub high: f64,
    /// Judge raw and masked output by the adversarial and perceptual losses in every step, at twice the cost, as the
    /// paper does; otherwise in turn.
    pub both: bool,
    /// Whether the raw output is judged by the adversarial loss (figure 7d: without).
    pub adversarial_raw: bool,
    /// Whether there is a mask (figure 7c: without).
    pub mask: bool,
    /// Limit what is judged to the soft landmark hull, as the product shows it.
    pub hull: bool,
    /// Ours: tone.
    pub tone: f64,
    /// Ours: missing detail.
    pub detail: f64,
    /// Ours: how much detail is wanted, relative to the source's. More than 1 makes up for what resampling the face
    /// into its frame will cost.
    pub detail_gain: f64,
    /// Ours: grain.
    pub grain: f64,
    /// Ours: exposure, 1 - mask inside the hull.
    pub exposure: f64,
    /// Ours: sameness of the outputs of a batch.
    pub sameness: f64,
    /// Ours: adversarial loss of the generator on the eyes, which have a discriminator of their own; 0 is without.
    pub eyes: f64,
    /// Ours: what a linear inverter that trains along gets out of the outputs' descriptors; 0 is without.
    pub inversion: f64,
    /// What the inverter may know before it counts, in nats: sex alone, which shall be kept, is 0.7.
    pub inversion_free: f64,
}

/// From this step on, push with this strength.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// First step.
    pub step: u64,
    /// Lambda.
    pub value: f64,
}

/// Random changes. Lengths are fractions of the crop's side, angles in degrees, all as the largest change
/// (`elastic`: standard deviation in halves of the side).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Of the picture itself: what the losses compare with changes too.
    pub picture: Motion,
    /// Of the generator's input alone: the output shall be undistorted (paper section 3, training step a).
    pub input: Motion,
    /// Of what the recognisers see, source and output alike.
    pub recognizer: Motion,
    /// Share of steps in which the recognisers see a blurred and noisy picture.
    pub degrade: f64,
    /// Share of samples whose target is another picture of the person, where there is one.
    pub other_picture: f64,
}

/// Bounds of a random motion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Motion {
    /// Degrees.
    pub rotation: f64,
    /// Relative.
    pub scale: f64,
    /// Fraction of the side.
    pub shift: f64,
    /// Standard deviation of a 5x5 field of displacements, in halves of the side.
    pub elastic: f64,
}

/// A frozen recogniser.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recognizer {
    /// `embedding`, the product's own, or an ONNX file in the store's directory: `[n, 3, size, size]` RGB in,
    /// `[n, d]` out.
    pub network: String,
    /// Side of its input.
    pub size: i64,
    /// The part of the aligned crop that it sees.
    pub window: Window,
    /// Its input is `(rgb - mean) / scale` with rgb in 0 to 255; many files begin with that themselves.
    #[serde(default)]
    pub mean: [f64; 3],
    /// See `mean`.
    #[serde(default = "one")]
    pub scale: f64,
    /// Whether it takes blue first.
    #[serde(default)]
    pub bgr: bool,
    /// Whether descriptors are brought to unit length before they are compared.
    #[serde(default)]
    pub unit: bool,
    /// Numbers of the activations (Relu and PRelu, 1 is the first in the file) whose maps are tied to the source.
    pub low: Vec<usize>,
    /// Number of the activation whose map is tied to the target.
    pub high: Vec<usize>,
    /// Descriptor distance up to which it pushes output and target apart.
    pub distance: f64,
    /// Descriptor distance up to which it pushes the outputs of a batch apart.
    pub spread: f64,
    /// How often it is drawn, relative to the others.
    pub share: f64,
}

/// A square part of a crop, in fractions of the crop's side. What lies beyond the crop is mirrored.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Side.
    pub side: f64,
}

impl Window {
    /// The whole crop.
    pub const WHOLE: Self = Self {
        x: 0.0,
        y: 0.0,
        side: 1.0,
    };
}

fn one() -> f64 {
    1.0
}

/// A frozen landmark network.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landmarks {
    /// `landmarks`, the product's own, or an ONNX file in the store's directory: `[n, 3, 112, 112]` RGB 0 to 255
    /// in, `[n, 136]` out.
    pub network: String,
    /// Ours: weight of the mean distance between the points of source and output.
    pub position: f64,
    /// Ours: weight of the difference of the openings of the mouth.
    pub mouth: f64,
    /// Ours: weight of the difference of the openings of the eyes.
    pub eyes: f64,
}

/// Sex and age, as face-api's AgeGenderNet sees them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attributes {
    /// Ours: weight of the cross-entropy of the output's sex and the source's.
    pub sex: f64,
    /// Ours: weight of the difference of age, in decades.
    pub age: f64,
    /// Ours: weight of the mean square of what the recognisers' descriptors of the output tell of sex and age beside
    /// what they should.
    pub read: f64,
    /// Whether the discriminators are told sex and age of the source.
    pub told: bool,
}

impl Preset {
    /// Reads a preset by its name among the built-in ones, or from a file.
    ///
    /// # Errors
    /// When there is neither, or a key is missing or unknown.
    pub fn load(name: &str) -> Result<Self> {
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None if Path::new(name).is_file() => {
                std::fs::read_to_string(name).with_context(|| format!("cannot read preset {name}"))?
            }
            None => {
                let known: Vec<_> = BUILT_IN.iter().map(|(known, _)| *known).collect();
                bail!(
                    "there is no preset {name}: give a TOML file or one of {}",
                    known.join(", ")
                );
            }
        };
        let mut table: toml::Table = toml::from_str(&text).with_context(|| format!("preset {name}"))?;
        // A variant names its base and says only what differs.
        if let Some(base) = table.remove("base") {
            let base = base
                .as_str()
                .with_context(|| format!("preset {name}: base is not a name"))?;
            let mut whole = toml::Table::try_from(Self::load(base)?)?;
            merge(&mut whole, table);
            table = whole;
        }
        table.try_into().with_context(|| format!("preset {name}"))
    }

    /// The same recipe in `steps` steps: the stages of lambda keep their places relative to the whole.
    #[must_use]
    pub fn in_steps(mut self, steps: u64) -> Self {
        for stage in &mut self.lambda {
            stage.step = stage.step * steps / self.optimizer.steps.max(1);
        }
        self.optimizer.steps = steps;
        self
    }

    /// Lambda at a step.
    pub fn lambda_at(&self, step: u64) -> f64 {
        self.lambda
            .iter()
            .rfind(|stage| stage.step <= step)
            .map_or(0.0, |stage| stage.value)
    }

    /// The learning rates' factor at a step.
    pub fn rate_at(&self, step: u64) -> f64 {
        let done = step as f64 / self.optimizer.steps.max(1) as f64;
        let into = ((done - (1.0 - self.optimizer.decay)) / self.optimizer.decay.max(1e-9)).clamp(0.0, 1.0);
        0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * into).cos())
    }
}

/// Puts the values of `changes` into `whole`, table by table.
fn merge(whole: &mut toml::Table, changes: toml::Table) {
    for (key, change) in changes {
        match (whole.get_mut(&key), change) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(change)) => merge(inner, change),
            (_, change) => {
                whole.insert(key, change);
            }
        }
    }
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../presets/", $name, ".toml")))),*]
    };
}

const BUILT_IN: &[(&str, &str)] = built_in![
    "edge128", "paper256", "paper128", "figure6b", "figure6c", "figure6d", "figure6e", "figure7c",
    "figure7d", "figure7e", "figure7f", "figure7g",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_preset_is_complete() {
        for (name, _) in BUILT_IN {
            let preset = Preset::load(name).unwrap();
            assert!(
                !preset.recognizer.is_empty() && preset.optimizer.batch > 0,
                "{name}"
            );
        }
    }

    #[test]
    fn an_unknown_key_or_name_is_refused() {
        assert!(
            Preset::load("nowhere")
                .unwrap_err()
                .to_string()
                .contains("edge128")
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrong.toml");
        std::fs::write(&path, "base = \"edge128\"\n[loss]\nlambda_9 = 1.0\n").unwrap();
        let error = format!("{:#}", Preset::load(&path.to_string_lossy()).unwrap_err());
        assert!(error.contains("lambda_9"), "{error}");
    }

    #[test]
    fn a_short_run_has_all_stages_of_lambda() {
        let preset = Preset::load("paper128").unwrap().in_steps(200);
        let stages: Vec<_> = preset
            .lambda
            .iter()
            .map(|stage| (stage.step, stage.value))
            .collect();
        assert_eq!(stages, [(0, 0.1), (50, 0.5), (100, 1.0), (150, 2.0)]);
        assert_eq!(preset.optimizer.steps, 200);
    }

    #[test]
    fn lambda_rises_in_steps_and_rates_fall_at_the_end() {
        let mut preset = Preset::load("edge128").unwrap();
        preset.lambda = vec![Stage { step: 10, value: 1.0 }, Stage { step: 20, value: 2.0 }];
        for (step, lambda) in [
            (0, 0.0),
            (9, 0.0),
            (10, 1.0),
            (19, 1.0),
            (20, 2.0),
            (1_000_000, 2.0),
        ] {
            assert_eq!(preset.lambda_at(step), lambda, "{step}");
        }
        (preset.optimizer.steps, preset.optimizer.decay) = (100, 0.5);
        for (step, rate) in [(0, 1.0), (50, 1.0), (75, 0.55), (100, 0.1)] {
            assert!((preset.rate_at(step) - rate).abs() < 1e-9, "{step}");
        }
    }
}
