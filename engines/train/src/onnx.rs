//! Frozen networks out of ONNX files, with gradients.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use engines::onnx::proto::{DataType, Model, Node, Tensor as Constant};
use prost::Message;
use tch::{Kind, Tensor};

/// A constant as a tensor.
fn tensor(constant: &Constant) -> Result<Tensor> {
    let name = constant.name();
    let (raw, shape) = (constant.raw_data(), &constant.dims[..]);
    let kind = match constant.data_type() {
        DataType::Float => Kind::Float,
        DataType::Int64 => Kind::Int64,
        other => bail!("constant {name} is of type {other:?}: only Float and Int64 are read"),
    };
    let flat = if !raw.is_empty() {
        let count = raw.len() / kind.elt_size_in_bytes();
        Tensor::f_from_data_size(raw, &[count as i64], kind)?
    } else if kind == Kind::Int64 {
        Tensor::from_slice(&constant.int64_data)
    } else {
        Tensor::from_slice(&constant.float_data)
    };
    flat.f_reshape(shape)
        .with_context(|| format!("constant {name} does not hold the values of its shape {shape:?}"))
}

/// A frozen network out of an ONNX file, evaluated operation by operation so that gradients flow to its input
/// and every activation can be reached.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Node>,
    constants: HashMap<String, Tensor>,
    input: String,
    output: String,
}

impl Network {
    /// Reads a network with one input; `device` is where its constants will live.
    ///
    /// # Errors
    /// When the bytes are no ONNX graph or hold constants of an unknown type.
    pub fn read(bytes: &[u8], device: tch::Device) -> Result<Self> {
        let graph = Model::decode(bytes)
            .context("the file is no ONNX model")?
            .graph
            .context("the ONNX file has no graph")?;
        let constants = graph
            .initializer
            .iter()
            .map(|constant| Ok((constant.name().to_owned(), tensor(constant)?.to_device(device))))
            .collect::<Result<HashMap<_, _>>>()?;
        let input = graph
            .input
            .iter()
            .map(|info| info.name())
            .find(|name| !constants.contains_key(*name))
            .context("the ONNX graph has no input")?
            .to_owned();
        let output = graph
            .output
            .first()
            .context("the ONNX graph has no output")?
            .name()
            .to_owned();
        Ok(Self {
            nodes: graph.node,
            constants,
            input,
            output,
        })
    }

    /// Runs the network and gives its first output, and the outputs of the activations (Relu, PRelu) numbered in `wanted`
    /// (1 is the first in the file).
    ///
    /// # Errors
    /// Names the operation that is unknown or refuses its input.
    pub fn forward(&self, input: &Tensor, wanted: &[usize]) -> Result<(Tensor, Vec<Tensor>)> {
        let mut values: HashMap<&str, Tensor> = HashMap::new();
        values.insert(&self.input, input.shallow_clone());
        let (mut activation, mut kept) = (0, Vec::with_capacity(wanted.len()));
        for node in &self.nodes {
            let arguments = node
                .input
                .iter()
                .filter(|name| !name.is_empty())
                .map(|name| {
                    values
                        .get(name.as_str())
                        .or_else(|| self.constants.get(name))
                        .with_context(|| {
                            format!("operation {} needs {name}, which nothing gives", node.op_type())
                        })
                })
                .collect::<Result<Vec<_>>>()?;
            let value = evaluate(node, &arguments)
                .with_context(|| format!("operation {} giving {:?}", node.op_type(), node.output))?;
            if matches!(node.op_type(), "Relu" | "PRelu") {
                activation += 1;
                if wanted.contains(&activation) {
                    kept.push(value.shallow_clone());
                }
            }
            let name = node.output.first().context("an operation without output")?;
            values.insert(name, value);
        }
        ensure!(
            kept.len() == wanted.len(),
            "the network has {activation} activations, wanted numbers {wanted:?}"
        );
        let output = values
            .remove(self.output.as_str())
            .context("nothing gives the network's output")?;
        Ok((output, kept))
    }
}

