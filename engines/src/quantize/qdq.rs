//! Where QuantizeLinear and DequantizeLinear go.
//!
//! TensorRT computes a layer in INT8 when all of its inputs come out of a DequantizeLinear (NVIDIA, "Working with
//! Quantized Types", explicit quantization). The places here follow that guide:
//! * before convolution, transposed convolution and matrix product: activations with one scale per tensor, weights with
//!   one per output channel; nothing after them, so that bias, residual sum and ReLU become part of the layer;
//! * on the other input of an Add whose one input is such a layer's output, so that the sum becomes part of it too;
//! * nowhere else: sigmoid, tanh, normalization, pooling, concatenation stay in floating point, and the pair after them
//!   is moved by TensorRT through what only copies.
//!
//! All zero points are 0 and the scales symmetric, the only kind that TensorRT takes. Weights stay FP32 before their own
//! pair: TensorRT 8 takes no INT8 constants.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Recipe;
use super::graph::{Constant, Graph, integer, integer_of, node};
use super::histogram::STEPS;
use crate::Result;
use crate::onnx::proto::{DataType, Node};

/// Operators that TensorRT computes together with the layer before them, or not at all.
const EPILOGUE: [&str; 4] = ["Add", "Identity", "LeakyRelu", "Relu"];

/// Something that can be computed in INT8 or left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// The node's name.
    pub(super) name: String,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Has weights, whose output channels lie along `axis`.
    Weighted {
        activation: String,
        weights: String,
        axis: usize,
    },
    /// Adds `residual` to the output of the layer `layer`.
    Sum { residual: String, layer: String },
}

impl Layer {
    /// The value that needs a scale.
    pub(super) fn activation(&self) -> &str {
        match &self.kind {
            Kind::Weighted { activation, .. } => activation,
            Kind::Sum { residual, .. } => residual,
        }
    }
}

/// The layers of a graph in order.
pub(super) fn layers(graph: &Graph) -> Vec<Layer> {
    let (producers, uses) = (graph.producers(), graph.uses());
    let weighted: HashMap<usize, Layer> = graph
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| Some((index, weighted(graph, node)?)))
        .collect();
    let sum = |node: &Node| {
        let [a, b] = node.input.as_slice() else {
            return None;
        };
        let fused = |value: &String| {
            let producer = *producers.get(value.as_str())?;
            (uses.get(value.as_str()) == Some(&1) && weighted.contains_key(&producer)).then_some(producer)
        };
        // Of two layers the later one: the other one's output is there by then.
        let (residual, layer) = match (fused(a), fused(b)) {
            (Some(first), Some(second)) if first > second => (b, first),
            (_, Some(second)) => (a, second),
            (Some(first), None) => (b, first),
            (None, None) => return None,
        };
        (!graph.is_constant(residual)).then(|| Layer {
            name: node.name().into(),
            kind: Kind::Sum {
                residual: residual.clone(),
                layer: weighted[&layer].name.clone(),
            },
        })
    };
    graph
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| match node.op_type() {
            "Add" => sum(node),
            _ => weighted.get(&index).cloned(),
        })
        .collect()
}

fn weighted(graph: &Graph, node: &Node) -> Option<Layer> {
    let axis = match node.op_type() {
        "Conv" => 0,
        // Grouped, the output channels would lie along two axes.
        "ConvTranspose" if integer_of(node, "group", 1) == 1 => 1,
        "Gemm" if integer_of(node, "transA", 0) == 0 => match integer_of(node, "transB", 0) {
            0 => 1,
            _ => 0,
        },
        "MatMul" => 1,
        _ => return None,
    };
    let (activation, weights) = (node.input.first()?, node.input.get(1)?);
    (graph.is_float_constant(weights) && !graph.is_constant(activation)).then(|| Layer {
        name: node.name().into(),
        kind: Kind::Weighted {
            activation: activation.clone(),
            weights: weights.clone(),
            axis,
        },
    })
}

/// The scale per output channel with which no weight is clipped.
pub(super) fn weight_scales(weights: &Constant, axis: usize) -> Vec<f32> {
    let mut largest = vec![0f32; weights.dims.get(axis).copied().unwrap_or(0)];
    for (channel, value) in weights.channels(axis).zip(&weights.values) {
        largest[channel] = largest[channel].max(value.abs());
    }
    // A channel without weights needs a scale all the same; a subnormal one would not divide back.
    let scale = |largest: f32| (largest / STEPS as f32).max(f32::MIN_POSITIVE);
    largest.into_iter().map(scale).collect()
}

