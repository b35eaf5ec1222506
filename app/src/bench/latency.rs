//! What the program adds to a frame's time beside its networks: live streams side by side, each at its own pace.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use serde_json::json;

use super::{counts, null};
use crate::element::Persona;
use crate::run::{self, Error, make};

/// Pictures a second, as of most cameras.
const RATE: u32 = 25;
/// Frames of each stream that are not counted: memory is still being taken.
const WARM: u32 = RATE;
/// Luma of the picture and of the face in it.
const DARK: u8 = 40;
const BRIGHT: u8 = 220;

/// Pictures that are measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// 160x90 without a face, so that there is next to nothing to compute: the framework alone.
    Framework,
    /// 1280x720 with one face of 160 pixels.
    Face,
}

impl Content {
    fn size(self) -> (u32, u32) {
        match self {
            Self::Framework => (160, 90),
            Self::Face => (1280, 720),
        }
    }

    /// Side of the face, pixels.
    fn face(self) -> usize {
        match self {
            Self::Framework => 0,
            Self::Face => 160,
        }
    }
}

/// Times from a frame's arrival at the element until it leaves it, look-ahead included.
#[derive(Debug, Clone)]
pub struct Latency {
    /// Streams side by side.
    pub streams: u32,
    /// What they show.
    pub content: Content,
    /// Frames that came out, of all streams.
    pub frames: usize,
    /// Frames that did not.
    pub lost: usize,
    /// Half of the frames took no longer.
    pub median: Duration,
    /// All but 1 in 100 took no longer.
    pub p99: Duration,
    /// All but 1 in 1,000 took no longer.
    pub p999: Duration,
    /// The longest.
    pub longest: Duration,
    /// Processor time per frame, making the picture included.
    pub cpu: Duration,
}

/// Runs 1, 2, 4, ... and `most` streams for so many seconds each, with networks that answer at once.
///
/// # Errors
/// When GStreamer lacks an element.
pub fn run(
    most: u32,
    seconds: u32,
    faces: &run::Faces,
    interrupted: &AtomicBool,
) -> Result<Vec<Latency>, Error> {
    let engines = Arc::new(null::engines());
    let mut rows = Vec::new();
    for content in [Content::Framework, Content::Face] {
        for streams in counts(most) {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(rows);
            }
            let running = (0..streams)
                .map(|_| {
                    let element = run::persona(faces, true)?;
                    element.set_engines(engines.clone());
                    Stream::start(&element, content)
                })
                .collect::<Result<Vec<_>, _>>()?;
            rows.push(measure(running, content, seconds));
        }
    }
    Ok(rows)
}

/// Feeds the streams by turns, so that their frames come evenly, and gives the times of all.
fn measure(streams: Vec<Stream>, content: Content, seconds: u32) -> Latency {
    let frames = WARM + seconds * RATE;
    let period = Duration::from_secs(1) / RATE;
    let (mut cpu, start) = (Duration::ZERO, Instant::now());
    std::thread::scope(|scope| {
        for (number, stream) in (0_u32..).zip(&streams) {
            let begin = start + period * number / streams.len() as u32;
            scope.spawn(move || {
                for frame in 0..frames {
                    let due = begin + period * frame;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    stream.push(frame);
                }
            });
        }
        std::thread::sleep((start + period * WARM).saturating_duration_since(Instant::now()));
        cpu = run::usage(Path::new("/proc")).0;
    });
    let cpu = run::usage(Path::new("/proc")).0.saturating_sub(cpu);
    let count = streams.len();
    let mut times: Vec<_> = streams.into_iter().flat_map(Stream::finish).collect();
    times.sort_unstable();
    let wanted = count * (seconds * RATE) as usize;
    Latency {
        streams: count as u32,
        content,
        frames: times.len(),
        lost: wanted.saturating_sub(times.len()),
        median: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
        p999: quantile(&times, 0.999),
        longest: times.last().copied().unwrap_or_default(),
        cpu: cpu / (wanted as u32).max(1),
    }
}

