//! Typed FP16: the arithmetic between two casts.
//!
//! A strongly typed TensorRT network (version 10 and later) computes in the types that the file says. Inputs and
//! outputs stay FP32, so that the program's tensors are the same for every precision.

use std::collections::{HashMap, HashSet};

use half::f16;

use super::graph::{Graph, integer, node};
use crate::onnx::proto::DataType;
use crate::{Error, Result};

/// Makes every node compute in FP16 but those for which `single` says otherwise, with casts where the two meet.
///
/// # Errors
/// [`Error::Quantize`] for a weight that FP16 cannot hold.
pub(super) fn convert(graph: &mut Graph, single: impl Fn(&crate::onnx::proto::Node) -> bool) -> Result<()> {
    let single: Vec<bool> = graph.nodes.iter().map(single).collect();
    // Values that are there in FP16 once all is done; everything else that is a float is FP32.
    let half: HashSet<String> = graph
        .nodes
        .iter()
        .zip(&single)
        .filter(|(_, single)| !**single)
        .flat_map(|(node, _)| node.output.clone())
        .collect();
    let outputs: HashSet<String> = graph.outputs().map(str::to_owned).collect();
    let mut casts = HashMap::new();
    for (index, single) in single.iter().enumerate() {
        for input in 0..graph.nodes[index].input.len() {
            let name = graph.nodes[index].input[input].clone();
            if name.is_empty() {
                continue;
            }
            let replacement = if graph.is_constant(&name) {
                // A constant is rounded once, here, rather than cast at every run.
                if *single || !graph.is_float_constant(&name) {
                    continue;
                }
                halved(graph, &name)?
            } else if half.contains(&name) != *single {
                // As it is; an output's value takes its name from the cast that ends in it.
                inner(&name, &half, &outputs)
            } else {
                let (to, suffix) = if *single {
                    (DataType::Float, "single")
                } else {
                    (DataType::Float16, "half")
                };
                let cast = format!("{name}_{suffix}");
                casts
                    .entry(cast.clone())
                    .or_insert_with(|| (inner(&name, &half, &outputs), to));
                cast
            };
            graph.nodes[index].input[input] = replacement;
        }
        for output in 0..graph.nodes[index].output.len() {
            let name = graph.nodes[index].output[output].clone();
            graph.nodes[index].output[output] = inner(&name, &half, &outputs);
        }
    }
    for output in &outputs {
        if half.contains(output) {
            casts.insert(output.clone(), (format!("{output}_inner"), DataType::Float));
        }
    }
    let mut casts: Vec<_> = casts.into_iter().collect();
    casts.sort_by(|a, b| a.0.cmp(&b.0));
    for (to, (from, kind)) in casts {
        let attributes = vec![integer("to", i32::from(kind).into())];
        graph.nodes.push(node("Cast", &[&from], &to, attributes));
    }
    Ok(())
}

/// The name of a value inside the graph: an FP16 value that is also an output leaves the name to its cast.
fn inner(name: &str, half: &HashSet<String>, outputs: &HashSet<String>) -> String {
    if half.contains(name) && outputs.contains(name) {
        format!("{name}_inner")
    } else {
        name.to_owned()
    }
}

/// The name of the FP16 copy of a constant.
fn halved(graph: &mut Graph, name: &str) -> Result<String> {
    let copy = format!("{name}_half");
    if graph.is_constant(&copy) {
        return Ok(copy);
    }
    let Some(constant) = graph.constant(name)? else {
        return Ok(name.to_owned());
    };
    let mut raw = Vec::with_capacity(2 * constant.values.len());
    for value in &constant.values {
        let rounded = f16::from_f32(*value);
        if !rounded.is_finite() {
            return Err(Error::Quantize {
                network: graph.name().into(),
                reason: format!("constant `{name}` holds {value}, which FP16 cannot"),
            });
        }
        raw.extend(rounded.to_le_bytes());
    }
    graph.set_raw(&copy, &constant.dims, DataType::Float16, raw);
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Builder, Dim};

    fn network(weight: f32) -> Graph {
        let mut net = Builder::new("net");
        let x = net.input("x", &[Dim::Fixed(2)]);
        let factor = net.constant(&[1], &[weight]);
        let shape = net.integers(&[2, 1]);
        let scaled = net.node("Mul", &[&x, &factor], &[]);
        let positive = net.node("Relu", &[&scaled], &[]);
        let reshaped = net.node("Reshape", &[&positive, &shape], &[]);
        net.output(&reshaped, "y", &[Dim::Fixed(2), Dim::Fixed(1)]);
        Graph::read(&net.finish()).unwrap()
    }

    /// `operator inputs -> output` of every node, in order.
    fn nodes(graph: Graph) -> Vec<String> {
        let graph = Graph::read(&graph.write().unwrap()).unwrap();
        let line = |node: &crate::onnx::proto::Node| {
            format!(
                "{} {} -> {}",
                node.op_type(),
                node.input.join(" "),
                node.output.join(" ")
            )
        };
        graph.nodes.iter().map(line).collect()
    }

    #[test]
    fn casts_stand_where_types_meet_and_nowhere_else() {
        let mut whole = network(0.1);
        convert(&mut whole, |_| false).unwrap();
        assert!(whole.is_float_constant("c0") && whole.is_constant("c0_half"));
        assert_eq!(
            nodes(whole),
            [
                "Cast x -> x_half",
                "Mul x_half c0_half -> v0",
                "Relu v0 -> v1",
                // The list of sides is no number to compute with.
                "Reshape v1 c1 -> v2",
                "Identity v2 -> y_inner",
                "Cast y_inner -> y",
            ]
        );

        let mut mixed = network(0.1);
        convert(&mut mixed, |node| node.op_type() == "Relu").unwrap();
        assert_eq!(
            nodes(mixed),
            [
                "Cast x -> x_half",
                "Mul x_half c0_half -> v0",
                "Cast v0 -> v0_single",
                "Relu v0_single -> v1",
                "Cast v1 -> v1_half",
                "Reshape v1_half c1 -> v2",
                "Identity v2 -> y_inner",
                "Cast y_inner -> y",
            ]
        );

        let mut single = network(1e9);
        let before = nodes(single.clone());
        convert(&mut single, |_| true).unwrap();
        assert_eq!(nodes(single), before);
    }

    #[test]
    fn a_weight_that_fp16_cannot_hold_is_refused() {
        let error = convert(&mut network(1e9), |_| false).unwrap_err().to_string();
        assert!(
            error.contains("net: cannot be quantized: constant `c0` holds 1000000000"),
            "{error}"
        );
    }
}
