//! `persona quantize`: the networks in FP16 and INT8, and what that costs in accuracy.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use engines::cpu::Runtime;
use engines::models::{Network, Store, default_dir};
use engines::quantize::accuracy::{Accuracy, Reference, Samples};
use engines::quantize::work::{BOARDS, Work};
use engines::quantize::{Collector, Found, Recipe, best_recipe, fp16, int8};
use indicatif::{ProgressBar, ProgressStyle};
use kernels::cpu::Cpu;

use crate::frame::Pixels;
use crate::run::{self, Error as RunError};
use crate::sheet::Video;

/// What `persona quantize` is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Make new INT8 recipes from these pictures, videos, or folders of them; without it, the recipes that are part
    /// of this program are used
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub calibrate: Vec<PathBuf>,

    /// Measure FP16 and INT8 against FP32 on these pictures, videos, or folders of them: others than for --calibrate
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub measure: Vec<PathBuf>,

    /// Only these networks
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub network: Vec<Name>,

    /// Write the recipes here, one TOML file per network
    #[arg(long, value_name = "DIR", requires = "calibrate")]
    pub recipes: Option<PathBuf>,

    /// Write the networks here, as ONNX in FP16 and INT8
    #[arg(long, value_name = "DIR")]
    pub onnx: Option<PathBuf>,

    /// Count operations, parameters and bytes, and predict the time on every board from them
    #[arg(long)]
    pub predict: bool,

    /// Most pictures of each PATH; of a video, most frames
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pictures: u32,

    /// Frames of each video inside of a folder
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub frames: u32,

    /// What the pictures are, in words, for the recipes
    #[arg(long, value_name = "TEXT", default_value = "pictures of this machine")]
    pub provenance: String,

    /// Threads per network
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,

    /// Folder with the networks [default: $PERSONA_MODELS, else ~/.local/share/persona/models]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
}

/// A network by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Faces in a frame
    Detector,
    /// 68 landmarks
    Landmarks,
    /// Identity
    Embedding,
    /// Another face
    Generator,
}

const NAMES: [Name; 4] = [Name::Detector, Name::Landmarks, Name::Embedding, Name::Generator];

impl Name {
    fn network(self) -> Network {
        match self {
            Self::Detector => Network::Detector,
            Self::Landmarks => Network::Landmarks,
            Self::Embedding => Network::Embedding,
            Self::Generator => Network::Generator,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Detector => "detector",
            Self::Landmarks => "landmarks",
            Self::Embedding => "embedding",
            Self::Generator => "generator",
        }
    }
}