/// The pairs of one graph, so that a value that several layers take has one.
#[derive(Default)]
pub(super) struct Pairs {
    made: HashSet<String>,
    nodes: Vec<Node>,
}

impl Pairs {
    /// The value after its pair.
    pub(super) fn of_activation(&mut self, graph: &mut Graph, value: &str, scale: f32) -> String {
        let scales = Constant {
            dims: Vec::new(),
            values: vec![scale],
        };
        self.pair(graph, value, &scales, None)
    }

    /// Weights after their pair.
    pub(super) fn of_weights(&mut self, graph: &mut Graph, name: &str, axis: usize) -> Result<String> {
        let weights = graph
            .constant(name)?
            .ok_or_else(|| graph.refuse(format!("`{name}` is no constant")))?;
        let values = weight_scales(&weights, axis);
        let scales = Constant {
            dims: vec![values.len()],
            values,
        };
        Ok(self.pair(graph, name, &scales, Some(axis)))
    }

    fn pair(&mut self, graph: &mut Graph, value: &str, scales: &Constant, axis: Option<usize>) -> String {
        let names = ["scale", "zero", "quantized", "dequantized"].map(|what| format!("{value}_{what}"));
        let [scale, zero, quantized, dequantized] = names;
        if self.made.insert(value.into()) {
            graph.set_constant(&scale, scales);
            graph.set_raw(&zero, &scales.dims, DataType::Int8, vec![0; scales.values.len()]);
            let attributes = || {
                axis.map(|axis| integer("axis", axis as i64))
                    .into_iter()
                    .collect()
            };
            self.nodes.push(node(
                "QuantizeLinear",
                &[value, &scale, &zero],
                &quantized,
                attributes(),
            ));
            self.nodes.push(node(
                "DequantizeLinear",
                &[&quantized, &scale, &zero],
                &dequantized,
                attributes(),
            ));
        }
        dequantized
    }

    /// Adds the pairs to their graph.
    pub(super) fn insert(self, graph: &mut Graph) {
        graph.nodes.extend(self.nodes);
    }
}

/// The layers that a recipe computes in INT8.
pub(super) fn chosen(graph: &Graph, recipe: &Recipe) -> Vec<Layer> {
    let half: BTreeSet<&str> = recipe.half.iter().map(String::as_str).collect();
    let mut layers = layers(graph);
    layers.retain(|layer| {
        let within = match &layer.kind {
            Kind::Weighted { .. } => true,
            // Not part of an INT8 layer, the sum gains nothing from a rounded input.
            Kind::Sum { layer, .. } => !half.contains(layer.as_str()),
        };
        within && !half.contains(layer.name.as_str())
    });
    layers
}

/// Inserts the pairs of a recipe and its bias corrections.
///
/// # Errors
/// [`crate::Error::Quantize`] when the recipe has no scale for a layer, or not the channels of one.
pub(super) fn insert(graph: &mut Graph, recipe: &Recipe) -> Result<()> {
    let mut pairs = Pairs::default();
    for layer in chosen(graph, recipe) {
        let value = layer.activation().to_owned();
        let scale = recipe.scales.get(&value).copied().unwrap_or(f32::NAN);
        if !(scale.is_normal() && scale > 0.0) {
            return Err(graph.refuse(format!(
                "the recipe has no scale for `{value}`, input of {}",
                layer.name
            )));
        }
        let dequantized = pairs.of_activation(graph, &value, scale);
        let Some(index) = graph.nodes.iter().position(|node| node.name() == layer.name) else {
            continue;
        };
        match &layer.kind {
            Kind::Sum { .. } => {
                for input in &mut graph.nodes[index].input {
                    if *input == value {
                        input.clone_from(&dequantized);
                    }
                }
            }
            Kind::Weighted { weights, axis, .. } => {
                let channels = graph.needed(&graph.nodes[index], 1)?.dims[*axis];
                let weights = pairs.of_weights(graph, weights, *axis)?;
                graph.nodes[index].input[0] = dequantized;
                graph.nodes[index].input[1] = weights;
                if let Some(correction) = recipe.corrections.get(&layer.name) {
                    correct(graph, index, channels, correction)?;
                }
            }
        }
    }
    pairs.insert(graph);
    Ok(())
}

