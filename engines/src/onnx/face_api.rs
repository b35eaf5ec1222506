//! face-api's FaceLandmark68Net: a TensorFlow.js weight manifest with 8-bit weights, and the network around them.

use std::collections::HashMap;

use serde::Deserialize;

use super::builder::{Builder, Dim, Setting, Value};
use crate::{Error, Result};

/// Mean colour that the network was trained with, RGB 0 to 255 (face-api, `FaceLandmark68NetBase.ts`).
const MEAN: [f32; 3] = [122.782, 117.001, 104.298];
/// Side of the input in pixels.
const SIDE: usize = 112;
/// Channels of the last block.
const FEATURES: usize = 256;

#[derive(Deserialize)]
struct Group {
    weights: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    quantization: Quantization,
}

#[derive(Deserialize)]
struct Quantization {
    dtype: String,
    scale: f32,
    min: f32,
}

fn wrong(offset: usize, reason: impl Into<String>) -> Error {
    Error::Parse {
        format: "face-api weights",
        offset,
        reason: reason.into(),
    }
}

/// Writes the network as ONNX: RGB 0 to 255 `[n, 3, 112, 112]` in, 68 `x, y` in crop fractions `[n, 136]` out.
/// `manifest` is the JSON list of weights, `weights` their values: one byte each, back to back in the list's order.
///
/// # Errors
/// [`Error::Parse`] when they do not describe that network to the last byte.
pub fn convert(manifest: &[u8], weights: &[u8]) -> Result<Vec<u8>> {
    let weights = Weights::read(manifest, weights)?;
    let mut net = Net {
        graph: Builder::new("face_api_landmark68"),
        weights,
    };
    let input = net.graph.input(
        "rgb255",
        &[Dim::Free("n"), Dim::Fixed(3), Dim::Fixed(SIDE), Dim::Fixed(SIDE)],
    );
    let mean = net.graph.constant(&[1, 3, 1, 1], &MEAN);
    let scale = net.graph.constant(&[1], &[1.0 / 255.0]);
    let centered = net.graph.node("Sub", &[&input, &mean], &[]);
    let mut x = net.graph.node("Mul", &[&centered, &scale], &[]);
    for (block, channels) in [(0, (3, 32)), (1, (32, 64)), (2, (64, 128)), (3, (128, FEATURES))] {
        x = net.block(&x, block, channels)?;
    }
    let pooled = net.graph.node(
        "AveragePool",
        &[&x],
        &[
            Setting::Ints("kernel_shape", &[7, 7]),
            Setting::Ints("strides", &[2, 2]),
        ],
    );
    let features = net.graph.node("Flatten", &[&pooled], &[]);
    let matrix = net.weights.take("fc/weights", &[FEATURES, 136])?;
    let bias = net.weights.take("fc/bias", &[136])?;
    let matrix = net.graph.constant(&[FEATURES, 136], &matrix);
    let bias = net.graph.constant(&[136], &bias);
    let points = net.graph.node("Gemm", &[&features, &matrix, &bias], &[]);
    net.graph
        .output(&points, "landmarks", &[Dim::Free("n"), Dim::Fixed(136)]);
    if let Some(name) = net.weights.named.keys().next() {
        return Err(wrong(0, format!("weight `{name}` has no place in the network")));
    }
    Ok(net.graph.finish())
}

