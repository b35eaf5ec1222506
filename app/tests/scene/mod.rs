//! A made-up camera: grey frames with bright squares for faces, and networks that really look for them.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use engines::{
    Detector, Embedder, Engine, Generator, Landmarker, Shared, Signature, embedding, generator, landmarks,
};
use kernels::cpu::{Cpu, Tensor};
use kernels::{Color, Frame, Kernels, MEAN_FACE, MEAN_FACE_5, Matrix, Plane, Planes, Point, Range, Rect};
use persona::frame::{Anonymized, Pixels, RawFrame, Unmappable};
use persona::pipeline::{Anonymize, Detect, LARGEST_INPUT, Pipeline, Settings, Threads};

/// Luma of a face that the detector is sure of, is unsure of, and does not see; and of everything else.
pub const SURE: u8 = 220;
pub const UNSURE: u8 = 165;
pub const UNSEEN: u8 = 100;
const BACKGROUND: u8 = 40;
const SIDE: usize = 32;
/// Most faces of several pipelines in one run, as on the processor of a box.
pub const TOGETHER: usize = 4;

/// An I420 frame in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    planes: [Vec<u8>; 3],
    pub is_mappable: bool,
}

impl Picture {
    pub fn new(width: usize, height: usize) -> Self {
        let chroma = width.div_ceil(2) * height.div_ceil(2);
        Self {
            width,
            height,
            planes: [
                vec![BACKGROUND; width * height],
                vec![128; chroma],
                vec![128; chroma],
            ],
            is_mappable: true,
        }
    }

    /// Draws a face: a square of this luma with a fine pattern.
    pub fn with_face(mut self, face: Rect, luma: u8) -> Self {
        for (x, y) in pixels(&face, self.width, self.height) {
            self.planes[0][y * self.width + x] = luma + 12 * ((x / 2 + y / 2) % 2) as u8;
        }
        self
    }

    /// The luma plane, row by row.
    pub fn luma(&self) -> &[u8] {
        &self.planes[0]
    }

    /// Takes over the first rows of a luma plane.
    pub fn set_luma(&mut self, luma: &[u8]) {
        self.planes[0][..luma.len()].copy_from_slice(luma);
    }

    /// Share of the middle of `face` whose luma differs from `before`, 0 to 1. The middle is what the hull of the
    /// average face surely holds.
    pub fn changed(&self, before: &Picture, face: &Rect) -> f32 {
        let middle = face.scaled(0.6);
        let (mut all, mut changed) = (0, 0);
        for (x, y) in pixels(&middle, self.width, self.height) {
            all += 1;
            let index = y * self.width + x;
            changed += i32::from(self.planes[0][index] != before.planes[0][index]);
        }
        assert!(all > 0, "the face {face:?} is not in the frame");
        changed as f32 / all as f32
    }

    /// Mean distance of the luma in `region` from `before`'s, 0 to 255.
    pub fn mean_difference(&self, before: &Picture, region: &Rect) -> f32 {
        let distances: Vec<f32> = pixels(region, self.width, self.height)
            .map(|(x, y)| y * self.width + x)
            .map(|index| f32::from(self.planes[0][index].abs_diff(before.planes[0][index])))
            .collect();
        distances.iter().sum::<f32>() / distances.len() as f32
    }

    /// Whether nothing but `region` differs from `before`.
    pub fn differs_only_in(&self, before: &Picture, region: &Rect) -> bool {
        let pairs = self.planes[0].iter().zip(&before.planes[0]).enumerate();
        pairs.filter(|(_, (a, b))| a != b).all(|(index, _)| {
            region.contains(Point::new(
                (index % self.width) as f32 + 0.5,
                (index / self.width) as f32 + 0.5,
            ))
        })
    }

    /// Whether all of it is one colour.
    pub fn is_flat(&self) -> bool {
        self.planes
            .iter()
            .all(|plane| plane.iter().all(|value| *value == plane[0]))
    }
}

