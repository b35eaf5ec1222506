//! Our own network: its weights, and the graph around them.
//!
//! The architecture is paper section 4.1 with the sizes of docs/networks.md. Every size is read off the weights, so
//! that one graph serves the preset that ships and larger ones.

use std::collections::HashMap;

use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::builder::{Builder, Dim, Setting, Value};
use crate::{Error, Result};

/// The weights that ship, FP16. Trained by `engines/train`; models/edge128.toml holds their golden values.
const EDGE128: &[u8] = include_bytes!("../../models/edge128.safetensors");

/// Slope of the leaky ReLU, and inside residual blocks.
const SLOPE: f32 = 0.1;
const SLOPE_RESIDUAL: f32 = 0.2;
/// Upscales and downscales.
const STEPS: usize = 5;
/// The encoder step and the decoder step that the U-Net link joins.
const LINK_FROM: usize = 1;
const LINK_TO: usize = 2;

/// The shipped generator as ONNX.
///
/// # Errors
/// [`Error::Parse`] when the embedded weights are not a generator's.
pub fn edge128() -> Result<Vec<u8>> {
    generator(&Weights::read(EDGE128)?)
}

fn wrong(reason: impl Into<String>) -> Error {
    Error::Parse {
        format: "generator weights",
        offset: 0,
        reason: reason.into(),
    }
}

/// Named tensors of `f32`.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    named: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Weights {
    /// Reads a safetensors file with FP16 or FP32 tensors.
    ///
    /// # Errors
    /// [`Error::Parse`] when it is malformed or holds another type.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.to_string()))?;
        let mut weights = Self::default();
        for (name, tensor) in file.iter() {
            let values = match tensor.dtype() {
                Dtype::F32 => tensor
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b))
                    .collect(),
                Dtype::F16 => tensor
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f16::from_le_bytes(*b).to_f32())
                    .collect(),
                other => return Err(wrong(format!("`{name}` is of type {other:?}, wanted F16 or F32"))),
            };
            weights.insert(name, tensor.shape(), values)?;
        }
        Ok(weights)
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// [`Error::Parse`] when `values` has not as many numbers as the shape.
    pub fn insert(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<()> {
        let count = shape
            .iter()
            .try_fold(1usize, |product, dim| product.checked_mul(*dim));
        if count != Some(values.len()) {
            return Err(wrong(format!(
                "`{name}` has {} values for shape {shape:?}",
                values.len()
            )));
        }
        self.named.insert(name.into(), (shape.into(), values));
        Ok(())
    }

    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let (shape, _) = self
            .named
            .get(name)
            .ok_or_else(|| wrong(format!("`{name}` is missing")))?;
        let shape = shape
            .as_slice()
            .try_into()
            .ok()
            .filter(|shape: &[usize; N]| !shape.contains(&0));
        shape.ok_or_else(|| wrong(format!("`{name}` has not {N} dimensions")))
    }
}

/// Sizes of a generator, read off its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Side of the crop in pixels.
    pub side: usize,
    /// Length of the target embedding.
    pub target: usize,
    /// Side of the smallest map.
    inner: usize,
    /// Channels of the decoder's smallest map.
    decoder: usize,
}

impl Sizes {
    /// Reads the sizes off the weights' shapes.
    ///
    /// # Errors
    /// [`Error::Parse`] when a tensor is missing or the shapes contradict each other.
    pub fn of(weights: &Weights) -> Result<Self> {
        let [encoder, _, _, _] = weights.shape(&format!("d.{}.1.weight", STEPS - 1))?;
        let [latent, features] = weights.shape("fc1.weight")?;
        let [out, joined] = weights.shape("fc2.weight")?;
        let [_, decoder, _, _] = weights.shape("up.0.c.weight")?;
        let inner = (features / encoder).isqrt();
        let sizes = Self {
            side: inner << STEPS,
            target: joined.saturating_sub(latent),
            inner,
            decoder,
        };
        let consistent = inner > 0
            && inner <= 64
            && inner * inner * encoder == features
            && inner * inner * decoder == out
            && decoder.is_multiple_of(1 << STEPS)
            && joined > latent;
        if consistent {
            Ok(sizes)
        } else {
            Err(wrong("the fully connected layers do not fit the convolutions"))
        }
    }
}

