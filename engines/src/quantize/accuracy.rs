//! What another precision costs, against the same network in FP32.

use std::fmt;

use kernels::{Point, Rect};

use super::Sample;
use crate::cpu::{Probe, Runtime};
use crate::detector::{self, InputSize, THRESHOLD};
use crate::distance::{cosine, displacement, eyes, points, psnr, squared};
use crate::models::Network;
use crate::{Detection, Error, Result};

/// Two boxes that overlap this much are the same face.
const SAME_FACE: f32 = 0.5;

/// Faces are measured where FP32's landmarks lie nearer than this to the detector's points on average, in parts of the
/// crop's side, and the outer eye corners farther apart than the second number: the program covers the others
/// (`app::pipeline::Trust`), and without a distance between the eyes there is nothing to measure in.
const TRUSTED: [f64; 2] = [0.11, 0.2];

/// Samples of one network, with what is known about them.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// The network's inputs.
    pub inputs: Vec<Sample>,
    /// Of the detector's: as many lists of the faces that are there, in parts of the picture's sides.
    pub faces: Vec<Vec<Rect>>,
    /// Of the landmark network's: as many times the detector's five points, in parts of the crop's side.
    pub points: Vec<[Point; 5]>,
}

impl Samples {
    /// Of more than `most` samples, evenly spaced ones.
    pub fn thinned(&self, most: usize) -> Self {
        Self {
            inputs: thin(&self.inputs, most),
            faces: thin(&self.faces, most),
            points: thin(&self.points, most),
        }
    }
}

fn thin<T: Clone>(values: &[T], most: usize) -> Vec<T> {
    let count = values.len();
    let kept = |index: &usize| count <= most || index * most / count != (index + 1) * most / count;
    (0..count)
        .filter(kept)
        .map(|index| values[index].clone())
        .collect()
}

/// How far a network is from the same network in FP32.
#[derive(Debug, Clone, PartialEq)]
pub enum Accuracy {
    /// Faces in frames, at threshold 0.35.
    Detector {
        /// Faces that are there: those that FP32 finds with 0.5 or more in twice the resolution.
        faces: usize,
        /// Of these, found by FP32.
        reference_found: usize,
        /// Of these, found.
        found: usize,
        /// Faces that FP32 finds.
        reference: usize,
        /// Of these, not found.
        lost: usize,
        /// Found where FP32 finds nothing.
        gained: usize,
        /// Mean intersection over union of boxes that both find.
        iou: f64,
    },
    /// 68 landmarks.
    Landmarks {
        /// Faces.
        faces: usize,
        /// Further faces, whose landmarks the program does not trust in FP32 either.
        left_out: usize,
        /// Normalized mean error of FP32: mean distance from the detector's five points, in parts of the distance of
        /// the outer eye corners.
        reference_error: f64,
        /// The same of this precision.
        error: f64,
        /// Mean distance of a landmark from where FP32 sees it, in the same parts: the mean over faces.
        displacement: f64,
        /// The worst face's.
        worst: f64,
    },
    /// Identity.
    Embedding {
        /// Faces.
        faces: usize,
        /// Mean cosine of the angle to FP32's embedding.
        cosine: f64,
        /// The least.
        worst: f64,
        /// Mean Euclidean distance to FP32's embedding; two persons are 0.8 apart.
        distance: f64,
    },
    /// Another face.
    Generator {
        /// Faces.
        faces: usize,
        /// Mean of the faces' peak signal-to-noise ratios, dB.
        psnr: f64,
        /// The least.
        worst: f64,
        /// The mean of the masks'.
        mask: f64,
    },
}

impl Accuracy {
    /// Whether it is as near to FP32 as a network must be that is to replace it: recall lower by at most 0.5 points and
    /// boxes that overlap by 0.9; the landmarks' normalized mean error changed by at most 0.3 % of the eyes' distance;
    /// cosine 0.995; 38 dB.
    pub fn is_enough(&self) -> bool {
        match *self {
            Self::Detector { iou, .. } => self.recall_loss() <= 0.005 && iou >= 0.9,
            Self::Landmarks {
                faces,
                reference_error,
                error,
                ..
            } => faces > 0 && (error - reference_error).abs() <= 0.003,
            Self::Embedding { cosine, .. } => cosine >= 0.995,
            Self::Generator { psnr, .. } => psnr >= 38.0,
        }
    }

