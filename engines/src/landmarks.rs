//! The 68 landmarks of a face: face-api's FaceLandmark68Net.

use kernels::{Kernels, LANDMARKS, Landmarks, Point, Pool, Rect, Similarity, Values};

use crate::{Engine, Error, Result, Signature};

pub(crate) const NETWORK: &str = "landmarks";
/// Side of the input in pixels.
const SIDE: usize = 112;
/// The crop's side over the larger side of the face's box: what the agreement in docs/networks.md was measured with.
pub(crate) const CROP: f32 = 1.1;

/// What the ONNX file must look like: RGB in [`Values::Byte`] in; 68 points as `x, y` in crop fractions out.
pub fn signature() -> Signature {
    Signature::new(NETWORK)
        .input("rgb255", &[None, Some(3), Some(SIDE), Some(SIDE)])
        .output("landmarks", &[None, Some(2 * LANDMARKS)])
}

/// Finds the landmarks of faces that a detector found.
pub struct Landmarker<K: Kernels> {
    engine: Box<dyn Engine<K>>,
    max_faces: usize,
    crops: K::Tensor,
    points: Pool<K>,
    aligns: Vec<Similarity>,
}

impl<K: Kernels> Landmarker<K> {
    /// Takes a loaded engine and makes the tensors for `max_faces` faces per run; more faces take several runs.
    ///
    /// # Errors
    /// The place's own when `max_faces` is 0 or memory is short.
    pub fn new(kernels: &mut K, engine: Box<dyn Engine<K>>, max_faces: usize) -> Result<Self> {
        Ok(Self {
            engine,
            max_faces,
            crops: kernels.tensor([max_faces, 3, SIDE, SIDE])?,
            points: Pool::new(kernels, [max_faces, 2 * LANDMARKS, 1, 1])?,
            aligns: Vec::with_capacity(max_faces),
        })
    }

    /// Fills `landmarks` with the landmarks of every box, in frame pixels; whatever it held before is gone. Takes one wait.
    ///
    /// # Errors
    /// [`Error::Face`] for a box without area; [`Error::NotFinite`] when the network gives no numbers; the engine's
    /// own. `landmarks` is then empty.
    pub fn locate(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        boxes: &[Rect],
        landmarks: &mut Vec<Landmarks>,
    ) -> Result<()> {
        landmarks.clear();
        let located = self.locate_all(kernels, frame, boxes, landmarks);
        if located.is_err() {
            landmarks.clear();
        }
        located
    }

    fn locate_all(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        boxes: &[Rect],
        landmarks: &mut Vec<Landmarks>,
    ) -> Result<()> {
        self.aligns.clear();
        for (index, rect) in boxes.iter().enumerate() {
            let align = Similarity::of_square(&rect.scaled(CROP)).filter(is_finite);
            self.aligns.push(align.ok_or(Error::Face {
                network: NETWORK,
                index,
            })?);
        }
        for (run, aligns) in self.aligns.chunks(self.max_faces).enumerate() {
            let points = self.points.get(kernels, run)?;
            kernels.resize_batch(&mut self.crops, aligns.len())?;
            kernels.resize_batch(&mut points[0], aligns.len())?;
            kernels.warp(frame, aligns, Values::Byte, &mut self.crops)?;
            self.engine.run(&[&self.crops], points)?;
            kernels.fetch(&mut points[0])?;
        }
        for (run, aligns) in self.aligns.chunks(self.max_faces).enumerate() {
            let [points] = self.points.get(kernels, run)?;
            let values = kernels.read(points)?;
            for (align, values) in aligns.iter().zip(values.chunks_exact(2 * LANDMARKS)) {
                let back = align.inverse();
                let mut face = [Point::default(); LANDMARKS];
                for (point, value) in face.iter_mut().zip(values.chunks_exact(2)) {
                    *point = back.apply(Point::new(value[0], value[1]));
                }
                if !face.iter().all(|p| p.x.is_finite() && p.y.is_finite()) {
                    return Err(Error::NotFinite {
                        network: NETWORK,
                        tensor: "a landmark",
                    });
                }
                landmarks.push(face);
            }
        }
        Ok(())
    }
}

fn is_finite(align: &Similarity) -> bool {
    [align.a, align.b, align.tx, align.ty]
        .iter()
        .all(|v| v.is_finite())
}

#[cfg(test)]
mod tests {
    use kernels::cpu::{Cpu, Tensor};

    use super::*;
    use crate::testing::{Scripted, grey};

    fn locate(boxes: &[Rect], value: f32) -> (Result<()>, Vec<Landmarks>, usize) {
        let mut kernels = Cpu::default();
        let (runs, counted) = std::sync::mpsc::channel();
        let engine = Scripted(move |inputs: &[&Tensor], outputs: &mut [Tensor]| {
            runs.send(inputs[0].shape()[0]).unwrap();
            assert_eq!(inputs[0].shape()[0], outputs[0].shape()[0]);
            outputs[0].data_mut().fill(value);
        });
        let mut landmarker = Landmarker::new(&mut kernels, Box::new(engine), 2).unwrap();
        let mut landmarks = vec![[Point::default(); LANDMARKS]];
        let result = grey(64, 64, |frame| {
            landmarker.locate(&mut kernels, frame, boxes, &mut landmarks)
        });
        drop(landmarker);
        (result, landmarks, counted.iter().sum())
    }

    #[test]
    fn crop_fractions_become_frame_pixels() {
        // The crop is a square of 1.1 times the larger side about the box's middle.
        let rect = Rect::new(10.0, 20.0, 10.0, 20.0);
        for (value, wanted) in [
            (0.5, Point::new(15.0, 30.0)),
            (0.0, Point::new(4.0, 19.0)),
            (1.0, Point::new(26.0, 41.0)),
        ] {
            let (result, landmarks, _) = locate(&[rect], value);
            result.unwrap();
            assert!(
                landmarks[0].iter().all(|point| point.distance(wanted) < 1e-3),
                "{:?}",
                landmarks[0][0]
            );
        }
    }

    #[test]
    fn more_faces_than_one_run_holds() {
        let boxes: Vec<_> = (0..5).map(|i| Rect::new(i as f32, 0.0, 8.0, 8.0)).collect();
        let (result, landmarks, faces) = locate(&boxes, 0.5);
        result.unwrap();
        assert_eq!((landmarks.len(), faces), (5, 5));
        for (i, face) in landmarks.iter().enumerate() {
            assert!(face[67].distance(Point::new(i as f32 + 4.0, 4.0)) < 1e-3);
        }
        let (result, landmarks, faces) = locate(&[], 0.5);
        result.unwrap();
        assert_eq!((landmarks.len(), faces), (0, 0));
    }

    #[test]
    fn what_has_no_answer_is_an_error_and_leaves_nothing() {
        let good = Rect::new(0.0, 0.0, 8.0, 8.0);
        for (boxes, value) in [
            (vec![good, good, Rect::default()], 0.5),
            (vec![Rect::new(f32::NAN, 0.0, 8.0, 8.0)], 0.5),
            (vec![good], f32::NAN),
            (vec![good], f32::INFINITY),
        ] {
            let (result, landmarks, _) = locate(&boxes, value);
            assert!(
                matches!(result, Err(Error::Face { .. } | Error::NotFinite { .. })),
                "{result:?}"
            );
            assert!(landmarks.is_empty());
        }
    }
}
