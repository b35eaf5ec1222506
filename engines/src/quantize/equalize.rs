//! Channels of about the same size, by scaling between layers.
//!
//! TensorRT takes one scale per activation, so that a channel that is a hundred times smaller than the largest one has two
//! steps left. A factor per channel, divided out of the layers that give the channel and multiplied into the weights of those
//! that take it, changes nothing in the network where only sums and (leaky) ReLU are in between, and everything for rounding
//! (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1). Sizes are
//! measured on samples. A depthwise convolution has a weight scale of its own for every channel, so before one every channel
//! gets the same size; before others activations and weights share the difference evenly (Xiao et al., "SmoothQuant", 2023,
//! section 4).
//!
//! The factors are powers of two: no number of the network is rounded by them, and a recipe keeps how often each channel is
//! doubled.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Sample;
use super::graph::{Graph, integer_of};
use super::qdq;
use crate::Result;
use crate::cpu::Runtime;
use crate::onnx::proto::Node;
use indicatif::ProgressBar;

/// How often each channel is doubled, a digit each, by the name of the first layer that gives the channels.
pub(super) type Doublings = BTreeMap<String, String>;

/// Most doublings: what is hardly ever there on the samples must not be clipped at once when it is.
const MOST: u32 = 6;
/// Operators through which a factor above 0 goes unchanged.
const HOMOGENEOUS: [&str; 3] = ["Add", "LeakyRelu", "Relu"];

/// Values that have the same channels, because they are added up or one is made from the other one channel by channel.
struct Space {
    /// Names.
    values: Vec<String>,
    /// Layers whose output is one of them, as indices of nodes.
    givers: Vec<usize>,
    /// Layers whose input is one of them.
    takers: Vec<usize>,
    channels: usize,
}

/// On which side of a layer.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Input,
    Output,
}

/// How many channels a layer has on a side, and which of them each weight belongs to. `None` for what is no layer whose
/// channels can be scaled.
fn channels(graph: &Graph, node: &Node, side: Side) -> Result<Option<(usize, Vec<usize>)>> {
    let Some(weights) = graph.constant(node.input.get(1).map_or("", String::as_str))? else {
        return Ok(None);
    };
    let bias = node.input.get(2).filter(|name| !name.is_empty());
    let [first, second, ..] = weights.dims[..] else {
        return Ok(None);
    };
    let groups = usize::try_from(integer_of(node, "group", 1)).unwrap_or(0);
    let divides = groups > 0 && groups <= first && first % groups == 0;
    if !divides || bias.is_some_and(|name| !graph.is_float_constant(name)) {
        return Ok(None);
    }
    let along = |axis| weights.channels(axis).collect::<Vec<_>>();
    Ok(match (node.op_type(), side) {
        ("Conv", Side::Output) => Some((first, along(0))),
        ("Conv", Side::Input) => {
            let group_size = first / groups;
            let of = |(output, input): (&usize, &usize)| output / group_size * second + input;
            Some((groups * second, along(0).iter().zip(&along(1)).map(of).collect()))
        }
        ("ConvTranspose", Side::Output) if groups == 1 => Some((second, along(1))),
        ("ConvTranspose", Side::Input) if groups == 1 => Some((first, along(0))),
        _ => None,
    })
}