    /// Whether it is as near as it should be, with room for other pictures than these: what a recipe is made to reach.
    pub fn is_good(&self) -> bool {
        match *self {
            Self::Detector {
                reference, lost, iou, ..
            } => self.recall_loss() <= 0.0 && lost as f64 <= 0.01 * reference as f64 && iou >= 0.965,
            Self::Landmarks { displacement, .. } => self.is_enough() && displacement <= 0.003,
            Self::Embedding { cosine, .. } => cosine >= 0.998,
            Self::Generator { psnr, .. } => psnr >= 40.5,
        }
    }

    /// How much lower recall is than in FP32, 0 to 1; negative when it is higher. Of other networks 0.
    pub fn recall_loss(&self) -> f64 {
        match *self {
            Self::Detector {
                faces,
                reference_found,
                found,
                ..
            } => (reference_found as f64 - found as f64) / faces.max(1) as f64,
            _ => 0.0,
        }
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Detector {
                faces,
                reference_found,
                found,
                reference,
                lost,
                gained,
                iou,
            } => write!(
                f,
                "recall {:.2} % of {faces} (FP32 {:.2} %), box IoU {iou:.3}; of FP32's {reference} faces {lost} lost, {gained} gained",
                100.0 * found as f64 / faces.max(1) as f64,
                100.0 * reference_found as f64 / faces.max(1) as f64,
            ),
            Self::Landmarks {
                faces,
                left_out,
                reference_error,
                error,
                displacement,
                worst,
            } => write!(
                f,
                "NME {:.3} % (FP32 {:.3} %); displacement {:.3} %, worst of {faces} {:.2} %; {left_out} untrusted left out",
                100.0 * error,
                100.0 * reference_error,
                100.0 * displacement,
                100.0 * worst
            ),
            Self::Embedding {
                faces,
                cosine,
                worst,
                distance,
            } => write!(
                f,
                "cosine {cosine:.5}, worst of {faces} {worst:.5}, distance {distance:.4}"
            ),
            Self::Generator {
                faces,
                psnr,
                worst,
                mask,
            } => write!(
                f,
                "PSNR {psnr:.1} dB, worst of {faces} {worst:.1} dB, mask {mask:.1} dB"
            ),
        }
    }
}

/// The outputs of a network for every sample, in the file's order.
pub struct Reference {
    network: Network,
    outputs: Vec<Vec<Vec<f32>>>,
}

impl Reference {
    /// Runs the FP32 network, exactly as written, on every sample.
    ///
    /// # Errors
    /// [`Error::Quantize`] without samples; the runtime's own.
    pub fn run(runtime: &Runtime, network: Network, onnx: &[u8], samples: &Samples) -> Result<Self> {
        if samples.inputs.is_empty() {
            return Err(Error::Quantize {
                network: format!("{network:?}").to_lowercase(),
                reason: "there is nothing to measure on: no face was found in the pictures".into(),
            });
        }
        Ok(Self {
            network,
            outputs: outputs(runtime, network, onnx, samples)?,
        })
    }

    /// Runs a network in another precision on the same samples and compares.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the detector gives no numbers; the runtime's own.
    pub fn compare(&self, runtime: &Runtime, onnx: &[u8], samples: &Samples) -> Result<Accuracy> {
        let got = outputs(runtime, self.network, onnx, samples)?;
        let pairs = || self.outputs.iter().zip(&got);
        let faces = self.outputs.len();
        Ok(match self.network {
            Network::Detector => compare_detections(samples, pairs())?,
            Network::Landmarks => compare_landmarks(samples, pairs()),
            Network::Embedding => {
                let cosines: Vec<f64> = pairs().map(|(a, b)| cosine(&a[0], &b[0])).collect();
                let distances: Vec<f64> = pairs().map(|(a, b)| squared(&a[0], &b[0]).sqrt()).collect();
                Accuracy::Embedding {
                    faces,
                    cosine: mean(&cosines),
                    worst: least(&cosines),
                    distance: mean(&distances),
                }
            }
            Network::Generator => {
                let ratios = |output: usize, peak: f64| -> Vec<f64> {
                    pairs().map(|(a, b)| psnr(&a[output], &b[output], peak)).collect()
                };
                let images = ratios(0, 2.0);
                Accuracy::Generator {
                    faces,
                    psnr: mean(&images),
                    worst: least(&images),
                    mask: mean(&ratios(1, 1.0)),
                }
            }
        })
    }