fn pixels(rect: &Rect, width: usize, height: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let clamp = |v: f32, limit: usize| (v.round().max(0.0) as usize).min(limit);
    let (left, right) = (clamp(rect.x, width), clamp(rect.right(), width));
    let (top, bottom) = (clamp(rect.y, height), clamp(rect.bottom(), height));
    (top..bottom).flat_map(move |y| (left..right).map(move |x| (x, y)))
}

impl Pixels<Cpu> for Picture {
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn with_frame<R>(&mut self, work: impl FnOnce(&mut Frame<'_>) -> R) -> Result<R, Unmappable> {
        if !self.is_mappable {
            return Err(Unmappable("as the test wants it".into()));
        }
        let color = Color {
            matrix: Matrix::Bt601,
            range: Range::Limited,
        };
        let half = self.width.div_ceil(2);
        let [y, u, v] = &mut self.planes;
        let planes = Planes::I420 {
            y: Plane {
                data: y,
                stride: self.width,
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
        let mut frame = Frame::new(self.width, self.height, color, planes)
            .map_err(|error| Unmappable(error.to_string()))?;
        Ok(work(&mut frame))
    }
}

/// What a network does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Fault {
    None,
    Error,
    NotFinite,
    /// Gives fewer results than asked for.
    WrongShape,
    Panic,
    /// Answers, but badly: landmarks upside down, a mask through which the face shows.
    Poor,
    /// Landmarks of a head turned away.
    Turned,
    /// Takes 30 ms for each face.
    Slow,
    /// A generator that gives the person back.
    Same,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::None,
        Self::Error,
        Self::NotFinite,
        Self::WrongShape,
        Self::Panic,
        Self::Poor,
        Self::Turned,
        Self::Slow,
        Self::Same,
    ];
}

/// Switches that make networks fail while they run.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub detector: Switch,
    pub landmarker: Switch,
    pub embedder: Switch,
    pub generator: Switch,
}

#[derive(Debug, Clone, Default)]
pub struct Switch {
    fault: Arc<AtomicU8>,
    largest: Arc<AtomicUsize>,
}

impl Switch {
    pub fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Release);
    }

    fn get(&self) -> Fault {
        Fault::ALL[usize::from(self.fault.load(Ordering::Acquire))]
    }

    /// Most faces that there ever were in one run of the network.
    pub fn largest_run(&self) -> usize {
        self.largest.load(Ordering::Acquire)
    }
}

/// A network that fails as its switch says, and works otherwise.
struct Fake<F> {
    switch: Switch,
    work: F,
}

impl<F: FnMut(&[&Tensor], &mut [Tensor], Fault) + Send> Engine<Cpu> for Fake<F> {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> engines::Result<()> {
        let (fault, faces) = (self.switch.get(), inputs[0].shape()[0]);
        self.switch.largest.fetch_max(faces, Ordering::AcqRel);
        match fault {
            Fault::Error => {
                return Err(engines::Error::Runtime {
                    network: "fake".into(),
                    reason: "as the test wants it".into(),
                });
            }
            Fault::Panic => panic!("as the test wants it"),
            Fault::WrongShape => outputs
                .iter_mut()
                .try_for_each(|output| Cpu::new().resize_batch(output, 0))?,
            Fault::NotFinite => outputs
                .iter_mut()
                .for_each(|output| output.data_mut().fill(f32::NAN)),
            Fault::Slow => {
                std::thread::sleep(Duration::from_millis(30) * faces as u32);
                (self.work)(inputs, outputs, fault);
            }
            _ => (self.work)(inputs, outputs, fault),
        }
        Ok(())
    }
}

/// Where a point of the average face lies in the square that stands for a face, in fractions of it.
fn in_box(mean: Point) -> Point {
    Point::new((mean.x - 0.13) / 0.74, (mean.y - 0.12) / 0.77)
}

