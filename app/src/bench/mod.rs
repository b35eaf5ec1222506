//! `persona bench`: how fast the whole job is, and where the time goes.

pub mod latency;
mod null;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use gst::prelude::*;
use gstreamer as gst;
use serde_json::json;

use crate::networks::Loaded;
use crate::run::{self, Error, Report, make};

/// What `persona bench` is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Video to measure with; without one a test picture in which there is no face
    #[arg(value_name = "CLIP")]
    pub clip: Option<PathBuf>,

    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,

    /// Also run 1, 2, 4 and so on up to this many streams side by side, with one set of networks for all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub streams: Option<u32>,

    /// Instead of all that, what the program adds to a frame's time beside its networks: made-up live streams, 25 pictures
    /// a second, through networks that answer at once
    #[arg(long, requires = "streams", conflicts_with = "clip")]
    pub null_networks: bool,

    /// How long each number of streams runs with --null-networks
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,

    /// How faces are found and replaced
    #[command(flatten, next_help_heading = "Faces")]
    pub faces: run::Faces,

    /// How video is encoded
    #[command(flatten, next_help_heading = "Encoding")]
    pub encoding: run::Encoding,
}

/// What was measured.
#[derive(Debug)]
pub struct Bench {
    /// The whole job: open, decode, anonymize, encode, close.
    pub whole: Report,
    /// Frames per second of decoding alone.
    pub decode: f64,
    /// Frames per second of decoding and encoding without anonymizing.
    pub transcode: f64,
    /// Streams side by side.
    pub streams: Vec<SideBySide>,
}

/// Streams side by side: decoded and anonymized, not encoded, each as fast as it goes.
#[derive(Debug, Clone, Copy)]
pub struct SideBySide {
    /// How many.
    pub streams: u32,
    /// Frames per second of all of them together.
    pub frames: f64,
    /// Of the stream that came off worst.
    pub slowest: f64,
    /// Processor time per frame.
    pub cpu: Duration,
}

/// Length and size of the test picture.
const TEST_FRAMES: u64 = 300;

/// Measures. The whole job comes first, so that the peak of memory is its own.
///
/// # Errors
/// When the clip cannot be read or the networks cannot be loaded.
pub fn run(options: &Options, interrupted: &AtomicBool) -> Result<Bench, Error> {
    let folder = tempfile::tempdir().map_err(|source| Error::File {
        path: std::env::temp_dir(),
        action: "make a temporary folder",
        source,
    })?;
    let clip = match &options.clip {
        Some(clip) => std::path::absolute(clip).map_err(|source| Error::File {
            path: clip.clone(),
            action: "find the file",
            source,
        })?,
        None => test_clip(folder.path(), &options.encoding)?,
    };
    let whole = run::run(
        &run::Options {
            input: clip.clone().into(),
            output: folder.path().join("out.mp4").into(),
            overwrite: false,
            keep_audio: false,
            frames: None,
            stats_json: None,
            faces: options.faces.clone(),
            encoding: options.encoding.clone(),
            camera: run::Camera::default(),
            panel: crate::panel::Options::default(),
        },
        interrupted,
    )?;
    let decode = frames_per_second(&clip, Vec::new())?;
    let transcode = frames_per_second(&clip, vec![run::x264(&options.encoding, false)?])?;
    let streams = match options.streams {
        Some(most) => side_by_side(&clip, most, &options.faces)?,
        None => Vec::new(),
    };
    Ok(Bench {
        whole,
        decode,
        transcode,
        streams,
    })
}

/// 1, 2, 4, ... and `most`.
fn counts(most: u32) -> impl Iterator<Item = u32> {
    let doubling = std::iter::successors(Some(1), |streams| Some(2 * streams));
    doubling.take_while(move |streams| *streams < most).chain([most])
}

/// Runs the clip through 1, 2, 4, ... and `most` elements at once, which share one set of networks.
fn side_by_side(clip: &Path, most: u32, faces: &run::Faces) -> Result<Vec<SideBySide>, Error> {
    let engines = Arc::new(Loaded::load(&faces.choice())?);
    counts(most)
        .map(|streams| {
            let elements = (0..streams)
                .map(|_| run::persona(faces, false).inspect(|element| element.set_engines(engines.clone())))
                .collect::<Result<Vec<_>, _>>()?;
            let before = run::usage(Path::new("/proc")).0;
            let started = Instant::now();
            let rates = std::thread::scope(|scope| {
                let threads: Vec<_> = elements
                    .iter()
                    .map(|element| scope.spawn(|| frames_per_second(clip, vec![element.clone().upcast()])))
                    .collect();
                let join = |thread: std::thread::ScopedJoinHandle<'_, Result<f64, Error>>| {
                    thread.join().unwrap_or_else(|_| {
                        Err(Error::Stream {
                            input: clip.display().to_string(),
                            reason: "a stream panicked".into(),
                        })
                    })
                };
                threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
            })?;
            let seconds = started.elapsed().as_secs_f64();
            let cpu = run::usage(Path::new("/proc")).0.saturating_sub(before);
            let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let frames: f64 = rates.iter().sum();
            Ok(SideBySide {
                streams,
                frames,
                slowest,
                cpu: cpu.div_f64((frames * seconds).max(1.0)),
            })
        })
        .collect()
}

