//! Another face in the same pose, expression and light: our own network, after paper section 3.

use kernels::{Kernels, Pool, Similarity, Values};

use crate::embedding::EMBEDDING;
use crate::{Embedding, Engine, Error, Result, Signature};

pub(crate) const NETWORK: &str = "generator";
/// Runs of a frame whose targets are written without a wait in between.
const TARGETS: usize = 4;

/// What the ONNX file of a generator with crops of `side` pixels must look like: the aligned crop in
/// [`Values::Signed`] and the unit-length target in; the generated face in [`Values::Signed`] and its mask in 0 to 1
/// out (paper section 4.1).
pub fn signature(side: usize) -> Signature {
    let picture = |channels| [None, Some(channels), Some(side), Some(side)];
    Signature::new(NETWORK)
        .input("face", &picture(3))
        .input("target", &[None, Some(EMBEDDING)])
        .output("image", &picture(3))
        .output("mask", &picture(1))
}

/// Generates faces. The result stays in the generator's tensors, where [`Kernels::blend`] takes it from.
pub struct Generator<K: Kernels> {
    engine: Box<dyn Engine<K>>,
    side: usize,
    max_faces: usize,
    crops: K::Tensor,
    /// One for each run of a frame, so that writing the next one's needs no wait.
    targets: Pool<K>,
    runs: usize,
    /// Image, mask.
    outputs: [K::Tensor; 2],
}

impl<K: Kernels> Generator<K> {
    /// Takes a loaded engine and makes the tensors for `max_faces` faces with crops of `side` pixels.
    ///
    /// # Errors
    /// The place's own when `max_faces` or `side` is 0 or memory is short.
    pub fn new(kernels: &mut K, engine: Box<dyn Engine<K>>, side: usize, max_faces: usize) -> Result<Self> {
        Ok(Self {
            engine,
            side,
            max_faces,
            crops: kernels.tensor([max_faces, 3, side, side])?,
            targets: Pool::new(kernels, [max_faces, EMBEDDING, 1, 1])?,
            runs: 0,
            outputs: [
                kernels.tensor([max_faces, 3, side, side])?,
                kernels.tensor([max_faces, 1, side, side])?,
            ],
        })
    }

    /// Generates one face per transform: entry `i` of [`Self::image`] and [`Self::mask`] belongs to `aligns[i]`.
    /// `targets` are the embeddings to lead away from (paper section 4.2), of any length.
    ///
    /// # Errors
    /// [`Error::Faces`] for more faces than the tensors hold; [`Error::Shape`] when there are not as many targets;
    /// [`Error::NotFinite`] for a target, image or mask without numbers; the engine's own. The tensors then hold
    /// nothing that may be shown.
    pub fn generate(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        aligns: &[Similarity],
        targets: &[Embedding],
    ) -> Result<()> {
        self.ask(kernels, frame, aligns, targets)?;
        let [image, mask] = &mut self.outputs;
        kernels.fetch(image)?;
        kernels.fetch(mask)?;
        for (tensor, name) in [(image, "a generated face"), (mask, "a mask")] {
            if !kernels.read(tensor)?.iter().all(|v| v.is_finite()) {
                return Err(not_finite(name));
            }
        }
        Ok(())
    }

    /// [`Self::generate`] without a wait: nobody has looked at the numbers yet. [`Kernels::judge`] has to, before anything
    /// is shown.
    ///
    /// # Errors
    /// As [`Self::generate`], but for images and masks.
    pub fn ask(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        aligns: &[Similarity],
        targets: &[Embedding],
    ) -> Result<()> {
        let faces = aligns.len();
        if faces > self.max_faces {
            return Err(Error::Faces {
                network: NETWORK,
                wanted: self.max_faces,
                got: faces,
            });
        }
        if targets.len() != faces {
            return Err(Error::Shape {
                network: NETWORK.into(),
                tensor: "the list of targets".into(),
                wanted: format!("one per face, {faces}"),
                got: targets.len().to_string(),
            });
        }
        let [image, mask] = &mut self.outputs;
        self.runs = (self.runs + 1) % TARGETS;
        let [units] = self.targets.get(kernels, self.runs)?;
        for tensor in [&mut self.crops, &mut *units, image, mask] {
            kernels.resize_batch(tensor, faces)?;
        }
        if faces == 0 {
            return Ok(());
        }
        for (entry, target) in targets.iter().enumerate() {
            if !target.is_finite() {
                return Err(not_finite("a target"));
            }
            kernels.write(units, entry, &target.unit().0)?;
        }
        kernels.warp(frame, aligns, Values::Signed, &mut self.crops)?;
        self.engine.run(&[&self.crops, units], &mut self.outputs)
    }