/// The squares in one channel of an image: connected regions brighter than `dark`, with their mean.
fn squares(image: &[f32], width: usize, dark: f32) -> Vec<(Rect, f32)> {
    let mut seen = vec![false; image.len()];
    let mut found = Vec::new();
    for start in 0..image.len() {
        if seen[start] || image[start] <= dark {
            continue;
        }
        let (mut left, mut right, mut top, mut bottom) = (width, 0, image.len(), 0);
        let (mut sum, mut count) = (0.0, 0);
        let mut open = vec![start];
        seen[start] = true;
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            (left, right, top, bottom) = (left.min(x), right.max(x), top.min(y), bottom.max(y));
            sum += image[at];
            count += 1;
            let neighbours = [
                (x > 0).then(|| at - 1),
                (x + 1 < width).then_some(at + 1),
                at.checked_sub(width),
                (at + width < image.len()).then_some(at + width),
            ];
            for next in neighbours.into_iter().flatten() {
                if !seen[next] && image[next] > dark {
                    seen[next] = true;
                    open.push(next);
                }
            }
        }
        let rect = Rect::new(
            left as f32,
            top as f32,
            (right - left + 1) as f32,
            (bottom - top + 1) as f32,
        );
        found.push((rect, sum / count as f32));
    }
    found
}

/// CenterFace's outputs for the bright squares of the input that have at least 12 pixels.
fn detect(inputs: &[&Tensor], outputs: &mut [Tensor], _: Fault) {
    let [_, _, height, width] = inputs[0].shape();
    let (columns, cells) = (width / 4, width * height / 16);
    outputs.iter_mut().for_each(|output| output.data_mut().fill(0.0));
    for (rect, mean) in squares(&inputs[0].data()[..width * height], width, 140.0) {
        if rect.width.min(rect.height) < 12.0 {
            continue;
        }
        let center = rect.center();
        let (column, row) = ((center.x / 4.0) as usize, (center.y / 4.0) as usize);
        let cell = row * columns + column;
        outputs[0].data_mut()[cell] = if mean > 210.0 { 0.9 } else { 0.28 };
        outputs[1].data_mut()[cell] = (rect.height / 4.0).ln();
        outputs[1].data_mut()[cells + cell] = (rect.width / 4.0).ln();
        outputs[2].data_mut()[cell] = center.y / 4.0 - row as f32 - 0.5;
        outputs[2].data_mut()[cells + cell] = center.x / 4.0 - column as f32 - 0.5;
        for (j, point) in MEAN_FACE_5.iter().enumerate() {
            outputs[3].data_mut()[2 * j * cells + cell] = in_box(*point).y;
            outputs[3].data_mut()[(2 * j + 1) * cells + cell] = in_box(*point).x;
        }
    }
}

/// The average face in the largest bright square of each crop.
fn locate(inputs: &[&Tensor], outputs: &mut [Tensor], fault: Fault) {
    let [entries, _, _, width] = inputs[0].shape();
    for entry in 0..entries {
        let red = &inputs[0].entry(entry)[..width * width];
        let largest = squares(red, width, 140.0)
            .into_iter()
            .map(|(rect, _)| rect)
            .max_by(|a, b| a.area().total_cmp(&b.area()))
            .unwrap_or(Rect::new(0.0, 0.0, width as f32, width as f32));
        for (j, values) in outputs[0].entry_mut(entry).chunks_exact_mut(2).enumerate() {
            let mean = match fault {
                Fault::Poor => Point::new(MEAN_FACE[j].x, 1.1 - MEAN_FACE[j].y),
                Fault::Turned if (27..36).contains(&j) => Point::new(MEAN_FACE[j].x - 0.22, MEAN_FACE[j].y),
                _ => MEAN_FACE[j],
            };
            let place = in_box(mean);
            values[0] = (largest.x + place.x * largest.width) / width as f32;
            values[1] = (largest.y + place.y * largest.height) / width as f32;
        }
    }
}

/// Sums over 128 stripes of each chip.
fn embed(inputs: &[&Tensor], outputs: &mut [Tensor], _: Fault) {
    for entry in 0..inputs[0].shape()[0] {
        let chip = inputs[0].entry(entry);
        let stripe = chip.len() / 128;
        for (value, chunk) in outputs[0].entry_mut(entry).iter_mut().zip(chip.chunks(stripe)) {
            *value = chunk.iter().sum::<f32>() / (255.0 * stripe as f32);
        }
    }
}