/// Adds a correction to a layer's bias.
fn correct(graph: &mut Graph, index: usize, channels: usize, correction: &[f32]) -> Result<()> {
    let mut layer = graph.nodes[index].clone();
    if layer.op_type() == "MatMul" {
        return Ok(());
    }
    let mut bias = match layer.input.get(2).filter(|name| !name.is_empty()) {
        Some(_) => graph.needed(&layer, 2)?,
        None => Constant {
            dims: vec![channels],
            values: vec![0.0; channels],
        },
    };
    if bias.values.len() != correction.len() {
        return Err(graph.refuse(format!(
            "the recipe corrects {} channels of {}, which has {}",
            correction.len(),
            layer.name(),
            bias.values.len()
        )));
    }
    for (bias, correction) in bias.values.iter_mut().zip(correction) {
        *bias += correction;
    }
    let name = format!("{}_corrected", layer.name());
    graph.set_constant(&name, &bias);
    layer.input.truncate(2);
    layer.input.push(name);
    graph.nodes[index] = layer;
    Ok(())
}

/// The nodes that must stay FP32 in a graph with pairs: the pairs, the layers between them, and what TensorRT computes
/// with such a layer. Everything else may become FP16.
pub(super) fn single(graph: &Graph) -> HashSet<String> {
    let producers = graph.producers();
    let mut order: Vec<usize> = (0..graph.nodes.len()).collect();
    // Pairs were appended; what they feed is looked at after them.
    order.sort_by_key(|index| !is_pair(&graph.nodes[*index]));
    let mut single = HashSet::new();
    for index in order {
        let node = &graph.nodes[index];
        let from_single = |value: &String| {
            producers
                .get(value.as_str())
                .is_some_and(|producer| single.contains(graph.nodes[*producer].name()))
        };
        let dequantized = |value: &String| {
            producers
                .get(value.as_str())
                .is_some_and(|producer| graph.nodes[*producer].op_type() == "DequantizeLinear")
        };
        let stays = is_pair(node)
            || node.input.first().is_some_and(dequantized)
            || (EPILOGUE.contains(&node.op_type()) && node.input.iter().all(from_single));
        if stays {
            single.insert(node.name().to_owned());
        }
    }
    single
}

