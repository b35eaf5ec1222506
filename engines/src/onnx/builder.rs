use prost::Message;

use super::proto::{
    Attribute, AttributeType, DataType, Dimension, Extent, Graph, Model, Node, OperatorSet, Shape, Tensor,
    TensorType, Type, ValueInfo,
};

/// The operator set that every network is written in.
pub(crate) const OPSET: i64 = 13;
/// The file format version that belongs to it.
const IR_VERSION: i64 = 8;

/// The name of a value in a graph that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

/// A dimension of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Chosen at run time, under this name.
    Free(&'static str),
}

/// A setting of an operator.
#[derive(Debug, Clone, Copy)]
pub enum Setting<'a> {
    /// An integer.
    Int(&'static str, usize),
    /// Integers.
    Ints(&'static str, &'a [usize]),
    /// A number.
    Float(&'static str, f32),
    /// Text.
    Text(&'static str, &'static str),
}

/// Writes an ONNX graph, operation by operation.
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
}

impl Builder {
    /// A graph without operations yet.
    pub fn new(name: &str) -> Self {
        let graph = Graph {
            name: Some(name.into()),
            ..Graph::default()
        };
        Self { graph }
    }

    /// Declares an `f32` input.
    pub fn input(&mut self, name: &str, dims: &[Dim]) -> Value {
        self.graph.input.push(value_info(name, dims));
        Value(name.into())
    }

    /// Adds an `f32` constant. `values` has as many numbers as the product of `dims`.
    pub fn constant(&mut self, dims: &[usize], values: &[f32]) -> Value {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(dims, DataType::Float, raw)
    }

    /// Adds a list of integers: a shape, or the widths of a padding.
    pub fn integers(&mut self, values: &[i64]) -> Value {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(&[values.len()], DataType::Int64, raw)
    }

    fn initializer(&mut self, dims: &[usize], data_type: DataType, raw_data: Vec<u8>) -> Value {
        let name = format!("c{}", self.graph.initializer.len());
        self.graph.initializer.push(Tensor {
            dims: dims.iter().map(|dim| *dim as i64).collect(),
            data_type: Some(data_type.into()),
            name: Some(name.clone()),
            raw_data: Some(raw_data),
            ..Tensor::default()
        });
        Value(name)
    }

    /// Adds an operation with one output.
    pub fn node(&mut self, operator: &str, inputs: &[&Value], settings: &[Setting<'_>]) -> Value {
        let output = Value(format!("v{}", self.graph.node.len()));
        self.graph.node.push(Node {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: vec![output.0.clone()],
            name: Some(format!("{operator}{}", self.graph.node.len())),
            op_type: Some(operator.into()),
            attribute: settings.iter().map(attribute).collect(),
        });
        output
    }

    /// Declares an `f32` output and gives it its public name.
    pub fn output(&mut self, value: &Value, name: &str, dims: &[Dim]) {
        self.graph.node.push(Node {
            input: vec![value.0.clone()],
            output: vec![name.into()],
            name: Some(format!("Identity{}", self.graph.node.len())),
            op_type: Some("Identity".into()),
            attribute: Vec::new(),
        });
        self.graph.output.push(value_info(name, dims));
    }

    /// The file's bytes.
    pub fn finish(self) -> Vec<u8> {
        write(self.graph)
    }
}

/// A file with this network, as we write all of them.
pub(crate) fn write(graph: Graph) -> Vec<u8> {
    let model = Model {
        ir_version: Some(IR_VERSION),
        opset_import: vec![OperatorSet {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        producer_name: Some("persona".into()),
        graph: Some(graph),
    };
    model.encode_to_vec()
}

fn attribute(setting: &Setting<'_>) -> Attribute {
    let empty = |name: &str, kind: AttributeType| Attribute {
        name: Some(name.into()),
        r#type: Some(kind.into()),
        ..Attribute::default()
    };
    match *setting {
        Setting::Int(name, value) => Attribute {
            i: Some(value as i64),
            ..empty(name, AttributeType::Int)
        },
        Setting::Ints(name, values) => Attribute {
            ints: values.iter().map(|value| *value as i64).collect(),
            ..empty(name, AttributeType::Ints)
        },
        Setting::Float(name, value) => Attribute {
            f: Some(value),
            ..empty(name, AttributeType::Float)
        },
        Setting::Text(name, value) => Attribute {
            s: Some(value.into()),
            ..empty(name, AttributeType::String)
        },
    }
}

/// An `f32` tensor with its shape.
pub(super) fn value_info(name: &str, dims: &[Dim]) -> ValueInfo {
    let dimension = |dim: &Dim| Dimension {
        value: Some(match dim {
            Dim::Fixed(size) => Extent::Value(*size as i64),
            Dim::Free(name) => Extent::Param((*name).into()),
        }),
    };
    let tensor_type = TensorType {
        elem_type: Some(DataType::Float.into()),
        shape: Some(Shape {
            dim: dims.iter().map(dimension).collect(),
        }),
    };
    ValueInfo {
        name: Some(name.into()),
        r#type: Some(Type {
            tensor_type: Some(tensor_type),
        }),
    }
}