/// The weights by name, in TensorFlow's order of dimensions.
struct Weights {
    named: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Weights {
    fn read(manifest: &[u8], bytes: &[u8]) -> Result<Self> {
        let groups: Vec<Group> =
            serde_json::from_slice(manifest).map_err(|error| wrong(0, error.to_string()))?;
        let mut named = HashMap::new();
        let mut offset = 0;
        for entry in groups.into_iter().flat_map(|group| group.weights) {
            if entry.quantization.dtype != "uint8" {
                return Err(wrong(
                    offset,
                    format!("`{}` is not quantised to uint8", entry.name),
                ));
            }
            let count = entry
                .shape
                .iter()
                .try_fold(1usize, |product, dim| product.checked_mul(*dim));
            let end = count.and_then(|count| offset.checked_add(count));
            let values = end
                .and_then(|end| bytes.get(offset..end))
                .ok_or_else(|| wrong(offset, format!("the file ends inside `{}`", entry.name)))?;
            offset += values.len();
            let Quantization { scale, min, .. } = entry.quantization;
            let values = values.iter().map(|byte| f32::from(*byte) * scale + min).collect();
            named.insert(entry.name, (entry.shape, values));
        }
        if offset != bytes.len() {
            return Err(wrong(
                offset,
                format!("{} bytes are left over", bytes.len() - offset),
            ));
        }
        Ok(Self { named })
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (got, values) = self
            .named
            .remove(name)
            .ok_or_else(|| wrong(0, format!("`{name}` is missing")))?;
        if got == shape {
            Ok(values)
        } else {
            Err(wrong(0, format!("`{name}` has shape {got:?}, wanted {shape:?}")))
        }
    }
}

struct Net {
    graph: Builder,
    weights: Weights,
}

impl Net {
    /// One dense block: every convolution adds to the sum of those before it.
    fn block(&mut self, x: &Value, block: usize, (from, to): (usize, usize)) -> Result<Value> {
        let name = |conv: usize| format!("dense{block}/conv{conv}");
        let first = if block == 0 {
            let filters = self
                .weights
                .take(&format!("{}/filters", name(0)), &[3, 3, from, to])?;
            let bias = self.weights.take(&format!("{}/bias", name(0)), &[to])?;
            let filters = self
                .graph
                .constant(&[to, from, 3, 3], &to_oihw(&filters, from, to));
            let bias = self.graph.constant(&[to], &bias);
            self.graph.node("Conv", &[x, &filters, &bias], &spatial(2))
        } else {
            self.separable(x, &name(0), (from, to), 2)?
        };
        let first = self.graph.node("Relu", &[&first], &[]);
        let mut sum = first.clone();
        let mut out = first;
        for conv in 1..4 {
            let next = self.separable(&out, &name(conv), (to, to), 1)?;
            sum = self.graph.node("Add", &[&sum, &next], &[]);
            out = self.graph.node("Relu", &[&sum], &[]);
        }
        Ok(out)
    }

    /// Depthwise 3x3, then pointwise with bias.
    fn separable(
        &mut self,
        x: &Value,
        name: &str,
        (from, to): (usize, usize),
        stride: usize,
    ) -> Result<Value> {
        let depthwise = self
            .weights
            .take(&format!("{name}/depthwise_filter"), &[3, 3, from, 1])?;
        let pointwise = self
            .weights
            .take(&format!("{name}/pointwise_filter"), &[1, 1, from, to])?;
        let bias = self.weights.take(&format!("{name}/bias"), &[to])?;
        // [3, 3, channels, 1] is one 3x3 filter per output channel with one input each.
        let depthwise = self
            .graph
            .constant(&[from, 1, 3, 3], &to_oihw(&depthwise, 1, from));
        let pointwise = self
            .graph
            .constant(&[to, from, 1, 1], &to_oihw(&pointwise, from, to));
        let bias = self.graph.constant(&[to], &bias);
        let [pads, strides, kernel] = spatial(stride);
        let filtered = self.graph.node(
            "Conv",
            &[x, &depthwise],
            &[pads, strides, kernel, Setting::Int("group", from)],
        );
        let pointwise_kernel = [Setting::Ints("kernel_shape", &[1, 1])];
        Ok(self
            .graph
            .node("Conv", &[&filtered, &pointwise, &bias], &pointwise_kernel))
    }
}

/// TensorFlow's padding SAME for a 3x3 filter: on our even sizes, stride 2 pads only below and to the right.
fn spatial(stride: usize) -> [Setting<'static>; 3] {
    let (pads, strides): (&[usize], &[usize]) = match stride {
        2 => (&[0, 0, 1, 1], &[2, 2]),
        _ => (&[1, 1, 1, 1], &[1, 1]),
    };
    [
        Setting::Ints("pads", pads),
        Setting::Ints("strides", strides),
        Setting::Ints("kernel_shape", &[3, 3]),
    ]
}

/// TensorFlow's filters `[height, width, input, output]` in ONNX's order `[output, input, height, width]`.
fn to_oihw(filters: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let taps = filters.len() / (inputs * outputs);
    let mut reordered = Vec::with_capacity(filters.len());
    for output in 0..outputs {
        for input in 0..inputs {
            reordered.extend((0..taps).map(|tap| filters[(tap * inputs + input) * outputs + output]));
        }
    }
    reordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    /// A manifest of the right shapes, and as many bytes as it describes.
    fn network() -> (Json, Vec<u8>) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut add = |name: String, shape: &[usize]| {
            bytes += shape.iter().product::<usize>();
            let quantization = json!({"dtype": "uint8", "scale": 0.01, "min": -1.0});
            entries.push(
                json!({"name": name, "shape": shape, "dtype": "float32", "quantization": quantization}),
            );
        };
        for (block, from, to) in [(0, 3, 32), (1, 32, 64), (2, 64, 128), (3, 128, FEATURES)] {
            for conv in 0..4 {
                let name = format!("dense{block}/conv{conv}");
                let from = if conv == 0 { from } else { to };
                if block == 0 && conv == 0 {
                    add(format!("{name}/filters"), &[3, 3, from, to]);
                } else {
                    add(format!("{name}/depthwise_filter"), &[3, 3, from, 1]);
                    add(format!("{name}/pointwise_filter"), &[1, 1, from, to]);
                }
                add(format!("{name}/bias"), &[to]);
            }
        }
        add("fc/weights".into(), &[FEATURES, 136]);
        add("fc/bias".into(), &[136]);
        let manifest = json!([{"weights": entries, "paths": ["face_landmark_68_model.bin"]}]);
        (manifest, (0..bytes).map(|i| i as u8).collect())
    }

