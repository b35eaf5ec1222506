use std::fmt;
use std::str::FromStr;

use crate::Result;
use crate::models::Network;
use crate::quantize::{self, Recipe};

/// The numbers that a network computes with. They are part of its ONNX file: FP16 tensors, or pairs of quantization and
/// dequantization; its inputs and outputs are FP32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point.
    Fp16,
    /// 8-bit integers, with 16-bit floating point where they would cost too much.
    Int8,
}

impl Precision {
    /// This precision and those that it falls back to. What is not admitted in FP16 is not run at all.
    pub fn downwards(self) -> &'static [Self] {
        match self {
            Self::Fp32 => &[Self::Fp32],
            Self::Fp16 => &[Self::Fp16],
            Self::Int8 => &[Self::Int8, Self::Fp16],
        }
    }

    /// Rewrites a network in this precision.
    ///
    /// # Errors
    /// [`crate::Error::Quantize`] when its weights or its recipe do not fit; [`crate::Error::Manifest`] for a malformed recipe.
    pub fn onnx(self, network: Network, fp32: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Fp32 => Ok(fp32.to_vec()),
            Self::Fp16 => quantize::fp16(fp32),
            Self::Int8 => quantize::int8(fp32, &Recipe::shipped(network)?),
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = [Self::Fp32, Self::Fp16, Self::Int8];
        let found = known.into_iter().find(|precision| precision.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is no precision; there are fp32, fp16 and int8"))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        })
    }
}
