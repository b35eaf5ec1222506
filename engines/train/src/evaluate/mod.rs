//! How well a generator de-identifies, measured along the product's own path.

pub mod attack;
mod groups;
mod judge;
mod looks;
mod metrics;
mod product;
pub mod study;
mod video;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use engines::cpu::Runtime;
use indicatif::ProgressIterator;
use kernels::Landmarks;
use serde::Serialize;

use crate::data::person_of;
use groups::Group;
use judge::Judge;
use looks::{Look, Looks};
use metrics::Summary;
use product::{Face, Picture, Product, Replaced};

/// Whose outputs are looked at, and where the result goes.
#[derive(Debug, clap::Args)]
pub struct Subject {
    /// Data directory, laid out as docs/training.md says
    #[arg(long)]
    data: PathBuf,
    /// The generator's weights (safetensors)
    #[arg(long)]
    weights: PathBuf,
    /// Directory for what is written
    #[arg(long)]
    out: PathBuf,
    /// Store of the frozen networks [default: the product's]
    #[arg(long)]
    models: Option<PathBuf>,
    /// Threads per network
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

impl Subject {
    /// Loads the product with these weights and makes the directory for the result.
    ///
    /// # Errors
    /// When a network is missing or the directory cannot be made.
    fn open(&self) -> Result<(Runtime, Product)> {
        let store = crate::fit::store(self.models.as_deref())?;
        let runtime = Runtime::load(&store.runtime_library()?, self.threads)?;
        let product = Product::load(&store, &runtime, &crate::export::bare(&self.weights)?)?;
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        Ok((runtime, product))
    }

    /// Writes a report as `NAME.json` and `NAME.md`, and prints it.
    fn write(&self, name: &str, report: &impl Serialize, markdown: &str) -> Result<()> {
        let json = serde_json::to_string_pretty(report)?;
        fs::write(self.out.join(format!("{name}.json")), json)?;
        fs::write(self.out.join(format!("{name}.md")), markdown)?;
        println!("{markdown}");
        Ok(())
    }
}

fn judges(recognizers: &[PathBuf], runtime: &Runtime, product: &mut Product) -> Result<Vec<Judge>> {
    recognizers
        .iter()
        .map(|path| Judge::load(path, runtime, &mut product.place))
        .collect()
}

/// What to evaluate, and on what.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    subject: Subject,
    /// TOML files of the recognisers that judge
    #[arg(long = "recognizer", required = true)]
    recognizers: Vec<PathBuf>,
    /// TOML file of a network that gives the probability of one sex: how often the output keeps it
    #[arg(long)]
    sex: Option<PathBuf>,
    /// Genuine pairs to use, spread over the official list [default: all]
    #[arg(long)]
    pairs: Option<usize>,
    /// Persons in the gallery [default: all]
    #[arg(long)]
    gallery: Option<usize>,
    /// Pictures of eval/distractors_utk for the numbers by group; 0 leaves them out
    #[arg(long, default_value_t = 300)]
    labelled: usize,
    /// Frames of each clip; 0 leaves the clips out
    #[arg(long, default_value_t = 75)]
    frames: usize,
}

/// Whose embedding the generator leads away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Protocol {
    /// That of the picture itself, as in training.
    SamePicture,
    /// That of another picture of the person, as the paper tests.
    OtherPicture,
}

/// Everything measured.
#[derive(Debug, Serialize)]
struct Report {
    weights: String,
    pictures: usize,
    pairs: usize,
    gallery: usize,
    recognizers: Vec<Recognition>,
    looks: BTreeMap<&'static str, Looks>,
    groups: Vec<Group>,
    clips: Vec<Clip>,
}

/// One recogniser against one protocol.
#[derive(Debug, Serialize)]
struct Recognition {
    recognizer: String,
    trained_on: bool,
    protocol: Protocol,
    impostors: usize,
    originals: Verification,
    outputs: Verification,
}

/// Recognition of one kind of probe.
#[derive(Debug, Serialize)]
struct Verification {
    tar_at_far_1e3: Option<f64>,
    tar_at_far_1e2: Option<f64>,
    equal_error_rate: Option<f64>,
    rank: Option<Summary>,
    worst_rank: usize,
    median_rank_share: Option<f64>,
    /// Likeness of the probe and the picture that it was made of (outputs), or of the pair (originals).
    likeness: Option<Summary>,
}

