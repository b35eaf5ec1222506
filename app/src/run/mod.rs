//! `persona run`: a video, camera or picture in, the same anonymized out.
//!
//! A stream runs through one GStreamer pipeline around the element `persona` ([`crate::element`]):
//! ```text
//! uridecodebin | v4l2src ! decodebin | videotestsrc
//!   ─► videoflip (upright) ─► videoconvert (passes I420 and NV12 through) ─► persona ─► file | rtsp | display
//! ```
//! Pictures go through the pipeline's synchronous form, one at a time (`pictures.rs`).
//!
//! # Decisions
//! * **A file is playable at every moment.** MP4 is written in fragments of a second and becomes an ordinary MP4 when
//!   it is finished; Matroska and WebM are streams by nature. The file is called `NAME.part` until the run ends, well
//!   or not; then it takes its name. So an older file is replaced only by one that can be played, and after a loss of
//!   power the part is still there.
//! * **A file keeps the size of its first frame**: later ones of another size are scaled into it, because MP4 players
//!   expect one size. H.264 in 4:2:0 has no odd sizes: the last column or row is left out. WebM keeps it.
//! * **Sound is dropped** unless asked for: a voice identifies a person. Other tracks are dropped always.
//! * **A camera that is too fast** loses whole frames before the element, so that the delay does not grow.

mod elements;
mod encode;
mod error;
mod input;
mod output;
mod pictures;
mod report;
mod source;
mod stream;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueEnum};
use engines::models::default_dir;
use serde::Deserialize;

pub(crate) use elements::make;
pub use elements::{REQUIREMENTS, Requirement};
pub(crate) use encode::{from_zero, muxer, x264};
pub use error::Error;
pub use input::Input;
pub(crate) use input::is_picture;
pub use output::{Container, Mount, Output};
pub(crate) use pictures::{pixels, read, rgb};
pub use report::Report;
pub(crate) use report::usage;
pub(crate) use source::{link_video, test_caps};
pub(crate) use stream::{formats, persona};

use crate::networks::{Choice, GpuPrecision, Place};
use crate::pipeline::{Policy, Polygon, Settings, Zones};
use crate::{element, panel};

/// What `persona run` is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Video, picture, folder of pictures, rtsp://..., /dev/videoN, or "test" for a test picture
    #[arg(long, short, value_name = "INPUT")]
    pub input: OsString,

    /// File or folder of the same kind, rtsp://127.0.0.1:8554/NAME to serve a stream, or "display"
    ///
    /// The extension says which video format: .mp4 and .mov (H.264), .mkv (H.264), .webm (VP8).
    #[arg(long, short, value_name = "OUTPUT")]
    pub output: OsString,

    /// Replace the output if it exists
    #[arg(long)]
    pub overwrite: bool,

    /// Keep the sound of a video file. A voice identifies a person!
    #[arg(long)]
    pub keep_audio: bool,

    /// Stop after this many frames
    #[arg(long, value_name = "N")]
    pub frames: Option<u64>,

    /// Write the final numbers into this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub stats_json: Option<PathBuf>,

    /// How faces are found and replaced
    #[command(flatten, next_help_heading = "Faces")]
    pub faces: Faces,

    /// How video is encoded
    #[command(flatten, next_help_heading = "Encoding")]
    pub encoding: Encoding,

    /// How cameras are read
    #[command(flatten, next_help_heading = "Cameras")]
    pub camera: Camera,

    /// The box's front panel
    #[command(flatten, next_help_heading = "Front panel")]
    pub panel: panel::Options,
}

/// How faces are found and replaced.
#[derive(Debug, Clone, Args)]
pub struct Faces {
    /// Folder with the networks [default: $PERSONA_MODELS, else ~/.local/share/persona/models]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,

    /// Where pixels and networks are. Single pictures are always anonymized on the processor
    #[arg(long, value_enum, default_value_t)]
    pub place: Place,

    /// What the networks compute with on a GPU
    #[arg(long, value_enum, default_value_t)]
    pub precision: GpuPrecision,

    /// What to do with faces
    #[arg(long, value_enum, default_value_t)]
    pub policy: PolicyName,

    /// Look for faces in full resolution in every frame: finds the smallest ones, several times slower
    #[arg(long)]
    pub thorough: bool,

