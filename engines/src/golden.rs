//! Golden values: what each network gave for a known input when it was admitted into this program.
//!
//! Every network is run on its golden input when it is loaded; one that gives other numbers, because its file, its
//! conversion, the runtime or the device computes something else, is refused before it sees a frame. The input is a
//! pattern: channel `c`, row `y`, column `x` is `(3 x + 5 y + 7 c) mod 256` as RGB 0 to 255, or scaled to -1 to 1 for
//! the generator, whose target is `sin(i)` made unit length.

use kernels::Kernels;
use serde::{Deserialize, Serialize};

use crate::{Engine, Error, Result, detector, embedding, generator};

/// The golden values that belong to the generator's weights.
const EDGE128: &str = include_str!("../models/edge128.toml");
const EDGE128_FILE: &str = "engines/models/edge128.toml";

/// What to look at in an output.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Probe {
    /// The value at this index.
    At(usize),
    /// The mean of all values.
    Mean,
    /// The Euclidean length.
    Length,
}

impl Probe {
    fn of(self, values: &[f32]) -> f32 {
        let sum = |term: fn(f64) -> f64| values.iter().map(|v| term(f64::from(*v))).sum::<f64>();
        match self {
            Probe::At(index) => values.get(index).copied().unwrap_or(f32::NAN),
            Probe::Mean => (sum(|v| v) / values.len() as f64) as f32,
            Probe::Length => sum(|v| v * v).sqrt() as f32,
        }
    }
}

#[derive(Debug, Clone)]
struct Check {
    output: usize,
    name: String,
    probe: Probe,
    wanted: f32,
}

/// A network's golden input and what must come out.
#[derive(Debug, Clone)]
pub struct Golden {
    network: &'static str,
    inputs: Vec<([usize; 4], Vec<f32>)>,
    outputs: Vec<[usize; 4]>,
    checks: Vec<Check>,
    tolerance: f32,
}

impl Golden {
    /// CenterFace on 64 rows x 96 columns: channel 0 of each map at row 3, column 5.
    pub fn detector() -> Self {
        let (rows, columns) = (64, 96);
        let map = |channels| [1, channels, rows / 4, columns / 4];
        let at = 3 * (columns / 4) + 5;
        let wanted = [0.001_051_8, 1.470_15, -0.185_16, 0.310_67];
        let ports = detector::signature().outputs;
        Self {
            network: "detector",
            inputs: vec![pattern(rows, columns)],
            outputs: vec![map(1), map(2), map(2), map(10)],
            checks: ports
                .into_iter()
                .zip(wanted)
                .enumerate()
                .map(|(output, (port, wanted))| Check {
                    output,
                    name: format!("`{}` channel 0 at row 3, column 5", port.name),
                    probe: Probe::At(at),
                    wanted,
                })
                .collect(),
            tolerance: 2e-4,
        }
    }

    /// face-api's 68 landmarks: the first four numbers, the last one, the mean.
    pub fn landmarks() -> Self {
        let probes = [
            (Probe::At(0), 0.315_69),
            (Probe::At(1), 0.680_03),
            (Probe::At(2), 0.544_09),
            (Probe::At(3), 0.812_86),
            (Probe::At(135), 0.413_52),
            (Probe::Mean, 0.603_98),
        ];
        Self::vector("landmarks", 112, 136, &probes, 2e-4)
    }

    /// dlib's embedding: the first four numbers, the last one, the length.
    pub fn embedding() -> Self {
        let probes = [
            (Probe::At(0), -0.055_63),
            (Probe::At(1), 0.093_60),
            (Probe::At(2), 0.070_59),
            (Probe::At(3), -0.040_38),
            (Probe::At(127), -0.023_47),
            (Probe::Length, 1.344_27),
        ];
        Self::vector("embedding", 150, embedding::EMBEDDING, &probes, 2e-4)
    }

    fn vector(
        network: &'static str,
        side: usize,
        length: usize,
        probes: &[(Probe, f32)],
        tolerance: f32,
    ) -> Self {
        let check = |(probe, wanted): &(Probe, f32)| Check {
            output: 0,
            name: match probe {
                Probe::At(index) => format!("number {index}"),
                Probe::Mean => "the mean".into(),
                Probe::Length => "the length".into(),
            },
            probe: *probe,
            wanted: *wanted,
        };
        Self {
            network,
            inputs: vec![pattern(side, side)],
            outputs: vec![[1, length, 1, 1]],
            checks: probes.iter().map(check).collect(),
            tolerance,
        }
    }

    /// The shipped generator, from the file next to its weights.
    ///
    /// # Errors
    /// [`Error::Manifest`] when that file is malformed.
    pub fn generator() -> Result<Self> {
        Self::generator_from(EDGE128, EDGE128_FILE)
    }

