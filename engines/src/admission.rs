//! Whether a network in another precision, on another device, may stand in for the same network in FP32 on the CPU.
//!
//! Golden values ([`crate::golden`]) say that a network is the right one; they are too narrow for a precision that rounds.
//! So the network is run on the very device, on drawn faces, and all of its outputs are compared with those of ONNX Runtime
//! in FP32, which passed the golden values before: as the network's role needs it, against the floors of [`Closeness`].
//! One that is not close enough is refused, and whatever it was to decide stays covered.
//!
//! Drawings are not people: this finds a wrong kernel, a broken plan, an overflow, a scale that does not fit. What a
//! precision costs on pictures of people is measured apart from the device (docs/networks.md).

use std::fmt;

use kernels::cpu::Cpu;
use kernels::{Kernels, Rect};

use crate::detector::{STRIDE, THRESHOLD};
use crate::distance::{cosine, displacement, eyes, points, psnr};
use crate::embedding::EMBEDDING;
use crate::models::Network;
use crate::{Engine, Error, Result, drawing};

/// Faces that a network is compared on.
const FACES: usize = 16;
/// Entries per run: each profile of a plan is used.
const BATCHES: [usize; 3] = [1, 3, 12];
/// Detector inputs, rows and columns: those that the pipeline uses most, and its largest.
const PICTURES: [[usize; 2]; 3] = [[192, 320], [384, 640], [480, 768]];
/// Sides of the drawings that it gets, in pixels.
const SIZES: [f32; 3] = [60.0, 90.0, 130.0];

/// How near a network's outputs are to those of FP32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Closeness {
    /// Faces in pictures.
    Detector {
        /// Faces that FP32 finds.
        faces: usize,
        /// Of these, not found in the same place.
        lost: usize,
        /// Places where only this network sees a face.
        gained: usize,
        /// Mean intersection over union of the boxes.
        iou: f64,
    },
    /// Mean distance of a landmark, in parts of the distance of the outer eye corners.
    Landmarks(f64),
    /// Mean cosine of the angle between the embeddings.
    Embedding(f64),
    /// Mean peak signal-to-noise ratio of the generated faces, and of the masks, dB.
    Generator {
        /// Of the faces.
        face: f64,
        /// Of the masks.
        mask: f64,
    },
}

impl Closeness {
    /// The floors: no face lost or made up and boxes that overlap by 0.9; landmarks within 0.3 % of the distance of the
    /// eyes; cosine 0.995; 38 dB.
    pub fn is_enough(&self) -> bool {
        match *self {
            Self::Detector {
                faces,
                lost,
                gained,
                iou,
            } => faces > 0 && lost == 0 && gained == 0 && iou >= 0.9,
            Self::Landmarks(displacement) => displacement <= 0.003,
            Self::Embedding(cosine) => cosine >= 0.995,
            Self::Generator { face, mask } => face >= 38.0 && mask >= 38.0,
        }
    }
}

impl fmt::Display for Closeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Detector {
                faces,
                lost,
                gained,
                iou,
            } => write!(
                f,
                "{lost} of {faces} faces lost, {gained} made up (wanted 0), box overlap {iou:.3} (wanted 0.9)"
            ),
            Self::Landmarks(displacement) => write!(
                f,
                "landmarks {:.3} % of the eyes' distance away (wanted at most 0.3 %)",
                100.0 * displacement
            ),
            Self::Embedding(cosine) => write!(f, "embedding cosine {cosine:.5} (wanted 0.995)"),
            Self::Generator { face, mask } => {
                write!(f, "face {face:.1} dB, mask {mask:.1} dB (wanted 38 dB)")
            }
        }
    }
}

/// Inputs and output shapes of one run.
struct Run {
    inputs: Vec<([usize; 4], Vec<f32>)>,
    outputs: Vec<[usize; 4]>,
}

