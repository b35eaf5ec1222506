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
