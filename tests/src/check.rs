//! Comparing a pair of clips frame by frame and face by face.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use engines::{
    Detection, Detector, Embedder, InputSize,
    cpu::Runtime,
    detector, embedding,
    models::{Network, Store, default_dir},
};
use kernels::{MEAN_FACE_5, Rect, Similarity, cpu::Cpu};

use crate::{
    clip::{Clip, Picture},
    exposure::{Judgement, judge_nearest},
};

/// From this box width on, identity is measured too, in pixels.
pub const RECOGNIZABLE: f32 = 40.0;

/// How to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lowest score of a detection that counts as a face, 0 to 1.
    pub threshold: f32,
    /// Compare the n-th frames instead of those at the same time.
    pub by_order: bool,
    /// Folder of the networks.
    pub models: PathBuf,
    /// Threads per network.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 0.35,
            by_order: false,
            models: default_dir(),
            threads: 2,
        }
    }
}

/// One face of one frame.
#[derive(Debug, Clone)]
pub struct FaceFrame {
    /// The output's frame, from its beginning.
    pub seconds: f64,
    /// The face in the input's frame.
    pub detection: Detection,
    /// What was measured on it.
    pub judgement: Judgement,
    /// Distance between dlib's embeddings before and after, for faces of [`RECOGNIZABLE`] pixels or more.
    pub identity: Option<f32>,
}

/// What was found in a pair of clips.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Frames of the output.
    pub frames: usize,
    /// All faces of all frames.
    pub faces: Vec<FaceFrame>,
}

impl Report {
    /// The faces that were not changed.
    pub fn exposed(&self) -> impl Iterator<Item = &FaceFrame> {
        self.faces.iter().filter(|face| !face.judgement.changed())
    }

    /// Exposed face-frames in 1,000 face-frames.
    pub fn per_thousand(&self) -> f64 {
        1000.0 * self.exposed().count() as f64 / self.faces.len().max(1) as f64
    }
}

/// Compares every frame of `output` with the frame of `input` that belongs to it, face by face. `progress` is called
/// after every frame.
///
/// # Errors
/// When a file cannot be read, a network is missing, or the two clips cannot be compared frame by frame.
pub fn check(
    input: &Path,
    output: &Path,
    options: &Options,
    mut progress: impl FnMut(&Report),
) -> Result<Report> {
    let mut clip = Clip::open(input)?;
    let mut window = Window::new(&mut clip, input)?;
    let (width, height) = window.now().size();
    let mut judge = Judge::new(options, width, height)?;

    let mut report = Report::default();
    for picture in Clip::open(output)? {
        let mut picture = picture.with_context(|| output.display().to_string())?;
        let moved = if options.by_order {
            report.frames > 0 && window.step()?
        } else {
            window.move_to(&picture)?
        };
        ensure!(
            picture.size() == window.now().size(),
            "at {:.2} s the input has {:?} pixels and the output {:?}: they cannot be compared",
            picture.time.as_secs_f64(),
            window.now().size(),
            picture.size()
        );
        if moved || report.frames == 0 {
            judge.detect(window.now_mut())?;
        }
        judge.faces(&mut window, &mut picture, &mut report)?;
        report.frames += 1;
        progress(&report);
    }
    ensure!(report.frames > 0, "{} has no frames", output.display());
    Ok(report)
}

/// The input's frame that belongs to the output's, with its neighbours.
struct Window<'a> {
    clip: &'a mut Clip,
    path: &'a Path,
    /// Up to three frames.
    pictures: VecDeque<Picture>,
    /// Which of them belongs to the output's frame.
    now: usize,
}

impl<'a> Window<'a> {
    fn new(clip: &'a mut Clip, path: &'a Path) -> Result<Self> {
        let mut window = Self {
            clip,
            path,
            pictures: VecDeque::with_capacity(4),
            now: 0,
        };
        window.read()?;
        ensure!(!window.pictures.is_empty(), "{} has no frames", path.display());
        window.read()?;
        Ok(window)
    }

    fn now(&self) -> &Picture {
        &self.pictures[self.now]
    }

    fn now_mut(&mut self) -> &mut Picture {
        &mut self.pictures[self.now]
    }

    fn read(&mut self) -> Result<()> {
        let next = self.clip.next_picture();
        self.pictures
            .extend(next.with_context(|| self.path.display().to_string())?);
        Ok(())
    }

    /// Moves on by one frame; says that it moved.
    ///
    /// # Errors
    /// When the input has no further frame.
    fn step(&mut self) -> Result<bool> {
        ensure!(
            self.pictures.len() > self.now + 1,
            "the output has more frames than the input"
        );
        self.now += 1;
        if self.now > 1 {
            self.pictures.pop_front();
            self.now -= 1;
        }
        self.read()?;
        Ok(true)
    }