/// The runs of a network over drawn faces, `side` is that of the generator's crop.
fn runs(network: Network, side: usize) -> Vec<Run> {
    if network == Network::Detector {
        let run = |number: usize| {
            let [rows, columns] = PICTURES[number % PICTURES.len()];
            let size = SIZES[number / PICTURES.len() % SIZES.len()] / rows as f32;
            Run {
                inputs: vec![([1, 3, rows, columns], drawing::face(rows, columns, size, number))],
                outputs: [1, 2, 2, 10]
                    .map(|channels| [1, channels, rows / STRIDE, columns / STRIDE])
                    .into(),
            }
        };
        return (0..FACES).map(run).collect();
    }
    // How large a face the role's crop holds, and the range of its numbers.
    let (side, size) = match network {
        Network::Landmarks => (112, 1.2),
        Network::Embedding => (150, 1.3),
        _ => (side, 1.3),
    };
    let run = |(first, count): (usize, usize)| {
        let faces: Vec<f32> = (first..first + count)
            .flat_map(|number| drawing::face(side, side, size, number))
            .collect();
        let shape = [count, 3, side, side];
        let vector = |length| vec![[count, length, 1, 1]];
        match network {
            Network::Generator => {
                let signed = faces.iter().map(|value| value / 127.5 - 1.0).collect();
                let targets = (first..first + count).flat_map(target).collect();
                Run {
                    inputs: vec![(shape, signed), ([count, EMBEDDING, 1, 1], targets)],
                    outputs: vec![shape, [count, 1, side, side]],
                }
            }
            Network::Landmarks => Run {
                inputs: vec![(shape, faces)],
                outputs: vector(2 * kernels::LANDMARKS),
            },
            _ => Run {
                inputs: vec![(shape, faces)],
                outputs: vector(EMBEDDING),
            },
        }
    };
    let firsts = BATCHES.iter().scan(0, |next, count| {
        let first = *next;
        *next += count;
        Some((first, *count))
    });
    firsts.map(run).collect()
}

/// A direction of length 1, another one for each number.
fn target(number: usize) -> Vec<f32> {
    let values: Vec<f64> = (0..EMBEDDING)
        .map(|i| (i as f64 * (1.0 + 0.37 * number as f64)).sin())
        .collect();
    let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    values.iter().map(|v| (v / length) as f32).collect()
}

fn outputs<K: Kernels>(kernels: &mut K, engine: &mut dyn Engine<K>, run: &Run) -> Result<Vec<Vec<f32>>> {
    let mut inputs = Vec::with_capacity(run.inputs.len());
    for (shape, values) in &run.inputs {
        let mut tensor = kernels.tensor(*shape)?;
        for (entry, values) in values.chunks_exact(values.len() / shape[0]).enumerate() {
            kernels.write(&mut tensor, entry, values)?;
        }
        inputs.push(tensor);
    }
    let mut tensors = Vec::with_capacity(run.outputs.len());
    for shape in &run.outputs {
        tensors.push(kernels.tensor(*shape)?);
    }
    engine.run(&inputs.iter().collect::<Vec<_>>(), &mut tensors)?;
    let read = |tensor: &mut K::Tensor| Ok(kernels.read(tensor)?.to_vec());
    tensors.iter_mut().map(read).collect()
}

