//! `persona bench`: how fast the whole job is, and where the time goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;
use gst::prelude::*;
use gstreamer as gst;
use serde_json::json;

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
    Ok(Bench {
        whole,
        decode,
        transcode,
    })
}

impl Bench {
    /// The numbers as JSON.
    pub fn json(&self) -> serde_json::Value {
        json!({ "whole": self.whole.json(), "decode_fps": self.decode, "transcode_fps": self.transcode })
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
        )
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