/// Why it ends early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A network cannot be loaded, run or written.
    #[error(transparent)]
    Engines(#[from] engines::Error),
    /// A picture or video cannot be read, or a file not be written.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Most samples of one network: what fits into 2 GB with room to spare.
const SAMPLES: usize = 400;

/// Quantizes, measures and writes what the options say, and prints Markdown.
///
/// # Errors
/// When a network is missing, a path holds nothing that can be read, or a file cannot be written.
pub fn run(options: &Options) -> Result<(), Error> {
    let store = Store::open(options.models.clone().unwrap_or_else(default_dir))?;
    let runtime = Runtime::load(&store.runtime_library()?, options.threads as usize)?;
    let collect = |paths: &[PathBuf], what| match paths {
        [] => Ok(None),
        _ => collect(&store, &runtime, paths, options, what).map(Some),
    };
    let calibration = collect(&options.calibrate, "calibration")?;
    let measurement = collect(&options.measure, "measurement")?;
    let (mut rows, mut counted) = (Vec::new(), Vec::new());
    for name in NAMES {
        if !options.network.is_empty() && !options.network.contains(&name) {
            continue;
        }
        let network = name.network();
        let onnx = store.load(network)?;
        let recipe = match &calibration {
            Some(collector) => {
                let samples = collector.samples(network, SAMPLES);
                let found = search(&runtime, name, &onnx, &samples, options)?;
                print!("{}", story(name, &found));
                found.recipe
            }
            None => Recipe::shipped(network)?,
        };
        if let Some(folder) = &options.recipes {
            let text = recipe.text()?;
            write(folder, &format!("{}.toml", name.text()), text.as_bytes())?;
        }
        let precisions = [("fp16", fp16(&onnx)?), ("int8", int8(&onnx, &recipe)?)];
        for (precision, onnx) in &precisions {
            if let Some(folder) = &options.onnx {
                write(folder, &format!("{}.{precision}.onnx", name.text()), onnx)?;
            }
        }
        if options.predict {
            counted.push((name, "fp16", Work::count(&runtime, network, &onnx, None)?));
            counted.push((
                name,
                "int8",
                Work::count(&runtime, network, &onnx, Some(&recipe))?,
            ));
        }
        if let Some(collector) = &measurement {
            let samples = collector.samples(network, SAMPLES);
            let bar = bar(&format!("measuring the {}", name.text()));
            bar.set_length(3);
            let reference = Reference::run(&runtime, network, &onnx, &samples)?;
            bar.inc(1);
            for (precision, onnx) in &precisions {
                let accuracy = reference.compare(&runtime, onnx, &samples)?;
                bar.inc(1);
                rows.push((name, *precision, accuracy));
            }
            bar.finish_and_clear();
        }
    }
    if !rows.is_empty() {
        print!("{}", table(&rows));
    }
    if !counted.is_empty() {
        print!("{}", predictions(&counted));
    }
    Ok(())
}

fn table(rows: &[(Name, &str, Accuracy)]) -> String {
    let mut text = String::from("\n| network | precision | against FP32 | floor |\n|---|---|---|---|\n");
    for (name, precision, accuracy) in rows {
        let floor = if accuracy.is_enough() { "holds" } else { "MISSED" };
        text += &format!("| {} | {precision} | {accuracy} | {floor} |\n", name.text());
    }
    text
}

/// What there is to do for one face, or one frame of 640x384, and how long that should take.
fn predictions(counted: &[(Name, &str, Work)]) -> String {
    let mut text = String::from(
        "\n| network | precision | kernels | GMAC | in INT8 | parameters | MB moved |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, precision, work) in counted {
        text += &format!(
            "| {} | {precision} | {} | {:.3} | {:.0} % | {:.2} M | {:.1} |\n",
            name.text(),
            work.steps.len(),
            work.macs() as f64 / 1e9,
            100.0 * work.int8_share(),
            work.parameters() as f64 / 1e6,
            work.bytes() as f64 / 1e6
        );
    }
    text += "\n| predicted, ms |";
    for (name, precision, _) in counted {
        text += &format!(" {} {precision} |", name.text());
    }
    text += &format!("\n|---|{}\n", "---|".repeat(counted.len()));
    for board in &BOARDS {
        text += &format!("| {} |", board.name);
        for (.., work) in counted {
            text += &format!(" {:.2} |", 1e3 * work.seconds(board));
        }
        text += "\n";
    }
    text
}

/// How a recipe was found.
fn story(name: Name, found: &Found) -> String {
    let mut text = format!(
        "\n{}: {} of {} layers in INT8, {}; on the calibration samples {}\n",
        name.text(),
        found.ranking.len() - found.recipe.half.len(),
        found.ranking.len(),
        found.recipe.calibrator,
        found.accuracy
    );
    text += "noise with every layer in INT8, dB below the output:\n";
    for trial in &found.trials {
        let equalized = if trial.equalized { ", channels scaled" } else { "" };
        let corrected = if trial.corrected { ", biases corrected" } else { "" };
        let how = format!("{}{equalized}{corrected}", trial.calibrator);
        text += &format!("  {how:<52} {:>6.1}\n", decibels(trial.noise));
    }
    text += "layers that cost most when rounded alone:\n";
    for (layer, cost) in found.ranking.iter().take(found.recipe.half.len().max(5)) {
        let half = if found.recipe.half.contains(layer) {
            "FP16"
        } else {
            ""
        };
        text += &format!("  {layer:<20} {:>6.1} {half}\n", decibels(*cost));
    }
    text
}

fn decibels(share: f64) -> f64 {
    -10.0 * share.max(1e-12).log10()
}

fn search(
    runtime: &Runtime,
    name: Name,
    onnx: &[u8],
    samples: &Samples,
    options: &Options,
) -> Result<Found, Error> {
    let bar = bar(name.text());
    let mut found = best_recipe(runtime, name.network(), onnx, samples, Accuracy::is_good, &bar)?;
    bar.finish_and_clear();
    found.recipe.calibration = format!("{} samples: {}", samples.inputs.len(), options.provenance);
    Ok(found)
}

fn bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}  {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Runs the FP32 networks over what lies at the paths. A file that cannot be read is left out, with a warning.
fn collect(
    store: &Store,
    runtime: &Runtime,
    paths: &[PathBuf],
    options: &Options,
    what: &str,
) -> Result<Collector, Error> {
    let mut collector = Collector::new(store, runtime)?;
    let mut files = Vec::new();
    for path in paths {
        files.extend(pick(path, options)?);
    }
    let bar = bar(what);
    bar.set_length(files.len() as u64);
    let (mut pictures, mut faces) = (0, 0);
    for (file, frames) in &files {
        let mut add = |picture| -> Result<(), Error> {
            let mut pixels = run::pixels(&picture).map_err(|error| unreadable(file, &error.to_string()))?;
            let found = Pixels::<Cpu>::with_frame(&mut pixels, |frame| collector.add(frame));
            pictures += 1;
            faces += found.map_err(|error| unreadable(file, &error.to_string()))??;
            Ok(())
        };
        let added = if run::is_picture(file) {
            run::read(file).map_err(Error::from).and_then(&mut add)
        } else {
            Video::open(file).map_err(Error::from).and_then(|video| {
                let mut frames = video.frames(*frames)?;
                frames.try_for_each(|frame| add(frame?))
            })
        };
        match added {
            Err(Error::Run(error)) => bar.suspend(|| log::warn!("{error}; left out")),
            added => added?,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{what}: {pictures} pictures with {faces} faces");
    Ok(collector)
}

fn unreadable(path: &Path, reason: &str) -> RunError {
    RunError::Picture {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The files to look at, each with the number of frames should it be a video: of a folder with everything below it as
/// many as the options allow, evenly spaced.
fn pick(path: &Path, options: &Options) -> Result<Vec<(PathBuf, u32)>, Error> {
    if !path.exists() {
        return Err(RunError::NotFound(path.to_owned()).into());
    }
    if path.is_file() {
        return Ok(vec![(path.to_owned(), options.pictures)]);
    }
    let mut files = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let unlistable = |source| RunError::File {
            path: folder.clone(),
            action: "read the folder",
            source,
        };
        for entry in std::fs::read_dir(&folder).map_err(unlistable)? {
            let path = entry.map_err(unlistable)?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path, options.frames));
            }
        }
    }
    if files.is_empty() {
        return Err(RunError::NoPictures(path.to_owned()).into());
    }
    files.sort();
    let (count, most) = (files.len(), options.pictures as usize);
    let kept = |index: usize| count <= most || index * most / count != (index + 1) * most / count;
    let numbered = files.into_iter().enumerate();
    Ok(numbered
        .filter_map(|(index, file)| kept(index).then_some(file))
        .collect())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = folder.join(name);
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, bytes));
    written.map_err(|source| RunError::File {
        path: path.clone(),
        action: "write",
        source,
    })?;
    println!("{}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Cli::try_parse_from(["quantize"].iter().chain(arguments))
            .unwrap()
            .options
    }

    #[test]
    fn files_are_taken_evenly_from_everything_below() {
        let folder = tempfile::tempdir().unwrap();
        for person in ["a", "b"] {
            std::fs::create_dir(folder.path().join(person)).unwrap();
            for number in 0..5 {
                std::fs::write(folder.path().join(format!("{person}/{number}.png")), "").unwrap();
            }
        }
        let names = |most: &str| -> Vec<String> {
            let picked = pick(folder.path(), &options(&["--pictures", most, "--frames", "3"])).unwrap();
            assert!(picked.iter().all(|(_, frames)| *frames == 3));
            let name = |path: &Path| path.strip_prefix(folder.path()).unwrap().display().to_string();
            picked.iter().map(|(path, _)| name(path)).collect()
        };
        assert_eq!(names("100").len(), 10);
        assert_eq!(
            names("5"),
            ["a/1.png", "a/3.png", "b/0.png", "b/2.png", "b/4.png"]
        );
        // A video that is named itself gives as many frames as a folder gives pictures.
        let one = folder.path().join("a/0.png");
        assert_eq!(pick(&one, &options(&["--pictures", "7"])).unwrap(), [(one, 7)]);

        let missing = pick(&folder.path().join("c"), &options(&[]))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("no such file or folder"), "{missing}");
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            pick(empty.path(), &options(&[])),
            Err(Error::Run(RunError::NoPictures(_)))
        ));
    }

    #[test]
    fn recipes_come_from_calibration_only() {
        assert!(Cli::try_parse_from(["quantize", "--recipes", "out"]).is_err());
        assert!(Cli::try_parse_from(["quantize", "--network", "encoder"]).is_err());
    }

    #[test]
    fn a_missed_floor_cannot_be_overlooked() {
        let generator = |psnr| Accuracy::Generator {
            faces: 3,
            psnr,
            worst: psnr,
            mask: psnr,
        };
        let rows = [
            (Name::Generator, "fp16", generator(60.0)),
            (Name::Generator, "int8", generator(30.0)),
        ];
        let table = table(&rows);
        assert!(
            table.contains("| generator | fp16 | PSNR 60.0 dB, worst of 3 60.0 dB, mask 60.0 dB | holds |")
        );
        assert!(table.contains("mask 30.0 dB | MISSED |"), "{table}");
    }
}
