//! Hardware in the loop: the box's program on a board, its button pressed and its lamp read from outside.
//!
//! The cases are the same for every board. The emulated board shows that the program and its logic work on that
//! instruction set, kernel and GPIO interface; it is not a Jetson: no GPU, no CSI camera, no encoder, no timing.

mod console;
mod emulated;
mod remote;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use clap::Args;

use crate::steps::{self, Steps};
use console::Console;
use emulated::Emulated;
use remote::Remote;

/// What `cargo xtask hil` is told.
#[derive(Args)]
pub struct Options {
    /// A real board, reached over ssh: a file like cross/devices/example.toml. The package must be installed there
    device: Option<PathBuf>,
    /// Boot the emulated board
    #[arg(long)]
    emulated: bool,
    /// On the emulated board: the front panel alone, without camera and networks
    #[arg(long, requires = "emulated")]
    panel: bool,
    /// Profile of cargo, for the emulated board
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Runs the cases on what was named.
///
/// # Errors
/// When a case fails.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let mut all = Steps::default();
    if options.emulated {
        let machine = Emulated::prepare(root, options)?;
        let run = if options.panel { Run::PANEL } else { Run::PROGRAM };
        cases("emulated board", || Emulated::boot(&machine), &run, &mut all);
    } else {
        all.skip("emulated board", "only with --emulated");
    }
    match &options.device {
        Some(file) => {
            let device = remote::Device::read(file)?;
            cases(
                "hardware",
                || Remote::open(device, "ssh".as_ref()),
                &Run::PROGRAM,
                &mut all,
            );
        }
        None => all.skip("hardware", NO_DEVICE),
    }
    all.finish()
}

/// Why the cases did not run on a real board.
pub const NO_DEVICE: &str = "no board was named; cargo xtask hil cross/devices/NAME.toml runs the cases on a real one over ssh (docs/deployment.md)";

/// A board with the script at work on it, whose functions the cases call.
trait Bench {
    /// The terminal of the board.
    fn console(&mut self) -> &mut Console;

    /// Presses the button for 100 ms.
    fn press(&mut self) -> Result<()>;

    /// Presses it twice, the second time before the first one counts as short. Gives whether that is certain: a machine
    /// with other work may be late.
    fn press_twice(&mut self) -> Result<bool>;

    /// For which share of about 4 s, two of its longest patterns, the lamp is lit; percent.
    fn share(&mut self) -> Result<u32>;

    /// Waits until the board was reset.
    fn wait_reset(&mut self) -> Result<()>;

    /// The recording of the program that has ended.
    fn recording(&mut self) -> Result<PathBuf>;
}

/// The script on the board. It takes words from the terminal, each the name of a function, and needs a function
/// `program` that starts `persona run` with the panel and the watchdog, in place of the shell.
const SCRIPT: &str = r#"
record() { program & persona=$!; }
finish() { kill -INT $persona; wait $persona; echo HIL finished $?; sync; }
starve() { kill -STOP $persona; }
echo HIL begins
while read -r word; do $word; done
"#;

/// Frames of each state: the first one after a change may have been decided before it.
const FRAMES: u64 = 2;
/// More frames than the encoder holds back, for as many threads as a board of four processors gives it.
const ENCODING: u64 = 4;

/// What the panel says of two presses soon after each other, and of two that are not.
const DOUBLE: &str = "double press: state anonymizing -> shuttered";
const TWO_SHORT: &str = "short press: state covering on request -> anonymizing";
/// How often two presses may come too late for a double press.
const TRIES: usize = 10;

/// What runs on the board while the cases press its button.
struct Run {
    /// Functions of the script that start and end it.
    start: &'static str,
    end: &'static str,
    /// Whether it has a camera, a recording and a watchdog.
    frames: bool,
}

impl Run {
    const PANEL: Self = Self {
        start: "panel",
        end: "stop",
        frames: false,
    };
    const PROGRAM: Self = Self {
        start: "record",
        end: "finish",
        frames: true,
    };
}