/// Writes a generator as ONNX: `face` `[n, 3, side, side]` RGB from -1 to 1 and `target` `[n, target]` of unit length
/// in, `image` `[n, 3, side, side]` from -1 to 1 and `mask` `[n, 1, side, side]` from 0 to 1 out.
///
/// # Errors
/// [`Error::Parse`] when a tensor is missing, left over, or of another shape.
pub fn generator(weights: &Weights) -> Result<Vec<u8>> {
    let sizes = Sizes::of(weights)?;
    let mut net = Net {
        graph: Builder::new("persona_generator"),
        weights: weights.clone(),
    };
    let picture = |channels| {
        [
            Dim::Free("n"),
            Dim::Fixed(channels),
            Dim::Fixed(sizes.side),
            Dim::Fixed(sizes.side),
        ]
    };
    let face = net.graph.input("face", &picture(3));
    let target = net
        .graph
        .input("target", &[Dim::Free("n"), Dim::Fixed(sizes.target)]);

    let [mut channels, _, _, _] = weights.shape("c0.weight")?;
    let stem = net.conv(&face, "c0", [channels, 3, 5, 5])?;
    let mut x = net.leaky(&stem, SLOPE);
    let mut link = None;
    for step in 0..STEPS {
        let [wider, _, _, _] = weights.shape(&format!("d.{step}.1.weight"))?;
        x = net.downscale(&x, step, channels, wider)?;
        channels = wider;
        if step == LINK_FROM {
            link = Some(net.conv(&x, "sk", [1, channels, 1, 1])?);
        }
    }

    let inner = sizes.inner * sizes.inner;
    let [latent, _] = weights.shape("fc1.weight")?;
    let flat = net.graph.node("Flatten", &[&x], &[]);
    let code = net.fully_connected(&flat, "fc1", [latent, channels * inner])?;
    let code = net
        .graph
        .node("Concat", &[&code, &target], &[Setting::Int("axis", 1)]);
    channels = sizes.decoder;
    let code = net.fully_connected(&code, "fc2", [channels * inner, latent + sizes.target])?;
    let shape = net
        .graph
        .integers(&[-1, channels as i64, sizes.inner as i64, sizes.inner as i64]);
    let mut x = net.graph.node("Reshape", &[&code, &shape], &[]);

    for step in 0..STEPS {
        x = net.upscale(&x, step, channels)?;
        channels /= 2;
        let joined = link.take_if(|_| step == LINK_TO);
        if let Some(link) = joined {
            let joined = net.graph.node("Concat", &[&x, &link], &[Setting::Int("axis", 1)]);
            let refined = net.residual(&joined, step, channels + 1)?;
            x = net.conv(&refined, "mix", [channels, channels + 1, 1, 1])?;
        } else {
            x = net.residual(&x, step, channels)?;
        }
    }
    let (image, mask) = net.heads(&x, channels)?;
    net.graph.output(&image, "image", &picture(3));
    net.graph.output(&mask, "mask", &picture(1));
    match net.weights.named.keys().next() {
        Some(name) => Err(wrong(format!("`{name}` has no place in the network"))),
        None => Ok(net.graph.finish()),
    }
}

struct Net {
    graph: Builder,
    weights: Weights,
}

impl Net {
    /// Takes a tensor out of the weights.
    fn take(&mut self, name: &str, wanted: &[usize]) -> Result<Vec<f32>> {
        let taken = self.weights.named.remove(name);
        let (shape, values) = taken.ok_or_else(|| wrong(format!("`{name}` is missing")))?;
        if shape == wanted {
            Ok(values)
        } else {
            Err(wrong(format!("`{name}` has shape {shape:?}, wanted {wanted:?}")))
        }
    }

    /// Moves a tensor from the weights into the graph.
    fn constant(&mut self, name: &str, wanted: &[usize]) -> Result<Value> {
        let values = self.take(name, wanted)?;
        Ok(self.graph.constant(wanted, &values))
    }

    fn leaky(&mut self, x: &Value, slope: f32) -> Value {
        self.graph
            .node("LeakyRelu", &[x], &[Setting::Float("alpha", slope)])
    }

    /// A convolution with stride 1 that keeps the size.
    fn conv(&mut self, x: &Value, name: &str, shape: [usize; 4]) -> Result<Value> {
        let weights = self.constant(&format!("{name}.weight"), &shape)?;
        Ok(self.convolve(x, &weights, shape[2]))
    }

    fn convolve(&mut self, x: &Value, weights: &Value, kernel: usize) -> Value {
        let settings = [
            Setting::Ints("kernel_shape", &[kernel, kernel]),
            Setting::Ints("pads", &[kernel / 2; 4]),
        ];
        self.graph.node("Conv", &[x, weights], &settings)
    }

