//! An ONNX graph that is being changed.

use std::collections::{HashMap, HashSet, VecDeque};

use prost::Message;

use crate::onnx::OPSET;
use crate::onnx::proto::{
    Attribute, AttributeType, DataType, Model, Node, Tensor, TensorType, Type, ValueInfo,
};
use crate::{Error, Result};

/// Operators that mean the same from operator set 9 to 13.
const UNCHANGED: [&str; 6] = [
    "Add",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Relu",
    "Sigmoid",
];

/// A constant of type `f32`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<f32>,
}

impl Constant {
    /// The index along `axis` of each value.
    pub(super) fn channels(&self, axis: usize) -> impl Iterator<Item = usize> + use<> {
        let inner: usize = self.dims.iter().skip(axis + 1).product();
        let count = self.dims.get(axis).copied().unwrap_or(1).max(1);
        (0..self.values.len()).map(move |index| index / inner.max(1) % count)
    }
}

/// A network as a graph with named nodes, in operator set 13.
#[derive(Debug, Clone)]
pub(super) struct Graph {
    /// The network's name, for messages.
    name: String,
    pub(super) nodes: Vec<Node>,
    constants: HashMap<String, Tensor>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
}

impl Graph {
    /// Reads an ONNX file. Nodes without a name of their own get one from their operator and place.
    pub(super) fn read(onnx: &[u8]) -> Result<Self> {
        let refuse = |name: &str, reason: String| Error::Quantize {
            network: name.into(),
            reason,
        };
        let model =
            Model::decode(onnx).map_err(|error| refuse("the file", format!("it is no ONNX: {error}")))?;
        let opset = model
            .opset_import
            .iter()
            .find(|set| set.domain().is_empty())
            .map_or(0, |set| set.version());
        let graph = model
            .graph
            .ok_or_else(|| refuse("the file", "it holds no graph".into()))?;
        let name = graph.name().to_owned();
        let older = (9..OPSET).contains(&opset);
        if !older && opset != OPSET {
            return Err(refuse(
                &name,
                format!("operator set {opset}, wanted 9 to {OPSET}"),
            ));
        }
        let changed = |node: &&Node| !UNCHANGED.contains(&node.op_type());
        if let Some(node) = graph.node.iter().filter(|_| older).find(changed) {
            let reason = format!("{} of operator set {opset} is not known", node.op_type());
            return Err(refuse(&name, reason));
        }
        let mut nodes = graph.node;
        let mut taken = HashSet::new();
        for (place, node) in nodes.iter_mut().enumerate() {
            if node.name().is_empty() || !taken.insert(node.name().to_owned()) {
                node.name = Some(format!("{}_{place}", node.op_type()));
                taken.insert(node.name().to_owned());
            }
        }
        let constants: HashMap<_, _> = graph
            .initializer
            .into_iter()
            .map(|tensor| (tensor.name().to_owned(), tensor))
            .collect();
        let mut inputs = graph.input;
        inputs.retain(|input| !constants.contains_key(input.name()));
        Ok(Self {
            name,
            nodes,
            constants,
            inputs,
            outputs: graph.output,
        })
    }

    /// The file's bytes: nodes in an order in which each finds its inputs, and no constant that nobody uses.
    pub(super) fn write(mut self) -> Result<Vec<u8>> {
        self.sort()?;
        let used: HashSet<&str> = self
            .nodes
            .iter()
            .flat_map(|node| node.input.iter().map(String::as_str))
            .collect();
        let mut initializer: Vec<_> = self
            .constants
            .iter()
            .filter(|(name, _)| used.contains(name.as_str()))
            .map(|(_, tensor)| tensor.clone())
            .collect();
        // One network is one sequence of bytes.
        initializer.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(crate::onnx::write(crate::onnx::proto::Graph {
            node: self.nodes,
            name: Some(self.name),
            initializer,
            input: self.inputs,
            output: self.outputs,
            value_info: Vec::new(),
        }))
    }

    pub(super) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Quantize {
            network: self.name.clone(),
            reason: reason.into(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Names of the inputs.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(|input| input.name())
    }

    /// Names of the outputs.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|output| output.name())
    }

