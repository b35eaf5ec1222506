//! Who a face is, as a vector: dlib's ResNet-34.

use kernels::{Kernels, Pool, Similarity, Values};

use crate::{Engine, Error, Result, Signature};

pub(crate) const NETWORK: &str = "embedding";
/// Side of the chip in pixels.
const SIDE: usize = 150;
/// dlib's chip is this window of the aligned crop ([`kernels::FIVE_POINT_CHIP`] against [`kernels::MEAN_FACE_5`]).
const CHIP: (f32, f32) = (0.075, 0.925);
/// Numbers in an embedding.
pub const EMBEDDING: usize = 128;

/// What the ONNX file must look like: RGB in [`Values::Byte`] in; the embedding out.
pub fn signature() -> Signature {
    Signature::new(NETWORK)
        .input("rgb255", &[None, Some(3), Some(SIDE), Some(SIDE)])
        .output("embedding", &[None, Some(EMBEDDING)])
}

/// A face's identity as dlib's network gives it. Not of unit length (about 1.4). The distance of two pictures of one
/// person is below 0.54, of two persons typically 0.75 to 0.9 (docs/networks.md).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedding(pub [f32; EMBEDDING]);

impl Embedding {
    /// Euclidean length.
    pub fn length(&self) -> f32 {
        self.0.iter().map(|v| v * v).sum::<f32>().sqrt()
    }

    /// The same direction with length 1; the zero embedding stays zero.
    pub fn unit(&self) -> Self {
        let length = self.length();
        if length > 0.0 {
            Self(self.0.map(|v| v / length))
        } else {
            *self
        }
    }

    /// Euclidean distance.
    pub fn distance(&self, other: &Self) -> f32 {
        let square: f32 = self.0.iter().zip(&other.0).map(|(a, b)| (a - b) * (a - b)).sum();
        square.sqrt()
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        self.0.iter().all(|v| v.is_finite())
    }
}

/// Embeds aligned faces.
pub struct Embedder<K: Kernels> {
    network: Chips<K>,
    /// For [`Self::embed`].
    asked: Asked<K>,
}

/// The network with its input.
struct Chips<K: Kernels> {
    engine: Box<dyn Engine<K>>,
    max_faces: usize,
    chips: K::Tensor,
    windows: Vec<Similarity>,
}

/// Embeddings that were asked for and not read yet.
pub struct Asked<K: Kernels> {
    outputs: Pool<K>,
    faces: usize,
}

impl<K: Kernels> Asked<K> {
    fn new(kernels: &mut K, max_faces: usize) -> kernels::Result<Self> {
        Ok(Self {
            outputs: Pool::new(kernels, [max_faces, EMBEDDING, 1, 1])?,
            faces: 0,
        })
    }