fn cases<B: Bench>(place: &str, open: impl FnOnce() -> Result<B>, run: &Run, all: &mut Steps) {
    let mut opened = None;
    all.step(&format!("{place}: begins"), || {
        let mut board = open()?;
        board.console().wait("HIL begins")?;
        opened = Some(board);
        Ok(())
    });
    let Some(mut board) = opened else { return };
    let mut well = true;
    // Each case begins in the state in which the one before ends.
    let mut case = |name: &str, work: &mut dyn FnMut(&mut B) -> Result<()>| {
        let name = format!("{place}: {name}");
        if !well {
            return all.skip(&name, "the case before failed");
        }
        all.step(&name, || {
            let done = work(&mut board);
            well = done.is_ok();
            done
        });
    };
    // How often two presses were no double press.
    let mut again = 0;
    // Looks at the lamp after a change of the state, while this many frames leave in it.
    let shows = |board: &mut B, share: u32, frames: u64| {
        let before = board.console().frames();
        lamp(board, share)?;
        if run.frames {
            board.console().wait_frames(before + frames)?;
        }
        Ok(())
    };
    case("covers at power-on", &mut |board| {
        board.console().say(run.start)?;
        board.console().wait("picture black slate -> covered")?;
        shows(board, 50, 0)
    });
    case("anonymizes", &mut |board| {
        board.console().wait("state covering -> anonymizing")?;
        shows(board, 90, FRAMES)
    });
    case("a press covers", &mut |board| {
        board.press()?;
        board
            .console()
            .wait("button pressed: picture anonymized -> covered")?;
        board
            .console()
            .wait("short press: state anonymizing -> covering on request")?;
        shows(board, 10, FRAMES)
    });
    case("another press opens", &mut |board| {
        board.press()?;
        board.console().wait("state covering on request -> anonymizing")?;
        shows(board, 90, FRAMES)
    });
    case("a double press makes a slate", &mut |board| {
        loop {
            let in_time = board.press_twice()?;
            if board.console().wait_any(&[DOUBLE, TWO_SHORT])? == DOUBLE {
                break;
            }
            // As before the first of them, so they can be pressed again.
            ensure!(!in_time, "two presses in time were taken for two short ones");
            again += 1;
            ensure!(again < TRIES, "this machine has no time for a double press");
        }
        // The encoder holds frames back, and a slow board does not wait for them when it ends.
        shows(board, 20, FRAMES + ENCODING)
    });
    case("ends in order", &mut |board| {
        board.console().say(run.end)?;
        board.console().wait("HIL finished 0")
    });
    if !run.frames {
        return;
    }
    case("the lamp is off when it has ended", &mut |board| lamp(board, 0));
    case("frames are what the state demands", &mut |board| {
        looks_are(&board.recording()?, again)
    });
    case("a starved watchdog resets it", &mut |board| {
        board.console().say(run.start)?;
        board.console().wait("picture black slate -> covered")?;
        board.console().say("starve")?;
        board.wait_reset()
    });
}

/// Looks at the lamp until it is lit for this share of the time, in percent, give or take 8.
fn lamp(board: &mut impl Bench, wanted: u32) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..10 {
        let share = board.share()?;
        if share.abs_diff(wanted) <= 8 {
            println!("the lamp is lit for {share} % of the time, as {wanted} % wants");
            return Ok(());
        }
        seen.push(share);
    }
    anyhow::bail!("the lamp is lit for {seen:?} % of the time, wanted {wanted} %")
}

/// The recording's frames, decoded here: anonymized, covered, anonymized, covered for a moment, black. With each further
/// try of the double press they are covered and anonymized once more.
fn looks_are(recording: &Path, again: usize) -> Result<()> {
    const SIDE: usize = 64;
    let raw = recording.with_extension("gray");
    let mut decode = Command::new("gst-launch-1.0");
    decode
        .args(["--quiet", "filesrc"])
        .arg(format!("location={}", recording.display()));
    decode.args([
        "!",
        "matroskademux",
        "!",
        "avdec_h264",
        "!",
        "videoconvert",
        "!",
        "videoscale",
        "add-borders=false",
        "!",
    ]);
    decode.args([
        "video/x-raw,format=GRAY8,width=64,height=64,pixel-aspect-ratio=1/1",
        "!",
        "filesink",
    ]);
    decode.arg(format!("location={}", raw.display()));
    steps::quietly(&mut decode)?;
    let pixels = fs::read(&raw)?;
    let mut looks: Vec<_> = pixels.chunks_exact(SIDE * SIDE).map(look).collect();
    let frames = looks.len();
    looks.dedup();
    // Covered frames before the first open one and in the moment of a double press may fall between two frames.
    let begin = looks.iter().position(|look| *look != Look::Covered).unwrap_or(0);
    let looks = looks.split_off(begin);
    let well = match looks.as_slice() {
        [Look::Open, Look::Covered, Look::Open, between @ .., Look::Black] => {
            between.len() <= 1 + 2 * again && !between.contains(&Look::Black)
        }
        _ => false,
    };
    ensure!(
        well,
        "{frames} frames look like {looks:?}, wanted open, covered, open and black"
    );
    println!("{frames} frames: {looks:?}");
    Ok(())
}

/// What a frame looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Open,
    Covered,
    Black,
}

/// Luma of black is 16 in video (ITU-R BT.709, 6.10); the fill of a covered frame is dark grey.
fn look(pixels: &[u8]) -> Look {
    let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64;
    let spread = pixels.iter().map(|&p| (f64::from(p) - mean).abs()).sum::<f64>() / pixels.len() as f64;
    match (spread < 3.0, mean < 24.0) {
        (false, _) => Look::Open,
        (true, false) => Look::Covered,
        (true, true) => Look::Black,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_told_apart() {
        assert_eq!(look(&[16; 64]), Look::Black);
        assert_eq!(look(&[50; 64]), Look::Covered);
        let bars: Vec<u8> = (0..64).map(|i| if i % 16 < 8 { 20 } else { 200 }).collect();
        assert_eq!(look(&bars), Look::Open);
    }
}