    /// Image and mask out of one convolution with four outputs: CPUs compute convolutions in blocks of 8 or 16
    /// channels, so that a second one would cost as much again.
    fn heads(&mut self, x: &Value, channels: usize) -> Result<(Value, Value)> {
        let mut weights = self.take("img.weight", &[3, channels, 5, 5])?;
        weights.extend(self.take("msk.weight", &[1, channels, 5, 5])?);
        let weights = self.graph.constant(&[4, channels, 5, 5], &weights);
        let both = self.convolve(x, &weights, 5);
        let axis = self.graph.integers(&[1]);
        let mut head = |first: i64, end: i64, activation| {
            let (first, end) = (self.graph.integers(&[first]), self.graph.integers(&[end]));
            let channels = self.graph.node("Slice", &[&both, &first, &end, &axis], &[]);
            self.graph.node(activation, &[&channels], &[])
        };
        Ok((head(0, 3, "Tanh"), head(3, 4, "Sigmoid")))
    }

    fn normalize(&mut self, x: &Value, name: &str, channels: usize) -> Result<Value> {
        let scale = self.constant(&format!("{name}.weight"), &[channels])?;
        let shift = self.constant(&format!("{name}.bias"), &[channels])?;
        let normalized = self.graph.node(
            "InstanceNormalization",
            &[x, &scale, &shift],
            &[Setting::Float("epsilon", 1e-5)],
        );
        Ok(self.leaky(&normalized, SLOPE))
    }

    /// Depthwise convolution with stride 2, pointwise convolution, normalisation.
    fn downscale(&mut self, x: &Value, step: usize, from: usize, to: usize) -> Result<Value> {
        let depthwise = self.constant(&format!("d.{step}.0.weight"), &[from, 1, 3, 3])?;
        let settings = [
            Setting::Ints("kernel_shape", &[3, 3]),
            Setting::Ints("pads", &[1; 4]),
            Setting::Ints("strides", &[2, 2]),
            Setting::Int("group", from),
        ];
        let halved = self.graph.node("Conv", &[x, &depthwise], &settings);
        let mixed = self.conv(&halved, &format!("d.{step}.1"), [to, from, 1, 1])?;
        self.normalize(&mixed, &format!("d.{step}.2"), to)
    }

    /// Convolution to twice the channels, normalisation, pixel shuffle to twice the side and half the channels.
    fn upscale(&mut self, x: &Value, step: usize, channels: usize) -> Result<Value> {
        let wide = self.conv(x, &format!("up.{step}.c"), [2 * channels, channels, 3, 3])?;
        let wide = self.normalize(&wide, &format!("up.{step}.n"), 2 * channels)?;
        let settings = [Setting::Int("blocksize", 2), Setting::Text("mode", "CRD")];
        Ok(self.graph.node("DepthToSpace", &[&wide], &settings))
    }

    fn residual(&mut self, x: &Value, step: usize, channels: usize) -> Result<Value> {
        let shape = [channels, channels, 3, 3];
        let inner = self.conv(x, &format!("res.{step}.a"), shape)?;
        let inner = self.leaky(&inner, SLOPE_RESIDUAL);
        let inner = self.conv(&inner, &format!("res.{step}.b"), shape)?;
        Ok(self.graph.node("Add", &[x, &inner], &[]))
    }

