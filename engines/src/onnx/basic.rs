//! Instance normalization in basic operations, for TensorRT 8.5, which has it only as a plugin, and 8.6, which must be told.

use std::collections::HashMap;

use prost::Message;

use super::proto::{Attribute, AttributeType, DataType, Graph, Model, Node, Tensor};
use crate::{Error, Result};

/// The operator's default (ONNX operators, InstanceNormalization).
const EPSILON: f32 = 1e-5;

fn wrong(reason: impl Into<String>) -> Error {
    Error::Parse {
        format: "ONNX",
        offset: 0,
        reason: reason.into(),
    }
}

/// Writes each `InstanceNormalization` of an `[n, c, h, w]` value as `(x - mean) / sqrt(variance + epsilon) * scale + bias`.
/// Its constants must be FP32.
///
/// # Errors
/// [`Error::Parse`] when the bytes are not an ONNX network, or a scale or bias is not one of its constants.
pub fn convert(onnx: &[u8]) -> Result<Vec<u8>> {
    let mut model = Model::decode(onnx).map_err(|error| wrong(error.to_string()))?;
    let graph = model.graph.as_mut().ok_or_else(|| wrong("it has no graph"))?;
    for node in std::mem::take(&mut graph.node) {
        if node.op_type() == "InstanceNormalization" {
            write(graph, &node)?;
        } else {
            graph.node.push(node);
        }
    }
    Ok(model.encode_to_vec())
}

fn write(graph: &mut Graph, node: &Node) -> Result<()> {
    let ([x, scale, bias], [y]) = (node.input.as_slice(), node.output.as_slice()) else {
        return Err(wrong(format!("`{}` has not 3 inputs and 1 output", node.name())));
    };
    let epsilon = node
        .attribute
        .iter()
        .find(|attribute| attribute.name() == "epsilon");
    let epsilon = epsilon.and_then(|attribute| attribute.f).unwrap_or(EPSILON);
    let name = |part: &str| format!("{y}.{part}");
    let constants: HashMap<_, _> = graph
        .initializer
        .iter()
        .map(|tensor| (tensor.name(), tensor))
        .collect();
    // One number per channel, along the second dimension.
    let per_channel = |constant: &str, part: &str| {
        let tensor = *constants
            .get(constant)
            .ok_or_else(|| wrong(format!("`{constant}` of `{}` is no constant", node.name())))?;
        Ok::<_, Error>(Tensor {
            dims: vec![1, tensor.dims.iter().product(), 1, 1],
            name: Some(name(part)),
            ..tensor.clone()
        })
    };
    let added = [
        per_channel(scale, "scale")?,
        per_channel(bias, "bias")?,
        Tensor {
            dims: vec![1],
            data_type: Some(DataType::Float.into()),
            name: Some(name("epsilon")),
            raw_data: Some(epsilon.to_le_bytes().into()),
            ..Tensor::default()
        },
    ];
    graph.initializer.extend(added);
    let mut node = |operator: &str, inputs: [&str; 2], output: &str| {
        let mean = [
            Attribute {
                name: Some("axes".into()),
                ints: vec![2, 3],
                r#type: Some(AttributeType::Ints.into()),
                ..Attribute::default()
            },
            Attribute {
                name: Some("keepdims".into()),
                i: Some(1),
                r#type: Some(AttributeType::Int.into()),
                ..Attribute::default()
            },
        ];
        graph.node.push(Node {
            input: inputs
                .iter()
                .filter(|input| !input.is_empty())
                .map(|input| (*input).into())
                .collect(),
            output: vec![output.into()],
            name: Some(format!("{operator} {output}")),
            op_type: Some(operator.into()),
            attribute: if operator == "ReduceMean" {
                mean.into()
            } else {
                Vec::new()
            },
        });
    };
    let [
        mean,
        centered,
        square,
        variance,
        shifted,
        deviation,
        normal,
        scaled,
    ] = [
        "mean",
        "centered",
        "square",
        "variance",
        "shifted",
        "deviation",
        "normal",
        "scaled",
    ]
    .map(name);
    node("ReduceMean", [x, ""], &mean);
    node("Sub", [x, &mean], &centered);
    node("Mul", [&centered, &centered], &square);
    node("ReduceMean", [&square, ""], &variance);
    node("Add", [&variance, &name("epsilon")], &shifted);
    node("Sqrt", [&shifted, ""], &deviation);
    node("Div", [&centered, &deviation], &normal);
    node("Mul", [&normal, &name("scale")], &scaled);
    node("Add", [&scaled, &name("bias")], y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Builder, Dim, Setting};

    fn network(scale_is_constant: bool) -> Vec<u8> {
        let mut graph = Builder::new("test");
        let dims = [Dim::Free("n"), Dim::Fixed(2), Dim::Fixed(4), Dim::Fixed(4)];
        let input = graph.input("x", &dims);
        let scale = graph.constant(&[2], &[1.0, 2.0]);
        let other = if scale_is_constant { &scale } else { &input };
        let settings = [Setting::Float("epsilon", 1e-3)];
        let normal = graph.node("InstanceNormalization", &[&input, other, &scale], &settings);
        graph.output(&normal, "y", &dims);
        graph.finish()
    }

    #[test]
    fn only_basic_operations_are_left() {
        let graph = Model::decode(convert(&network(true)).unwrap().as_slice())
            .unwrap()
            .graph
            .unwrap();
        let operators: Vec<_> = graph.node.iter().map(Node::op_type).collect();
        assert_eq!(
            operators,
            [
                "ReduceMean",
                "Sub",
                "Mul",
                "ReduceMean",
                "Add",
                "Sqrt",
                "Div",
                "Mul",
                "Add",
                "Identity"
            ]
        );
        let constant = |name: &str| {
            graph
                .initializer
                .iter()
                .find(|tensor| tensor.name() == name)
                .unwrap()
        };
        assert_eq!(constant("v0.scale").dims, [1, 2, 1, 1]);
        assert_eq!(
            constant("v0.epsilon").raw_data.as_deref(),
            Some(&1e-3f32.to_le_bytes()[..])
        );
    }

    #[test]
    fn what_is_no_constant_is_refused() {
        let error = convert(&network(false)).unwrap_err().to_string();
        assert!(
            error.contains("`x` of `InstanceNormalization0` is no constant"),
            "{error}"
        );
        assert!(convert(b"\x08").is_err());
    }
}
