//! Sex and age as a frozen network sees them: face-api's AgeGenderNet. They tie the output to the source, because
//! changing them is the shortest way out of an identity.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::augment::Field;
use crate::preset::Window;

/// The files in the store's directory, as they lie in npm's `@vladmandic/face-api`.
const FILES: [&str; 2] = ["age_gender_model-weights_manifest.json", "age_gender_model.bin"];
/// Mean colour that the network was trained with, RGB 0 to 255 (face-api, `AgeGenderNet.ts`).
const MEAN: [f32; 3] = [122.782, 117.001, 104.298];

#[derive(Deserialize)]
struct Group {
    weights: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    shape: Vec<i64>,
    quantization: Option<Quantization>,
}

#[derive(Deserialize)]
struct Quantization {
    scale: f32,
    min: f32,
}

/// The network.
#[derive(Debug)]
pub struct AgeGender {
    weights: HashMap<String, Tensor>,
    mean: Tensor,
}

/// What it says of pictures.
#[derive(Debug)]
pub struct Attributes {
    /// Log-odds of a man: `[n]`.
    pub male: Tensor,
    /// Years: `[n]`.
    pub age: Tensor,
}

impl AgeGender {
    /// Side of its input.
    pub const SIZE: i64 = 112;
    /// The part of an aligned crop that it sees.
    pub const WINDOW: Window = Window {
        x: 0.1,
        y: 0.1,
        side: 0.8,
    };