/// The spaces that lie wholly between layers, in the order of the network.
fn spaces(graph: &Graph) -> Result<Vec<Space>> {
    let mut space_of: HashMap<&str, usize> = HashMap::new();
    let mut fixed: HashSet<&str> = graph.inputs().chain(graph.outputs()).collect();
    for node in &graph.nodes {
        let values: Vec<&str> = node
            .input
            .iter()
            .chain(&node.output)
            .map(String::as_str)
            .filter(|value| !value.is_empty() && !graph.is_constant(value))
            .collect();
        for value in &values {
            let next = space_of.len();
            space_of.entry(value).or_insert(next);
        }
        let takes_constants = values.len() < node.input.len() + node.output.len();
        if HOMOGENEOUS.contains(&node.op_type()) && !takes_constants {
            let joined = values.iter().map(|value| space_of[value]).min();
            let old: Vec<usize> = values.iter().map(|value| space_of[value]).collect();
            for space in space_of.values_mut().filter(|space| old.contains(space)) {
                *space = joined.unwrap_or(*space);
            }
        } else if channels(graph, node, Side::Input)?.is_none() {
            fixed.extend(values);
        }
    }
    let mut spaces: BTreeMap<usize, Space> = BTreeMap::new();
    for (value, space) in &space_of {
        let space = spaces.entry(*space).or_insert_with(|| Space {
            values: Vec::new(),
            givers: Vec::new(),
            takers: Vec::new(),
            channels: 0,
        });
        space.values.push((*value).to_owned());
    }
    spaces.retain(|_, space| space.values.iter().all(|value| !fixed.contains(value.as_str())));
    let mut unlike = HashSet::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for side in [Side::Input, Side::Output] {
            let value = match side {
                Side::Input => node.input.first(),
                Side::Output => node.output.first(),
            };
            let Some(id) = value.and_then(|value| space_of.get(value.as_str())) else {
                continue;
            };
            let (Some(space), Some((count, _))) = (spaces.get_mut(id), channels(graph, node, side)?) else {
                continue;
            };
            match side {
                Side::Input => space.takers.push(index),
                Side::Output => space.givers.push(index),
            }
            // A sum may repeat one channel for all of another value's.
            if space.channels != 0 && space.channels != count {
                unlike.insert(*id);
            }
            space.channels = count;
        }
    }
    let usable = |(id, space): &(usize, Space)| {
        !unlike.contains(id) && !space.givers.is_empty() && !space.takers.is_empty()
    };
    Ok(spaces
        .into_iter()
        .filter(usable)
        .map(|(_, mut space)| {
            space.values.sort();
            space
        })
        .collect())
}

/// How much the outputs of the layers that mix channels depend on each channel, against the scale of the output's weights;
/// `None` where every layer has a scale for each channel of its own.
fn importance(graph: &Graph, space: &Space) -> Result<Option<Vec<f32>>> {
    let mut squares: Option<Vec<f32>> = None;
    for taker in &space.takers {
        let node = &graph.nodes[*taker];
        let weights = graph.needed(node, 1)?;
        let (Some((_, inputs)), Some((outputs, of_output))) = (
            channels(graph, node, Side::Input)?,
            channels(graph, node, Side::Output)?,
        ) else {
            continue;
        };
        let per_output = weights.values.len() / outputs.max(1);
        let kernel: usize = weights.dims.iter().skip(2).product();
        if per_output == kernel {
            continue;
        }
        let mut largest = vec![f32::MIN_POSITIVE; outputs];
        for (output, weight) in of_output.iter().zip(&weights.values) {
            largest[*output] = largest[*output].max(weight.abs());
        }
        let squares = squares.get_or_insert_with(|| vec![0.0; space.channels]);
        for ((input, output), weight) in inputs.iter().zip(&of_output).zip(&weights.values) {
            squares[*input] += (weight / largest[*output]).powi(2);
        }
    }
    Ok(squares.map(|squares| squares.into_iter().map(f32::sqrt).collect()))
}