/// One clip.
#[derive(Debug, Serialize)]
struct Clip {
    file: String,
    frames: usize,
    /// Per judge: temporal identity consistency of the original and of the output.
    consistency: BTreeMap<String, [Option<f64>; 2]>,
    jitter: [Option<f64>; 2],
}

/// Evaluates and writes the report.
///
/// # Errors
/// When a file is missing or a network fails.
pub fn evaluate(options: &Options) -> Result<()> {
    let subject = &options.subject;
    let (runtime, mut product) = subject.open()?;
    let mut judges = judges(&options.recognizers, &runtime, &mut product)?;
    let mut sex = options
        .sex
        .as_deref()
        .map(|path| Judge::load(path, &runtime, &mut product.place))
        .transpose()?;

    let pairs = pairs(&subject.data, options.pairs)?;
    let set = Set::read(&subject.data, &pairs, options.gallery, &mut product, &mut judges)?;
    let mut report = Report {
        weights: subject.weights.display().to_string(),
        pictures: set.originals.len(),
        pairs: pairs.len(),
        gallery: set.gallery.len(),
        recognizers: Vec::new(),
        looks: BTreeMap::new(),
        groups: Vec::new(),
        clips: Vec::new(),
    };
    for (protocol, name) in [(Protocol::OtherPicture, "other"), (Protocol::SamePicture, "same")] {
        let (recognitions, looks, sheet) =
            set.replace(&pairs, protocol, &mut product, &mut judges, sex.as_mut())?;
        report.recognizers.extend(recognitions);
        report.looks.insert(name, looks);
        draw(
            &subject.out.join(format!("faces-{name}.png")),
            &sheet,
            product.side(),
        )?;
    }
    if options.labelled > 0 {
        report.groups = groups::measure(
            &subject.data.join("eval/distractors_utk"),
            options.labelled,
            &mut product,
            &mut judges,
        )?;
    }
    if options.frames > 0 {
        report.clips = clips(
            &subject.data.join("video/talking"),
            options.frames,
            &mut product,
            &mut judges,
        )?;
    }
    subject.write("report", &report, &report.markdown()?)
}

/// The genuine pairs of eval/pairs.tsv, `limit` of them spread evenly.
fn pairs(data: &Path, limit: Option<usize>) -> Result<Vec<[String; 2]>> {
    let path = data.join("eval/pairs.tsv");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut pairs = Vec::new();
    for (line, row) in text.lines().enumerate().skip(1) {
        match row.split('\t').collect::<Vec<_>>()[..] {
            ["1", _, a, b] => pairs.push([a.to_owned(), b.to_owned()]),
            ["0", ..] => {}
            _ => bail!("{}, line {}: not same, fold, a, b", path.display(), line + 1),
        }
    }
    ensure!(!pairs.is_empty(), "{} lists no genuine pair", path.display());
    Ok(limited(pairs, limit))
}

/// At most `limit` of a list, spread evenly over it.
fn limited<T>(all: Vec<T>, limit: Option<usize>) -> Vec<T> {
    let stride = limit.map_or(1, |limit| all.len().div_ceil(limit.max(1)).max(1));
    all.into_iter().step_by(stride).collect()
}

/// An original picture as everybody sees it.
struct Original {
    picture: Picture,
    face: Face,
    /// One per judge.
    descriptors: Vec<Vec<f32>>,
}

/// The originals of an evaluation.
struct Set {
    originals: HashMap<String, Original>,
    /// One picture of every person.
    gallery: Vec<String>,
}

impl Set {
    fn read(
        data: &Path,
        pairs: &[[String; 2]],
        gallery: Option<usize>,
        product: &mut Product,
        judges: &mut [Judge],
    ) -> Result<Self> {
        let mut persons: BTreeMap<String, String> = BTreeMap::new();
        let faces = data.join("eval/lfw");
        for person in fs::read_dir(&faces).with_context(|| format!("cannot read {}", faces.display()))? {
            let person = person?.file_name().to_string_lossy().into_owned();
            let first = fs::read_dir(faces.join(&person))?
                .filter_map(|file| Some(file.ok()?.file_name().to_string_lossy().into_owned()))
                .min();
            if let Some(first) = first {
                persons.insert(person.clone(), format!("eval/lfw/{person}/{first}"));
            }
        }
        let gallery = limited(persons.into_values().collect(), gallery);
        let wanted: BTreeSet<&String> = pairs.iter().flatten().chain(&gallery).collect();
        let mut originals = HashMap::new();
        for name in wanted.into_iter().progress() {
            let mut picture = Picture::read(&data.join(name))?;
            let Some(face) = product.find(&mut picture)? else {
                continue;
            };
            let descriptors = describe(&mut picture, &face.landmarks, product, judges)?;
            originals.insert(
                name.clone(),
                Original {
                    picture,
                    face,
                    descriptors,
                },
            );
        }
        let gallery = gallery
            .into_iter()
            .filter(|name| originals.contains_key(name))
            .collect();
        Ok(Self { originals, gallery })
    }