    fn fully_connected(&mut self, x: &Value, name: &str, shape: [usize; 2]) -> Result<Value> {
        let matrix = self.constant(&format!("{name}.weight"), &shape)?;
        Ok(self
            .graph
            .node("Gemm", &[x, &matrix], &[Setting::Int("transB", 1)]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::tensor::TensorView;

    use super::*;

    /// Weights of a generator with crops of `32 inner` pixels and few channels.
    fn weights(inner: usize, channels: [usize; 6], latent: usize, target: usize, decoder: usize) -> Weights {
        let mut weights = Weights::default();
        let mut add = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            weights.insert(name, shape, vec![0.25; count]).unwrap();
        };
        add("c0.weight", &[channels[0], 3, 5, 5]);
        for step in 0..STEPS {
            let (from, to) = (channels[step], channels[step + 1]);
            add(&format!("d.{step}.0.weight"), &[from, 1, 3, 3]);
            add(&format!("d.{step}.1.weight"), &[to, from, 1, 1]);
            add(&format!("d.{step}.2.weight"), &[to]);
            add(&format!("d.{step}.2.bias"), &[to]);
        }
        add("sk.weight", &[1, channels[LINK_FROM + 1], 1, 1]);
        add("fc1.weight", &[latent, channels[STEPS] * inner * inner]);
        add("fc2.weight", &[decoder * inner * inner, latent + target]);
        let mut width = decoder;
        for step in 0..STEPS {
            add(&format!("up.{step}.c.weight"), &[2 * width, width, 3, 3]);
            add(&format!("up.{step}.n.weight"), &[2 * width]);
            add(&format!("up.{step}.n.bias"), &[2 * width]);
            width /= 2;
            let joined = width + usize::from(step == LINK_TO);
            add(&format!("res.{step}.a.weight"), &[joined, joined, 3, 3]);
            add(&format!("res.{step}.b.weight"), &[joined, joined, 3, 3]);
            if step == LINK_TO {
                add("mix.weight", &[width, joined, 1, 1]);
            }
        }
        add("img.weight", &[3, width, 5, 5]);
        add("msk.weight", &[1, width, 5, 5]);
        weights
    }

    fn small() -> Weights {
        weights(2, [2, 3, 4, 5, 6, 7], 8, 9, 32)
    }

    #[test]
    fn sizes_are_read_off_the_weights() {
        let sizes = Sizes::of(&small()).unwrap();
        assert_eq!((sizes.side, sizes.target), (64, 9));
        generator(&small()).unwrap();

        let shipped = Weights::read(EDGE128).unwrap();
        let sizes = Sizes::of(&shipped).unwrap();
        assert_eq!((sizes.side, sizes.target), (128, 128));
        let parameters: usize = shipped.named.values().map(|(_, values)| values.len()).sum();
        assert_eq!(parameters, 6_804_018);
        edge128().unwrap();
    }

    #[test]
    fn other_weights_are_refused() {
        struct Case {
            name: &'static str,
            shape: Option<&'static [usize]>,
            reason: &'static str,
        }
        let cases = [
            Case {
                name: "mix.weight",
                shape: None,
                reason: "`mix.weight` is missing",
            },
            Case {
                name: "msk.weight",
                shape: Some(&[1, 1, 3, 3]),
                reason: "`msk.weight` has shape [1, 1, 3, 3], wanted [1, 1, 5, 5]",
            },
            Case {
                name: "discriminator",
                shape: Some(&[1]),
                reason: "`discriminator` has no place",
            },
            Case {
                name: "fc1.weight",
                shape: Some(&[8, 27]),
                reason: "do not fit",
            },
            Case {
                name: "fc1.weight",
                shape: Some(&[8, 0]),
                reason: "`fc1.weight` has not 2 dimensions",
            },
        ];
        for Case { name, shape, reason } in cases {
            let mut weights = small();
            weights.named.remove(name);
            if let Some(shape) = shape {
                weights
                    .insert(name, shape, vec![0.0; shape.iter().product()])
                    .unwrap();
            }
            let error = generator(&weights).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(small().insert("c0.weight", &[2, 2], vec![0.0; 3]).is_err());
    }

    #[test]
    fn safetensors_of_both_precisions() {
        let halves: Vec<u8> = [1.5f32, -0.1]
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        let singles: Vec<u8> = [1.5f32, -0.1].iter().flat_map(|v| v.to_le_bytes()).collect();
        let file = |dtype, bytes| {
            let view = TensorView::new(dtype, vec![2], bytes).unwrap();
            safetensors::serialize([("w", view)], None).unwrap()
        };
        let read = |file: &[u8]| Weights::read(file).map(|weights| weights.named["w"].1.clone());
        assert_eq!(read(&file(Dtype::F32, &singles)).unwrap(), [1.5, -0.1]);
        assert_eq!(read(&file(Dtype::F16, &halves)).unwrap(), [1.5, -0.099_975_586]);
        assert!(
            read(&file(Dtype::I32, &singles))
                .unwrap_err()
                .to_string()
                .contains("wanted F16 or F32")
        );
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics(at in any::<proptest::sample::Index>(), with in any::<u8>()) {
            let values = [0u8; 8];
            let view = TensorView::new(Dtype::F32, vec![2], &values).unwrap();
            let mut file = safetensors::serialize([("c0.weight", view)], None).unwrap();
            let at = at.index(file.len());
            file[at] = with;
            prop_assert!(Weights::read(&file).and_then(|weights| generator(&weights)).is_err());
        }
    }
}