/// The doublings that samples suggest; none where there is nothing to scale. One step of `progress` for each sample.
pub(super) fn measure(
    runtime: &Runtime,
    graph: &Graph,
    samples: &[Sample],
    progress: &ProgressBar,
) -> Result<Doublings> {
    let spaces = spaces(graph)?;
    let rounded: HashSet<String> = qdq::layers(graph)
        .iter()
        .map(|layer| layer.activation().to_owned())
        .collect();
    let mut values: Vec<(String, usize, Vec<f32>)> = Vec::new();
    for (index, space) in spaces.iter().enumerate() {
        let of_space = space.values.iter().filter(|value| rounded.contains(*value));
        values.extend(of_space.map(|value| (value.clone(), index, vec![0.0; space.channels])));
    }
    let mut exposed = graph.clone();
    exposed.drop_outputs();
    exposed.expose(&values.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>());
    let names: Vec<String> = exposed.outputs().map(str::to_owned).collect();
    if names.is_empty() {
        progress.inc(samples.len() as u64);
        return Ok(Doublings::new());
    }
    let mut probe = runtime.probe(&exposed.write()?, graph.name())?;
    for sample in samples {
        probe.run(sample, |index, _, numbers| {
            let Some((_, _, sums)) = values.iter_mut().find(|(name, ..)| *name == names[index]) else {
                return;
            };
            let plane = numbers.len() / sums.len().max(1);
            for (sum, channel) in sums.iter_mut().zip(numbers.chunks(plane.max(1))) {
                *sum += channel
                    .iter()
                    .fold(0f32, |largest, number| largest.max(number.abs()));
            }
        })?;
        progress.inc(1);
    }
    let mut doublings = Doublings::new();
    for (index, space) in spaces.iter().enumerate() {
        let mut sizes = vec![0f32; space.channels];
        for (.., sums) in values.iter().filter(|(_, of, _)| *of == index) {
            for (size, sum) in sizes.iter_mut().zip(sums) {
                *size = size.max(*sum);
            }
        }
        let factors: Vec<f32> = match importance(graph, space)? {
            None => sizes,
            Some(weights) => sizes
                .iter()
                .zip(weights)
                .map(|(size, weight)| (size / weight.max(f32::MIN_POSITIVE)).sqrt())
                .collect(),
        };
        let largest = factors.iter().copied().fold(0.0, f32::max);
        // A channel that was never there counts as the smallest.
        let doubled = |factor: &f32| ((largest / factor).log2().round() as u32).min(MOST);
        let digit = |factor| char::from_digit(doubled(factor), 10).unwrap_or('0');
        if largest.is_normal() {
            let giver = graph.nodes[space.givers[0]].name().to_owned();
            doublings.insert(giver, factors.iter().map(digit).collect());
        }
    }
    Ok(doublings)
}

/// Doubles the channels of a graph.
///
/// # Errors
/// [`crate::Error::Quantize`] when a layer is not there, its channels cannot be scaled, or it has another number of them.
pub(super) fn apply(graph: &mut Graph, doublings: &Doublings) -> Result<()> {
    if doublings.is_empty() {
        return Ok(());
    }
    let spaces = spaces(graph)?;
    for (giver, doublings) in doublings {
        let digits: Option<Vec<i32>> = doublings
            .chars()
            .map(|digit| digit.to_digit(10)?.try_into().ok())
            .collect();
        let space = spaces
            .iter()
            .find(|space| graph.nodes[space.givers[0]].name() == giver)
            .filter(|space| space.channels == doublings.len());
        let (Some(space), Some(digits)) = (space, digits) else {
            return Err(graph.refuse(format!(
                "the recipe scales {} channels of {giver}, which has not so many that can be scaled",
                doublings.len()
            )));
        };
        let up: Vec<f32> = digits.iter().map(|digit| 2f32.powi(*digit)).collect();
        let down: Vec<f32> = digits.iter().map(|digit| 2f32.powi(-digit)).collect();
        for giver in &space.givers {
            scale(graph, *giver, Side::Output, &up)?;
        }
        for taker in &space.takers {
            scale(graph, *taker, Side::Input, &down)?;
        }
    }
    Ok(())
}