/// The negative of each face, or the face.
fn generate(inputs: &[&Tensor], outputs: &mut [Tensor], fault: Fault) {
    let [image, mask] = outputs else {
        panic!("two outputs")
    };
    for (to, from) in image.data_mut().iter_mut().zip(inputs[0].data()) {
        *to = if fault == Fault::Same { *from } else { -from };
    }
    mask.data_mut()
        .fill(if fault == Fault::Poor { 0.6 } else { 0.95 });
}

/// The networks of a pipeline, or of several that share them: detector, landmarker, embedder, generator. As on a box, faces
/// of several pipelines go through the last three in one run.
pub struct Networks([Shared<Cpu>; 4]);

impl Networks {
    /// Networks that fail as `faults` says.
    pub fn new(faults: &Faults) -> Self {
        fn fake<F>(switch: &Switch, work: F) -> Box<Fake<F>> {
            let switch = switch.clone();
            Box::new(Fake { switch, work })
        }
        let merging = |engine, signature: Signature| Shared::merging(engine, &signature, TOGETHER).unwrap();
        Self([
            Shared::new("fake", fake(&faults.detector, detect)),
            merging(fake(&faults.landmarker, locate), landmarks::signature()),
            merging(fake(&faults.embedder, embed), embedding::signature()),
            merging(fake(&faults.generator, generate), generator::signature(SIDE)),
        ])
    }

    /// The two halves of a pipeline with these networks.
    pub fn halves(&self, settings: &Settings) -> (Detect<Cpu>, Anonymize<Cpu>) {
        let cpu = &mut Cpu::new();
        let faces = settings.max_faces;
        let [detector, landmarker, embedder, generator] =
            self.0.each_ref().map(|shared| Box::new(shared.clone()));
        let detector = Detector::new(cpu, detector, LARGEST_INPUT).unwrap();
        let landmarker = Landmarker::new(cpu, landmarker, faces).unwrap();
        let embedder = Embedder::new(cpu, embedder, faces).unwrap();
        let generator = Generator::new(cpu, generator, SIDE, faces).unwrap();
        (
            Detect::new(Cpu::new(), detector, settings).unwrap(),
            Anonymize::new(Cpu::new(), landmarker, embedder, generator, settings).unwrap(),
        )
    }
}

/// The two halves of a pipeline that fails as `faults` says.
pub fn halves(settings: &Settings, faults: &Faults) -> (Detect<Cpu>, Anonymize<Cpu>) {
    Networks::new(faults).halves(settings)
}

/// A pipeline on made-up frames.
pub type Running = Pipeline<Cpu, Picture>;

pub fn pipeline(settings: &Settings, faults: &Faults) -> Running {
    let (detect, anonymize) = halves(settings, faults);
    Pipeline::new(detect, anonymize, settings).unwrap()
}

pub fn threads(
    settings: &Settings,
    faults: &Faults,
    sink: impl FnMut(Anonymized<Picture>) + Send + 'static,
) -> Threads<Picture> {
    let (detect, anonymize) = halves(settings, faults);
    Threads::start(detect, anonymize, settings, sink).unwrap()
}

/// The time of a frame at 30 per second.
pub fn time(index: usize) -> Duration {
    Duration::from_secs(1) * index as u32 / 30
}

/// Sends the pictures through the pipeline as the frames from `first` on; gives what came out, in order.
pub fn run(pipeline: &mut Pipeline<Cpu, Picture>, first: usize, pictures: &[Picture]) -> Vec<Picture> {
    let mut shown = Vec::new();
    for (index, picture) in pictures.iter().enumerate() {
        let frame = RawFrame::new(picture.clone(), time(first + index));
        pipeline.submit(frame, &mut |frame| shown.push(frame.into_buffer()));
    }
    pipeline.drain(&mut |frame| shown.push(frame.into_buffer()));
    shown
}