/// The time that this share of sorted `times` does not exceed.
fn quantile(times: &[Duration], share: f64) -> Duration {
    let rank = (share * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Frames on their way through the element, and how long the others took.
#[derive(Default)]
struct Times {
    inside: VecDeque<(gst::ClockTime, Instant)>,
    taken: Vec<Duration>,
}

/// One live stream: frames by hand, the element, and nothing behind it.
struct Stream {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    picture: Vec<u8>,
    times: Arc<Mutex<Times>>,
}

impl Stream {
    fn start(element: &Persona, content: Content) -> Result<Self, Error> {
        let broken = |reason: String| Error::Stream {
            input: "a made-up camera".into(),
            reason,
        };
        let (width, height) = content.size();
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Nv12, width, height)
            .fps(gst::Fraction::new(RATE as i32, 1))
            .build()
            .map_err(|error| broken(error.to_string()))?;
        let caps = info.to_caps().map_err(|error| broken(error.to_string()))?;
        let source = gst_app::AppSrc::builder()
            .caps(&caps)
            .format(gst::Format::Time)
            .is_live(true)
            .build();
        let sink = make("fakesink")?;
        sink.set_property("sync", false);
        let pipeline = gst::Pipeline::new();
        let chain = [source.upcast_ref(), element.upcast_ref(), &sink];
        pipeline
            .add_many(chain)
            .and_then(|()| gst::Element::link_many(chain))
            .map_err(|error| broken(error.to_string()))?;
        let times = Arc::<Mutex<Times>>::default();
        probe(element, "sink", &times, |times, time, now| {
            times.inside.push_back((time, now));
        })?;
        probe(element, "src", &times, |times, time, now| {
            // Those before it were dropped.
            while let Some((other, arrived)) = times.inside.pop_front() {
                if other == time {
                    if time
                        >= gst::ClockTime::SECOND
                            .mul_div_floor(WARM.into(), RATE.into())
                            .unwrap_or_default()
                    {
                        times.taken.push(now.saturating_duration_since(arrived));
                    }
                    break;
                }
            }
        })?;
        pipeline
            .set_state(gst::State::Playing)
            .map_err(|error| broken(error.to_string()))?;
        Ok(Self {
            pipeline,
            source,
            picture: picture(&info, content.face()),
            times,
        })
    }

    /// One more picture.
    fn push(&self, frame: u32) {
        let mut buffer = gst::Buffer::from_slice(self.picture.clone());
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(gst::ClockTime::SECOND.mul_div_floor(frame.into(), RATE.into()));
        }
        // A pipeline that has failed gives no times, which the result shows.
        let _ = self.source.push_buffer(buffer);
    }

    /// Lets everything come out and gives its times.
    fn finish(self) -> Vec<Duration> {
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        if self.source.end_of_stream().is_ok()
            && let Some(bus) = self.pipeline.bus()
        {
            bus.timed_pop_filtered(gst::ClockTime::from_seconds(10), &ends);
        }
        // Its end is all that mattered.
        let _ = self.pipeline.set_state(gst::State::Null);
        std::mem::take(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner).taken)
    }
}

/// Notes each buffer at a pad of the element.
fn probe(
    element: &Persona,
    pad: &str,
    times: &Arc<Mutex<Times>>,
    note: impl Fn(&mut Times, gst::ClockTime, Instant) + Send + Sync + 'static,
) -> Result<(), Error> {
    let pad = element
        .static_pad(pad)
        .ok_or_else(|| Error::Persona("another plugin has the name persona; remove it".into()))?;
    let times = times.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let now = Instant::now();
        if let Some(time) = info.buffer().and_then(|buffer| buffer.pts()) {
            note(
                &mut times.lock().unwrap_or_else(PoisonError::into_inner),
                time,
                now,
            );
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// A dark NV12 picture with a bright, finely patterned square of this side in its middle.
fn picture(info: &gst_video::VideoInfo, side: usize) -> Vec<u8> {
    let (width, height) = (info.width() as usize, info.height() as usize);
    let stride = info.stride()[0] as usize;
    let mut bytes = vec![128; info.size()];
    let (left, top) = ((width - side) / 2, (height - side) / 2);
    for y in 0..height {
        for x in 0..width {
            let is_face = (left..left + side).contains(&x) && (top..top + side).contains(&y);
            let pattern = 12 * ((x / 2 + y / 2) % 2) as u8;
            bytes[y * stride + x] = if is_face { BRIGHT + pattern } else { DARK };
        }
    }
    bytes
}

impl Latency {
    /// The numbers as JSON.
    pub fn json(&self) -> serde_json::Value {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        json!({
            "content": match self.content {
                Content::Framework => "framework",
                Content::Face => "face",
            },
            "streams": self.streams,
            "frames": self.frames,
            "lost": self.lost,
            "median_ms": milliseconds(self.median),
            "p99_ms": milliseconds(self.p99),
            "p999_ms": milliseconds(self.p999),
            "longest_ms": milliseconds(self.longest),
            "cpu_ms_per_frame": milliseconds(self.cpu),
        })
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let content = match self.content {
            Content::Framework => "framework alone",
            Content::Face => "720p, one face",
        };
        write!(
            f,
            "{content:16}{:3} streams{:8.2} median{:8.2} p99{:8.2} p99.9{:8.2} longest{:8.3} CPU per frame{:7} frames{:6} lost",
            self.streams,
            milliseconds(self.median),
            milliseconds(self.p99),
            milliseconds(self.p999),
            milliseconds(self.longest),
            milliseconds(self.cpu),
            self.frames,
            self.lost
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=1000).map(Duration::from_millis).collect();
        for (share, wanted) in [(0.5, 500), (0.99, 990), (0.999, 999), (1.0, 1000)] {
            assert_eq!(quantile(&times, share), Duration::from_millis(wanted));
        }
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn every_frame_is_measured_and_its_face_replaced() {
        gst::init().unwrap();
        crate::element::register().unwrap();
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            faces: run::Faces,
        }
        let line = <Line as clap::Parser>::parse_from(["bench", "--look-ahead", "0"]);
        let element = run::persona(&line.faces, true).unwrap();
        element.set_engines(Arc::new(null::engines()));
        let stream = Stream::start(&element, Content::Face).unwrap();
        for frame in 0..WARM + 5 {
            stream.push(frame);
        }
        let until = Instant::now() + Duration::from_secs(20);
        while element.snapshot().unwrap().frames < u64::from(WARM) + 5 {
            assert!(Instant::now() < until, "the frames do not come out");
            std::thread::sleep(Duration::from_millis(5));
        }
        // The first detection is sure at once; in each frame the face is replaced.
        assert_eq!(element.snapshot().unwrap().generated, u64::from(WARM) + 5);
        assert_eq!(stream.finish().len(), 5);
    }
}