/// Multiplies a layer's weights, and its bias on the side of its output, by the factor of their channel.
fn scale(graph: &mut Graph, index: usize, side: Side, factors: &[f32]) -> Result<()> {
    let node = graph.nodes[index].clone();
    let Some((_, of_weight)) = channels(graph, &node, side)? else {
        return Ok(());
    };
    let mut weights = graph.needed(&node, 1)?;
    for (weight, channel) in weights.values.iter_mut().zip(&of_weight) {
        *weight *= factors[*channel];
    }
    let mut scaled = vec![(1, weights)];
    if side == Side::Output && node.input.get(2).is_some_and(|name| !name.is_empty()) {
        let mut bias = graph.needed(&node, 2)?;
        for (value, factor) in bias.values.iter_mut().zip(factors) {
            *value *= factor;
        }
        scaled.push((2, bias));
    }
    for (input, constant) in scaled {
        // Names of their own: other nodes may use the same constants.
        let name = format!("{}_{input}_equalized", node.name());
        graph.set_constant(&name, &constant);
        graph.nodes[index].input[input] = name;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;
    use crate::models::{Network, Store, default_dir};
    use crate::onnx::{Builder, Dim, Setting, Value};
    use crate::quantize::calibrate;

    const CHANNELS: usize = 3;

    /// An expansion, a depthwise convolution, a projection with a residual sum, a transposed convolution to the output.
    fn network() -> Graph {
        let mut net = Builder::new("net");
        let map = [
            Dim::Free("n"),
            Dim::Fixed(CHANNELS),
            Dim::Free("h"),
            Dim::Free("w"),
        ];
        let x = net.input("x", &map);
        let weights = |net: &mut Builder, dims: &[usize]| {
            let count = dims.iter().product();
            let values: Vec<f32> = (0..count).map(|i| (i % 7) as f32 - 2.5).collect();
            net.constant(dims, &values)
        };
        let layer = |net: &mut Builder, x: &Value, settings: &[Setting], dims: &[usize]| {
            let (w, b) = (weights(net, dims), net.constant(&[CHANNELS], &[1.0, -2.0, 3.0]));
            net.node("Conv", &[x, &w, &b], settings)
        };
        let dense = [CHANNELS, CHANNELS, 1, 1];
        let stem = layer(&mut net, &x, &[], &dense);
        let wide = layer(&mut net, &stem, &[], &dense);
        let wide = net.node("Relu", &[&wide], &[]);
        let each = layer(&mut net, &wide, &[Setting::Int("group", 3)], &[CHANNELS, 1, 1, 1]);
        let each = net.node("LeakyRelu", &[&each], &[]);
        let narrow = layer(&mut net, &each, &[], &dense);
        let sum = net.node("Add", &[&stem, &narrow], &[]);
        let up = weights(&mut net, &[CHANNELS, 2, 2, 2]);
        let up = net.node(
            "ConvTranspose",
            &[&sum, &up],
            &[Setting::Ints("strides", &[2, 2])],
        );
        net.output(
            &up,
            "y",
            &[Dim::Free("n"), Dim::Fixed(2), Dim::Free("h"), Dim::Free("w")],
        );
        Graph::read(&net.finish()).unwrap()
    }

    #[test]
    fn spaces_lie_between_layers() {
        let graph = network();
        let spaces = spaces(&graph).unwrap();
        let names =
            |nodes: &[usize]| -> Vec<&str> { nodes.iter().map(|node| graph.nodes[*node].name()).collect() };
        let found: Vec<_> = spaces
            .iter()
            .map(|space| (names(&space.givers), names(&space.takers)))
            .collect();
        assert_eq!(
            found,
            [
                // What is added up is scaled alike, whoever gives it.
                (vec!["Conv0", "Conv5"], vec!["Conv1", "ConvTranspose7"]),
                (vec!["Conv1"], vec!["Conv3"]),
                (vec!["Conv3"], vec!["Conv5"]),
            ]
        );
        // Before the depthwise convolution activations alone count.
        assert!(importance(&graph, &spaces[1]).unwrap().is_none());
        assert!(importance(&graph, &spaces[2]).unwrap().is_some());
    }

    #[test]
    fn what_is_no_space_is_left_alone() {
        // A sigmoid, a sum with a constant, and what leaves the network.
        let mut net = Builder::new("net");
        let map = [Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(1), Dim::Fixed(1)];
        let mut value = net.input("x", &map);
        for operator in ["Sigmoid", "Add", "none"] {
            let weights = net.constant(&[2, 2, 1, 1], &[1.0; 4]);
            value = net.node("Conv", &[&value, &weights], &[]);
            value = match operator {
                "Add" => {
                    let shift = net.constant(&[1, 2, 1, 1], &[1.0; 2]);
                    net.node("Add", &[&value, &shift], &[])
                }
                "Sigmoid" => net.node("Sigmoid", &[&value], &[]),
                _ => value,
            };
        }
        net.output(&value, "y", &map);
        let mut graph = Graph::read(&net.finish()).unwrap();
        assert!(spaces(&graph).unwrap().is_empty());
        let doublings = Doublings::from([("Conv0".into(), "01".into())]);
        let error = apply(&mut graph, &doublings).unwrap_err().to_string();
        assert!(error.contains("the recipe scales 2 channels of Conv0"), "{error}");
        for wrong in ["0000", "0x0", "-10"] {
            let doublings = Doublings::from([("Conv1".into(), wrong.into())]);
            assert!(apply(&mut network(), &doublings).is_err(), "{wrong}");
        }
    }

    #[test]
    fn weights_and_biases_are_scaled_by_their_channel() {
        let mut graph = network();
        let before = graph.clone();
        let doublings = Doublings::from([("Conv3".into(), "023".into())]);
        apply(&mut graph, &doublings).unwrap();
        let constant = |graph: &Graph, name: &str, input: usize| {
            let node = graph.nodes.iter().find(|node| node.name() == name).unwrap();
            graph.needed(node, input).unwrap().values
        };
        let scaled = |name: &str, input: usize, factors: &[f32]| {
            let old = constant(&before, name, input);
            let wanted: Vec<f32> = old
                .iter()
                .zip(factors.iter().cycle())
                .map(|(a, b)| a * b)
                .collect();
            assert_eq!(constant(&graph, name, input), wanted, "{name} {input}");
        };
        scaled("Conv3", 1, &[1.0, 4.0, 8.0]);
        scaled("Conv3", 2, &[1.0, 4.0, 8.0]);
        // One weight for each input, in every output.
        scaled("Conv5", 1, &[1.0, 0.25, 0.125]);
        scaled("Conv5", 2, &[1.0]);
        scaled("Conv1", 1, &[1.0]);
    }

    /// Scaled by what a face suggests, the detector computes in FP32 what it did before.
    #[test]
    fn the_network_stays_the_same() {
        let store = Store::open(default_dir()).unwrap();
        let runtime = Runtime::load(&store.runtime_library().unwrap(), 1).unwrap();
        let graph = calibrate::folded(&store.load(Network::Detector).unwrap()).unwrap();
        let sample = vec![(vec![1, 3, 96, 128], drawing::face(96, 128, 0.8, 0))];
        let progress = ProgressBar::hidden();
        let doublings = measure(&runtime, &graph, std::slice::from_ref(&sample), &progress).unwrap();
        assert_eq!(progress.position(), 1);
        let digits = |digit: char| {
            doublings
                .values()
                .flat_map(|all| all.chars())
                .filter(|one| *one == digit)
                .count()
        };
        assert!(doublings.len() > 40 && digits('0') > doublings.len() && digits('2') > 1000);
        let mut scaled = graph.clone();
        apply(&mut scaled, &doublings).unwrap();
        let run = |graph: Graph| {
            let mut outputs = Vec::new();
            let mut probe = runtime.probe(&graph.write().unwrap(), "detector").unwrap();
            probe
                .run(&sample, |_, _, numbers| outputs.extend_from_slice(numbers))
                .unwrap();
            outputs
        };
        let (before, after) = (run(graph), run(scaled));
        let pairs = before.iter().zip(&after);
        let largest = pairs
            .map(|(a, b)| (a - b).abs() / a.abs().max(1.0))
            .fold(0.0, f32::max);
        assert!(largest < 1e-5, "{largest}");
    }
}