    /// Replaces the first face of every pair and measures it.
    fn replace(
        &self,
        pairs: &[[String; 2]],
        protocol: Protocol,
        product: &mut Product,
        judges: &mut [Judge],
        mut sex: Option<&mut Judge>,
    ) -> Result<(Vec<Recognition>, Looks, Vec<Replaced>)> {
        let mut looks = Vec::new();
        let mut probes: Vec<(&str, &str, Vec<Vec<f32>>)> = Vec::new();
        let mut sheet = Vec::new();
        let stride = pairs.len().div_ceil(SHEET);
        for (index, [a, b]) in pairs.iter().enumerate().progress() {
            let (Some(original), Some(other)) = (self.originals.get(a), self.originals.get(b)) else {
                continue;
            };
            let target = match protocol {
                Protocol::SamePicture => original.face.embedding,
                Protocol::OtherPicture => other.face.embedding,
            };
            let mut replaced = product.replace(&mut original.picture.clone(), &original.face, &target)?;
            let mut look = Look::measure(&original.face, &mut replaced, product)?;
            if let Some(sex) = &mut sex {
                let mut female = |picture: &mut Picture| {
                    let said =
                        sex.describe(&mut product.place, &picture.frame()?, &original.face.landmarks)?;
                    anyhow::Ok(said.first().is_some_and(|probability| *probability < 0.5))
                };
                let before = female(&mut original.picture.clone())?;
                look.same_sex = Some(before == female(&mut replaced.picture)?);
            }
            looks.push(look);
            let descriptors = describe(&mut replaced.picture, &original.face.landmarks, product, judges)?;
            probes.push((a, b, descriptors));
            if index % stride == 0 {
                sheet.push(replaced);
            }
        }
        let recognitions = judges
            .iter()
            .enumerate()
            .map(|(index, judge)| self.recognize(index, judge, protocol, &probes))
            .collect();
        Ok((recognitions, Looks::of(&looks), sheet))
    }

    /// One judge's verdict on all probes: `(picture, other picture of the person, descriptors of the output)`.
    fn recognize(
        &self,
        index: usize,
        judge: &Judge,
        protocol: Protocol,
        probes: &[(&str, &str, Vec<Vec<f32>>)],
    ) -> Recognition {
        let metric = judge.spec.metric;
        let original = |name: &str| self.originals[name].descriptors[index].as_slice();
        // Thresholds come from all pairs of different persons in the gallery, of which there are enough for 1e-3.
        let impostors: Vec<f64> = (0..self.gallery.len())
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| metric.likeness(original(&self.gallery[i]), original(&self.gallery[j])))
            .collect();
        let verify = |outputs: bool| {
            let (mut genuine, mut ranks, mut likeness) = (Vec::new(), Vec::new(), Vec::new());
            for (a, b, descriptors) in probes {
                let probe = if outputs {
                    descriptors[index].as_slice()
                } else {
                    original(a)
                };
                let score = metric.likeness(probe, original(b));
                let others = self.gallery.iter().filter(|name| person_of(name) != person_of(a));
                ranks.push(metrics::rank(
                    score,
                    others.map(|name| metric.likeness(probe, original(name))),
                ));
                likeness.push(if outputs {
                    metric.likeness(probe, original(a))
                } else {
                    score
                });
                genuine.push(score);
            }
            let tar = |rate| {
                metrics::threshold(&impostors, rate)
                    .and_then(|threshold| metrics::acceptance(&genuine, threshold))
            };
            let worst_rank = ranks.iter().copied().min().unwrap_or(0);
            let ranks: Vec<f64> = ranks.into_iter().map(|rank| rank as f64).collect();
            let rank = Summary::of(&ranks);
            Verification {
                tar_at_far_1e3: tar(1e-3),
                tar_at_far_1e2: tar(1e-2),
                equal_error_rate: metrics::equal_error_rate(&genuine, &impostors),
                median_rank_share: rank.map(|rank| rank.median / self.gallery.len() as f64),
                rank,
                worst_rank,
                likeness: Summary::of(&likeness),
            }
        };
        Recognition {
            recognizer: judge.spec.name.clone(),
            trained_on: judge.spec.trained_on,
            protocol,
            impostors: impostors.len(),
            originals: verify(false),
            outputs: verify(true),
        }
    }
}

