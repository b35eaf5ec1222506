//! How much a network has to do, and how long that would take a board.
//!
//! The prediction is a roofline (Williams, Waterman and Patterson, 2009): every layer takes as long as its arithmetic or
//! its memory traffic, whichever is longer. It leaves out what starting a kernel costs, and assumes that nothing stays
//! in a cache from one layer to the next. It is arithmetic, not a measurement.

use std::collections::HashMap;

use super::graph::{Graph, integer_of};
use super::qdq::{self, Kind};
use super::{Recipe, calibrate};
use crate::Result;
use crate::cpu::Runtime;
use crate::models::Network;

/// The share of the peak that a board reaches in practice, of arithmetic and of memory bandwidth: the middle of 40 to
/// 60 % and of 60 to 75 %, as people report it; not measured here.
const REACHED: [f64; 2] = [0.5, 0.675];
/// Height and width of the detector's input that is counted.
const DETECTOR: [usize; 2] = [384, 640];
/// Operators that move nothing: a new name or shape for the same values.
const FREE: [&str; 3] = ["Flatten", "Identity", "Reshape"];
/// Operators that become part of the layer before them.
const FUSED: [&str; 3] = ["Add", "LeakyRelu", "Relu"];

/// A module with a GPU, by what its data sheet says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Board {
    /// Its name and power mode.
    pub name: &'static str,
    /// Peak of dense INT8 arithmetic, 10¹² operations a second (a multiplication and an addition are two).
    pub int8: f64,
    /// The same in FP16.
    pub fp16: f64,
    /// Peak of the memory, 10⁹ bytes a second.
    pub bandwidth: f64,
}

/// INT8: multiprocessors x GHz x 4,096 operations; FP16: half of it.
pub const BOARDS: [Board; 8] = [
    board("Orin Nano 4GB Super", 16.7, 51.0),
    board("Orin Nano 8GB", 20.5, 68.0),
    board("Orin Nano 8GB Super", 33.4, 102.0),
    board("Orin NX 8GB", 25.0, 102.4),
    board("Orin NX 16GB", 30.1, 102.4),
    board("AGX Orin 64GB", 85.0, 204.8),
    board("Xavier NX", 13.5, 51.2),
    board("Thor T5000", 517.0, 273.0),
];

const fn board(name: &'static str, int8: f64, bandwidth: f64) -> Board {
    Board {
        name,
        int8,
        fp16: int8 / 2.0,
        bandwidth,
    }
}

/// What one kernel does for one face, or one frame of 640x384.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The node's name.
    pub name: String,
    /// Multiplications, each with its addition.
    pub macs: u64,
    /// Numbers of weights and biases.
    pub parameters: u64,
    /// Bytes of weights, inputs and outputs.
    pub bytes: u64,
    /// Whether it computes in INT8, rather than FP16.
    pub int8: bool,
}

/// The steps of a network in one precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// In order.
    pub steps: Vec<Step>,
}

impl Work {
    /// Counts a network's work in FP16, or in INT8 by its recipe. The sizes of its values are taken from one run.
    ///
    /// # Errors
    /// [`crate::Error::Quantize`] when the network is not understood; the runtime's own.
    pub fn count(runtime: &Runtime, network: Network, onnx: &[u8], recipe: Option<&Recipe>) -> Result<Self> {
        let mut graph = calibrate::folded(onnx)?;
        let values: Vec<String> = graph.nodes.iter().flat_map(|node| node.output.clone()).collect();
        let steps = graph.clone();
        graph.expose(&values);
        let names: Vec<String> = graph.outputs().map(str::to_owned).collect();
        let inputs = inputs(network);
        let mut sizes: HashMap<String, u64> = steps
            .inputs()
            .map(str::to_owned)
            .zip(inputs.iter().map(|(_, numbers)| numbers.len() as u64))
            .collect();
        let mut probe = runtime.probe(&graph.write()?, steps.name())?;
        probe.run(&inputs, |index, _, numbers| {
            sizes.insert(names[index].clone(), numbers.len() as u64);
        })?;
        count(&steps, &sizes, recipe)
    }

    /// Multiplications.
    pub fn macs(&self) -> u64 {
        self.steps.iter().map(|step| step.macs).sum()
    }

    /// The share of the multiplications that are INT8, 0 to 1.
    pub fn int8_share(&self) -> f64 {
        let int8: u64 = self
            .steps
            .iter()
            .filter(|step| step.int8)
            .map(|step| step.macs)
            .sum();
        int8 as f64 / self.macs().max(1) as f64
    }

    /// Weights and biases.
    pub fn parameters(&self) -> u64 {
        self.steps.iter().map(|step| step.parameters).sum()
    }

