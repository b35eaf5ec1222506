//! From samples to a recipe.

use indicatif::ProgressBar;

use super::equalize::{self, Doublings};
use super::graph::{Graph, integer, node};
use super::histogram::{Calibrator, Histogram, STEPS};
use super::qdq::{self, Kind, Pairs};
use super::{Recipe, fold};
use crate::Result;
use crate::cpu::Runtime;
use crate::onnx::proto::{Attribute, AttributeType, Node};

/// One run's inputs in the network's order: shape as in ONNX, and as many numbers.
pub type Sample = Vec<(Vec<usize>, Vec<f32>)>;

/// What a network's values look like on samples.
pub struct Statistics {
    onnx: Vec<u8>,
    doublings: Doublings,
    values: Vec<(String, Histogram)>,
}

impl Statistics {
    /// Runs the network on every sample, one step of `progress` each, and counts every value that may be rounded.
    ///
    /// # Errors
    /// [`crate::Error::Quantize`] when there is no sample, the network is not understood, or a value in it is not
    /// finite; the runtime's own.
    pub fn collect(
        runtime: &Runtime,
        onnx: &[u8],
        samples: &[Sample],
        progress: &ProgressBar,
    ) -> Result<Self> {
        Self::of_scaled(runtime, onnx, Doublings::new(), samples, progress)
    }

    /// The same of the network with its channels scaled to about the same size, two steps of `progress` for each sample.
    /// `None` where there are none that can be scaled.
    ///
    /// # Errors
    /// As [`Statistics::collect`].
    pub fn equalized(
        runtime: &Runtime,
        onnx: &[u8],
        samples: &[Sample],
        progress: &ProgressBar,
    ) -> Result<Option<Self>> {
        let doublings = equalize::measure(runtime, &folded(onnx)?, samples, progress)?;
        if doublings.is_empty() {
            progress.inc(samples.len() as u64);
            return Ok(None);
        }
        Self::of_scaled(runtime, onnx, doublings, samples, progress).map(Some)
    }

    fn of_scaled(
        runtime: &Runtime,
        onnx: &[u8],
        doublings: Doublings,
        samples: &[Sample],
        progress: &ProgressBar,
    ) -> Result<Self> {
        let mut graph = folded(onnx)?;
        equalize::apply(&mut graph, &doublings)?;
        if samples.is_empty() {
            return Err(graph.refuse("there is nothing to calibrate on: no sample was given"));
        }
        let mut names: Vec<String> = qdq::layers(&graph)
            .iter()
            .map(|layer| layer.activation().to_owned())
            .collect();
        names.sort();
        names.dedup();
        let mut values: Vec<_> = names
            .into_iter()
            .map(|name| (name, Histogram::default()))
            .collect();
        // An input is known without running; what is given to it is what will be rounded.
        let inputs: Vec<String> = graph.inputs().map(str::to_owned).collect();
        let inner: Vec<String> = values
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| !inputs.contains(name))
            .collect();
        let network = graph.name().to_owned();
        graph.expose(&inner);
        let outputs: Vec<String> = graph.outputs().map(str::to_owned).collect();
        let mut probe = runtime.probe(&graph.clone().write()?, &network)?;
        let mut broken = None;
        for sample in samples {
            for ((_, numbers), input) in sample.iter().zip(&inputs) {
                if let Some((_, histogram)) = values.iter_mut().find(|(name, _)| name == input) {
                    histogram.add(numbers);
                }
            }
            probe.run(sample, |index, _, numbers| {
                let histogram = values.iter_mut().find(|(name, _)| *name == outputs[index]);
                if let Some((name, histogram)) = histogram
                    && !histogram.add(numbers)
                {
                    broken.get_or_insert(name.clone());
                }
            })?;
            progress.inc(1);
        }
        if let Some(value) = broken {
            return Err(graph.refuse(format!("`{value}` is not finite on a sample")));
        }
        Ok(Self {
            onnx: onnx.into(),
            doublings,
            values,
        })
    }

    /// The recipe with the scales that a calibrator chooses, every layer in INT8, no corrections.
    pub fn recipe(&self, calibrator: Calibrator) -> Recipe {
        let mut recipe = Recipe::new(&self.onnx, calibrator);
        recipe.doublings.clone_from(&self.doublings);
        let scale = |histogram: &Histogram| {
            // A value that is always 0 stays 0 with any scale.
            let threshold = histogram.threshold(calibrator);
            if threshold > 0.0 {
                threshold / STEPS as f32
            } else {
                1.0
            }
        };
        recipe.scales = self
            .values
            .iter()
            .map(|(name, histogram)| (name.clone(), scale(histogram)))
            .collect();
        recipe
    }
}