    /// The energy of what a precision adds to the outputs, in parts of the outputs' own, summed over the outputs: what
    /// [`super::sensitivity::rank`] compares layers by. The detector's outputs other than the heat map mean something
    /// where there is a face only, so they count by the heat.
    ///
    /// # Errors
    /// The runtime's own.
    pub fn noise(&self, runtime: &Runtime, onnx: &[u8], samples: &Samples) -> Result<f64> {
        let got = outputs(runtime, self.network, onnx, samples)?;
        let count = self.outputs.first().map_or(0, Vec::len);
        let share = |output: usize| {
            let (mut noise, mut sum, mut square, mut total) = (0.0, 0.0, 0.0, 0.0);
            for (a, b) in self.outputs.iter().zip(&got) {
                let heat = (self.network == Network::Detector && output > 0).then_some(&a[0]);
                for (index, (a, b)) in a[output].iter().zip(&b[output]).enumerate() {
                    let weight = heat.map_or(1.0, |heat| f64::from(heat[index % heat.len()]));
                    let (a, b) = (f64::from(*a), f64::from(*b));
                    noise += weight * (a - b).powi(2);
                    sum += weight * a;
                    square += weight * a * a;
                    total += weight;
                }
            }
            noise / (square - sum * sum / total).max(f64::MIN_POSITIVE)
        };
        Ok((0..count).map(share).sum())
    }
}

fn outputs(
    runtime: &Runtime,
    network: Network,
    onnx: &[u8],
    samples: &Samples,
) -> Result<Vec<Vec<Vec<f32>>>> {
    let name = format!("{network:?}").to_lowercase();
    let wanted = match network {
        Network::Detector => 4,
        Network::Landmarks | Network::Embedding => 1,
        Network::Generator => 2,
    };
    let mut probe: Probe = runtime.probe(onnx, &name)?;
    let run = |sample: &Sample| {
        let mut outputs = Vec::new();
        probe.run(sample, |_, _, numbers| outputs.push(numbers.to_vec()))?;
        if outputs.len() == wanted {
            return Ok(outputs);
        }
        Err(Error::Signature {
            network: name.clone(),
            tensor: "its list of outputs".into(),
            wanted: format!("{wanted} outputs"),
            got: format!("{} outputs", outputs.len()),
        })
    };
    samples.inputs.iter().map(run).collect()
}

fn compare_detections<'a>(
    samples: &Samples,
    pairs: impl Iterator<Item = (&'a Vec<Vec<f32>>, &'a Vec<Vec<f32>>)>,
) -> Result<Accuracy> {
    let (mut faces, mut reference_found, mut found) = (0, 0, 0);
    let (mut reference, mut lost, mut gained) = (0, 0, 0);
    let mut overlaps = Vec::new();
    for (index, (a, b)) in pairs.enumerate() {
        let shape = &samples.inputs[index][0].0;
        let (a, b) = (detections(shape, a)?, detections(shape, b)?);
        for face in samples.faces.get(index).into_iter().flatten() {
            faces += 1;
            reference_found += usize::from(best(face, &a) >= SAME_FACE);
            found += usize::from(best(face, &b) >= SAME_FACE);
        }
        for detection in &a {
            reference += 1;
            match best(&detection.rect, &b) {
                overlap if overlap >= SAME_FACE => overlaps.push(f64::from(overlap)),
                _ => lost += 1,
            }
        }
        gained += b
            .iter()
            .filter(|detection| best(&detection.rect, &a) < SAME_FACE)
            .count();
    }
    Ok(Accuracy::Detector {
        faces,
        reference_found,
        found,
        reference,
        lost,
        gained,
        iou: mean(&overlaps),
    })
}