    /// Frames to hold back so that a face is covered before it is first detected, 0 to 3
    #[arg(long, value_name = "FRAMES", default_value_t = Settings::default().look_ahead as u32,
          value_parser = clap::value_parser!(u32).range(0..=3))]
    pub look_ahead: u32,

    /// Detector score from which something may be a face and is covered, 0.05 to 0.35; lower covers more
    #[arg(long, value_name = "SCORE", default_value_t = Settings::default().possible, value_parser = score)]
    pub threshold: f32,

    /// Width in pixels below which a face is covered and not replaced
    #[arg(long, value_name = "PIXELS", default_value_t = Settings::default().trust.smallest_face)]
    pub min_face: f32,

    /// How long a face stays covered after it was last detected
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().track.coast.as_secs_f64(),
          value_parser = coast)]
    pub coast: f64,

    /// Time from one comparison of a replaced face with the person to the next
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().verify.every.as_secs_f64(),
          value_parser = verify)]
    pub verify: f64,

    /// Part of the picture to cover in every frame, a convex polygon in fractions of it: "0,0 0.5,0 0.5,0.3"; may be given several times
    #[arg(long = "mask", value_name = "POLYGON")]
    pub masks: Vec<Polygon>,

    /// Part of the picture in which faces are covered, never replaced; written as --mask is
    #[arg(long = "cover-zone", value_name = "POLYGON")]
    pub covered_zones: Vec<Polygon>,

    /// Threads per network
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,

    /// Longest time that a frame may take, 0 for no limit: faces untreated by then are covered
    /// [default: 500 for cameras, else 0]
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub deadline: Option<u32>,
}

/// [`Policy`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Replace each face, or cover it where that cannot be done well
    #[default]
    Anonymize,
    /// Cover each face
    Cover,
    /// Cover each head, hair and ears too
    Head,
    /// Cover the whole frame
    Shutter,
}

impl PolicyName {
    /// Name of the element's property value.
    pub(crate) fn nick(self) -> &'static str {
        match self {
            Self::Anonymize => "anonymize",
            Self::Cover => "cover",
            Self::Head => "head",
            Self::Shutter => "shutter",
        }
    }
}

impl From<PolicyName> for element::Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Anonymize => Self::Anonymize,
            PolicyName::Cover => Self::Cover,
            PolicyName::Head => Self::Head,
            PolicyName::Shutter => Self::Shutter,
        }
    }
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Anonymize => Self::Anonymize,
            PolicyName::Cover => Self::Cover,
            PolicyName::Head => Self::Head,
            PolicyName::Shutter => Self::Shutter,
        }
    }
}

impl Faces {
    /// Deadline for cameras, when none is asked for: look-ahead of 2 at 25 frames per second and several frames' work.
    const LIVE_DEADLINE: u32 = 500;

    /// Folder of the networks.
    pub fn models(&self) -> PathBuf {
        self.models.clone().unwrap_or_else(default_dir)
    }

    /// Which networks to load, and where.
    pub(crate) fn choice(&self) -> Choice {
        Choice {
            folder: self.models(),
            place: self.place,
            precision: self.precision,
            threads: self.threads as usize,
        }
    }

    /// Deadline in milliseconds, 0 for none.
    fn deadline(&self, live: bool) -> u32 {
        self.deadline
            .unwrap_or(if live { Self::LIVE_DEADLINE } else { 0 })
    }

    /// Settings of the pipeline for pictures, which stand alone: no frame to wait for and every pixel looked at.
    fn for_pictures(&self) -> Settings {
        let mut settings = Settings {
            possible: self.threshold,
            look_ahead: 0,
            policy: self.policy.into(),
            zones: Zones {
                masked: self.masks.clone(),
                covered: self.covered_zones.clone(),
            },
            ..Settings::default()
        };
        settings.scan.thorough = true;
        settings.trust.smallest_face = self.min_face;
        settings.track.coast = Duration::from_secs_f64(self.coast);
        // There is no later frame in which the others could be verified.
        settings.verify.most = usize::MAX;
        settings
    }
}

/// How video is encoded.
#[derive(Debug, Clone, Args)]
pub struct Encoding {
    /// Speed of H.264 encoding against size
    #[arg(long, value_enum, default_value_t)]
    pub preset: Preset,