    /// Declares values in between as further outputs, of which no shape is said.
    pub(super) fn expose(&mut self, values: &[String]) {
        for value in values {
            if !self.outputs.iter().any(|output| output.name() == value) {
                self.outputs.push(ValueInfo {
                    name: Some(value.clone()),
                    r#type: Some(Type {
                        tensor_type: Some(TensorType {
                            elem_type: Some(DataType::Float.into()),
                            shape: None,
                        }),
                    }),
                });
            }
        }
    }

    /// Leaves only these outputs.
    pub(super) fn drop_outputs(&mut self) {
        self.outputs.clear();
    }

    /// The node that gives each value.
    pub(super) fn producers(&self) -> HashMap<&str, usize> {
        self.nodes
            .iter()
            .enumerate()
            .flat_map(|(index, node)| node.output.iter().map(move |value| (value.as_str(), index)))
            .collect()
    }

    /// How often each value is taken, by nodes and as an output.
    pub(super) fn uses(&self) -> HashMap<&str, usize> {
        let mut uses = HashMap::new();
        let taken = self
            .nodes
            .iter()
            .flat_map(|node| node.input.iter().map(String::as_str));
        for value in taken.chain(self.outputs()) {
            *uses.entry(value).or_default() += 1;
        }
        uses
    }

    /// Whether a value is a constant of type `f32`.
    pub(super) fn is_float_constant(&self, name: &str) -> bool {
        self.constants
            .get(name)
            .is_some_and(|tensor| tensor.data_type() == DataType::Float)
    }

    /// Whether a value is a constant.
    pub(super) fn is_constant(&self, name: &str) -> bool {
        self.constants.contains_key(name)
    }

    /// A constant of type `f32`, if there is one of this name.
    pub(super) fn constant(&self, name: &str) -> Result<Option<Constant>> {
        let Some(tensor) = self.constants.get(name) else {
            return Ok(None);
        };
        if tensor.data_type() != DataType::Float {
            return Ok(None);
        }
        let dims: Vec<usize> = tensor
            .dims
            .iter()
            .map(|dim| usize::try_from(*dim))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| self.refuse(format!("constant `{name}` has a negative side")))?;
        let values = match tensor.raw_data() {
            [] => tensor.float_data.clone(),
            raw => raw
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
        };
        let count = dims
            .iter()
            .try_fold(1usize, |product, dim| product.checked_mul(*dim));
        if count != Some(values.len()) {
            return Err(self.refuse(format!("constant `{name}` has not the values of its shape")));
        }
        Ok(Some(Constant { dims, values }))
    }

    /// A constant that a node cannot do without.
    pub(super) fn needed(&self, node: &Node, input: usize) -> Result<Constant> {
        let name = node.input.get(input).map_or("", String::as_str);
        self.constant(name)?.ok_or_else(|| {
            self.refuse(format!(
                "{} has no constant as its input number {input}",
                node.name()
            ))
        })
    }

    /// Adds a constant of type `f32`, or puts it in the place of the one of this name.
    pub(super) fn set_constant(&mut self, name: &str, constant: &Constant) {
        let raw = constant
            .values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.set_raw(name, &constant.dims, DataType::Float, raw);
    }

    /// Adds a constant of any type.
    pub(super) fn set_raw(&mut self, name: &str, dims: &[usize], data_type: DataType, raw_data: Vec<u8>) {
        let tensor = Tensor {
            dims: dims.iter().map(|dim| *dim as i64).collect(),
            data_type: Some(data_type.into()),
            name: Some(name.into()),
            raw_data: Some(raw_data),
            ..Tensor::default()
        };
        self.constants.insert(name.into(), tensor);
    }

    /// Puts nodes into an order in which each comes after those that give its inputs; otherwise the order stays.
    fn sort(&mut self) -> Result<()> {
        let mut known: HashSet<&str> = self.constants.keys().map(String::as_str).collect();
        known.extend(self.inputs.iter().map(|input| input.name()));
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut waiting: VecDeque<usize> = (0..self.nodes.len()).collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            for _ in 0..before {
                let Some(index) = waiting.pop_front() else { break };
                let node = &self.nodes[index];
                let ready = |value: &String| value.is_empty() || known.contains(value.as_str());
                if node.input.iter().all(ready) {
                    known.extend(node.output.iter().map(String::as_str));
                    order.push(index);
                } else {
                    waiting.push_back(index);
                }
            }
            if waiting.len() == before {
                let node = self.nodes[waiting[0]].name().to_owned();
                return Err(self.refuse(format!("nothing gives {node} its inputs")));
            }
        }
        let mut nodes: Vec<_> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order
            .into_iter()
            .filter_map(|index| nodes[index].take())
            .collect();
        Ok(())
    }
}

