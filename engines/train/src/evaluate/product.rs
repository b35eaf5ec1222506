//! The product's own path over one picture: detect, locate, align, embed, generate, blend.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use engines::cpu::Runtime;
use engines::models::{Network, Store};
use engines::onnx::generator::{Sizes, Weights, generator};
use engines::{Detection, Detector, Embedder, Embedding, Generator, InputSize, Landmarker};
use image::RgbImage;
use kernels::cpu::{Cpu, Tensor};
use kernels::{
    Color, Frame, Hull, Kernels, Landmarks, MEAN_FACE, Matrix, Placement, Plane, Planes, Range, Rect,
    Similarity, Values,
};

/// Least detector score of a face, in originals and in outputs.
const SCORE: f32 = 0.5;
/// Overlap of two boxes that are the same face.
const SAME: f32 = 0.3;

/// An I420 picture that owns its bytes.
#[derive(Debug, Clone)]
pub struct Picture {
    width: usize,
    height: usize,
    color: Color,
    bytes: Vec<u8>,
}

impl Picture {
    /// Takes I420 bytes without padding.
    ///
    /// # Errors
    /// When there are not as many bytes as the size needs.
    pub fn new(width: usize, height: usize, color: Color, bytes: Vec<u8>) -> Result<Self> {
        let wanted = Self::len(width, height);
        ensure!(
            bytes.len() == wanted,
            "{width}x{height} I420 needs {wanted} bytes, got {}",
            bytes.len()
        );
        Ok(Self {
            width,
            height,
            color,
            bytes,
        })
    }

    /// Bytes of an I420 picture.
    pub fn len(width: usize, height: usize) -> usize {
        width * height + 2 * width.div_ceil(2) * height.div_ceil(2)
    }

    /// Reads a picture file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let rgb = image::open(path).with_context(|| format!("cannot read picture {}", path.display()))?;
        Self::of(&rgb.to_rgb8())
    }

    /// Takes an RGB picture: full-range BT.601, as JPEG is.
    ///
    /// # Errors
    /// Never.
    pub fn of(rgb: &RgbImage) -> Result<Self> {
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        let mut bytes = Vec::with_capacity(Self::len(width, height));
        let plane = |parts: [f32; 3], offset: f32, pixel: [f32; 3]| {
            let value = parts.iter().zip(pixel).map(|(part, c)| part * c).sum::<f32>() + offset;
            value.round().clamp(0.0, 255.0) as u8
        };
        bytes.extend(
            rgb.pixels()
                .map(|p| plane([0.299, 0.587, 0.114], 0.0, p.0.map(f32::from))),
        );
        for parts in [[-0.168_736, -0.331_264, 0.5], [0.5, -0.418_688, -0.081_312]] {
            for y in 0..height.div_ceil(2) {
                for x in 0..width.div_ceil(2) {
                    let mut sum = [0.0; 3];
                    for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                        let (x, y) = ((2 * x + dx).min(width - 1), (2 * y + dy).min(height - 1));
                        let pixel = rgb.get_pixel(x as u32, y as u32).0;
                        for (sum, value) in sum.iter_mut().zip(pixel) {
                            *sum += f32::from(value) / 4.0;
                        }
                    }
                    bytes.push(plane(parts, 128.0, sum));
                }
            }
        }
        Self::new(
            width,
            height,
            Color {
                matrix: Matrix::Bt601,
                range: Range::Full,
            },
            bytes,
        )
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// I420 bytes without padding.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The picture as a frame.
    ///
    /// # Errors
    /// Never for a picture that was made by [`Picture::new`].
    pub fn frame(&mut self) -> Result<Frame<'_>> {
        let (width, half) = (self.width, self.width.div_ceil(2));
        let (luma, chroma) = self.bytes.split_at_mut(self.width * self.height);
        let (u, v) = chroma.split_at_mut(half * self.height.div_ceil(2));
        let planes = Planes::I420 {
            y: Plane {
                data: luma,
                stride: width,
            },
            u: Plane {
                data: u,
                stride: half,
            },
            v: Plane {
                data: v,
                stride: half,
            },
        };
        Ok(Frame::new(self.width, self.height, self.color, planes)?)
    }
}

