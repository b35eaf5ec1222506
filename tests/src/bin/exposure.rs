//! Did every face that was in the input change on its way to the output? Exit status: 0 yes, 1 no, 2 cannot tell.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use kernels::Rect;
use tests::{
    check::{Options, RECOGNIZABLE, Report, check},
    exposure::{self, Judgement},
};

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
         that fits best, in luma levels of 255, and `change` is difference x sqrt(1 - similarity). `background` is the \
         change of patches of that size all over the frame: what the encoder did. A face is changed when its change is \
         at least {floor} and at least {ratio} x background ({assumed} where none is visible), or when less than {remains} \
         of its detail remains (the slope of a least-squares line). It must be changed against the input's frames just \
         before and after too where their background fits, so that a shifted time does not look like a change. \
         Everything else is exposed.",
        inner = 100.0 * exposure::INNER,
        grid = exposure::GRID,
        floor = exposure::FLOOR,
        ratio = exposure::RATIO,
        assumed = exposure::ASSUMED,
        remains = exposure::REMAINS,
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
            if let Err(error) = print(&report) {
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

fn run(arguments: &Arguments) -> Result<Report> {
    let mut options = Options {
        threshold: arguments.threshold,
        by_order: arguments.by_order,
        threads: arguments.threads,
        ..Options::default()
    };
    if let Some(models) = &arguments.models {
        options.models.clone_from(models);
    }
    let report = check(&arguments.input, &arguments.output, &options, |report| {
        if report.frames.is_multiple_of(100) {
            eprintln!(
                "{} frames, {} face-frames, {} exposed so far",
                report.frames,
                report.faces.len(),
                report.exposed().count()
            );
        }
    })?;
    if let Some(path) = &arguments.csv {
        write_csv(&report, path).with_context(|| path.display().to_string())?;
    }
    Ok(report)
}

fn print(report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let exposed = report.exposed().count();
    writeln!(out, "frames        {}", report.frames)?;
    writeln!(out, "face-frames   {}", report.faces.len())?;
    writeln!(
        out,
        "exposed       {exposed} ({:.2} per 1,000)",
        report.per_thousand()
    )?;
    let mut distances: Vec<f32> = report.faces.iter().filter_map(|face| face.identity).collect();
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
            "time s     x     y     w     h  score  similarity  remains  difference  change  background"
        )?;
    }
    for face in report.exposed().take(PRINTED) {
        let Rect { x, y, width, height } = face.detection.rect;
        writeln!(
            out,
            "{:6.2} {x:5.0} {y:5.0} {width:5.0} {height:5.0}  {:5.2}  {:10.3}  {:7.2}  {:10.2}  {:6.2}  {:10.2}",
            face.seconds,
            face.detection.score,
            face.judgement.similarity,
            face.judgement.remains,
            face.judgement.difference,
            face.judgement.change,
            face.judgement.background,
        )?;
    }
    Ok(())
}

fn write_csv(report: &Report, path: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(
        file,
        "seconds,x,y,width,height,score,similarity,remains,difference,change,background,changed,identity"
    )?;
    for face in &report.faces {
        let Rect { x, y, width, height } = face.detection.rect;
        let Judgement {
            similarity,
            remains,
            difference,
            change,
            background,
            ..
        } = face.judgement;
        let identity = face
            .identity
            .map_or(String::new(), |distance| distance.to_string());
        writeln!(
            file,
            "{},{x},{y},{width},{height},{},{similarity},{remains},{difference},{change},{background},{},{identity}",
            face.seconds,
            face.detection.score,
            face.judgement.changed()
        )?;
    }
    Ok(file.flush()?)
}
