//! Recognisers that judge: ONNX files, each with a small TOML that says how it wants to see a face.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use engines::{Engine, Signature, cpu::Runtime};
use kernels::cpu::{Cpu, Tensor};
use kernels::{Frame, Kernels, Landmarks, Point, Similarity, Values};
use serde::Deserialize;

use super::metrics;

/// How a recogniser wants to see a face.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its name in the report.
    pub name: String,
    /// ONNX file, beside the TOML.
    pub onnx: String,
    /// Name of its input.
    pub input: String,
    /// Name of its output.
    pub output: String,
    /// Side of the input in pixels.
    pub size: usize,
    /// Faces per run when the file fixes that; otherwise any number.
    pub batch: Option<usize>,
    /// Numbers in a descriptor.
    pub descriptor: usize,
    /// Order of the input's dimensions.
    pub layout: Layout,
    /// Order of the colours.
    #[serde(default)]
    pub colors: Colors,
    /// The input is `(value - mean) / scale`, value 0 to 255, in the input's own order of colours.
    pub mean: [f32; 3],
    /// See `mean`.
    pub scale: f32,
    /// Where the five points (eyes, nose tip, mouth corners) lie, in pixels of the input.
    pub points: [[f32; 2]; 5],
    /// How two descriptors are compared.
    pub metric: Metric,
    /// Whether it took part in training; the report says so.
    pub trained_on: bool,
}

/// Order of an input's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, channels, rows, columns.
    Nchw,
    /// Batch, rows, columns, channels.
    Nhwc,
}

/// Order of an input's colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colors {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first.
    Bgr,
}

/// How two descriptors are compared; likeness rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Cosine of the angle between them.
    Cosine,
    /// Euclidean distance, negated.
    Distance,
}

impl Metric {
    /// How like two descriptors are.
    pub fn likeness(self, a: &[f32], b: &[f32]) -> f64 {
        match self {
            Metric::Cosine => metrics::cosine(a, b),
            Metric::Distance => -metrics::distance(a, b),
        }
    }
}

/// A loaded recogniser.
pub struct Judge {
    /// What its file says.
    pub spec: Spec,
    engine: Box<dyn Engine<Cpu>>,
    chip: Tensor,
    input: Tensor,
    output: [Tensor; 1],
}

impl Judge {
    /// Loads the recogniser that the TOML file describes.
    ///
    /// # Errors
    /// When a file is missing or the network is not as described.
    pub fn load(path: &Path, runtime: &Runtime, place: &mut Cpu) -> Result<Self> {
        let context = || format!("recogniser {}", path.display());
        let spec: Spec =
            toml::from_str(&fs::read_to_string(path).with_context(context)?).with_context(context)?;
        let onnx = path.with_file_name(&spec.onnx);
        let onnx = fs::read(&onnx).with_context(|| format!("cannot read {}", onnx.display()))?;
        let (side, batch) = (spec.size, spec.batch.unwrap_or(1));
        ensure!(batch > 0, "{}: batch is 0", path.display());
        let shape = match spec.layout {
            Layout::Nchw => [batch, 3, side, side],
            Layout::Nhwc => [batch, side, side, 3],
        };
        let mut dims = shape.map(Some);
        dims[0] = spec.batch;
        let signature = Signature::new(&spec.name)
            .input(&spec.input, &dims)
            .output(&spec.output, &[spec.batch, Some(spec.descriptor)]);
        Ok(Self {
            engine: runtime.engine(&onnx, &signature).with_context(context)?,
            chip: place.tensor([1, 3, side, side])?,
            input: place.tensor(shape)?,
            output: [place.tensor([batch, spec.descriptor, 1, 1])?],
            spec,
        })
    }

    /// Describes the face with these landmarks.
    ///
    /// # Errors
    /// When the landmarks have no extent or the network fails.
    pub fn describe(
        &mut self,
        place: &mut Cpu,
        frame: &Frame<'_>,
        landmarks: &Landmarks,
    ) -> Result<Vec<f32>> {
        let size = self.spec.size as f32;
        let wanted = self.spec.points.map(|[x, y]| Point::new(x / size, y / size));
        let align =
            Similarity::estimate(&five_points(landmarks), &wanted).context("landmarks without extent")?;
        place.warp(frame, &[align], Values::Byte, &mut self.chip)?;
        let area = self.spec.size * self.spec.size;
        let chip = self.chip.data();
        let spec = &self.spec;
        let value = |channel: usize, pixel: usize| {
            let color = if spec.colors == Colors::Bgr {
                2 - channel
            } else {
                channel
            };
            (chip[color * area + pixel] - spec.mean[channel]) / spec.scale
        };
        for entry in self.input.data_mut().chunks_exact_mut(3 * area) {
            for (index, to) in entry.iter_mut().enumerate() {
                *to = match spec.layout {
                    Layout::Nchw => value(index / area, index % area),
                    Layout::Nhwc => value(index % 3, index / 3),
                };
            }
        }
        self.engine.run(&[&self.input], &mut self.output)?;
        let descriptor = self.output[0].entry(0).to_vec();
        ensure!(
            descriptor.iter().all(|v| v.is_finite()),
            "{} gave no numbers",
            self.spec.name
        );
        Ok(descriptor)
    }
}

/// Eye centres, nose tip and mouth corners out of 68 landmarks (facts of the 68-point order).
pub fn five_points(landmarks: &Landmarks) -> [Point; 5] {
    let center = |range: std::ops::Range<usize>| {
        let count = range.len() as f32;
        let sum = landmarks[range]
            .iter()
            .fold(Point::default(), |sum, p| Point::new(sum.x + p.x, sum.y + p.y));
        Point::new(sum.x / count, sum.y / count)
    };
    [
        center(36..42),
        center(42..48),
        landmarks[30],
        landmarks[48],
        landmarks[54],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::{MEAN_FACE, MEAN_FACE_5};

    #[test]
    fn five_points_of_the_average_face() {
        for (found, wanted) in five_points(&MEAN_FACE).into_iter().zip(MEAN_FACE_5) {
            assert!(found.distance(wanted) < 0.02, "{found:?} {wanted:?}");
        }
    }

    #[test]
    fn likeness_rises() {
        let (a, near, far) = ([1.0, 0.0], [0.9, 0.1], [0.0, 1.0]);
        for metric in [Metric::Cosine, Metric::Distance] {
            assert!(
                metric.likeness(&a, &near) > metric.likeness(&a, &far),
                "{metric:?}"
            );
        }
    }
}