    /// Moves on until no later frame is nearer in time to the output's; says whether it moved.
    ///
    /// # Errors
    /// When the nearest frame is more than a frame's time away, or the input's frames have no times.
    fn move_to(&mut self, output: &Picture) -> Result<bool> {
        let away = |picture: &Picture| picture.time.abs_diff(output.time);
        let mut moved = false;
        while let Some(next) = self.pictures.get(self.now + 1)
            && away(next) <= away(self.now())
        {
            ensure!(
                next.time > self.now().time,
                "{} has frames without a time of their own; try --by-order",
                self.path.display()
            );
            moved = self.step()?;
        }
        let spacing = self
            .pictures
            .iter()
            .filter(|picture| picture.time != self.now().time)
            .map(|picture| picture.time.abs_diff(self.now().time))
            .max();
        ensure!(
            spacing.is_none_or(|spacing| away(self.now()) <= spacing),
            "the output's frame at {:.2} s has none in {} within a frame's time (the nearest is at {:.2} s): they \
             cannot be compared; if the frames correspond one by one, try --by-order",
            output.time.as_secs_f64(),
            self.path.display(),
            self.now().time.as_secs_f64()
        );
        Ok(moved)
    }
}

/// The networks and what they found in the input's present frame.
struct Judge {
    kernels: Cpu,
    detector: Detector<Cpu>,
    embedder: Embedder<Cpu>,
    size: InputSize,
    threshold: f32,
    found: Vec<Detection>,
    boxes: Vec<Rect>,
}

impl Judge {
    fn new(options: &Options, width: usize, height: usize) -> Result<Self> {
        let store = Store::open(&options.models)?;
        let runtime = Runtime::load(&store.runtime_library()?, options.threads)?;
        let mut kernels = Cpu::new();
        let size = InputSize::covering(width, height);
        let engine = runtime.engine(&store.load(Network::Detector)?, &detector::signature())?;
        let detector = Detector::new(&mut kernels, engine, size)?;
        let engine = runtime.engine(&store.load(Network::Embedding)?, &embedding::signature())?;
        let embedder = Embedder::new(&mut kernels, engine, 1)?;
        Ok(Self {
            kernels,
            detector,
            embedder,
            size,
            threshold: options.threshold,
            found: Vec::new(),
            boxes: Vec::new(),
        })
    }

    fn detect(&mut self, picture: &mut Picture) -> Result<()> {
        let (width, height) = picture.size();
        let whole = Rect::new(0.0, 0.0, width as f32, height as f32);
        self.found.clear();
        self.detector.detect(
            &mut self.kernels,
            &picture.frame()?,
            whole,
            self.size,
            self.threshold,
            &mut self.found,
        )?;
        self.boxes = self.found.iter().map(|detection| detection.rect).collect();
        Ok(())
    }

    fn faces(&mut self, window: &mut Window<'_>, output: &mut Picture, report: &mut Report) -> Result<()> {
        for position in 0..self.found.len() {
            let detection = self.found[position];
            let inputs = window
                .pictures
                .iter()
                .filter(|picture| picture.size() == output.size())
                .map(Picture::luma);
            let Some(judgement) = judge_nearest(inputs, output.luma(), detection.rect, &self.boxes) else {
                continue;
            };
            let identity = if detection.rect.width >= RECOGNIZABLE {
                self.identity(&detection, window.now_mut(), output)?
            } else {
                None
            };
            report.faces.push(FaceFrame {
                seconds: output.time.as_secs_f64(),
                detection,
                judgement,
                identity,
            });
        }
        Ok(())
    }

    /// How far the face's identity moved; `None` when its points allow no alignment.
    fn identity(
        &mut self,
        detection: &Detection,
        input: &mut Picture,
        output: &mut Picture,
    ) -> Result<Option<f32>> {
        let Some(align) = Similarity::estimate(&detection.points, &MEAN_FACE_5) else {
            return Ok(None);
        };
        let mut embeddings = [None, None];
        let mut found = Vec::with_capacity(1);
        for (embedding, picture) in embeddings.iter_mut().zip([input, output]) {
            self.embedder
                .embed(&mut self.kernels, &picture.frame()?, &[align], &mut found)?;
            *embedding = found.first().copied();
        }
        let [Some(before), Some(after)] = embeddings else {
            return Ok(None);
        };
        Ok(Some(before.distance(&after)))
    }
}