impl Bench {
    /// The numbers as JSON.
    pub fn json(&self) -> serde_json::Value {
        let streams: Vec<_> = self
            .streams
            .iter()
            .map(|row| {
                json!({
                    "streams": row.streams,
                    "fps": row.frames,
                    "slowest_fps": row.slowest,
                    "cpu_ms_per_frame": row.cpu.as_secs_f64() * 1e3,
                })
            })
            .collect();
        json!({
            "whole": self.whole.json(),
            "decode_fps": self.decode,
            "transcode_fps": self.transcode,
            "streams": streams,
        })
    }
}

impl std::fmt::Display for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.whole)?;
        writeln!(
            f,
            "{:<42}{:>10.1}",
            "frames per second, decoding alone", self.decode
        )?;
        writeln!(
            f,
            "{:<42}{:>10.1}",
            "frames per second, without anonymizing", self.transcode
        )?;
        for row in &self.streams {
            writeln!(
                f,
                "{:<42}{:>10.1}{:>10.1} slowest{:>10.2} ms CPU per frame",
                format!("frames per second, {} streams, not encoded", row.streams),
                row.frames,
                row.slowest,
                row.cpu.as_secs_f64() * 1e3
            )?;
        }
        Ok(())
    }
}

fn test_clip(folder: &Path, encoding: &run::Encoding) -> Result<PathBuf, Error> {
    let path = folder.join("test.mp4");
    let (source, caps) = (make("videotestsrc")?, make("capsfilter")?);
    source.set_property("num-buffers", TEST_FRAMES as i32);
    source.set_property_from_str("pattern", "ball");
    caps.set_property("caps", run::test_caps());
    let (encoder, muxer, sink) = (run::x264(encoding, false)?, make("mp4mux")?, make("filesink")?);
    sink.set_property("location", &path);
    let pipeline = gst::Pipeline::new();
    let chain = [&source, &caps, &encoder, &muxer, &sink];
    pipeline
        .add_many(chain)
        .and_then(|()| gst::Element::link_many(chain))
        .map_err(|error| Error::Stream {
            input: "the test clip".into(),
            reason: error.to_string(),
        })?;
    play(&pipeline, &path)?;
    Ok(path)
}

/// Decodes the clip and passes it through `chain`, as fast as that goes.
fn frames_per_second(clip: &Path, chain: Vec<gst::Element>) -> Result<f64, Error> {
    let broken = |reason: String| Error::Stream {
        input: clip.display().to_string(),
        reason,
    };
    let uri = gst::glib::filename_to_uri(clip, None).map_err(|error| broken(error.to_string()))?;
    let (decode, convert, formats, sink) = (
        make("uridecodebin")?,
        make("videoconvert")?,
        make("capsfilter")?,
        make("fakesink")?,
    );
    decode.set_property("uri", uri.as_str());
    formats.set_property("caps", run::formats());
    sink.set_property("sync", false);
    let pipeline = gst::Pipeline::new();
    let chain: Vec<_> = [convert, formats]
        .into_iter()
        .chain(chain)
        .chain([sink])
        .collect();
    pipeline
        .add(&decode)
        .and_then(|()| pipeline.add_many(&chain))
        .and_then(|()| gst::Element::link_many(&chain))
        .map_err(|error| broken(error.to_string()))?;
    let entry = chain
        .first()
        .and_then(|first| first.static_pad("sink"))
        .ok_or_else(|| broken("no way in".into()))?;
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    entry.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    run::link_video(&decode, entry);
    let started = Instant::now();
    play(&pipeline, clip)?;
    Ok(count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}

/// Runs a pipeline to its end.
fn play(pipeline: &gst::Pipeline, clip: &Path) -> Result<(), Error> {
    let broken = |reason: String| Error::Stream {
        input: clip.display().to_string(),
        reason,
    };
    let started = pipeline
        .set_state(gst::State::Playing)
        .map_err(|error| error.to_string());
    let ended = started.and_then(|_| {
        let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
        let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
        match bus
            .timed_pop_filtered(None, &kinds)
            .as_ref()
            .map(|message| message.view())
        {
            Some(gst::MessageView::Error(error)) => Err(error.error().message().to_owned()),
            _ => Ok(()),
        }
    });
    // Its end is all that mattered.
    let _ = pipeline.set_state(gst::State::Null);
    ended.map_err(broken)
}