    /// Constant quality of H.264, 0 (best) to 51 (smallest)
    #[arg(long, value_name = "CRF", default_value_t = 23, value_parser = clap::value_parser!(u32).range(0..=51))]
    pub quality: u32,

    /// Bit rate instead of constant quality
    #[arg(long, value_name = "KBIT/S", value_parser = clap::value_parser!(u32).range(16..=200_000))]
    pub bitrate: Option<u32>,
}

/// x264's presets that keep up with a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Fastest, largest files
    #[default]
    Ultrafast,
    /// Smaller files, more work
    Superfast,
    /// Smallest files, most work
    Veryfast,
}

/// How cameras are read.
#[derive(Debug, Clone, Args)]
pub struct Camera {
    /// RTSP: how long to wait for late and disordered packets
    #[arg(long, value_name = "MILLISECONDS", default_value_t = Self::default().latency)]
    pub latency: u32,

    /// RTSP: let the camera choose UDP; without this packets come over TCP, so that none is lost
    #[arg(long)]
    pub udp: bool,

    /// How long a camera may be silent before the run ends
    #[arg(long, value_name = "SECONDS", default_value_t = Self::default().timeout,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,

    /// /dev/videoN: the size of the picture to ask the camera for [default: its largest up to 3840x2160]
    #[arg(long, value_name = "WIDTHxHEIGHT")]
    pub size: Option<Size>,
}

/// Width and height of a camera's picture, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size {
    width: u16,
    height: u16,
}

impl Size {
    /// What a camera may deliver in this size: plain frames, or what decodebin decodes.
    pub(crate) fn caps(self) -> gstreamer::Caps {
        ["video/x-raw", "image/jpeg", "video/x-h264"]
            .into_iter()
            .map(|media| {
                gstreamer::Structure::builder(media)
                    .field("width", i32::from(self.width))
                    .field("height", i32::from(self.height))
                    .build()
            })
            .collect()
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text.split_once('x').unwrap_or_default();
        match (width.parse(), height.parse()) {
            (Ok(width @ 16..), Ok(height @ 16..)) => Ok(Self { width, height }),
            _ => Err("wanted WIDTHxHEIGHT in pixels, 640x480 say".into()),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Default for Camera {
    fn default() -> Self {
        Self {
            latency: 200,
            udp: false,
            timeout: 10,
            size: None,
        }
    }
}

fn in_range<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    least: T,
    most: T,
) -> Result<T, String> {
    match text.parse() {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(format!("wanted a number from {least} to {most}")),
    }
}

fn score(text: &str) -> Result<f32, String> {
    in_range(text, 0.05, 0.35)
}

fn coast(text: &str) -> Result<f64, String> {
    in_range(text, 0.0, 60.0)
}

fn verify(text: &str) -> Result<f64, String> {
    in_range(text, 0.1, 60.0)
}

/// Runs to the end of the input, or until `interrupted` is set; the output is closed properly then too. GStreamer must
/// be initialised and the element registered ([`crate::element::register`]).
///
/// # Errors
/// When nothing could be started. A fault in the middle is [`Report::fault`].
pub fn run(options: &Options, interrupted: &AtomicBool) -> Result<Report, Error> {
    let input = Input::parse(&options.input)?;
    let output = Output::parse(&options.output, &input, options.overwrite)?;
    match (&input, &output) {
        (Input::Picture(from), Output::Picture(to)) => pictures::one(from, to, &options.faces),
        (Input::Pictures(from), Output::Pictures(to)) => {
            pictures::folder(from, to, &options.faces, options.overwrite, interrupted)
        }
        _ => stream::run(&input, &output, options, interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_two_numbers() {
        let size: Size = "640x480".parse().unwrap();
        assert_eq!(
            size,
            Size {
                width: 640,
                height: 480
            }
        );
        for text in [
            "",
            "640",
            "640x",
            "x480",
            "640x8",
            "640×480",
            "99999x480",
            "-640x480",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_camera_is_asked_for_its_size_in_every_form_it_may_deliver() {
        gstreamer::init().unwrap();
        let caps = "320x180".parse::<Size>().unwrap().caps();
        assert_eq!(caps.size(), 3);
        for structure in caps.iter() {
            assert_eq!(structure.get::<i32>("width"), Ok(320), "{structure}");
            assert_eq!(structure.get::<i32>("height"), Ok(180), "{structure}");
        }
    }
}