/// A face that was found, located and embedded.
#[derive(Debug, Clone)]
pub struct Face {
    /// The detector's box in pixels.
    pub region: Rect,
    /// Landmarks in pixels.
    pub landmarks: Landmarks,
    /// Pixels to the unit crop.
    pub align: Similarity,
    /// dlib's descriptor.
    pub embedding: Embedding,
}

impl Face {
    fn placement(&self) -> Placement {
        Placement {
            align: self.align,
            hull: Hull::of(&self.landmarks),
        }
    }
}

/// What the product did to a face.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// The picture with the face replaced.
    pub picture: Picture,
    /// Aligned crops `[3, side, side]`, RGB 0 to 255, of the original, the generated face and the result.
    pub crops: [Vec<f32>; 3],
    /// The crop of the result had the generator given back its input: what the path itself costs.
    pub unchanged: Vec<f32>,
    /// The mask `[side, side]`, 0 to 1.
    pub mask: Vec<f32>,
}

/// The product's networks, with the generator that is evaluated.
pub struct Product {
    /// Where pixels live.
    pub place: Cpu,
    detector: Detector<Cpu>,
    landmarker: Landmarker<Cpu>,
    embedder: Embedder<Cpu>,
    generator: Generator<Cpu>,
    crop: Tensor,
    /// A mask of ones.
    opaque: Tensor,
}

impl Product {
    /// Loads the networks; `weights` is a generator's safetensors file.
    ///
    /// # Errors
    /// When a network is missing or not what it should be.
    pub fn load(store: &Store, runtime: &Runtime, weights: &[u8]) -> Result<Self> {
        let mut place = Cpu::default();
        let weights = Weights::read(weights)?;
        let side = Sizes::of(&weights)?.side;
        let engine = |network, signature: &engines::Signature| {
            anyhow::Ok(runtime.engine(&store.load(network)?, signature)?)
        };
        let detector = engine(Network::Detector, &engines::detector::signature())?;
        let landmarks = engine(Network::Landmarks, &engines::landmarks::signature())?;
        let embedding = engine(Network::Embedding, &engines::embedding::signature())?;
        let generator = runtime.engine(&generator(&weights)?, &engines::generator::signature(side))?;
        let mut opaque = place.tensor([1, 1, side, side])?;
        opaque.data_mut().fill(1.0);
        Ok(Self {
            opaque,
            detector: Detector::new(&mut place, detector, InputSize::covering(1280, 736))?,
            landmarker: Landmarker::new(&mut place, landmarks, 1)?,
            embedder: Embedder::new(&mut place, embedding, 1)?,
            generator: Generator::new(&mut place, generator, side, 1)?,
            crop: place.tensor([1, 3, side, side])?,
            place,
        })
    }

    /// Side of the crop.
    pub fn side(&self) -> usize {
        self.generator.side()
    }

    fn detect(&mut self, picture: &mut Picture) -> Result<Vec<Detection>> {
        let (width, height) = (picture.width, picture.height);
        // Larger pictures are shrunk to what the detector takes.
        let shrink = (1280.0 / width as f32).min(736.0 / height as f32).min(1.0);
        let size = InputSize::covering(
            (width as f32 * shrink) as usize,
            (height as f32 * shrink) as usize,
        );
        let region = Rect::new(0.0, 0.0, width as f32, height as f32);
        let mut found = Vec::new();
        self.detector.detect(
            &mut self.place,
            &picture.frame()?,
            region,
            size,
            SCORE,
            &mut found,
        )?;
        Ok(found)
    }

