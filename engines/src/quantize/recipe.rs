use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Calibrator;
use crate::models::Network;
use crate::{Error, Result};

/// How one network becomes INT8: what calibration and the sensitivity sweep found, small enough to be kept as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// SHA-256 of the FP32 ONNX file that it was made for.
    pub network: String,
    /// What it was calibrated on, in words.
    pub calibration: String,
    /// How the scales were chosen.
    pub calibrator: Calibrator,
    /// Layers that stay in FP16, in the order in which they were found to cost most.
    pub half: Vec<String>,
    /// Size of one step of every value that is rounded.
    pub scales: BTreeMap<String, f32>,
    /// How often each channel is doubled, and divided by as much where it is taken, so that channels are of about the same size:
    /// a digit each, by the name of the first layer that gives the channels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub doublings: BTreeMap<String, String>,
    /// What is added to the bias of a layer's output channels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corrections: BTreeMap<String, Vec<f32>>,
}

impl Recipe {
    /// A recipe without scales yet for a network.
    pub(super) fn new(onnx: &[u8], calibrator: Calibrator) -> Self {
        Self {
            network: sha256(onnx),
            calibration: String::new(),
            calibrator,
            half: Vec::new(),
            scales: BTreeMap::new(),
            doublings: BTreeMap::new(),
            corrections: BTreeMap::new(),
        }
    }

    /// The recipe of a network as it ships.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it is malformed.
    pub fn shipped(network: Network) -> Result<Self> {
        let (text, file) = match network {
            Network::Detector => (include_str!("../../models/int8/detector.toml"), "detector"),
            Network::Landmarks => (include_str!("../../models/int8/landmarks.toml"), "landmarks"),
            Network::Embedding => (include_str!("../../models/int8/embedding.toml"), "embedding"),
            Network::Generator => (include_str!("../../models/int8/generator.toml"), "generator"),
        };
        Self::read(text, &format!("engines/models/int8/{file}.toml"))
    }

    /// Reads the text of a recipe; `file` is its name, for messages.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it is malformed or a number in it is none.
    pub fn read(text: &str, file: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Manifest {
            file: file.into(),
            reason,
        };
        let recipe: Self =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().into()))?;
        if let Some((value, scale)) = recipe
            .scales
            .iter()
            .find(|(_, scale)| !(scale.is_normal() && **scale > 0.0))
        {
            return Err(wrong(format!(
                "the scale of `{value}` is {scale}, wanted a number above 0"
            )));
        }
        let finite = |numbers: &&Vec<f32>| numbers.iter().all(|number| number.is_finite());
        if !recipe.corrections.values().all(|numbers| finite(&numbers)) {
            return Err(wrong("a correction is not a finite number".into()));
        }
        Ok(recipe)
    }

    /// The recipe as text.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it cannot be written as TOML.
    pub fn text(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Manifest {
            file: "a recipe".into(),
            reason: error.to_string(),
        })
    }

    /// Refuses a network that the recipe was not made for.
    ///
    /// # Errors
    /// [`Error::Quantize`] when the SHA-256 differs.
    pub fn check(&self, onnx: &[u8]) -> Result<()> {
        let got = sha256(onnx);
        if got == self.network {
            return Ok(());
        }
        Err(Error::Quantize {
            network: format!("the network with sha256 {got}"),
            reason: format!(
                "its INT8 recipe was made for {}; make a new one with `persona quantize --calibrate`",
                self.network
            ),
        })
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let mut recipe = Recipe::new(b"network", Calibrator::Percentile(99.99));
        recipe.half = vec!["Conv1".into()];
        recipe.scales.insert("input.1".into(), 0.1);
        recipe.doublings.insert("Conv1".into(), "03".into());
        recipe.corrections.insert("Conv2".into(), vec![-0.001, 2.0]);
        recipe
    }

    #[test]
    fn text_holds_everything() {
        let text = recipe().text().unwrap();
        assert_eq!(Recipe::read(&text, "r.toml").unwrap(), recipe());
        assert!(text.contains("\"input.1\" = 0.1\n"), "{text}");
        for network in [
            Network::Detector,
            Network::Landmarks,
            Network::Embedding,
            Network::Generator,
        ] {
            assert!(!Recipe::shipped(network).unwrap().scales.is_empty());
        }
    }

    #[test]
    fn malformed_text_is_refused() {
        let good = recipe().text().unwrap();
        for (from, to, reason) in [
            (
                "0.1",
                "0.0",
                "the scale of `input.1` is 0, wanted a number above 0",
            ),
            ("0.1", "nan", "the scale of `input.1` is NaN"),
            ("-0.001", "inf", "a correction is not a finite number"),
            ("half", "keep", "unknown field"),
        ] {
            let error = Recipe::read(&good.replacen(from, to, 1), "r.toml")
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("r.toml: ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn another_network_is_refused() {
        recipe().check(b"network").unwrap();
        let error = recipe().check(b"another").unwrap_err().to_string();
        assert!(
            error.contains("make a new one with `persona quantize --calibrate`"),
            "{error}"
        );
    }
}