fn describe(
    picture: &mut Picture,
    landmarks: &Landmarks,
    product: &mut Product,
    judges: &mut [Judge],
) -> Result<Vec<Vec<f32>>> {
    let frame = picture.frame()?;
    judges
        .iter_mut()
        .map(|judge| judge.describe(&mut product.place, &frame, landmarks))
        .collect()
}

/// Faces on the sheet that is judged by eye.
const SHEET: usize = 60;

/// Writes the sheet: for each face original, result, generated and mask, five faces in a row.
fn draw(path: &Path, faces: &[Replaced], side: usize) -> Result<()> {
    const COLUMNS: usize = 5;
    let (wide, rows) = (4 * COLUMNS * side, faces.len().div_ceil(COLUMNS).max(1));
    let mut sheet = image::RgbImage::new(wide as u32, (rows * side) as u32);
    for (index, face) in faces.iter().enumerate() {
        let (left, top) = ((index % COLUMNS) * 4 * side, (index / COLUMNS) * side);
        let [original, generated, result] = &face.crops;
        for pixel in 0..side * side {
            let mask = [face.mask[pixel] * 255.0; 3];
            let color = |crop: &[f32]| [0, 1, 2].map(|channel| crop[channel * side * side + pixel]);
            for (tile, color) in [color(original), color(result), color(generated), mask]
                .into_iter()
                .enumerate()
            {
                let (x, y) = (left + tile * side + pixel % side, top + pixel / side);
                let color = color.map(|value| value.round().clamp(0.0, 255.0) as u8);
                sheet.put_pixel(x as u32, y as u32, image::Rgb(color));
            }
        }
    }
    sheet
        .save(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces the face in the first frames of every clip; the target is the face in the first of them.
fn clips(folder: &Path, frames: usize, product: &mut Product, judges: &mut [Judge]) -> Result<Vec<Clip>> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|file| Ok(file?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    files
        .iter()
        .progress()
        .map(|path| clip(path, frames, product, judges))
        .collect()
}

fn clip(path: &Path, frames: usize, product: &mut Product, judges: &mut [Judge]) -> Result<Clip> {
    let mut descriptors: [Vec<Vec<Vec<f32>>>; 2] = Default::default();
    let mut tracks: [Vec<Landmarks>; 2] = Default::default();
    let mut target = None;
    for mut picture in video::decode(path, frames)? {
        let Some(face) = product.find(&mut picture)? else {
            continue;
        };
        let target = *target.get_or_insert(face.embedding);
        let mut replaced = product.replace(&mut picture, &face, &target)?;
        tracks[1].push(product.locate(&mut replaced.picture, face.region)?);
        tracks[0].push(face.landmarks);
        descriptors[0].push(describe(&mut picture, &face.landmarks, product, judges)?);
        descriptors[1].push(describe(&mut replaced.picture, &face.landmarks, product, judges)?);
    }
    let consistency = |judge: usize, kind: usize| {
        let steps: Vec<f64> = descriptors[kind]
            .windows(2)
            .map(|two| metrics::cosine(&two[0][judge], &two[1][judge]))
            .collect();
        metrics::mean(&steps)
    };
    let consistency = judges
        .iter()
        .enumerate()
        .map(|(index, judge)| {
            (
                judge.spec.name.clone(),
                [0, 1].map(|kind| consistency(index, kind)),
            )
        })
        .collect();
    Ok(Clip {
        file: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        frames: tracks[0].len(),
        consistency,
        jitter: [0, 1].map(|kind| metrics::jitter(&tracks[kind])),
    })
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{:.2} %", 100.0 * value))
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.3}"))
}

fn median(summary: &Option<Summary>) -> Option<f64> {
    summary.map(|summary| summary.median)
}

impl Report {
    fn write_groups(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n## By group (UTKFace's labels, target the same picture; medians)\n"
        )?;
        write!(
            text,
            "| group | pictures | with a face | found again | landmark NME | p95 | sharpness ratio | RGB difference of 255 | mask coverage |"
        )?;
        let judges: Vec<&String> = self.groups[0].likeness.keys().collect();
        for judge in &judges {
            write!(text, " likeness to its original, {judge} |")?;
        }
        writeln!(
            text,
            "\n|---|---|---|---|---|---|---|---|---|{}",
            "---|".repeat(judges.len())
        )?;
        for group in &self.groups {
            let looks = &group.looks;
            write!(
                text,
                "| {}: {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                group.label,
                group.value,
                group.pictures,
                looks.faces,
                percent(looks.found_again),
                percent(median(&looks.landmark_error)),
                percent(looks.landmark_error.map(|error| error.p95)),
                number(median(&looks.sharpness)),
                number(median(&looks.rgb_difference)),
                number(median(&looks.mask_coverage)),
            )?;
            for judge in &judges {
                write!(
                    text,
                    " {} |",
                    number(group.likeness.get(*judge).map(|summary| summary.median))
                )?;
            }
            writeln!(text)?;
        }
        Ok(())
    }

    fn markdown(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "# Evaluation of {}\n", self.weights)?;
        writeln!(
            text,
            "{} genuine pairs, {} persons in the gallery, {} pictures, along the product's own path.\n",
            self.pairs, self.gallery, self.pictures
        )?;
        writeln!(text, "## Recognition (paper table 3)\n")?;
        writeln!(
            text,
            "| recogniser | target | probe | TAR@FAR 1e-3 | TAR@FAR 1e-2 | EER | rank: median | mean | best for the attacker | median, share of gallery | likeness to its original |\n|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for entry in &self.recognizers {
            let training = if entry.trained_on { " (in training)" } else { "" };
            let target = match entry.protocol {
                Protocol::SamePicture => "same picture",
                Protocol::OtherPicture => "other picture",
            };
            for (probe, result) in [("original", &entry.originals), ("output", &entry.outputs)] {
                writeln!(
                    text,
                    "| {}{training} | {target} | {probe} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    entry.recognizer,
                    percent(result.tar_at_far_1e3),
                    percent(result.tar_at_far_1e2),
                    percent(result.equal_error_rate),
                    number(median(&result.rank)),
                    number(result.rank.map(|rank| rank.mean)),
                    result.worst_rank,
                    percent(result.median_rank_share),
                    number(median(&result.likeness)),
                )?;
            }
        }
        writeln!(text, "\n## Looks (inside the hull, output against original)\n")?;
        writeln!(
            text,
            "| target | faces | found again | landmark NME, median | p95 | mouth opening, r | eye opening, r | sharpness ratio, median | of the crop put back | SSIM, median | RGB difference of 255, median | mask coverage, median | p5 | same sex |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for (target, looks) in &self.looks {
            writeln!(
                text,
                "| {target} picture | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                looks.faces,
                percent(looks.found_again),
                percent(median(&looks.landmark_error)),
                percent(looks.landmark_error.map(|error| error.p95)),
                number(looks.mouth_correlation),
                number(looks.eye_correlation),
                number(median(&looks.sharpness)),
                number(median(&looks.sharpness_of_path)),
                number(median(&looks.similarity)),
                number(median(&looks.rgb_difference)),
                number(median(&looks.mask_coverage)),
                number(looks.mask_coverage.map(|coverage| coverage.p5)),
                percent(looks.same_sex),
            )?;
        }
        if !self.groups.is_empty() {
            self.write_groups(&mut text)?;
        }
        if !self.clips.is_empty() {
            writeln!(
                text,
                "\n## Clips\n\nTIC and landmark jitter (of inter-ocular distance), original / output.\n"
            )?;
            let names: Vec<&String> = self.clips[0].consistency.keys().collect();
            write!(text, "| clip | frames | jitter |")?;
            for name in &names {
                write!(text, " TIC {name} |")?;
            }
            writeln!(text, "\n|---|---|---|{}", "---|".repeat(names.len()))?;
            for clip in &self.clips {
                let [before, after] = clip.jitter;
                write!(
                    text,
                    "| {} | {} | {} / {} |",
                    clip.file,
                    clip.frames,
                    number(before),
                    number(after)
                )?;
                for [before, after] in clip.consistency.values() {
                    write!(text, " {} / {} |", number(*before), number(*after))?;
                }
                writeln!(text)?;
            }
            for name in &names {
                let outputs: Vec<f64> = self
                    .clips
                    .iter()
                    .filter_map(|clip| clip.consistency[*name][1])
                    .collect();
                writeln!(
                    text,
                    "\nMean TIC of the outputs, {name}: {}",
                    number(metrics::mean(&outputs))
                )?;
            }
        }
        Ok(text)
    }
}
