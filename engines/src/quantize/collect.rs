//! Samples out of frames, by letting the networks do their work and keeping what each is given.

use std::sync::{Arc, Mutex, PoisonError};

use kernels::cpu::{Cpu, Tensor};
use kernels::{Frame, MEAN_FACE, Point, Rect, Similarity};

use super::Sample;
use super::accuracy::Samples;
use crate::cpu::Runtime;
use crate::detector::THRESHOLD;
use crate::models::{Network, Store};
use crate::{
    Detection, Detector, Embedder, Engine, Generator, Golden, InputSize, Landmarker, Result, Signature,
};
use crate::{detector, embedding, generator, golden, landmarks};

/// The longer side of the detector's input in pixels; smaller frames are taken as they are.
const LONGER_SIDE: usize = 416;
/// How sure the detector must be that a face is there.
const SURE: f32 = 0.5;
/// Most faces of one frame that are kept: a crowd must not outweigh everything else.
const FACES: usize = 8;

type Kept = Arc<Mutex<Vec<Sample>>>;

/// Runs the networks in FP32 over frames and keeps their inputs.
pub struct Collector {
    kernels: Cpu,
    detector: Detector<Cpu>,
    landmarker: Landmarker<Cpu>,
    embedder: Embedder<Cpu>,
    generator: Generator<Cpu>,
    kept: [(Network, Kept); 4],
    faces: Vec<Vec<Rect>>,
    points: Vec<[Point; 5]>,
}

impl Collector {
    /// Loads the networks of a store, admitted by their golden values.
    ///
    /// # Errors
    /// As [`crate::networks_on_cpu`].
    pub fn new(store: &Store, runtime: &Runtime) -> Result<Self> {
        let mut kernels = Cpu::default();
        let golden = Golden::generator()?;
        let side = golden.side();
        let mut kept = Vec::new();
        let mut recording = |network, signature: Signature, golden: &Golden| {
            let mut engine = runtime.engine(&store.load(network)?, &signature)?;
            golden::admit(&mut Cpu::default(), engine.as_mut(), golden)?;
            let samples = Kept::default();
            kept.push(samples.clone());
            Ok::<_, crate::Error>(Box::new(Recording {
                engine,
                signature,
                kept: samples,
            }))
        };
        let detector = recording(Network::Detector, detector::signature(), &Golden::detector())?;
        let landmarks = recording(Network::Landmarks, landmarks::signature(), &Golden::landmarks())?;
        let embedding = recording(Network::Embedding, embedding::signature(), &Golden::embedding())?;
        let generator = recording(Network::Generator, generator::signature(side), &golden)?;
        let of = |index: usize| kept.get(index).cloned().unwrap_or_default();
        let kept = [
            (Network::Detector, of(0)),
            (Network::Landmarks, of(1)),
            (Network::Embedding, of(2)),
            (Network::Generator, of(3)),
        ];
        let largest = InputSize::covering(2 * LONGER_SIDE, 2 * LONGER_SIDE);
        Ok(Self {
            detector: Detector::new(&mut kernels, detector, largest)?,
            landmarker: Landmarker::new(&mut kernels, landmarks, FACES)?,
            embedder: Embedder::new(&mut kernels, embedding, FACES)?,
            generator: Generator::new(&mut kernels, generator, side, FACES)?,
            kernels,
            kept,
            faces: Vec::new(),
            points: Vec::new(),
        })
    }