fn is_pair(node: &Node) -> bool {
    matches!(node.op_type(), "QuantizeLinear" | "DequantizeLinear")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::onnx::{Builder, Dim, Setting, Value};
    use crate::quantize::Calibrator;

    /// A residual block, a depthwise convolution, a transposed one, a sigmoid, and a matrix product.
    fn network() -> Graph {
        let mut net = Builder::new("net");
        let map = [Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(4), Dim::Fixed(4)];
        let x = net.input("x", &map);
        let square = |net: &mut Builder, x: &Value| {
            let weights = net.constant(&[2, 2, 1, 1], &[1.0, -2.0, 0.5, 0.0]);
            net.node("Conv", &[x, &weights], &[])
        };
        let first = square(&mut net, &x);
        let first = net.node("Relu", &[&first], &[]);
        let second = square(&mut net, &first);
        let sum = net.node("Add", &[&first, &second], &[]);
        let sum = net.node("Relu", &[&sum], &[]);
        let depthwise = net.constant(&[2, 1, 1, 1], &[1.0, 3.0]);
        let mixed = net.node("Conv", &[&sum, &depthwise], &[Setting::Int("group", 2)]);
        let large = net.constant(&[2, 3, 1, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let large = net.node("ConvTranspose", &[&mixed, &large], &[]);
        let mask = net.node("Sigmoid", &[&large], &[]);
        let flat = net.node("Flatten", &[&mask], &[]);
        let matrix = net.constant(&[1, 48], &[0.5; 48]);
        let out = net.node("Gemm", &[&flat, &matrix], &[Setting::Int("transB", 1)]);
        net.output(&out, "y", &[Dim::Free("n"), Dim::Fixed(1)]);
        Graph::read(&net.finish()).unwrap()
    }

    fn recipe(graph: &Graph, half: &[&str]) -> Recipe {
        let mut recipe = Recipe::new(b"", Calibrator::Max);
        recipe.half = half.iter().map(|name| (*name).to_owned()).collect();
        for layer in layers(graph) {
            recipe.scales.insert(layer.activation().into(), 0.5);
        }
        recipe
    }

    /// Which value each input of each node comes from, seen through pairs: a pair is shown as a star.
    fn wiring(graph: &Graph) -> Vec<String> {
        let starred = |value: &String| value.replace("_dequantized", "*");
        graph
            .nodes
            .iter()
            .filter(|node| !is_pair(node) && node.op_type() != "Identity")
            .map(|node| {
                let inputs: Vec<_> = node.input.iter().map(starred).collect();
                format!("{} {}", node.name(), inputs.join(" "))
            })
            .collect()
    }

    #[test]
    fn pairs_stand_where_tensorrt_wants_them() {
        let mut graph = network();
        let all = recipe(&graph, &[]);
        insert(&mut graph, &all).unwrap();
        assert_eq!(
            wiring(&graph),
            [
                "Conv0 x* c0*",
                "Relu1 v0",
                "Conv2 v1* c1*",
                // The residual is rounded, the layer's own output is not: the sum is part of the layer.
                "Add3 v1* v2",
                "Relu4 v3",
                "Conv5 v4* c2*",
                "ConvTranspose6 v5* c3*",
                "Sigmoid7 v6",
                "Flatten8 v7",
                "Gemm9 v8* c4*",
            ]
        );
        let pairs = graph.nodes.iter().filter(|node| is_pair(node)).count();
        // Five activations, of which one is taken twice, and five weights.
        assert_eq!(pairs, 2 * 10);
        let axis = |name: &str| {
            let node = graph.nodes.iter().find(|node| node.output[0] == name).unwrap();
            super::super::graph::find(node, "axis").map(|attribute| attribute.i())
        };
        assert_eq!(
            ["c0", "c2", "c3", "c4", "x"].map(|value| axis(&format!("{value}_quantized"))),
            [Some(0), Some(0), Some(1), Some(0), None]
        );
        let scales = |name: &str| graph.constant(&format!("{name}_scale")).unwrap().unwrap().values;
        let step = |largest: f32| largest / 127.0;
        assert_eq!(scales("c0"), [step(2.0), step(0.5)]);
        assert_eq!(scales("c3"), [step(4.0), step(5.0), step(6.0)]);
        assert_eq!(scales("x"), [0.5]);
    }

    #[test]
    fn layers_that_stay_have_no_pairs() {
        let mut graph = network();
        let some = recipe(&graph, &["Conv2", "Gemm9"]);
        insert(&mut graph, &some).unwrap();
        let wiring = wiring(&graph);
        // Not rounded, the second convolution takes its sum with it.
        for line in ["Conv2 v1 c1", "Add3 v1 v2", "Gemm9 v8 c4", "Conv0 x* c0*"] {
            assert!(wiring.contains(&line.to_owned()), "{line} {wiring:?}");
        }
        let single = single(&graph);
        let names = |wanted: bool| -> Vec<&str> {
            graph
                .nodes
                .iter()
                .filter(|node| !is_pair(node) && single.contains(node.name()) == wanted)
                .map(|node| node.name())
                .collect()
        };
        assert_eq!(names(true), ["Conv0", "Relu1", "Conv5", "ConvTranspose6"]);
        assert_eq!(
            names(false),
            [
                "Conv2",
                "Add3",
                "Relu4",
                "Sigmoid7",
                "Flatten8",
                "Gemm9",
                "Identity10"
            ]
        );
    }

    #[test]
    fn corrections_become_part_of_the_bias() {
        let mut graph = network();
        let mut corrected = recipe(&graph, &[]);
        corrected.corrections.insert("Conv0".into(), vec![0.25, -0.5]);
        insert(&mut graph, &corrected).unwrap();
        let conv = graph.nodes[0].clone();
        assert_eq!(graph.needed(&conv, 2).unwrap().values, [0.25, -0.5]);

        corrected.corrections.insert("Conv0".into(), vec![0.25]);
        let error = insert(&mut network(), &corrected).unwrap_err();
        assert!(
            error.to_string().contains("corrects 1 channels of Conv0"),
            "{error}"
        );
        corrected.corrections.clear();
        corrected.scales.remove("v1");
        let error = insert(&mut network(), &corrected).unwrap_err();
        assert!(
            error.to_string().contains("no scale for `v1`, input of Conv2"),
            "{error}"
        );
    }

    proptest! {
        /// No weight moves by more than half a step of its channel, none is clipped, and 0 stays 0.
        #[test]
        fn a_weight_moves_by_half_a_step_at_most(
            values in proptest::collection::vec(-1e3f32..1e3, 12),
            tiny in 0usize..3,
            axis in 0usize..3,
        ) {
            let mut weights = Constant { dims: vec![3, 2, 2], values };
            weights.values.iter_mut().take(4 * tiny).for_each(|value| *value *= 1e-30);
            let scales = weight_scales(&weights, axis);
            for (channel, value) in weights.channels(axis).zip(&weights.values) {
                let scale = scales[channel];
                let step = (value / scale).round_ties_even();
                prop_assert!(step.abs() <= STEPS as f32);
                prop_assert!((step * scale - value).abs() <= 0.5001 * scale, "{} {}", value, scale);
            }
        }
    }
}