    /// The landmarks in a box.
    ///
    /// # Errors
    /// When the network fails.
    pub fn locate(&mut self, picture: &mut Picture, region: Rect) -> Result<Landmarks> {
        let mut landmarks = Vec::new();
        self.landmarker
            .locate(&mut self.place, &picture.frame()?, &[region], &mut landmarks)?;
        landmarks.pop().context("no landmarks")
    }

    /// The face nearest to the middle of the picture, or `None`.
    ///
    /// # Errors
    /// When a network fails.
    pub fn find(&mut self, picture: &mut Picture) -> Result<Option<Face>> {
        let middle = kernels::Point::new(picture.width as f32 / 2.0, picture.height as f32 / 2.0);
        let found = self.detect(picture)?;
        let nearest = |a: &&Detection, b: &&Detection| {
            a.rect
                .center()
                .distance(middle)
                .total_cmp(&b.rect.center().distance(middle))
        };
        let Some(region) = found.iter().min_by(nearest).map(|detection| detection.rect) else {
            return Ok(None);
        };
        let landmarks = self.locate(picture, region)?;
        let Some(align) = Similarity::estimate(&landmarks, &MEAN_FACE) else {
            return Ok(None);
        };
        let mut embeddings = Vec::new();
        self.embedder
            .embed(&mut self.place, &picture.frame()?, &[align], &mut embeddings)?;
        let embedding = embeddings.pop().context("no embedding")?;
        Ok(Some(Face {
            region,
            landmarks,
            align,
            embedding,
        }))
    }

    /// Whether the detector finds a face where this box is.
    ///
    /// # Errors
    /// When the network fails.
    pub fn found_again(&mut self, picture: &mut Picture, region: Rect) -> Result<bool> {
        Ok(self
            .detect(picture)?
            .iter()
            .any(|detection| detection.rect.iou(&region) >= SAME))
    }

    /// Replaces a face as the product does, leading away from `target`.
    ///
    /// # Errors
    /// When a network fails.
    pub fn replace(&mut self, picture: &mut Picture, face: &Face, target: &Embedding) -> Result<Replaced> {
        let original = self.crop(picture, &face.align)?;
        self.generator
            .generate(&mut self.place, &picture.frame()?, &[face.align], &[*target])?;
        let placement = [face.placement()];
        let mut replaced = picture.clone();
        let (image, mask) = (self.generator.image(), self.generator.mask());
        self.place
            .blend(&mut replaced.frame()?, &placement, image, mask)?;
        let generated = image.entry(0).iter().map(|v| (v + 1.0) * 127.5).collect();
        let mask = mask.entry(0).to_vec();
        let result = self.crop(&mut replaced, &face.align)?;

        let signed: Vec<f32> = original.iter().map(|v| v / 127.5 - 1.0).collect();
        self.place.write(&mut self.crop, 0, &signed)?;
        let mut unchanged = picture.clone();
        self.place
            .blend(&mut unchanged.frame()?, &placement, &self.crop, &self.opaque)?;
        let unchanged = self.crop(&mut unchanged, &face.align)?;
        Ok(Replaced {
            picture: replaced,
            crops: [original, generated, result],
            unchanged,
            mask,
        })
    }

    /// Covers a face with gray: what is left is what no generator can take away.
    ///
    /// # Errors
    /// Never for a picture that was made by [`Picture::new`].
    pub fn cover(&mut self, picture: &Picture, face: &Face) -> Result<Picture> {
        self.crop.data_mut().fill(0.0);
        let mut covered = picture.clone();
        self.place.blend(
            &mut covered.frame()?,
            &[face.placement()],
            &self.crop,
            &self.opaque,
        )?;
        Ok(covered)
    }

    /// The aligned crop `[3, side, side]`, RGB 0 to 255.
    ///
    /// # Errors
    /// Never for a picture that was made by [`Picture::new`].
    pub fn crop(&mut self, picture: &mut Picture, align: &Similarity) -> Result<Vec<f32>> {
        self.place
            .warp(&picture.frame()?, &[*align], Values::Byte, &mut self.crop)?;
        Ok(self.crop.data().to_vec())
    }
}