fn compare_landmarks<'a>(
    samples: &Samples,
    pairs: impl Iterator<Item = (&'a Vec<Vec<f32>>, &'a Vec<Vec<f32>>)>,
) -> Accuracy {
    let (mut reference_errors, mut errors, mut displacements) = (Vec::new(), Vec::new(), Vec::new());
    let mut left_out = 0;
    for ((a, b), five) in pairs.zip(&samples.points) {
        let (a, b) = (&a[0], &b[0]);
        let wanted = five.map(|point| [point.x, point.y]);
        let (apart, eyes) = (displacement(&wanted, &five_of(a)), eyes(a));
        if !(apart <= TRUSTED[0] && eyes >= TRUSTED[1]) {
            left_out += 1;
            continue;
        }
        reference_errors.push(apart / eyes);
        // By FP32's distance of the eyes too, so that only the points make a difference.
        errors.push(displacement(&wanted, &five_of(b)) / eyes);
        displacements.push(displacement(points(a), points(b)) / eyes);
    }
    Accuracy::Landmarks {
        faces: errors.len(),
        left_out,
        reference_error: mean(&reference_errors),
        error: mean(&errors),
        displacement: mean(&displacements),
        worst: displacements.iter().copied().fold(0.0, f64::max),
    }
}

/// Faces in parts of the input's sides.
fn detections(shape: &[usize], outputs: &[Vec<f32>]) -> Result<Vec<Detection>> {
    let ([_, _, height, width], [heat, size, offset, points]) = (shape, outputs) else {
        return Ok(Vec::new());
    };
    let input = InputSize {
        width: *width,
        height: *height,
    };
    let mut found = Vec::new();
    let unit = Rect::new(0.0, 0.0, 1.0, 1.0);
    detector::decode([heat, size, offset, points], unit, input, THRESHOLD, &mut found)?;
    Ok(found)
}

/// How much the best of the detections overlaps a face.
fn best(face: &Rect, detections: &[Detection]) -> f32 {
    detections
        .iter()
        .map(|detection| detection.rect.iou(face))
        .fold(0.0, f32::max)
}

