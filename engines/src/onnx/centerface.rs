//! CenterFace: ONNX already, but with a fixed 10x3x32x32 input and its weights declared as inputs.

use std::collections::HashSet;

use prost::Message;

use super::builder::{Dim, value_info};
use super::proto::Model;
use crate::{Error, Result};

/// Makes the batch size, height and width free: new shapes for the input and the four outputs, the weights no
/// longer inputs (as inputs they could be overridden, and ONNX Runtime would not fold them), and the stored shapes
/// of values in between, which are those of the fixed size, deleted.
///
/// # Errors
/// [`Error::Parse`] when the bytes are not that network.
pub fn convert(onnx: &[u8]) -> Result<Vec<u8>> {
    let wrong = |reason: String| Error::Parse {
        format: "CenterFace ONNX",
        offset: 0,
        reason,
    };
    let mut model = Model::decode(onnx).map_err(|error| wrong(error.to_string()))?;
    let graph = model
        .graph
        .as_mut()
        .ok_or_else(|| wrong("it has no graph".into()))?;

    let weights: HashSet<_> = graph
        .initializer
        .iter()
        .filter_map(|tensor| tensor.name.clone())
        .collect();
    let is_weight = |name: &Option<String>| name.as_ref().is_some_and(|name| weights.contains(name));
    graph.input.retain(|input| !is_weight(&input.name));
    graph.value_info.clear();

    let [input] = graph.input.as_mut_slice() else {
        return Err(wrong(format!("it has {} inputs, wanted 1", graph.input.len())));
    };
    let name = input.name.clone().unwrap_or_default();
    *input = value_info(
        &name,
        &[Dim::Free("n"), Dim::Fixed(3), Dim::Free("h"), Dim::Free("w")],
    );
    for output in &mut graph.output {
        let name = output.name.clone().unwrap_or_default();
        let shape = output
            .r#type
            .as_ref()
            .and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
        let channels = match shape.and_then(|shape| shape.dim.get(1)?.value.as_ref()) {
            Some(super::proto::Extent::Value(channels)) => usize::try_from(*channels).ok(),
            _ => None,
        };
        let channels =
            channels.ok_or_else(|| wrong(format!("output `{name}` has no fixed number of channels")))?;
        *output = value_info(
            &name,
            &[
                Dim::Free("n"),
                Dim::Fixed(channels),
                Dim::Free("h4"),
                Dim::Free("w4"),
            ],
        );
    }
    Ok(model.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::onnx::proto::{Graph, Node, Tensor, ValueInfo};

    fn fixed(name: &str, dims: [usize; 4]) -> ValueInfo {
        value_info(name, &dims.map(Dim::Fixed))
    }

    /// One convolution in the form of the original file.
    fn network() -> Model {
        let weights = Tensor {
            dims: vec![10, 3, 1, 1],
            data_type: Some(1),
            name: Some("w".into()),
            raw_data: Some(vec![0; 120]),
            ..Tensor::default()
        };
        let node = Node {
            input: vec!["input.1".into(), "w".into()],
            output: vec!["540".into()],
            op_type: Some("Conv".into()),
            ..Node::default()
        };
        let graph = Graph {
            node: vec![node],
            name: Some("torch-jit-export".into()),
            initializer: vec![weights],
            input: vec![fixed("input.1", [10, 3, 32, 32]), fixed("w", [10, 3, 1, 1])],
            output: vec![fixed("540", [10, 10, 8, 8])],
            value_info: vec![fixed("v", [10, 10, 8, 8])],
        };
        Model {
            ir_version: Some(4),
            graph: Some(graph),
            ..Model::default()
        }
    }

    #[test]
    fn shapes_are_freed_and_weights_are_no_inputs() {
        let converted = convert(&network().encode_to_vec()).unwrap();
        let graph = Model::decode(converted.as_slice()).unwrap().graph.unwrap();
        let [n, h, w] = ["n", "h", "w"].map(Dim::Free);
        assert_eq!(graph.input, [value_info("input.1", &[n, Dim::Fixed(3), h, w])]);
        let (h4, w4) = (Dim::Free("h4"), Dim::Free("w4"));
        assert_eq!(graph.output, [value_info("540", &[n, Dim::Fixed(10), h4, w4])]);
        assert!(graph.value_info.is_empty());
        assert_eq!(graph.initializer.len(), 1);
    }

    #[test]
    fn another_network_is_refused() {
        struct Case {
            change: fn(&mut Graph),
            reason: &'static str,
        }
        let cases = [
            Case {
                change: |graph| graph.input.push(fixed("second", [1; 4])),
                reason: "has 2 inputs",
            },
            Case {
                change: |graph| graph.input.clear(),
                reason: "has 0 inputs",
            },
            Case {
                change: |graph| graph.output[0].r#type = None,
                reason: "`540` has no fixed number of channels",
            },
        ];
        for Case { change, reason } in cases {
            let mut model = network();
            change(model.graph.as_mut().unwrap());
            let error = convert(&model.encode_to_vec()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(
            convert(&Model::default().encode_to_vec())
                .unwrap_err()
                .to_string()
                .contains("no graph")
        );
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in any::<proptest::sample::Index>(), with in any::<u8>()) {
            let mut bytes = network().encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = convert(&bytes);
        }
    }
}
