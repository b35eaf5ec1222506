//! Did every face that was in the input change on its way to the output? Exit status: 0 yes, 1 no, 2 cannot tell.

use std::{
    collections::VecDeque,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use engines::{
    Detection, Detector, Embedder, InputSize,
    cpu::Runtime,
    detector, embedding, models,
    models::{Network, Store},
};
use kernels::{MEAN_FACE_5, Rect, Similarity, cpu::Cpu};
use tests::{
    clip::{Clip, Picture},
    exposure::{self, Judgement, judge_nearest},
};

/// From this box width on, identity is measured too, in pixels.
const RECOGNIZABLE: f32 = 40.0;
/// Two embeddings nearer than this are the same person at one false match in 1,000 (docs/networks.md).
const SAME_PERSON: f32 = 0.537;
/// How many exposed faces are printed.
const PRINTED: usize = 20;

/// Checks a pair of clips for exposed faces.
///
/// Every frame of OUTPUT is compared with the frame of INPUT that has the nearest presentation time. CenterFace at full
/// resolution finds the faces in the input's frame; each of them must have been changed in the output's.
#[derive(Parser)]
#[command(
    name = "exposure",
    after_long_help = format!(
        "What `changed` means: the luma of the middle {inner:.0} % of the face's box is averaged to at most {grid} x {grid} \
         cells and its local mean (of a window of half the box) is taken away. `similarity` is the correlation of what is \
         left in input and output, `difference` the root mean square of the output's minus the input's times the contrast \
         that fits best, in luma levels of 255; `background` is the same difference on patches of that size around the \
         face: what the encoder did. A face is changed when difference x sqrt(1 - similarity) is at least {floor} and at \
         least {ratio} x background ({assumed} where none is visible). It must be changed against the input's frames just \
         before and after too where their background fits, so that a shifted time does not look like a change. \
         Everything else is exposed.",
        inner = 100.0 * exposure::INNER,
        grid = exposure::GRID,
        floor = exposure::FLOOR,
        ratio = exposure::RATIO,
        assumed = exposure::ASSUMED,
    )
)]
struct Arguments {
    /// What went in
    input: PathBuf,
    /// What came out
    output: PathBuf,
    /// Exposed face-frames that are still accepted, per 1,000 face-frames
    #[arg(long, default_value_t = 0.0)]
    allow: f64,
    /// Lowest score of a detection that counts as a face
    #[arg(long, default_value_t = 0.35)]
    threshold: f32,
    /// Where the networks lie; by default where `persona models fetch` puts them
    #[arg(long)]
    models: Option<PathBuf>,
    /// Threads for the detector
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Compare the n-th frames instead of those at the same time: for inputs with missing or broken timestamps
    #[arg(long)]
    by_order: bool,
    /// Also write every face-frame's measurements to this file
    #[arg(long)]
    csv: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(report) => {
            if let Err(error) = report.print() {
                eprintln!("exposure: {error:#}");
            }
            if report.per_thousand() > arguments.allow {
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("exposure: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// One face of one frame.
struct FaceFrame {
    seconds: f64,
    detection: Detection,
    judgement: Judgement,
    /// Distance between the identities before and after, for faces that are big enough.
    identity: Option<f32>,
}

#[derive(Default)]
struct Report {
    frames: usize,
    faces: Vec<FaceFrame>,
}

impl Report {
    fn exposed(&self) -> impl Iterator<Item = &FaceFrame> {
        self.faces.iter().filter(|face| !face.judgement.changed())
    }

    fn per_thousand(&self) -> f64 {
        1000.0 * self.exposed().count() as f64 / self.faces.len().max(1) as f64
    }

    fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let exposed = self.exposed().count();
        writeln!(out, "frames        {}", self.frames)?;
        writeln!(out, "face-frames   {}", self.faces.len())?;
        writeln!(
            out,
            "exposed       {exposed} ({:.2} per 1,000)",
            self.per_thousand()
        )?;
        let mut distances: Vec<f32> = self.faces.iter().filter_map(|face| face.identity).collect();
        distances.sort_by(f32::total_cmp);
        if let (Some(median), Some(lowest)) = (distances.get(distances.len() / 2), distances.first()) {
            let same = distances
                .iter()
                .filter(|distance| **distance < SAME_PERSON)
                .count();
            writeln!(
                out,
                "identity      {} faces of {RECOGNIZABLE} px or more: distance median {median:.2}, lowest {lowest:.2}; \
                 {same} nearer than {SAME_PERSON} (same person)",
                distances.len()
            )?;
        }
        if exposed > 0 {
            writeln!(out, "\nexposed, the first {PRINTED}:")?;
            writeln!(
                out,
                "time s     x     y     w     h  score  similarity  difference  background"
            )?;
        }
        for face in self.exposed().take(PRINTED) {
            let Rect { x, y, width, height } = face.detection.rect;
            writeln!(
                out,
                "{:6.2} {x:5.0} {y:5.0} {width:5.0} {height:5.0}  {:5.2}  {:10.3}  {:10.2}  {:10.2}",
                face.seconds,
                face.detection.score,
                face.judgement.similarity,
                face.judgement.difference,
                face.judgement.background,
            )?;
        }
        Ok(())
    }

    fn write_csv(&self, path: &Path) -> Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        writeln!(
            file,
            "seconds,x,y,width,height,score,similarity,difference,background,changed,identity"
        )?;
        for face in &self.faces {
            let Rect { x, y, width, height } = face.detection.rect;
            let Judgement {
                similarity,
                difference,
                background,
            } = face.judgement;
            let identity = face
                .identity
                .map_or(String::new(), |distance| distance.to_string());
            writeln!(
                file,
                "{},{x},{y},{width},{height},{},{similarity},{difference},{background},{},{identity}",
                face.seconds,
                face.detection.score,
                face.judgement.changed()
            )?;
        }
        Ok(file.flush()?)
    }
}

fn run(arguments: &Arguments) -> Result<Report> {
    let mut input = Clip::open(&arguments.input)?;
    let output = Clip::open(&arguments.output)?;
    let mut window = Window::new(&mut input, &arguments.input)?;
    let (width, height) = window.now().size();
    let mut judge = Judge::new(arguments, width, height)?;

    let mut report = Report::default();
    for picture in output {
        let mut picture = picture.with_context(|| arguments.output.display().to_string())?;
        let moved = if arguments.by_order {
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
        if report.frames.is_multiple_of(100) {
            eprintln!(
                "{} frames, {} face-frames, {} exposed so far",
                report.frames,
                report.faces.len(),
                report.exposed().count()
            );
        }
    }
    ensure!(report.frames > 0, "{} has no frames", arguments.output.display());
    if let Some(path) = &arguments.csv {
        report
            .write_csv(path)
            .with_context(|| path.display().to_string())?;
    }
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
    fn new(arguments: &Arguments, width: usize, height: usize) -> Result<Self> {
        let store = Store::open(arguments.models.clone().unwrap_or_else(models::default_dir))?;
        let runtime = Runtime::load(&store.runtime_library()?, arguments.threads)?;
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
            threshold: arguments.threshold,
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