fn evaluate(node: &Node, arguments: &[&Tensor]) -> Result<Tensor> {
    let find = |name: &str| node.attribute.iter().find(|attribute| attribute.name() == name);
    let ints = |name: &str, default: &[i64]| find(name).map_or(default.to_vec(), |found| found.ints.clone());
    let float = |name: &str, default: f32| f64::from(find(name).map_or(default, |found| found.f()));
    let int = |name: &str, default: i64| find(name).map_or(default, |found| found.i());
    let x = *arguments.first().context("no input")?;
    let second = || arguments.get(1).copied().context("no second input");
    // Padding before and after must agree for the convolutions of torch; otherwise it is applied beforehand.
    let padded = |x: &Tensor| -> Result<(Tensor, [i64; 2])> {
        let pads = ints("pads", &[0; 4]);
        let [top, left, bottom, right] = pads[..] else {
            bail!("padding of {} numbers", pads.len())
        };
        Ok(if (top, left) == (bottom, right) {
            (x.shallow_clone(), [top, left])
        } else {
            (x.f_constant_pad_nd([left, right, top, bottom])?, [0, 0])
        })
    };
    Ok(match node.op_type() {
        "Conv" => {
            let (x, pads) = padded(x)?;
            let strides = ints("strides", &[1, 1]);
            let dilations = ints("dilations", &[1, 1]);
            let bias = arguments.get(2).copied();
            x.f_conv2d(
                second()?,
                bias,
                &strides[..],
                &pads[..],
                &dilations[..],
                int("group", 1),
            )?
        }
        "ConvTranspose" => {
            let strides = ints("strides", &[1, 1]);
            let bias = arguments.get(2).copied();
            x.f_conv_transpose2d(
                second()?,
                bias,
                &strides[..],
                [0, 0],
                [0, 0],
                int("group", 1),
                [1, 1],
            )?
        }
        "BatchNormalization" => {
            let &[_, scale, shift, mean, variance] = arguments else {
                bail!("needs five inputs")
            };
            let epsilon = float("epsilon", 1e-5);
            x.f_batch_norm(
                Some(scale),
                Some(shift),
                Some(mean),
                Some(variance),
                false,
                0.0,
                epsilon,
                false,
            )?
        }
        "Relu" => x.f_relu()?,
        "PRelu" => x.f_prelu(&second()?.reshape([-1]))?,
        "Identity" => x.shallow_clone(),
        "Sigmoid" => x.f_sigmoid()?,
        "Abs" => x.f_abs()?,
        "Min" => x.f_minimum(second()?)?,
        "Max" => x.f_maximum(second()?)?,
        "Add" => x.f_add(second()?)?,
        "Sub" => x.f_sub(second()?)?,
        "Mul" => x.f_mul(second()?)?,
        "Div" => x.f_div(second()?)?,
        "MaxPool" => {
            let (kernel, strides) = (ints("kernel_shape", &[]), ints("strides", &[1, 1]));
            x.f_max_pool2d(&kernel[..], &strides[..], [0, 0], [1, 1], false)?
        }
        "AveragePool" => {
            let (kernel, strides) = (ints("kernel_shape", &[]), ints("strides", &[1, 1]));
            x.f_avg_pool2d(&kernel[..], &strides[..], [0, 0], false, true, None)?
        }
        "GlobalAveragePool" => x.f_mean_dim(&[2i64, 3][..], true, None)?,
        "Pad" => {
            let pads = Vec::<i64>::try_from(second()?)?;
            let half = pads.len() / 2;
            // ONNX: all befores, then all afters, from the first axis; torch: pairs from the last axis.
            let pairs: Vec<i64> = (0..half)
                .rev()
                .flat_map(|axis| [pads[axis], pads[half + axis]])
                .collect();
            x.f_constant_pad_nd(&pairs[..])?
        }
        "Squeeze" => {
            let mut axes = Vec::<i64>::try_from(second()?)?;
            axes.sort_unstable();
            axes.iter()
                .rev()
                .try_fold(x.shallow_clone(), |x, axis| x.f_squeeze_dim(*axis))?
        }
        "Flatten" => x.f_flatten(int("axis", 1), -1)?,
        "Reshape" => {
            let mut shape = Vec::<i64>::try_from(second()?)?;
            for (axis, side) in shape.iter_mut().enumerate().filter(|(_, side)| **side == 0) {
                *side = x.size()[axis];
            }
            // Files made for one face fix the batch at 1.
            if let Some(batch) = shape.first_mut().filter(|batch| **batch == 1) {
                *batch = x.size()[0];
            }
            x.f_reshape(&shape[..])?
        }
        "Transpose" => x.f_permute(&ints("perm", &[])[..])?,
        "MatMul" => x.f_matmul(second()?)?,
        "Gemm" => {
            let weight = second()?;
            let weight = if int("transB", 0) == 1 {
                weight.tr()
            } else {
                weight.shallow_clone()
            };
            let product = x.f_matmul(&weight)?;
            match arguments.get(2) {
                Some(bias) => product.f_add(bias)?,
                None => product,
            }
        }
        other => bail!("{other} is not among the operations that the trainer knows"),
    })
}