    /// Fills `embeddings` with what [`Embedder::ask`] was asked for the last time, one per face in the same order;
    /// nothing when that failed, and nothing a second time.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the network gave no numbers; the place's own. `embeddings` is then empty.
    pub fn read(&mut self, kernels: &mut K, embeddings: &mut Vec<Embedding>) -> Result<()> {
        embeddings.clear();
        let faces = std::mem::take(&mut self.faces);
        for run in 0..faces.div_ceil(self.outputs.entries()) {
            if let Err(error) = self.read_run(kernels, run, embeddings) {
                embeddings.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    fn read_run(&mut self, kernels: &mut K, run: usize, embeddings: &mut Vec<Embedding>) -> Result<()> {
        let [output] = self.outputs.get(kernels, run)?;
        for values in kernels.read(output)?.chunks_exact(EMBEDDING) {
            let mut embedding = Embedding([0.0; EMBEDDING]);
            embedding.0.copy_from_slice(values);
            if !embedding.is_finite() {
                return Err(Error::NotFinite {
                    network: NETWORK,
                    tensor: "an embedding",
                });
            }
            embeddings.push(embedding);
        }
        Ok(())
    }
}

impl<K: Kernels> Chips<K> {
    fn ask(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        aligns: &[Similarity],
        asked: &mut Asked<K>,
    ) -> Result<()> {
        asked.faces = 0;
        for (run, aligns) in aligns.chunks(self.max_faces).enumerate() {
            let output = asked.outputs.get(kernels, run)?;
            self.windows.clear();
            self.windows
                .extend(aligns.iter().map(|align| align.window(CHIP.0, CHIP.1)));
            kernels.resize_batch(&mut self.chips, aligns.len())?;
            kernels.resize_batch(&mut output[0], aligns.len())?;
            kernels.warp(frame, &self.windows, Values::Byte, &mut self.chips)?;
            self.engine.run(&[&self.chips], output)?;
            kernels.fetch(&mut output[0])?;
        }
        asked.faces = aligns.len();
        Ok(())
    }
}

impl<K: Kernels> Embedder<K> {
    /// Takes a loaded engine and makes the tensors for `max_faces` faces per run; more faces take several runs.
    ///
    /// # Errors
    /// The place's own when `max_faces` is 0 or memory is short.
    pub fn new(kernels: &mut K, engine: Box<dyn Engine<K>>, max_faces: usize) -> Result<Self> {
        Ok(Self {
            network: Chips {
                engine,
                max_faces,
                chips: kernels.tensor([max_faces, 3, SIDE, SIDE])?,
                windows: Vec::with_capacity(max_faces),
            },
            asked: Asked::new(kernels, max_faces)?,
        })
    }

    /// Room for what [`Self::ask`] is asked for.
    ///
    /// # Errors
    /// The place's own when memory is short.
    pub fn room(&self, kernels: &mut K) -> kernels::Result<Asked<K>> {
        Asked::new(kernels, self.network.max_faces)
    }

    /// Fills `embeddings` with one embedding per aligned face; whatever it held before is gone. Takes one wait.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the network gives no numbers; the engine's own. `embeddings` is then empty.
    pub fn embed(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        aligns: &[Similarity],
        embeddings: &mut Vec<Embedding>,
    ) -> Result<()> {
        embeddings.clear();
        self.network.ask(kernels, frame, aligns, &mut self.asked)?;
        self.asked.read(kernels, embeddings)
    }

    /// Asks for one embedding per aligned face, of the frame as it is now. [`Asked::read`] gives them, with one wait for
    /// all, and none if something else was waited for meanwhile.
    ///
    /// # Errors
    /// The engine's and the place's own. Nothing is then asked for.
    pub fn ask(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        aligns: &[Similarity],
        asked: &mut Asked<K>,
    ) -> Result<()> {
        self.network.ask(kernels, frame, aligns, asked)
    }
}

#[cfg(test)]
mod tests {
    use kernels::cpu::{Cpu, Tensor};
    use kernels::{MEAN_FACE_5, Point, Rect};

    use super::*;
    use crate::testing::{Scripted, grey};

    #[test]
    fn length_and_distance() {
        let mut three_four = Embedding([0.0; EMBEDDING]);
        assert_eq!(three_four.unit(), three_four);
        three_four.0[5] = 3.0;
        three_four.0[77] = 4.0;
        assert_eq!(three_four.length(), 5.0);
        assert!((three_four.unit().length() - 1.0).abs() < 1e-6);
        assert_eq!(three_four.distance(&three_four), 0.0);
        assert_eq!(three_four.distance(&Embedding([0.0; EMBEDDING])), 5.0);
        three_four.0[0] = f32::NAN;
        assert!(!three_four.is_finite());
    }

    #[test]
    fn the_chip_is_dlibs_window_of_the_crop() {
        let align = Similarity::of_square(&Rect::new(0.0, 0.0, 1.0, 1.0)).unwrap();
        let chip = align.window(CHIP.0, CHIP.1);
        for (point, dlib) in MEAN_FACE_5.iter().zip(kernels::FIVE_POINT_CHIP) {
            assert!(chip.apply(*point).distance(dlib) < 2e-3, "{point:?}");
        }
    }

    #[test]
    fn faces_in_several_runs_and_numbers_that_are_not_finite() {
        for (value, faces, wanted) in [(0.5, 5, Some(5)), (0.5, 0, Some(0)), (f32::NAN, 3, None)] {
            let mut kernels = Cpu::default();
            let engine = Scripted(move |inputs: &[&Tensor], outputs: &mut [Tensor]| {
                assert_eq!(inputs[0].shape(), [outputs[0].shape()[0], 3, SIDE, SIDE]);
                outputs[0].data_mut().fill(value);
            });
            let mut embedder = Embedder::new(&mut kernels, Box::new(engine), 2).unwrap();
            let align =
                Similarity::estimate(&[Point::new(8.0, 8.0), Point::new(24.0, 8.0)], &MEAN_FACE_5[..2]);
            let aligns = vec![align.unwrap(); faces];
            let mut embeddings = vec![Embedding([0.0; EMBEDDING])];
            let result = grey(32, 32, |frame| {
                embedder.embed(&mut kernels, frame, &aligns, &mut embeddings)
            });
            assert_eq!(result.is_ok(), wanted.is_some());
            assert_eq!(embeddings.len(), wanted.unwrap_or(0));
        }
    }
}