/// Runs both engines on the same drawn faces and compares. `side` is that of the generator's crop.
///
/// # Errors
/// The engines' and the places' own.
pub fn compare<K: Kernels>(
    network: Network,
    side: usize,
    kernels: &mut K,
    engine: &mut dyn Engine<K>,
    reference: &mut dyn Engine<Cpu>,
) -> Result<Closeness> {
    let (mut faces, mut lost, mut gained) = (0, 0, 0);
    let mut each = [const { Vec::new() }; 2];
    let mut cpu = Cpu::default();
    for run in runs(network, side) {
        let wanted = outputs(&mut cpu, reference, &run)?;
        let got = outputs(kernels, engine, &run)?;
        let entries = run.outputs[0][0];
        let pairs = |output: usize| {
            let length = wanted[output].len() / entries;
            wanted[output]
                .chunks_exact(length)
                .zip(got[output].chunks_exact(length))
        };
        match network {
            Network::Detector => {
                let columns = run.outputs[0][3];
                let maps = |outputs: &[Vec<f32>]| Face::best(outputs, columns);
                let Some(face) = maps(&wanted) else { continue };
                faces += 1;
                match maps(&got).filter(|other| other.cell_distance(&face) <= 1) {
                    Some(other) => each[0].push(f64::from(face.rect.iou(&other.rect))),
                    None => lost += 1,
                }
                let is_made_up = |(wanted, got): (&f32, &f32)| {
                    (got.is_nan() || *got >= THRESHOLD) && *wanted < 0.5 * THRESHOLD
                };
                gained += usize::from(wanted[0].iter().zip(&got[0]).any(is_made_up));
            }
            Network::Landmarks => {
                each[0].extend(
                    pairs(0).map(|(wanted, got)| displacement(points(wanted), points(got)) / eyes(wanted)),
                );
            }
            Network::Embedding => each[0].extend(pairs(0).map(|(wanted, got)| cosine(wanted, got))),
            Network::Generator => {
                each[0].extend(pairs(0).map(|(wanted, got)| psnr(wanted, got, 2.0)));
                each[1].extend(pairs(1).map(|(wanted, got)| psnr(wanted, got, 1.0)));
            }
        }
    }
    let [first, second] = each.map(|each| each.iter().sum::<f64>() / each.len() as f64);
    Ok(match network {
        Network::Detector => Closeness::Detector {
            faces,
            lost,
            gained,
            iou: first,
        },
        Network::Landmarks => Closeness::Landmarks(first),
        Network::Embedding => Closeness::Embedding(first),
        Network::Generator => Closeness::Generator {
            face: first,
            mask: second,
        },
    })
}

/// [`compare`], and refuses what is not close enough. A number that is not finite is never close.
///
/// # Errors
/// [`Error::NotAdmitted`] with what was found and what was wanted; the engines' and the places' own.
pub fn admit<K: Kernels>(
    network: Network,
    side: usize,
    kernels: &mut K,
    engine: &mut dyn Engine<K>,
    reference: &mut dyn Engine<Cpu>,
) -> Result<Closeness> {
    let closeness = compare(network, side, kernels, engine, reference)?;
    if closeness.is_enough() {
        return Ok(closeness);
    }
    Err(Error::NotAdmitted {
        network: network.to_string(),
        reason: closeness.to_string(),
    })
}

/// The face that the detector is most sure of.
struct Face {
    cell: [usize; 2],
    rect: Rect,
}

impl Face {
    /// From the detector's maps: score, log size, offset (CenterFace, section 3).
    fn best(maps: &[Vec<f32>], columns: usize) -> Option<Self> {
        let (heat, size, offset) = (&maps[0], &maps[1], &maps[2]);
        let best = (0..heat.len()).max_by(|a, b| heat[*a].total_cmp(&heat[*b]))?;
        // Not a number sorts above all numbers, and is no face.
        if !heat[best].is_finite() || heat[best] < THRESHOLD {
            return None;
        }
        let cell = [best % columns, best / columns];
        let [height, width] = [size[best], size[heat.len() + best]].map(|log| STRIDE as f32 * log.exp());
        let [y, x] = [offset[best], offset[heat.len() + best]];
        let middle = [cell[0] as f32 + x + 0.5, cell[1] as f32 + y + 0.5].map(|at| at * STRIDE as f32);
        let rect = Rect::new(middle[0] - 0.5 * width, middle[1] - 0.5 * height, width, height);
        Some(Self { cell, rect })
    }

    fn cell_distance(&self, other: &Self) -> usize {
        self.cell[0]
            .abs_diff(other.cell[0])
            .max(self.cell[1].abs_diff(other.cell[1]))
    }
}