pub(super) fn folded(onnx: &[u8]) -> Result<Graph> {
    let mut graph = Graph::read(onnx)?;
    fold::batch_norms(&mut graph)?;
    Ok(graph)
}

/// Measures how far rounding a layer's weights and input shifts each of its output channels on average, and writes the
/// opposite into the recipe (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
/// section 4.2, with measured means). Every layer is measured on exact inputs, so one pass over the samples is enough.
///
/// # Errors
/// As [`Statistics::collect`].
pub fn correct_biases(
    runtime: &Runtime,
    onnx: &[u8],
    recipe: &mut Recipe,
    samples: &[Sample],
    progress: &ProgressBar,
) -> Result<()> {
    recipe.check(onnx)?;
    recipe.corrections.clear();
    let mut graph = folded(onnx)?;
    equalize::apply(&mut graph, &recipe.doublings)?;
    let mut pairs = Pairs::default();
    let mut shifts = Vec::new();
    let mut measured = Vec::new();
    for layer in qdq::layers(&graph) {
        let Kind::Weighted {
            activation,
            weights,
            axis,
        } = &layer.kind
        else {
            continue;
        };
        let Some(exact) = graph.nodes.iter().find(|node| node.name() == layer.name).cloned() else {
            continue;
        };
        let axes: &[i64] = match exact.op_type() {
            "Conv" | "ConvTranspose" => &[0, 2, 3],
            "Gemm" => &[0],
            // It has no bias to correct.
            _ => continue,
        };
        let scale = recipe.scales.get(activation).copied().unwrap_or(1.0);
        let mut rounded = exact.clone();
        rounded.input[0] = pairs.of_activation(&mut graph, activation, scale);
        rounded.input[1] = pairs.of_weights(&mut graph, weights, *axis)?;
        let [shadow, difference, shift] =
            ["shadow", "difference", "shift"].map(|what| format!("{}_{what}", layer.name));
        rounded.name = Some(shadow.clone());
        rounded.output = vec![shadow.clone()];
        measured.push(rounded);
        measured.push(node("Sub", &[&exact.output[0], &shadow], &difference, Vec::new()));
        measured.push(mean_over(axes, &difference, &shift));
        shifts.push((layer.name, shift));
    }
    pairs.insert(&mut graph);
    graph.nodes.extend(measured);
    let network = graph.name().to_owned();
    graph.drop_outputs();
    graph.expose(&shifts.iter().map(|(_, shift)| shift.clone()).collect::<Vec<_>>());
    let mut probe = runtime.probe(&graph.write()?, &network)?;
    let mut sums: Vec<Vec<f64>> = vec![Vec::new(); shifts.len()];
    for sample in samples {
        probe.run(sample, |index, _, numbers| {
            sums[index].resize(numbers.len(), 0.0);
            for (sum, number) in sums[index].iter_mut().zip(numbers) {
                *sum += f64::from(*number);
            }
        })?;
        progress.inc(1);
    }
    for ((layer, _), sums) in shifts.into_iter().zip(sums) {
        let mean = |sum: f64| significant((sum / samples.len() as f64) as f32);
        recipe
            .corrections
            .insert(layer, sums.into_iter().map(mean).collect());
    }
    Ok(())
}

/// Three significant digits: the mean is not known better, and the recipe stays small.
fn significant(value: f32) -> f32 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn mean_over(axes: &[i64], from: &str, to: &str) -> Node {
    let axes = Attribute {
        name: Some("axes".into()),
        ints: axes.into(),
        r#type: Some(AttributeType::Ints.into()),
        ..Attribute::default()
    };
    node("ReduceMean", &[from], to, vec![axes, integer("keepdims", 0)])
}