    /// Loads the network out of a directory with both files.
    ///
    /// # Errors
    /// When a file is missing, or is not this network's to the last byte.
    pub fn load(folder: &Path, device: Device) -> Result<Self> {
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read(&path).with_context(|| {
                format!(
                    "cannot read {}: docs/training.md says where it comes from",
                    path.display()
                )
            })
        };
        Self::read(&read(FILES[0])?, &read(FILES[1])?, device)
    }

    /// `manifest` is the JSON list of weights; `bytes` holds their values back to back, one byte each where they are
    /// quantised, four otherwise.
    fn read(manifest: &[u8], mut bytes: &[u8], device: Device) -> Result<Self> {
        let groups: Vec<Group> =
            serde_json::from_slice(manifest).context("the list of weights is no such JSON")?;
        let mut weights = HashMap::new();
        for Entry {
            name,
            shape,
            quantization,
        } in groups.into_iter().flat_map(|group| group.weights)
        {
            let count = usize::try_from(shape.iter().product::<i64>())?;
            let kind = if quantization.is_some() {
                Kind::Uint8
            } else {
                Kind::Float
            };
            let (values, rest) = bytes
                .split_at_checked(count * kind.elt_size_in_bytes())
                .with_context(|| format!("the file of weights ends inside {name}"))?;
            bytes = rest;
            let mut tensor = Tensor::f_from_data_size(values, &shape, kind)?;
            if let Some(Quantization { scale, min }) = quantization {
                tensor = tensor.to_kind(Kind::Float) * f64::from(scale) + f64::from(min);
            }
            // TensorFlow: height, width, input, output. A depthwise filter has one input per output.
            if shape.len() == 4 {
                tensor = match name.ends_with("depthwise_filter") {
                    true => tensor.permute([2, 3, 0, 1]),
                    false => tensor.permute([3, 2, 0, 1]),
                }
                .contiguous();
            }
            weights.insert(name, tensor.to_device(device));
        }
        ensure!(
            bytes.is_empty(),
            "the file of weights has {} bytes too many",
            bytes.len()
        );
        let mean = Tensor::from_slice(&MEAN).view([1, 3, 1, 1]).to_device(device);
        Ok(Self { weights, mean })
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.weights
            .get(name)
            .with_context(|| format!("AgeGenderNet has no {name}"))
    }

    /// TensorFlow's padding SAME of a 3x3 window with stride 2 on even sides.
    fn pad(x: &Tensor, value: f64) -> Tensor {
        x.pad([0, 1, 0, 1], "constant", value)
    }

    fn separable(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let depthwise = self.weight(&format!("{name}/depthwise_filter"))?;
        let pointwise = self.weight(&format!("{name}/pointwise_filter"))?;
        let bias = self.weight(&format!("{name}/bias"))?;
        let none = None::<&Tensor>;
        let filtered = x.f_conv2d(depthwise, none, [1, 1], [1, 1], [1, 1], x.size()[1])?;
        Ok(filtered.f_conv2d(pointwise, Some(bias), [1, 1], [0, 0], [1, 1], 1)?)
    }

    fn reduction(&self, x: &Tensor, name: &str, active: bool) -> Result<Tensor> {
        let out = if active { x.relu() } else { x.shallow_clone() };
        let out = self.separable(&out, &format!("{name}/separable_conv0"))?;
        let out = self.separable(&out.relu(), &format!("{name}/separable_conv1"))?;
        let out = Self::pad(&out, f64::NEG_INFINITY).max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false);
        let filters = self.weight(&format!("{name}/expansion_conv/filters"))?;
        let bias = self.weight(&format!("{name}/expansion_conv/bias"))?;
        Ok(out + x.f_conv2d(filters, Some(bias), [2, 2], [0, 0], [1, 1], 1)?)
    }

    /// Looks at aligned crops `[n, 3, s, s]` in -1 to 1 through `field`.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn look(&self, crops: &Tensor, field: &Field) -> Result<Attributes> {
        let x = ((field.sample(crops) + 1.0) * 127.5 - &self.mean) / 255.0;
        let filters = self.weight("entry_flow/conv_in/filters")?;
        let bias = self.weight("entry_flow/conv_in/bias")?;
        let x = Self::pad(&x, 0.0)
            .f_conv2d(filters, Some(bias), [2, 2], [0, 0], [1, 1], 1)?
            .relu();
        let x = self.reduction(&x, "entry_flow/reduction_block_0", false)?;
        let mut x = self.reduction(&x, "entry_flow/reduction_block_1", true)?;
        for block in ["middle_flow/main_block_0", "middle_flow/main_block_1"] {
            let mut out = x.shallow_clone();
            for conv in 0..3 {
                out = self.separable(&out.relu(), &format!("{block}/separable_conv{conv}"))?;
            }
            x += out;
        }
        let x = self.reduction(&x, "exit_flow/reduction_block", true)?;
        let x = self.separable(&x, "exit_flow/separable_conv")?.relu();
        let features = x.f_mean_dim(&[2i64, 3][..], false, None)?;
        let head = |name: &str| -> Result<Tensor> {
            let weights = self.weight(&format!("fc/{name}/weights"))?;
            Ok(features
                .f_matmul(weights)?
                .f_add(self.weight(&format!("fc/{name}/bias"))?)?)
        };
        let sexes = head("gender")?;
        Ok(Attributes {
            male: sexes.select(1, 0) - sexes.select(1, 1),
            age: head("age")?.squeeze_dim(1),
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::recognizer::STILL;

    /// Names and shapes of the weights, in the file's order.
    fn list() -> Vec<(String, Vec<i64>)> {
        let mut list = Vec::new();
        let mut add = |name: String, shape: &[i64]| list.push((name, shape.to_vec()));
        add("entry_flow/conv_in/filters".into(), &[3, 3, 3, 32]);
        add("entry_flow/conv_in/bias".into(), &[32]);
        let mut separable = |name: String, from: i64, to: i64| {
            add(format!("{name}/depthwise_filter"), &[3, 3, from, 1]);
            add(format!("{name}/pointwise_filter"), &[1, 1, from, to]);
            add(format!("{name}/bias"), &[to]);
        };
        let reductions = [
            ("entry_flow/reduction_block_0", 32, 64),
            ("entry_flow/reduction_block_1", 64, 128),
            ("exit_flow/reduction_block", 128, 256),
        ];
        for (name, from, to) in reductions {
            separable(format!("{name}/separable_conv0"), from, to);
            separable(format!("{name}/separable_conv1"), to, to);
        }
        for block in 0..2 {
            for conv in 0..3 {
                separable(
                    format!("middle_flow/main_block_{block}/separable_conv{conv}"),
                    128,
                    128,
                );
            }
        }
        separable("exit_flow/separable_conv".into(), 256, 512);
        for (name, from, to) in reductions {
            add(format!("{name}/expansion_conv/filters"), &[1, 1, from, to]);
            add(format!("{name}/expansion_conv/bias"), &[to]);
        }
        for (name, count) in [("age", 1), ("gender", 2)] {
            add(format!("fc/{name}/weights"), &[512, count]);
            add(format!("fc/{name}/bias"), &[count]);
        }
        list
    }

    /// Such a network with made-up weights: filters of one byte, biases of four.
    fn files() -> [Vec<u8>; 2] {
        let (mut entries, mut bytes) = (Vec::new(), Vec::new());
        for (name, shape) in list() {
            let count = shape.iter().product::<i64>();
            let mut entry = serde_json::json!({ "name": name, "shape": shape, "dtype": "float32" });
            if shape.len() > 1 {
                entry["quantization"] =
                    serde_json::json!({ "dtype": "uint8", "scale": 0.001, "min": -0.1275 });
                bytes.extend((0..count).map(|i| (i * 97 % 251) as u8));
            } else {
                bytes.extend((0..count).flat_map(|i| (0.01 * i as f32).to_le_bytes()));
            }
            entries.push(entry);
        }
        let manifest = serde_json::json!([{ "weights": entries, "paths": ["made_up.bin"] }]);
        [manifest.to_string().into_bytes(), bytes]
    }

    /// Writes such a network into a folder.
    pub fn write(folder: &Path) {
        for (file, bytes) in FILES.iter().zip(files()) {
            std::fs::write(folder.join(file), bytes).unwrap();
        }
    }

    #[test]
    fn a_complete_file_is_read_and_looks_at_every_picture() {
        let _turn = crate::take_turn();
        let [manifest, bytes] = files();
        let network = AgeGender::read(&manifest, &bytes, Device::Cpu).unwrap();
        let crops = Tensor::rand([2, 3, 128, 128], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
        let field = Field::draw(&STILL, 2, AgeGender::SIZE, AgeGender::WINDOW, Device::Cpu);
        let Attributes { male, age } = network.look(&crops, &field).unwrap();
        assert_eq!((male.size(), age.size()), (vec![2], vec![2]));
        assert!(male.isfinite().all().int64_value(&[]) == 1);
        let twice = crops.narrow(0, 1, 1).repeat([2, 1, 1, 1]);
        let field = Field::draw(&STILL, 2, AgeGender::SIZE, AgeGender::WINDOW, Device::Cpu);
        let again = network.look(&twice, &field).unwrap();
        let difference = (again.age - age.get(1)).abs().max().double_value(&[]);
        assert!(
            difference < 1e-4,
            "a picture's age depends on its neighbour: {difference}"
        );
    }

    #[test]
    fn files_of_another_length_are_refused() {
        let [manifest, mut bytes] = files();
        let error = |bytes: &[u8]| {
            let error = AgeGender::read(&manifest, bytes, Device::Cpu).unwrap_err();
            error.to_string()
        };
        let short = error(&bytes[..bytes.len() - 1]);
        assert!(short.contains("ends inside fc/gender/bias"), "{short}");
        bytes.push(0);
        let long = error(&bytes);
        assert!(long.contains("1 bytes too many"), "{long}");
    }
}
