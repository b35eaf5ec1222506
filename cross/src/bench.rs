use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::{clips, setup, steps};

/// What `cargo xtask bench` measures.
#[derive(Args)]
pub struct Options {
    /// Any video file; without it, the portrait clip at 720p and 1080p
    clip: Option<PathBuf>,
    /// Another program to run on the same clip, in turn with this one
    #[arg(long)]
    peer: Option<Peer>,
    /// How often each program runs; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    /// PyPI deface 1.5.0: blurs the faces of every frame
    Deface,
}

/// Everything that the comparison installs, into a Python environment of its own.
const DEFACE: [&str; 3] = ["deface==1.5.0", "onnx==1.19.1", "onnxruntime==1.23.2"];

/// A program that reads the clip and writes an anonymized one:
/// `program BEFORE... INPUT --output OUTPUT AFTER...`.
struct Contender {
    name: String,
    program: PathBuf,
    before: &'static [&'static str],
    after: &'static [&'static str],
    /// Seconds of each run.
    seconds: Vec<f64>,
}

/// Measures the whole job, from opening the file to the finished one, process start included.
///
/// # Errors
/// Which step failed.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    setup::ensure()?;
    let persona = steps::build_persona(root, "release")?;
    steps::run(Command::new(&persona).args(["models", "fetch"]))?;
    let out = root.join("target/bench");
    fs::create_dir_all(&out)?;
    let clips = match &options.clip {
        Some(clip) => vec![clip.clone()],
        None => vec![
            clips::portrait(root, &out, 720)?,
            clips::portrait(root, &out, 1080)?,
        ],
    };
    let deface = match options.peer {
        Some(Peer::Deface) => Some(install_deface(root)?),
        None => None,
    };
    for clip in &clips {
        let mut contenders = vec![Contender {
            name: "persona".into(),
            program: persona.clone(),
            before: &["run", "--input"],
            after: &[],
            seconds: Vec::new(),
        }];
        if let Some(bin) = &deface {
            contenders.extend(DEFACE_VARIANTS.map(|(name, after)| Contender {
                name: name.into(),
                program: bin.join("deface"),
                before: &[],
                after,
                seconds: Vec::new(),
            }));
        }
        compare(clip, &out, &mut contenders, options.rounds)?;
        let frames = frames(clip, &out)?;
        print(clip, frames, &contenders);
    }
    Ok(())
}

/// deface with both of its network runtimes, at its defaults (the detector sees the full frame) and with a smaller
/// picture for the detector.
const DEFACE_VARIANTS: [(&str, &[&str]); 4] = [
    ("deface, onnxrt", &["--backend", "onnxrt"]),
    ("deface, opencv", &["--backend", "opencv"]),
    (
        "deface, onnxrt, detector at 640x360",
        &["--backend", "onnxrt", "--scale", "640x360"],
    ),
    (
        "deface, opencv, detector at 640x360",
        &["--backend", "opencv", "--scale", "640x360"],
    ),
];

/// Installs the pinned packages once and gives the folder of their programs.
fn install_deface(root: &Path) -> Result<PathBuf> {
    let environment = root.join("target/peers").join(DEFACE[0]);
    let bin = environment.join("bin");
    if !bin.join("deface").exists() {
        steps::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        steps::run(
            Command::new(bin.join("python"))
                .args(["-m", "pip", "install"])
                .args(DEFACE),
        )?;
    }
    Ok(bin)
}

/// Lets the contenders take turns, so that whatever else the machine does meets them all.
fn compare(clip: &Path, out: &Path, contenders: &mut [Contender], rounds: u32) -> Result<()> {
    for round in 1..=rounds {
        for contender in &mut *contenders {
            eprintln!(
                "round {round} of {rounds}: {} on {}",
                contender.name,
                clip.display()
            );
            let output = out.join("output.mp4");
            if output.exists() {
                fs::remove_file(&output)?;
            }
            let begin = Instant::now();
            steps::quietly(
                Command::new(&contender.program)
                    .args(contender.before)
                    .arg(clip)
                    .arg("--output")
                    .arg(&output)
                    .args(contender.after),
            )?;
            contender.seconds.push(begin.elapsed().as_secs_f64());
            ensure!(
                fs::metadata(&output).is_ok_and(|file| file.len() > 0),
                "{} wrote no output",
                contender.name
            );
        }
    }
    Ok(())
}

/// How many frames the clip has, counted by decoding it.
fn frames(clip: &Path, out: &Path) -> Result<u64> {
    // One byte a frame: every frame is scaled to a single pixel.
    let counted = out.join("frames.gray");
    let (source, sink) = (
        format!("location={}", clip.display()),
        format!("location={}", counted.display()),
    );
    steps::run(
        Command::new("gst-launch-1.0")
            .args([
                "--quiet",
                "filesrc",
                &source,
                "!",
                "decodebin",
                "!",
                "videoconvert",
                "!",
                "videoscale",
            ])
            .args([
                "!",
                "video/x-raw,format=GRAY8,width=1,height=1,pixel-aspect-ratio=1/1",
                "!",
            ])
            .args(["videoconvert", "!", "filesink", &sink]),
    )?;
    let bytes = fs::metadata(&counted).context("counting frames")?.len();
    // GStreamer's rows are 4 bytes long.
    Ok(bytes / 4)
}

fn print(clip: &Path, frames: u64, contenders: &[Contender]) {
    let name = clip.file_name().unwrap_or_default().to_string_lossy();
    println!("\n{name}, {frames} frames, {} processors", processors());
    println!("| program | seconds (median) | frames per second | persona is faster by |");
    println!("|---|---|---|---|");
    let ours = median(&contenders[0].seconds);
    for contender in contenders {
        let seconds = median(&contender.seconds);
        println!(
            "| {} | {seconds:.2} | {:.1} | {:.1} |",
            contender.name,
            frames as f64 / seconds,
            seconds / ours
        );
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        0.5 * (sorted[middle - 1] + sorted[middle])
    } else {
        sorted[middle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        for (values, wanted) in [
            (&[3.0][..], 3.0),
            (&[9.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 2.0, 3.0], 2.5),
        ] {
            assert_eq!(median(values), wanted, "{values:?}");
        }
    }
}