/// The detector's five points out of 68: eyes, tip of the nose, corners of the mouth.
fn five_of(landmarks: &[f32]) -> [[f32; 2]; 5] {
    let points = points(landmarks);
    let middle = |range: std::ops::Range<usize>| {
        let chosen = points.get(range).unwrap_or_default();
        [0, 1].map(|axis| chosen.iter().map(|point| point[axis]).sum::<f32>() / chosen.len() as f32)
    };
    [
        middle(36..42),
        middle(42..48),
        middle(30..31),
        middle(48..49),
        middle(54..55),
    ]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_points_of_68() {
        let mut face = vec![0.5f32; 136];
        face[2 * 36] = 0.3;
        let five = five_of(&face);
        assert!((five[0][0] - (0.3 + 5.0 * 0.5) / 6.0).abs() < 1e-6);
        assert_eq!(five[2..], [[0.5; 2]; 3]);
    }

    /// Maps of a 32 x 32 input with a face of 8 x 8 pixels in each of these cells (row, column).
    fn maps(faces: &[(usize, usize)]) -> Vec<Vec<f32>> {
        const CELLS: usize = 64;
        let mut maps = vec![
            vec![0.0; CELLS],
            vec![2f32.ln(); 2 * CELLS],
            vec![0.0; 2 * CELLS],
            vec![0.5; 10 * CELLS],
        ];
        for (row, column) in faces {
            maps[0][8 * row + column] = 0.9;
        }
        maps
    }

    #[test]
    fn faces_found_lost_and_gained() {
        let samples = Samples {
            inputs: vec![vec![(vec![1, 3, 32, 32], Vec::new())]; 2],
            points: Vec::new(),
            faces: vec![
                // Around the cells (1, 1) and (5, 5), in parts of 32 pixels.
                vec![
                    Rect::new(2.0 / 32.0, 2.0 / 32.0, 0.25, 0.25),
                    Rect::new(18.0 / 32.0, 18.0 / 32.0, 0.25, 0.25),
                ],
                Vec::new(),
            ],
        };
        let reference = [maps(&[(1, 1), (5, 5)]), maps(&[(3, 3)])];
        let got = [maps(&[(1, 1)]), maps(&[(3, 3), (6, 0)])];
        let accuracy = compare_detections(&samples, reference.iter().zip(&got)).unwrap();
        let wanted = Accuracy::Detector {
            faces: 2,
            reference_found: 2,
            found: 1,
            reference: 3,
            lost: 1,
            gained: 1,
            iou: 1.0,
        };
        assert_eq!(accuracy, wanted);
        assert_eq!(accuracy.recall_loss(), 0.5);
        assert!(!accuracy.is_enough() && !accuracy.is_good());
        let same = compare_detections(&samples, reference.iter().zip(&reference)).unwrap();
        assert!(same.is_enough() && same.is_good());
        assert!(format!("{accuracy}").starts_with("recall 50.00 % of 2 (FP32 100.00 %)"));
    }

    #[test]
    fn landmarks_against_the_detectors_points() {
        // A face whose eyes are 0.4 apart, everything else in the middle.
        let mut face = vec![0.5f32; 136];
        for (points, x) in [(36..42, 0.3), (42..48, 0.7)] {
            points.for_each(|point| face[2 * point] = x);
        }
        let five = |shift: f32| [0.3, 0.7, 0.5, 0.5, 0.5].map(|x| Point::new(x + shift, 0.5));
        let moved: Vec<f32> = face.iter().map(|value| value + 0.02).collect();
        let outputs = |landmarks: &[f32]| vec![vec![landmarks.to_vec()]; 2];
        // The second face's points are too far away from what the detector saw.
        let samples = Samples {
            points: vec![five(0.04), five(0.2)],
            ..Samples::default()
        };
        let (a, b) = (outputs(&face), outputs(&moved));
        let Accuracy::Landmarks {
            faces,
            left_out,
            reference_error,
            error,
            displacement,
            worst,
        } = compare_landmarks(&samples, a.iter().zip(&b))
        else {
            panic!("not of landmarks");
        };
        assert_eq!((faces, left_out), (1, 1));
        let near = |got: f64, wanted: f64| assert!((got - wanted).abs() < 1e-5, "{got} {wanted}");
        near(reference_error, 0.04 / 0.4);
        near(error, 0.02 * 2f64.sqrt() / 0.4);
        near(displacement, 0.02 * 2f64.sqrt() / 0.4);
        near(worst, displacement);
    }

    #[test]
    fn floors() {
        let generator = |psnr| Accuracy::Generator {
            faces: 1,
            psnr,
            worst: psnr,
            mask: psnr,
        };
        for (psnr, enough) in [(38.0, true), (37.9, false), (f64::NAN, false)] {
            assert_eq!(generator(psnr).is_enough(), enough);
        }
        let landmarks = |error| Accuracy::Landmarks {
            faces: 1,
            left_out: 0,
            reference_error: 0.05,
            error,
            displacement: 0.001,
            worst: 0.001,
        };
        for (error, enough) in [(0.05, true), (0.0529, true), (0.0531, false), (0.0469, false)] {
            assert_eq!(landmarks(error).is_enough(), enough);
        }
        let embedding = |cosine| Accuracy::Embedding {
            faces: 1,
            cosine,
            worst: cosine,
            distance: 0.0,
        };
        assert!(embedding(0.995).is_enough() && !embedding(0.9949).is_enough());
    }

    #[test]
    fn thinning_is_even() {
        let numbers: Vec<usize> = (0..10).collect();
        assert_eq!(thin(&numbers, 20), numbers);
        assert_eq!(thin(&numbers, 5), [1, 3, 5, 7, 9]);
        assert_eq!(thin(&numbers, 3).len(), 3);
        assert!(thin(&numbers, 0).is_empty());
    }
}
