//! The 68 landmarks of a face: face-api's FaceLandmark68Net.

use kernels::{Kernels, LANDMARKS, Landmarks, Point, Rect, Similarity, Values};

use crate::{Engine, Error, Result, Signature};

const NETWORK: &str = "landmarks";
/// Side of the input in pixels.
const SIDE: usize = 112;
/// The crop's side over the larger side of the face's box: what the agreement in docs/networks.md was measured with.
const CROP: f32 = 1.1;

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
    points: [K::Tensor; 1],
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
            points: [kernels.tensor([max_faces, 2 * LANDMARKS, 1, 1])?],
            aligns: Vec::with_capacity(max_faces),
        })
    }

    /// Fills `landmarks` with the landmarks of every box, in frame pixels; whatever it held before is gone.
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
        for (run, boxes) in boxes.chunks(self.max_faces).enumerate() {
            self.aligns.clear();
            for (i, rect) in boxes.iter().enumerate() {
                let align = Similarity::of_square(&rect.scaled(CROP)).filter(is_finite);
                let index = run * self.max_faces + i;
                self.aligns.push(align.ok_or(Error::Face {
                    network: NETWORK,
                    index,
                })?);
            }
            kernels.resize_batch(&mut self.crops, boxes.len())?;
            kernels.resize_batch(&mut self.points[0], boxes.len())?;
            kernels.warp(frame, &self.aligns, Values::Byte, &mut self.crops)?;
            self.engine.run(&[&self.crops], &mut self.points)?;
            let values = kernels.read(&mut self.points[0])?;
            for (align, values) in self.aligns.iter().zip(values.chunks_exact(2 * LANDMARKS)) {
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
