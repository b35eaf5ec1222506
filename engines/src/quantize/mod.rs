//! The networks in other precisions: typed FP16, and INT8 with explicit QuantizeLinear and DequantizeLinear.
//!
//! TensorRT 11 knows no calibrator and no precision flag: precision is what the ONNX file says. So the file is written
//! here, in plain ONNX (operator set 13), and ONNX Runtime on a CPU can execute it: how much accuracy a precision costs
//! is measured without a GPU ([`accuracy`]).
//!
//! # From a network to INT8
//! 1. Batch normalization is folded into convolutions, and channels of different sizes are scaled to about the same where
//!    that lowers the noise ([`Statistics::equalized`]).
//! 2. [`Statistics`] runs the network on samples, looks at every value that will be rounded ([`Histogram`]) and gives a
//!    [`Recipe`]: one scale per value, chosen by a [`Calibrator`]. [`correct_biases`] adds to it what makes up for the
//!    average shift that rounding causes in each channel.
//! 3. [`sensitivity`] rounds one layer at a time and measures what that does to the outputs; the layers that cost most
//!    stay in FP16 until the network is as accurate as it must be.
//! 4. [`int8`] writes the network by its recipe. The recipes of the shipped networks are part of the program
//!    ([`Recipe::shipped`]), so that a box needs no pictures to make its plans. One that was made for another network
//!    is refused.
//!
//! `persona quantize` does all of it; docs/networks.md has what came out.

pub mod accuracy;
mod calibrate;
mod collect;
mod equalize;
mod fold;
mod graph;
mod half;
mod histogram;
mod qdq;
mod recipe;
mod search;
pub mod sensitivity;
pub mod work;

pub use calibrate::{Sample, Statistics, correct_biases};
pub use collect::Collector;
pub use histogram::{Calibrator, Histogram};
pub use recipe::Recipe;
pub use search::{CALIBRATORS, Found, Trial, best_recipe};

use crate::Result;
use crate::onnx::proto::Node;
use graph::Graph;

/// A network that computes in FP16, batch normalization folded. Inputs and outputs stay FP32.
///
/// # Errors
/// [`crate::Error::Quantize`] when the bytes are no ONNX that is understood here, or a weight is too large for FP16.
pub fn fp16(onnx: &[u8]) -> Result<Vec<u8>> {
    let mut graph = Graph::read(onnx)?;
    fold::batch_norms(&mut graph)?;
    half::convert(&mut graph, needs_single)?;
    graph.write()
}

/// What stays FP32 in every precision: a mean and a variance over a whole map do not fit into FP16's 11 bits, and
/// TensorRT 8.5 takes normalization in basic FP32 operations only ([`crate::onnx::basic`]).
fn needs_single(node: &Node) -> bool {
    node.op_type() == "InstanceNormalization"
}

/// A network by its recipe: INT8 where the recipe says so, FP16 elsewhere. Inputs and outputs stay FP32.
///
/// # Errors
/// [`crate::Error::Quantize`] when the recipe was made for another network, or the bytes are no ONNX that is understood
/// here.
pub fn int8(onnx: &[u8], recipe: &Recipe) -> Result<Vec<u8>> {
    recipe.check(onnx)?;
    let mut graph = Graph::read(onnx)?;
    fold::batch_norms(&mut graph)?;
    equalize::apply(&mut graph, &recipe.doublings)?;
    qdq::insert(&mut graph, recipe)?;
    let single = qdq::single(&graph);
    half::convert(&mut graph, |node| {
        needs_single(node) || single.contains(node.name())
    })?;
    graph.write()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::onnx::proto::{DataType, Model};
    use crate::onnx::{Builder, Dim, basic};

    #[test]
    fn normalization_stays_single_so_that_tensorrt_8_takes_it() {
        let mut net = Builder::new("net");
        let map = [Dim::Free("n"), Dim::Fixed(1), Dim::Fixed(4), Dim::Fixed(4)];
        let x = net.input("x", &map);
        let [scale, shift] = [2.0, 0.5].map(|value| net.constant(&[1], &[value]));
        let weights = net.constant(&[1, 1, 1, 1], &[3.0]);
        let y = net.node("Conv", &[&x, &weights], &[]);
        let y = net.node("InstanceNormalization", &[&y, &scale, &shift], &[]);
        let y = net.node("LeakyRelu", &[&y], &[]);
        net.output(&y, "y", &map);
        let onnx = net.finish();
        let mut recipe = Recipe::new(&onnx, Calibrator::Max);
        recipe.scales.insert("x".into(), 0.1);
        for written in [fp16(&onnx).unwrap(), int8(&onnx, &recipe).unwrap()] {
            let graph = Model::decode(written.as_slice()).unwrap().graph.unwrap();
            let single = |name: &str| {
                let constant = graph.initializer.iter().find(|tensor| tensor.name() == name);
                constant.is_some_and(|tensor| tensor.data_type() == DataType::Float)
            };
            let norm = graph
                .node
                .iter()
                .find(|node| node.op_type() == "InstanceNormalization")
                .unwrap();
            assert!(norm.input[1..].iter().all(|name| single(name)), "{norm:?}");
            basic::convert(&written).unwrap();
        }
    }
}