    /// A generator, from the text of its golden file (see [`record_generator`]); `file` is its name, for messages.
    ///
    /// # Errors
    /// [`Error::Manifest`] when the text is malformed.
    pub fn generator_from(text: &str, file: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Manifest {
            file: file.into(),
            reason,
        };
        let values: GeneratorValues =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().into()))?;
        let side = values.side;
        if side == 0
            || side > 1024
            || values.value.is_empty()
            || !(values.tolerance > 0.0 && values.tolerance < 0.1)
        {
            return Err(wrong(
                "it needs a side of 1 to 1024, values, and a tolerance below 0.1".into(),
            ));
        }
        let mut golden = generator_input(side);
        golden.tolerance = values.tolerance;
        for value in &values.value {
            let (output, channels) = match value.output {
                Output::Image => (0, 3),
                Output::Mask => (1, 1),
            };
            let (probe, name) = match value.at {
                None => (Probe::Mean, format!("the mean of the {:?}", value.output)),
                Some([c, y, x]) if c < channels && y < side && x < side => {
                    let name = format!("the {:?}'s channel {c} at row {y}, column {x}", value.output);
                    (Probe::At((c * side + y) * side + x), name)
                }
                Some(at) => return Err(wrong(format!("{at:?} lies outside of the {:?}", value.output))),
            };
            golden.checks.push(Check {
                output,
                name: name.to_lowercase(),
                probe,
                wanted: value.wanted,
            });
        }
        Ok(golden)
    }

    /// Side of the golden picture in pixels: of a generator, the side of its crop.
    pub fn side(&self) -> usize {
        self.inputs.first().map_or(0, |(shape, _)| shape[3])
    }
}

/// The golden input of a generator with crops of `side` pixels, and no checks yet.
fn generator_input(side: usize) -> Golden {
    let (shape, bytes) = pattern(side, side);
    let face = bytes.iter().map(|byte| byte / 127.5 - 1.0).collect();
    let target: Vec<f64> = (0..embedding::EMBEDDING).map(|i| (i as f64).sin()).collect();
    let length = target.iter().map(|v| v * v).sum::<f64>().sqrt();
    let target = target.iter().map(|v| (v / length) as f32).collect();
    Golden {
        network: generator::NETWORK,
        inputs: vec![(shape, face), ([1, embedding::EMBEDDING, 1, 1], target)],
        outputs: vec![[1, 3, side, side], [1, 1, side, side]],
        checks: Vec::new(),
        tolerance: 0.0,
    }
}

fn pattern(rows: usize, columns: usize) -> ([usize; 4], Vec<f32>) {
    let mut values = Vec::with_capacity(3 * rows * columns);
    for c in 0..3 {
        for y in 0..rows {
            values.extend((0..columns).map(|x| ((3 * x + 5 * y + 7 * c) % 256) as f32));
        }
    }
    ([1, 3, rows, columns], values)
}

/// Runs a network on its golden input and compares what comes out.
///
/// # Errors
/// [`Error::Golden`] with the first value that differs; the engine's and the place's own.
pub fn admit<K: Kernels>(kernels: &mut K, engine: &mut dyn Engine<K>, golden: &Golden) -> Result<()> {
    let outputs = run(kernels, engine, golden)?;
    for check in &golden.checks {
        let got = outputs
            .get(check.output)
            .map_or(f32::NAN, |values| check.probe.of(values));
        // Not a number must not pass, so the comparison is for being near.
        let near = (got - check.wanted).abs() <= golden.tolerance;
        if !near {
            return Err(Error::Golden {
                network: golden.network,
                tensor: check.name.clone(),
                wanted: check.wanted,
                got,
                tolerance: golden.tolerance,
            });
        }
    }
    Ok(())
}

fn run<K: Kernels>(kernels: &mut K, engine: &mut dyn Engine<K>, golden: &Golden) -> Result<Vec<Vec<f32>>> {
    let mut inputs = Vec::with_capacity(golden.inputs.len());
    for (shape, values) in &golden.inputs {
        let mut tensor = kernels.tensor(*shape)?;
        kernels.write(&mut tensor, 0, values)?;
        inputs.push(tensor);
    }
    let mut outputs = Vec::with_capacity(golden.outputs.len());
    for shape in &golden.outputs {
        outputs.push(kernels.tensor(*shape)?);
    }
    engine.run(&inputs.iter().collect::<Vec<_>>(), &mut outputs)?;
    let mut values = Vec::with_capacity(outputs.len());
    for output in &mut outputs {
        values.push(kernels.read(output)?.to_vec());
    }
    Ok(values)
}

/// The file next to a generator's weights. Whoever trains new weights writes it with [`record_generator`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GeneratorValues {
    /// Where the weights come from: data, steps, samples, and what they reached.
    provenance: String,
    /// Side of the crop in pixels.
    side: usize,
    /// Largest difference between runtimes in FP32.
    tolerance: f32,
    value: Vec<GeneratorValue>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GeneratorValue {
    output: Output,
    /// Channel, row, column; without it the mean of all is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<[usize; 3]>,
    wanted: f32,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    Image,
    Mask,
}