    fn reason(manifest: &Json, weights: &[u8]) -> String {
        match convert(manifest.to_string().as_bytes(), weights) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_whole_network_and_nothing_else() {
        let (manifest, weights) = network();
        // The size of the pinned file.
        assert_eq!(weights.len(), 356_840);
        assert_eq!(reason(&manifest, &weights), "");

        assert!(reason(&manifest, &weights[1..]).contains("ends inside `fc/bias`"));
        assert!(reason(&manifest, &[&weights[..], b"x"].concat()).contains("1 bytes are left over"));

        struct Case {
            change: fn(&mut Json),
            reason: &'static str,
        }
        let cases = [
            Case {
                change: |m| m[0]["weights"][0]["name"] = "other".into(),
                reason: "`dense0/conv0/filters` is missing",
            },
            Case {
                change: |m| m[0]["weights"][0]["shape"] = json!([3, 3, 32, 3]),
                reason: "has shape [3, 3, 32, 3], wanted [3, 3, 3, 32]",
            },
            Case {
                change: |m| m[0]["weights"][1]["shape"] = json!([u32::MAX, u32::MAX, 32]),
                reason: "ends inside `dense0/conv0/bias`",
            },
            Case {
                change: |m| m[0]["weights"][0]["quantization"]["dtype"] = "uint16".into(),
                reason: "not quantised to uint8",
            },
            Case {
                change: |m| m[0]["weights"][0]["quantization"] = Json::Null,
                reason: "invalid type: null",
            },
        ];
        for Case {
            change,
            reason: wanted,
        } in cases
        {
            let mut changed = manifest.clone();
            change(&mut changed);
            let got = reason(&changed, &weights);
            assert!(got.contains(wanted), "{got}");
        }
    }

    #[test]
    fn filters_are_reordered() {
        // Two taps, two inputs, three outputs: value = 100 tap + 10 input + output.
        let hwio: Vec<f32> = [0., 1., 2., 10., 11., 12., 100., 101., 102., 110., 111., 112.].into();
        let oihw = [0., 100., 10., 110., 1., 101., 11., 111., 2., 102., 12., 112.];
        assert_eq!(to_oihw(&hwio, 2, 3), oihw);
    }

    proptest! {
        #[test]
        fn a_changed_manifest_never_panics(at in any::<proptest::sample::Index>(), with in any::<u8>()) {
            let (manifest, weights) = network();
            let mut text = manifest.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = with;
            let _ = convert(&text, &weights);
        }

        #[test]
        fn any_bytes_give_an_error(manifest in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(convert(&manifest, b"weights").is_err());
        }
    }
}