/// A node with one output.
pub(super) fn node(operator: &str, inputs: &[&str], output: &str, attributes: Vec<Attribute>) -> Node {
    Node {
        input: inputs.iter().map(|value| (*value).to_owned()).collect(),
        output: vec![output.into()],
        name: Some(format!("{operator}_{output}")),
        op_type: Some(operator.into()),
        attribute: attributes,
    }
}

/// An attribute that is an integer.
pub(super) fn integer(name: &str, value: i64) -> Attribute {
    Attribute {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(AttributeType::Int.into()),
        ..Attribute::default()
    }
}

/// The integer attribute of a node, or what the operator takes without it.
pub(super) fn integer_of(node: &Node, name: &str, default: i64) -> i64 {
    find(node, name).map_or(default, |attribute| attribute.i())
}

/// The attribute of a node.
pub(super) fn find<'a>(node: &'a Node, name: &str) -> Option<&'a Attribute> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Builder, Dim};

    fn model(change: impl FnOnce(&mut Model)) -> Vec<u8> {
        let mut net = Builder::new("net");
        let x = net.input("x", &[Dim::Fixed(2)]);
        let one = net.constant(&[2], &[1.0, 2.0]);
        let sum = net.node("Add", &[&x, &one], &[]);
        let sum = net.node("Relu", &[&sum], &[]);
        net.output(&sum, "y", &[Dim::Fixed(2)]);
        let mut model = Model::decode(net.finish().as_slice()).unwrap();
        change(&mut model);
        model.encode_to_vec()
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        struct Case {
            change: fn(&mut Model),
            reason: &'static str,
        }
        let cases = [
            Case {
                change: |model| model.graph = None,
                reason: "it holds no graph",
            },
            Case {
                change: |model| model.opset_import[0].version = Some(14),
                reason: "operator set 14, wanted 9 to 13",
            },
            Case {
                change: |model| model.opset_import[0].version = Some(9),
                reason: "Identity of operator set 9 is not known",
            },
            Case {
                change: |model| model.graph.as_mut().unwrap().node[0].input[0] = "z".into(),
                reason: "nothing gives Add0 its inputs",
            },
            Case {
                change: |model| model.graph.as_mut().unwrap().initializer[0].dims = vec![3],
                reason: "`c0` has not the values of its shape",
            },
        ];
        for Case { change, reason } in cases {
            let read = Graph::read(&model(change));
            let tried = read.and_then(|graph| {
                graph.constant("c0")?;
                graph.write()
            });
            let words = tried.unwrap_err().to_string();
            assert!(words.contains(reason), "{words}");
        }
        assert!(Graph::read(b"not a network").is_err());
    }

    #[test]
    fn written_in_order_with_names_and_without_leftovers() {
        let bytes = model(|model| {
            let graph = model.graph.as_mut().unwrap();
            graph.node.reverse();
            graph.node.iter_mut().for_each(|node| node.name = None);
            let mut unused = graph.initializer[0].clone();
            unused.name = Some("unused".into());
            graph.initializer.push(unused);
        });
        let written = Graph::read(&bytes).unwrap().write().unwrap();
        let graph = Model::decode(written.as_slice()).unwrap().graph.unwrap();
        let names: Vec<_> = graph.node.iter().map(|node| node.name()).collect();
        assert_eq!(names, ["Add_2", "Relu_1", "Identity_0"]);
        assert_eq!(graph.initializer.len(), 1);
        // The same network gives the same bytes.
        assert_eq!(Graph::read(&written).unwrap().write().unwrap(), written);
    }

    #[test]
    fn channels_lie_along_their_axis() {
        let constant = Constant {
            dims: vec![2, 3, 2],
            values: vec![0.0; 12],
        };
        let along = |axis| constant.channels(axis).collect::<Vec<_>>();
        assert_eq!(along(0), [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(along(1), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
        assert_eq!(along(2), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    }
}