/// Runs a generator with crops of `side` pixels on its golden input and gives the text of its golden file: the mean
/// and the middle pixel of the image and of the mask.
///
/// # Errors
/// [`Error::NotFinite`] when the network gives no numbers; the engine's and the place's own.
pub fn record_generator<K: Kernels>(
    kernels: &mut K,
    engine: &mut dyn Engine<K>,
    side: usize,
    provenance: &str,
) -> Result<String> {
    let outputs = run(kernels, engine, &generator_input(side))?;
    let mut recorded = Vec::new();
    for (output, values) in [Output::Image, Output::Mask].into_iter().zip(&outputs) {
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::NotFinite {
                network: generator::NETWORK,
                tensor: "its golden output",
            });
        }
        let plane = side * side;
        let middle = side / 2;
        for (channel, values) in values.chunks_exact(plane).enumerate() {
            recorded.push(GeneratorValue {
                output,
                at: Some([channel, middle, middle]),
                wanted: Probe::At(middle * side + middle).of(values),
            });
        }
        recorded.push(GeneratorValue {
            output,
            at: None,
            wanted: Probe::Mean.of(values),
        });
    }
    let values = GeneratorValues {
        provenance: provenance.into(),
        side,
        tolerance: 1e-3,
        value: recorded,
    };
    toml::to_string(&values).map_err(|error| Error::Manifest {
        file: "the generator's golden values".into(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use kernels::cpu::{Cpu, Tensor};

    use super::*;
    use crate::testing::Scripted;

    #[test]
    fn another_number_is_refused() {
        let golden = Golden::embedding();
        let right = |at: usize| match at {
            0 => -0.055_63,
            1 => 0.093_60,
            2 => 0.070_59,
            3 => -0.040_38,
            127 => -0.023_47,
            _ => 0.0,
        };
        // The rest of the length in one number that is not looked at.
        let rest = (1.344_27f32.powi(2) - (0..128).map(|i| right(i) * right(i)).sum::<f32>()).sqrt();
        struct Case {
            at: usize,
            error: f32,
            refused: Option<&'static str>,
        }
        let cases = [
            Case {
                at: 0,
                error: 0.0,
                refused: None,
            },
            Case {
                at: 3,
                error: 1e-4,
                refused: None,
            },
            Case {
                at: 3,
                error: 1e-3,
                refused: Some("number 3"),
            },
            Case {
                at: 64,
                error: 0.1,
                refused: Some("the length"),
            },
            Case {
                at: 127,
                error: f32::NAN,
                refused: Some("number 127"),
            },
        ];
        for Case { at, error, refused } in cases {
            let mut engine = Scripted(|inputs: &[&Tensor], outputs: &mut [Tensor]| {
                assert_eq!(inputs[0].data()[150 + 1], 8.0);
                let values = outputs[0].data_mut();
                values
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, value)| *value = right(i));
                values[64] = rest;
                values[at] += error;
            });
            match admit(&mut Cpu::default(), &mut engine, &golden) {
                Ok(()) => assert_eq!(refused, None),
                Err(Error::Golden { tensor, .. }) => assert_eq!(Some(tensor.as_str()), refused),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_recorded_generator_is_admitted_and_another_is_not() {
        let engine = |shift: f32| {
            Scripted(move |inputs: &[&Tensor], outputs: &mut [Tensor]| {
                outputs[0].data_mut().copy_from_slice(inputs[0].data());
                outputs[1].data_mut().fill(0.5 + shift);
            })
        };
        let mut kernels = Cpu::default();
        let text = record_generator(&mut kernels, &mut engine(0.0), 32, "made up").unwrap();
        let golden = Golden::generator_from(&text, "g.toml").unwrap();
        assert_eq!(golden.side(), 32);
        admit(&mut kernels, &mut engine(0.0), &golden).unwrap();
        let error = admit(&mut kernels, &mut engine(0.01), &golden)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("generator: the mask's channel 0 at row 16, column 16 gives 0.51"),
            "{error}"
        );
        assert!(record_generator(&mut kernels, &mut engine(f32::NAN), 32, "broken").is_err());
    }

    #[test]
    fn golden_files() {
        assert_eq!(Golden::generator().unwrap().side(), 128);
        let good =
            "provenance='p'\nside=32\ntolerance=0.001\n[[value]]\noutput='mask'\nat=[0,1,2]\nwanted=0.5\n";
        Golden::generator_from(good, "g.toml").unwrap();
        for (from, to, reason) in [
            ("0.001", "1.0", "tolerance below 0.1"),
            ("0.001", "nan", "tolerance below 0.1"),
            ("side=32", "side=100000", "side of 1 to 1024"),
            ("[0,1,2]", "[1,1,2]", "lies outside of the Mask"),
            ("[0,1,2]", "[0,32,2]", "lies outside of the Mask"),
            ("wanted", "expected", "unknown field"),
            ("'mask'", "'face'", "unknown variant"),
        ] {
            let error = Golden::generator_from(&good.replace(from, to), "g.toml")
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("g.toml: ") && error.contains(reason), "{error}");
        }
    }
}