    /// Looks for faces in a frame, in twice the resolution first, then as the samples will have it; locates their
    /// landmarks, embeds and replaces them, without changing the frame. Gives the number of faces used.
    ///
    /// # Errors
    /// The networks' own.
    pub fn add(&mut self, frame: &Frame<'_>) -> Result<usize> {
        let (width, height) = (frame.width(), frame.height());
        let whole = Rect::new(0.0, 0.0, width as f32, height as f32);
        let scale = (LONGER_SIDE as f32 / width.max(height) as f32).min(1.0);
        let side = |pixels: usize| (pixels as f32 * scale).round() as usize;
        let coarse = InputSize::covering(side(width), side(height));
        let fine = InputSize::covering(2 * coarse.width, 2 * coarse.height);
        let mut found: Vec<Detection> = Vec::new();
        let kernels = &mut self.kernels;
        self.detector
            .detect(kernels, frame, whole, fine, SURE, &mut found)?;
        drop(lock(&self.kept[0].1).pop());
        let part = |face: &Detection| {
            let Rect {
                x,
                y,
                width: w,
                height: h,
            } = face.rect;
            let (width, height) = (whole.width, whole.height);
            Rect::new(x / width, y / height, w / width, h / height)
        };
        self.faces.push(found.iter().map(part).collect());
        found.clear();
        self.detector
            .detect(kernels, frame, whole, coarse, THRESHOLD, &mut found)?;
        found.truncate(FACES);
        let boxes: Vec<Rect> = found.iter().map(|face| face.rect).collect();
        let in_crop = |face: &Detection| {
            let crop = Similarity::of_square(&face.rect.scaled(landmarks::CROP))?;
            Some(face.points.map(|point| crop.apply(point)))
        };
        self.points.extend(found.iter().filter_map(in_crop));
        let mut located = Vec::new();
        self.landmarker.locate(kernels, frame, &boxes, &mut located)?;
        let aligns: Vec<Similarity> = located
            .iter()
            .filter_map(|points| Similarity::estimate(points, &MEAN_FACE))
            .collect();
        let mut targets = Vec::new();
        self.embedder.embed(kernels, frame, &aligns, &mut targets)?;
        self.generator.generate(kernels, frame, &aligns, &targets)?;
        Ok(aligns.len())
    }

    /// What was kept for a network. Of more than `most` samples, evenly spaced ones.
    pub fn samples(&self, network: Network, most: usize) -> Samples {
        let kept = self.kept.iter().find(|(kind, _)| *kind == network);
        let inputs = kept.map_or_else(Vec::new, |(_, kept)| lock(kept).clone());
        let (mut faces, mut points) = (Vec::new(), Vec::new());
        match network {
            Network::Detector => faces.clone_from(&self.faces),
            Network::Landmarks => points.clone_from(&self.points),
            Network::Embedding | Network::Generator => {}
        }
        let samples = Samples {
            inputs,
            faces,
            points,
        };
        samples.thinned(most)
    }
}

fn lock(kept: &Kept) -> std::sync::MutexGuard<'_, Vec<Sample>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine that keeps what it is given, one sample per entry of the batch.
struct Recording {
    engine: Box<dyn Engine<Cpu>>,
    signature: Signature,
    kept: Kept,
}

impl Engine<Cpu> for Recording {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
        let entries = inputs.first().map_or(0, |tensor| tensor.shape()[0]);
        let samples = (0..entries).map(|entry| {
            let input = |(tensor, port): (&&Tensor, &crate::Port)| {
                let mut shape = tensor.shape()[..port.dims.len().min(4)].to_vec();
                shape[0] = 1;
                (shape, tensor.entry(entry).to_vec())
            };
            inputs.iter().zip(&self.signature.inputs).map(input).collect()
        });
        lock(&self.kept).extend(samples);
        self.engine.run(inputs, outputs)
    }
}

#[cfg(test)]
mod tests {
    use kernels::Kernels;

    use super::*;
    use crate::testing::Scripted;

    #[test]
    fn every_entry_is_a_sample_in_the_networks_own_rank() {
        let mut kernels = Cpu::default();
        let kept = Kept::default();
        let mut engine = Recording {
            engine: Box::new(Scripted(|_: &[&Tensor], _: &mut [Tensor]| {})),
            signature: Signature::new("two inputs")
                .input("face", &[None, Some(3), Some(2), Some(2)])
                .input("target", &[None, Some(4)]),
            kept: kept.clone(),
        };
        let mut face = kernels.tensor([2, 3, 2, 2]).unwrap();
        let mut target = kernels.tensor([2, 4, 1, 1]).unwrap();
        face.entry_mut(1).fill(1.0);
        target.entry_mut(1).fill(2.0);
        engine.run(&[&face, &target], &mut []).unwrap();
        let wanted: Vec<Sample> = [(0.0, 0.0), (1.0, 2.0)]
            .map(|(face, target)| vec![(vec![1, 3, 2, 2], vec![face; 12]), (vec![1, 4], vec![target; 4])])
            .into();
        assert_eq!(*lock(&kept), wanted);
    }
}