    /// The generated faces `[n, 3, side, side]`, RGB from -1 to 1.
    pub fn image(&self) -> &K::Tensor {
        &self.outputs[0]
    }

    /// Where the generated faces replace the person's, `[n, 1, side, side]`, 0 to 1.
    pub fn mask(&self) -> &K::Tensor {
        &self.outputs[1]
    }

    /// The masks, to read or raise.
    pub fn mask_mut(&mut self) -> &mut K::Tensor {
        &mut self.outputs[1]
    }

    /// The generated faces, and the masks to judge.
    pub fn faces_and_masks(&mut self) -> (&K::Tensor, &mut K::Tensor) {
        let [image, mask] = &mut self.outputs;
        (image, mask)
    }

    /// Side of the crop in pixels.
    pub fn side(&self) -> usize {
        self.side
    }
}

/// An output that is no picture.
pub fn not_finite(tensor: &'static str) -> Error {
    Error::NotFinite {
        network: NETWORK,
        tensor,
    }
}

#[cfg(test)]
mod tests {
    use kernels::Rect;
    use kernels::cpu::{Cpu, Tensor};

    use super::*;
    use crate::testing::{Scripted, grey};

    const SIDE: usize = 16;

    /// Generates `faces` faces with targets of value 2; the engine gives `image` and a mask of 0.5.
    fn generate(faces: usize, targets: usize, target: f32, image: f32) -> (Result<()>, usize) {
        let mut kernels = Cpu::default();
        let engine = Scripted(move |inputs: &[&Tensor], outputs: &mut [Tensor]| {
            for unit in inputs[1].data().chunks_exact(EMBEDDING) {
                let length = unit.iter().map(|v| v * v).sum::<f32>().sqrt();
                assert!((length - 1.0).abs() < 1e-5, "{length}");
            }
            outputs[0].data_mut().fill(image);
            outputs[1].data_mut().fill(0.5);
        });
        let mut generator = Generator::new(&mut kernels, Box::new(engine), SIDE, 3).unwrap();
        let align = Similarity::of_square(&Rect::new(4.0, 4.0, 16.0, 16.0)).unwrap();
        let aligns = vec![align; faces];
        let targets = vec![Embedding([target; EMBEDDING]); targets];
        let result = grey(32, 32, |frame| {
            generator.generate(&mut kernels, frame, &aligns, &targets)
        });
        assert_eq!(generator.image().shape()[1..], [3, SIDE, SIDE]);
        (result, generator.mask().shape()[0])
    }

    #[test]
    fn one_entry_per_face_and_targets_of_unit_length() {
        for faces in 0..=3 {
            let (result, entries) = generate(faces, faces, 2.0, 0.0);
            result.unwrap();
            assert_eq!(entries, faces);
        }
    }

    #[test]
    fn what_must_not_be_shown_is_an_error() {
        assert!(matches!(
            generate(4, 4, 2.0, 0.0).0,
            Err(Error::Faces {
                wanted: 3,
                got: 4,
                ..
            })
        ));
        assert!(matches!(generate(2, 1, 2.0, 0.0).0, Err(Error::Shape { .. })));
        assert!(matches!(
            generate(2, 2, f32::NAN, 0.0).0,
            Err(Error::NotFinite { .. })
        ));
        assert!(matches!(
            generate(2, 2, 2.0, f32::NAN).0,
            Err(Error::NotFinite { .. })
        ));
    }
}