    /// Bytes from and to memory.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.bytes).sum()
    }

    /// Seconds that a board would take, predicted.
    pub fn seconds(&self, board: &Board) -> f64 {
        let [arithmetic, memory] = REACHED;
        let time = |step: &Step| {
            let peak = if step.int8 { board.int8 } else { board.fp16 };
            let computing = 2.0 * step.macs as f64 / (peak * 1e12 * arithmetic);
            let moving = step.bytes as f64 / (board.bandwidth * 1e9 * memory);
            computing.max(moving)
        };
        self.steps.iter().map(time).sum()
    }
}

/// One sample of zeros.
fn inputs(network: Network) -> super::Sample {
    let shapes: &[&[usize]] = match network {
        Network::Detector => &[&[1, 3, DETECTOR[0], DETECTOR[1]]],
        Network::Landmarks => &[&[1, 3, 112, 112]],
        Network::Embedding => &[&[1, 3, 150, 150]],
        Network::Generator => &[&[1, 3, 128, 128], &[1, 128]],
    };
    let zeros = |shape: &&[usize]| (shape.to_vec(), vec![0.0; shape.iter().product()]);
    shapes.iter().map(zeros).collect()
}

fn count(graph: &Graph, sizes: &HashMap<String, u64>, recipe: Option<&Recipe>) -> Result<Work> {
    let size = |value: &String| sizes.get(value).copied().unwrap_or(0);
    let rounded = recipe.map_or_else(Vec::new, |recipe| qdq::chosen(graph, recipe));
    let is_int8 = |name: &str| rounded.iter().any(|layer| layer.name == name);
    // A value is kept in 8 bits when everything that takes it wants it so.
    let takes_rounded = |node: &crate::onnx::proto::Node, value: &String| {
        rounded
            .iter()
            .any(|layer| layer.name == node.name() && layer.activation() == value)
    };
    let width = |value: &String| {
        let mut takers = graph
            .nodes
            .iter()
            .filter(|node| node.input.contains(value))
            .peekable();
        let inner = takers.peek().is_some();
        if inner && takers.all(|node| takes_rounded(node, value)) {
            1
        } else {
            2
        }
    };
    let weighted: HashMap<String, usize> = qdq::layers(graph)
        .into_iter()
        .filter_map(|layer| match layer.kind {
            Kind::Weighted { axis, .. } => Some((layer.name, axis)),
            Kind::Sum { .. } => None,
        })
        .collect();
    let mut steps: Vec<Step> = Vec::new();
    // Which step gives a value, as long as nothing but what it is fused with has come after.
    let mut given: HashMap<&str, usize> = HashMap::new();
    for node in &graph.nodes {
        let values = || node.input.iter().filter(|value| !graph.is_constant(value));
        let Some(output) = node.output.first() else {
            continue;
        };
        let before = values()
            .filter_map(|value| given.get(value.as_str()).copied())
            .max();
        if FREE.contains(&node.op_type()) {
            if let Some(step) = before {
                given.insert(output, step);
            }
            continue;
        }
        if let Some(step) =
            before.filter(|step| FUSED.contains(&node.op_type()) && weighted.contains_key(&steps[*step].name))
        {
            // Instead of what the layer would have written, the sum or activation is; a residual is read beside it.
            let own = values().find(|value| given.get(value.as_str()) == Some(&step));
            let read: u64 = values()
                .filter(|value| Some(*value) != own)
                .map(|value| size(value) * width(value))
                .sum();
            let replaced = own.map_or(0, |value| size(value) * width(value));
            steps[step].bytes = steps[step].bytes + read + size(output) * width(output) - replaced;
            given.insert(output, step);
            continue;
        }
        let moved: u64 = values()
            .chain([output])
            .map(|value| size(value) * width(value))
            .sum();
        let mut step = Step {
            name: node.name().into(),
            macs: 0,
            parameters: 0,
            bytes: moved,
            int8: is_int8(node.name()),
        };
        for (input, value) in node.input.iter().enumerate() {
            if let Some(constant) = graph.constant(value)? {
                let numbers = constant.values.len() as u64;
                step.parameters += numbers;
                step.bytes += numbers * if step.int8 && input == 1 { 1 } else { 2 };
            }
        }
        if let Some(axis) = weighted.get(node.name()) {
            let weights = graph.needed(node, 1)?;
            let per_channel = weights.values.len() / weights.dims.get(*axis).copied().unwrap_or(1).max(1);
            step.macs = match node.op_type() {
                // Every input number meets all weights of its own channel.
                "ConvTranspose" => {
                    let channels = weights.dims.first().copied().unwrap_or(1).max(1);
                    let group = integer_of(node, "group", 1).max(1) as u64;
                    debug_assert_eq!(group, 1);
                    size(&node.input[0]) * (weights.values.len() / channels) as u64
                }
                _ => size(output) * per_channel as u64,
            };
        }
        given.insert(output, steps.len());
        steps.push(step);
    }
    Ok(Work { steps })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Builder, Dim, Setting};
    use crate::quantize::Calibrator;

    /// 2 channels of 4 x 4: convolution 3 x 3 to 8 channels with ReLU, depthwise 1 x 1 with a residual, sigmoid.
    fn network() -> (Graph, HashMap<String, u64>) {
        let mut net = Builder::new("net");
        let x = net.input(
            "x",
            &[Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(4), Dim::Fixed(4)],
        );
        let wide = net.constant(&[8, 2, 3, 3], &[1.0; 144]);
        let bias = net.constant(&[8], &[0.0; 8]);
        let wide = net.node("Conv", &[&x, &wide, &bias], &[]);
        let wide = net.node("Relu", &[&wide], &[]);
        let each = net.constant(&[8, 1, 1, 1], &[1.0; 8]);
        let each = net.node("Conv", &[&wide, &each], &[Setting::Int("group", 8)]);
        let sum = net.node("Add", &[&wide, &each], &[]);
        let mask = net.node("Sigmoid", &[&sum], &[]);
        net.output(
            &mask,
            "y",
            &[Dim::Free("n"), Dim::Fixed(8), Dim::Fixed(4), Dim::Fixed(4)],
        );
        let sizes = [
            ("x", 32),
            ("v0", 128),
            ("v1", 128),
            ("v2", 128),
            ("v3", 128),
            ("v4", 128),
            ("y", 128),
        ];
        let sizes = sizes.map(|(name, size)| (name.to_owned(), size));
        (Graph::read(&net.finish()).unwrap(), sizes.into())
    }

    #[test]
    fn counted_by_hand() {
        let (graph, sizes) = network();
        let work = count(&graph, &sizes, None).unwrap();
        let steps: Vec<_> = work
            .steps
            .iter()
            .map(|step| (step.name.as_str(), step.macs, step.parameters, step.bytes))
            .collect();
        assert_eq!(
            steps,
            [
                // 128 outputs of 2 x 3 x 3; in 32, out 128, weights 144 + 8, two bytes each.
                ("Conv0", 128 * 18, 152, 2 * (32 + 128 + 152)),
                // 128 outputs of 1; in 128, residual 128, out 128, weights 8.
                ("Conv2", 128, 8, 2 * (3 * 128 + 8)),
                ("Sigmoid4", 0, 0, 2 * 2 * 128),
            ]
        );
        assert_eq!(
            (work.macs(), work.parameters(), work.int8_share()),
            (128 * 19, 160, 0.0)
        );

        let mut recipe = Recipe::new(b"", Calibrator::Max);
        recipe.scales.extend([("x".into(), 1.0), ("v1".into(), 1.0)]);
        let work = count(&graph, &sizes, Some(&recipe)).unwrap();
        let bytes: Vec<_> = work.steps.iter().map(|step| (step.int8, step.bytes)).collect();
        // Rounded values are one byte, biases stay two; the sum goes to the sigmoid in FP16.
        assert_eq!(
            bytes,
            [
                (true, 32 + 128 + 144 + 2 * 8),
                (true, 2 * 128 + 2 * 128 + 8),
                (false, 2 * 2 * 128)
            ]
        );
        assert_eq!(work.int8_share(), 1.0);
        recipe.half = vec!["Conv0".into()];
        let share = count(&graph, &sizes, Some(&recipe)).unwrap().int8_share();
        assert!((share - 1.0 / 19.0).abs() < 1e-9);
    }

    #[test]
    fn a_step_takes_as_long_as_its_longer_half() {
        let step = |macs, bytes, int8| Step {
            name: String::new(),
            macs,
            parameters: 0,
            bytes,
            int8,
        };
        let board = Board {
            name: "made up",
            int8: 2.0,
            fp16: 1.0,
            bandwidth: 100.0,
        };
        for (step, microseconds) in [
            // 10⁶ operations of 0.5 x 10¹² a second.
            (step(500_000, 0, false), 2.0),
            (step(500_000, 0, true), 1.0),
            // 67,500 bytes of 67.5 x 10⁹ a second.
            (step(0, 67_500, true), 1.0),
            (step(500_000, 67_500, false), 2.0),
        ] {
            let work = Work { steps: vec![step] };
            assert!((1e6 * work.seconds(&board) - microseconds).abs() < 1e-9);
        }
    }
}
