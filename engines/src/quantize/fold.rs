//! Batch normalization folded into the convolution before it.
//!
//! At inference it is a factor and a summand per channel (Ioffe and Szegedy, "Batch Normalization", equations 1 to 4),
//! so that the convolution can do both: TensorRT would do the same, but then the weights that are quantized would not
//! be those that are computed with.

use super::graph::{Constant, Graph, find};
use crate::Result;

/// `epsilon` of BatchNormalization where the node says nothing (ONNX, operator set 9).
const EPSILON: f32 = 1e-5;

/// Folds every batch normalization whose input is a convolution that nobody else looks at; others stay.
///
/// # Errors
/// [`crate::Error::Quantize`] when its constants are not what the operator needs.
pub(super) fn batch_norms(graph: &mut Graph) -> Result<()> {
    for index in 0..graph.nodes.len() {
        if graph.nodes[index].op_type() == "BatchNormalization" {
            fold(graph, index)?;
        }
    }
    graph.nodes.retain(|node| !node.op_type().is_empty());
    Ok(())
}

fn fold(graph: &mut Graph, index: usize) -> Result<()> {
    let norm = graph.nodes[index].clone();
    let source = norm.input.first().map_or("", String::as_str);
    let Some(&before) = graph.producers().get(source) else {
        return Ok(());
    };
    let conv = graph.nodes[before].clone();
    let axis = match conv.op_type() {
        "Conv" => 0,
        "ConvTranspose" if super::graph::integer_of(&conv, "group", 1) == 1 => 1,
        _ => return Ok(()),
    };
    if graph.uses().get(source) != Some(&1) {
        return Ok(());
    }
    let mut weights = graph.needed(&conv, 1)?;
    let channels = weights.dims.get(axis).copied().unwrap_or(0);
    let mut statistics = Vec::with_capacity(4);
    for input in 1..=4 {
        let constant = graph.needed(&norm, input)?;
        if constant.values.len() != channels {
            return Err(graph.refuse(format!(
                "{} has {} channels, the convolution before it {channels}",
                norm.name(),
                constant.values.len()
            )));
        }
        statistics.push(constant.values);
    }
    let epsilon = find(&norm, "epsilon").map_or(EPSILON, |attribute| attribute.f());
    let factors: Vec<f32> = (0..channels)
        .map(|c| statistics[0][c] / (statistics[3][c] + epsilon).sqrt())
        .collect();
    let bias = match conv.input.get(2).filter(|name| !name.is_empty()) {
        Some(_) => graph.needed(&conv, 2)?.values,
        None => vec![0.0; channels],
    };
    if bias.len() != channels {
        return Err(graph.refuse(format!("{} has a bias of another length", conv.name())));
    }
    for (channel, value) in weights.channels(axis).zip(0..) {
        let value: usize = value;
        weights.values[value] *= factors[channel];
    }
    let bias = Constant {
        dims: vec![channels],
        values: (0..channels)
            .map(|c| (bias[c] - statistics[2][c]) * factors[c] + statistics[1][c])
            .collect(),
    };
    // Names of their own: other nodes may use the same constants.
    let [weights_name, bias_name] = ["weights", "bias"].map(|what| format!("{}_{what}", conv.name()));
    graph.set_constant(&weights_name, &weights);
    graph.set_constant(&bias_name, &bias);
    graph.nodes[before].input = vec![conv.input[0].clone(), weights_name, bias_name];
    graph.nodes[before].output = norm.output.clone();
    graph.nodes[index].op_type = Some(String::new());
    graph.nodes[index].output.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Builder, Dim, Setting};

    /// One convolution of two channels with batch normalization after it; `more` may look at its output too.
    fn network(operator: &str, channels: usize, more: bool) -> Graph {
        let mut net = Builder::new("net");
        let map = [Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(4), Dim::Fixed(4)];
        let x = net.input("x", &map);
        let weights = net.constant(&[2, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0]);
        let bias = net.constant(&[2], &[0.5, -0.5]);
        let y = net.node(operator, &[&x, &weights, &bias], &[]);
        let statistics = [[2.0, 3.0], [10.0, 20.0], [0.25, 0.5], [3.0, 8.0]]
            .map(|v| net.constant(&[channels], &v[..channels]));
        let [scale, shift, mean, variance] = &statistics;
        let epsilon = [Setting::Float("epsilon", 1.0)];
        let z = net.node(
            "BatchNormalization",
            &[&y, scale, shift, mean, variance],
            &epsilon,
        );
        net.output(&z, "z", &map);
        if more {
            net.output(&y, "y", &map);
        }
        Graph::read(&net.finish()).unwrap()
    }

    #[test]
    fn known_numbers() {
        struct Case {
            operator: &'static str,
            weights: [f32; 4],
        }
        // Factors: 2 / sqrt(3 + 1) = 1 and 3 / sqrt(8 + 1) = 1.
        // With scale 2 and variance 3 the first channel keeps its weights; the second one too: so double the first scale.
        let cases = [
            Case {
                operator: "Conv",
                weights: [1.0, 2.0, 3.0, 4.0],
            },
            Case {
                operator: "ConvTranspose",
                weights: [1.0, 2.0, 3.0, 4.0],
            },
        ];
        for Case { operator, weights } in cases {
            for factor in [1.0, 4.0] {
                let mut graph = network(operator, 2, false);
                // Quartering variance + epsilon of the first channel doubles its factor.
                let variance = graph.nodes[1].input[4].clone();
                let values = vec![4.0 / (factor * factor) - 1.0, 8.0];
                graph.set_constant(
                    &variance,
                    &Constant {
                        dims: vec![2],
                        values,
                    },
                );
                batch_norms(&mut graph).unwrap();
                let operators: Vec<_> = graph.nodes.iter().map(|node| node.op_type()).collect();
                assert_eq!(operators, [operator, "Identity"]);
                let conv = graph.nodes[0].clone();
                let got = graph.needed(&conv, 1).unwrap();
                let axis = usize::from(operator == "ConvTranspose");
                let wanted: Vec<f32> = weights
                    .iter()
                    .zip(got.channels(axis))
                    .map(|(weight, channel)| if channel == 0 { weight * factor } else { *weight })
                    .collect();
                assert_eq!(got.values, wanted);
                // (bias - mean) * factor + shift
                let bias = graph.needed(&conv, 2).unwrap().values;
                assert_eq!(bias, [(0.5 - 0.25) * factor + 10.0, -0.5 - 0.5 + 20.0]);
            }
        }
    }

    #[test]
    fn what_cannot_be_folded_stays_or_is_refused() {
        let mut shared = network("Conv", 2, true);
        batch_norms(&mut shared).unwrap();
        assert!(
            shared
                .nodes
                .iter()
                .any(|node| node.op_type() == "BatchNormalization")
        );

        let error = batch_norms(&mut network("Conv", 1, false))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("has 1 channels, the convolution before it 2"),
            "{error}"
        );
    }
}
