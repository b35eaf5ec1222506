//! A stream through the element: sources, encoders, and what to do when one of them fails.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use indicatif::{ProgressBar, ProgressStyle};

use super::elements::{self, make};
use super::output::Partial;
use super::serve::Server;
use super::{Camera, Container, Encoding, Error, Input, Options, Output, Preset, Report, report};
use crate::element::{Persona, may_pass};
use crate::pipeline::{Snapshot, Stats};

/// How often the run looks after itself.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(50);
/// How long a faulty stream may take to close its output.
const CLOSING: Duration = Duration::from_secs(5);
/// Length of a fragment of MP4 in milliseconds: what a loss of power can cost.
const FRAGMENT: u32 = 1000;
/// Frames of the test picture that go into a file when no number is asked for: ten seconds.
const TEST_FRAMES: u64 = 300;
/// Raw time that may wait for the element before a camera's frames are left out.
const LIVE_QUEUE: gst::ClockTime = gst::ClockTime::from_mseconds(200);
/// A file whose video ends this much before its header says is damaged; sound may be longer than video.
const TRUNCATED: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// What the streaming threads tell the run.
#[derive(Default)]
struct Progress {
    started: OnceLock<Instant>,
    first_in: OnceLock<Instant>,
    first_out: OnceLock<Instant>,
    /// Milliseconds from `started` to the latest frame in.
    latest_in: AtomicU64,
    frames_in: AtomicU64,
    /// Presentation times of the first and the latest frame, nanoseconds.
    first_time: OnceLock<gst::ClockTime>,
    latest_time: AtomicU64,
    /// Whether a video track is linked.
    video: AtomicBool,
    /// Set when every track is known.
    complete: AtomicBool,
    tracks_dropped: AtomicUsize,
    /// Something that went wrong while tracks were linked.
    link_error: Mutex<Option<Error>>,
}

impl Progress {
    fn elapsed(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Since when no frame came in.
    fn silence(&self) -> Duration {
        self.elapsed()
            .saturating_sub(Duration::from_millis(self.latest_in.load(Ordering::Relaxed)))
    }

    fn heard(&self) {
        let now = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.latest_in.store(now, Ordering::Relaxed);
    }

    fn frame_in(&self, time: Option<gst::ClockTime>) -> u64 {
        self.first_in.get_or_init(Instant::now);
        self.heard();
        if let Some(time) = time {
            self.first_time.get_or_init(|| time);
            self.latest_time.store(time.nseconds(), Ordering::Relaxed);
        }
        self.frames_in.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Presentation time that has come in.
    fn presented(&self) -> gst::ClockTime {
        let first = self.first_time.get().copied().unwrap_or_default();
        gst::ClockTime::from_nseconds(self.latest_time.load(Ordering::Relaxed)).saturating_sub(first)
    }

    fn refuse(&self, error: Error) {
        self.link_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }
}

/// How a stream came to its end.
struct Outcome {
    snapshot: Snapshot,
    elapsed: Duration,
    fault: Option<Error>,
}

/// Runs a stream to its end, to a fault, or until `interrupted` is set.
pub(super) fn run(
    input: &Input,
    output: &Output,
    options: &Options,
    interrupted: &AtomicBool,
) -> Result<Report, Error> {
    let before = report::usage(Path::new("/proc")).0;
    let stream = Stream::build(input, output, options)?;
    let Outcome {
        snapshot,
        elapsed,
        fault,
    } = stream.play(options, interrupted);
    // Closes the file, so that it can take its name.
    if stream.pipeline.set_state(gst::State::Null).is_err() {
        log::warn!("{input}: the stream did not stop in order");
    }
    let Stream {
        progress, partial, ..
    } = stream;
    if snapshot.frames == 0 {
        if let Some(partial) = partial {
            partial.discard();
        }
        let nothing = || Error::Stream {
            input: input.to_string(),
            reason: "not a single frame came out of it".into(),
        };
        return Err(fault.unwrap_or_else(nothing));
    }
    if let Some(partial) = partial {
        partial.keep()?;
    }
    let (cpu, peak_memory) = report::usage(Path::new("/proc"));
    Ok(Report {
        snapshot,
        elapsed,
        first_frame: progress
            .first_out
            .get()
            .zip(progress.started.get())
            .map(|(first, started)| first.saturating_duration_since(*started)),
        cpu: cpu.saturating_sub(before),
        peak_memory,
        tracks_dropped: progress.tracks_dropped.load(Ordering::Relaxed),
        fault,
    })
}

/// One GStreamer pipeline around the element.
struct Stream {
    pipeline: gst::Pipeline,
    persona: Persona,
    input: Input,
    output: Output,
    progress: Arc<Progress>,
    /// Pads at which the stream can be ended from outside.
    ends: Arc<Mutex<Vec<gst::Pad>>>,
    partial: Option<Partial>,
    /// Serves the stream for as long as it lives.
    _server: Option<Server>,
}

impl Stream {
    fn build(input: &Input, output: &Output, options: &Options) -> Result<Self, Error> {
        let progress = Arc::new(Progress::default());
        let pipeline = gst::Pipeline::new();
        let persona = element(input, options)?;
        let sink_pad = pad(&persona, "sink")?;
        let ends = Arc::new(Mutex::new(vec![sink_pad.clone()]));

        let convert = make("videoconvert")?;
        let formats = make("capsfilter")?;
        let upright = make("videoflip")?;
        let queue = make("queue")?;
        formats.set_property("caps", self::formats());
        upright.set_property_from_str("video-direction", "auto");
        queue.set_property("max-size-buffers", 3_u32);
        queue.set_property("max-size-bytes", 0_u32);
        queue.set_property(
            "max-size-time",
            if input.is_live() {
                LIVE_QUEUE
            } else {
                gst::ClockTime::ZERO
            },
        );
        if input.is_live() {
            queue.set_property("max-size-buffers", 0_u32);
            queue.set_property_from_str("leaky", "downstream");
        }
        let front = [&convert, &formats, &upright, &queue, persona.upcast_ref()];
        assemble(&pipeline, &front)?;

        let (partial, muxer, server) = match output {
            Output::Video { path, container } => {
                let partial = Partial::new(path);
                let muxer = file(
                    &pipeline,
                    &persona,
                    *container,
                    partial.part(),
                    &options.encoding,
                    &progress,
                )?;
                (Some(partial), Some(muxer), None)
            }
            Output::Rtsp(mount) => {
                let server = Server::start(mount)?;
                let sink = server.sink();
                sink.set_property("sync", !input.is_live());
                let (encoder, format) = (x264(&options.encoding, true)?, make("capsfilter")?);
                format.set_property("caps", Server::caps());
                let crop = even(&persona)?;
                let queue = make("queue")?;
                assemble(&pipeline, &[&queue, &crop, &encoder, &format, sink.upcast_ref()])?;
                link(persona.upcast_ref(), &queue)?;
                (None, None, Some(server))
            }
            Output::Display => {
                let (queue, convert, sink) = (make("queue")?, make("videoconvert")?, make(screen())?);
                assemble(&pipeline, &[&queue, &convert, &sink])?;
                link(persona.upcast_ref(), &queue)?;
                (None, None, None)
            }
            Output::Picture(_) | Output::Pictures(_) => {
                return Err(Error::Address {
                    address: output.to_string(),
                    reason: "a stream cannot be written into pictures".into(),
                });
            }
        };

        let limit = options.frames;
        let watch = (progress.clone(), ends.clone());
        sink_pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let number = watch.0.frame_in(info.buffer().and_then(|buffer| buffer.pts()));
            match limit {
                Some(limit) if number > limit => gst::PadProbeReturn::Handled,
                Some(limit) if number == limit => {
                    end(&watch.1);
                    gst::PadProbeReturn::Ok
                }
                _ => gst::PadProbeReturn::Ok,
            }
        });
        let watch = progress.clone();
        pad(&persona, "src")?.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            watch.first_out.get_or_init(Instant::now);
            gst::PadProbeReturn::Remove
        });

        let tracks = Tracks {
            pipeline: pipeline.downgrade(),
            video: pad(&convert, "sink")?,
            muxer: muxer.filter(|_| options.keep_audio),
            progress: progress.clone(),
            ends: ends.clone(),
        };
        source(&pipeline, input, output, options, tracks)?;
        Ok(Self {
            pipeline,
            persona,
            input: input.clone(),
            output: output.clone(),
            progress,
            ends,
            partial,
            _server: server,
        })
    }

    fn play(&self, options: &Options, interrupted: &AtomicBool) -> Outcome {
        self.progress.started.get_or_init(Instant::now);
        let bar = bar();
        let Some(bus) = self.pipeline.bus() else {
            // A pipeline always has a bus.
            return self.outcome(None);
        };
        let mut fault = None;
        let mut codec = None;
        let mut broken = None;
        // Until when the output may take to close, once the end was asked for.
        let mut closing: Option<Instant> = None;
        if self.pipeline.set_state(gst::State::Playing).is_err() {
            // The reason is on the bus.
            closing = Some(Instant::now());
        }
        // The networks are loaded by now; only from here on is it the camera that is waited for.
        self.progress.heard();
        loop {
            let message = bus.timed_pop(TICK);
            let mut found = None;
            match message.as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Eos(_)) => {
                    // rtspsrc takes a connection that breaks for an end, and only warns.
                    if let Some(reason) = broken.take().filter(|_| closing.is_none()) {
                        fault.get_or_insert(Error::Stream {
                            input: self.input.to_string(),
                            reason: format!("the camera has gone away: {reason}"),
                        });
                    }
                    break;
                }
                Some(gst::MessageView::Error(error)) => found = Some(self.explain(error, codec.take())),
                Some(gst::MessageView::Warning(warning)) => {
                    let warning = warning.error();
                    if self.input.is_live() && warning.kind::<gst::ResourceError>().is_some() {
                        broken = Some(warning.message().trim_end_matches('.').to_owned());
                    } else if !warning.matches(gst::StreamError::CodecNotFound) {
                        log::warn!("{}: {warning}", self.input);
                    }
                }
                Some(gst::MessageView::Element(element)) => {
                    codec = element.structure().and_then(missing_codec).or(codec);
                }
                Some(gst::MessageView::Latency(_)) => {
                    if let Err(error) = self.pipeline.recalculate_latency() {
                        log::warn!("{}: {error}", self.input);
                    }
                }
                Some(_) => continue,
                None => (),
            }
            found = found.or_else(|| self.look(options, &codec));
            if let Some(found) = found
                && fault.is_none()
            {
                fault = Some(found);
                end(&self.ends);
                closing = Some(Instant::now() + CLOSING);
            }
            if interrupted.load(Ordering::Relaxed) && closing.is_none() {
                bar.set_message("closing the output");
                end(&self.ends);
                closing = Some(Instant::now() + CLOSING);
            }
            // Nothing that came out needs no closing.
            let started = self.progress.first_out.get().is_some();
            if closing.is_some_and(|until| !started || Instant::now() >= until) {
                break;
            }
            self.draw(&bar, options);
        }
        bar.finish_and_clear();
        let natural = closing.is_none() && options.frames.is_none();
        self.outcome(fault.or_else(|| if natural { self.truncation() } else { None }))
    }

    fn outcome(&self, fault: Option<Error>) -> Outcome {
        Outcome {
            snapshot: self
                .persona
                .snapshot()
                .unwrap_or_else(|| Stats::default().snapshot()),
            elapsed: self
                .progress
                .first_in
                .get()
                .map_or(Duration::ZERO, Instant::elapsed),
            fault,
        }
    }

    /// What no message tells: tracks that cannot be used, and silence.
    fn look(&self, options: &Options, codec: &Option<String>) -> Option<Error> {
        let progress = &self.progress;
        if let Some(error) = progress
            .link_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            return Some(error);
        }
        if progress.complete.load(Ordering::Acquire) && !progress.video.load(Ordering::Acquire) {
            let input = self.input.to_string();
            return Some(match codec {
                Some(codec) => Error::Codec {
                    input,
                    codec: codec.clone(),
                    package: elements::DECODERS,
                },
                None => Error::NoVideo { input },
            });
        }
        let seconds = options.camera.timeout;
        (self.input.is_live() && progress.silence() >= Duration::from_secs(seconds)).then(|| Error::Stalled {
            input: self.input.to_string(),
            seconds,
        })
    }

    /// Whether a file ended long before its own header says.
    fn truncation(&self) -> Option<Error> {
        let Input::Video(_) = self.input else {
            return None;
        };
        let sink = self.persona.static_pad("sink")?;
        let wanted = sink.peer_query_duration::<gst::ClockTime>()?;
        let presented = self.progress.presented();
        (presented + TRUNCATED < wanted).then(|| Error::Truncated {
            input: self.input.to_string(),
            seconds: presented.mseconds() as f64 / 1e3,
            wanted: wanted.mseconds() as f64 / 1e3,
        })
    }

    /// One sentence for GStreamer's error.
    fn explain(&self, message: &gst::message::Error, codec: Option<String>) -> Error {
        let error = message.error();
        let from = message.src();
        if from.is_some_and(|from| from == self.persona.upcast_ref::<gst::Object>()) {
            return Error::Persona(error.message().to_owned());
        }
        let input = self.input.to_string();
        let missing =
            error.matches(gst::CoreError::MissingPlugin) || error.matches(gst::StreamError::CodecNotFound);
        if missing || codec.is_some() {
            let codec = codec.unwrap_or_else(|| "decoder for its format".into());
            return Error::Codec {
                input,
                codec,
                package: elements::DECODERS,
            };
        }
        let behind = from.is_some_and(|from| self.is_behind(from));
        let stream = |reason: String| Error::Stream {
            input: if behind {
                self.output.to_string()
            } else {
                input.clone()
            },
            reason,
        };
        if error.matches(gst::StreamError::TypeNotFound) || error.matches(gst::StreamError::WrongType) {
            return stream("this is no video file that can be recognised, or it is damaged".into());
        }
        if error.matches(gst::ResourceError::NotAuthorized) {
            return stream(
                "the camera refuses the user name or the password (rtsp://USER:PASSWORD@...)".into(),
            );
        }
        if error.matches(gst::ResourceError::NoSpaceLeft) {
            return stream("no space is left on the disk; what was written so far can be played".into());
        }
        // GStreamer's own sentence is general; what happened is the last line of the details.
        let details = message.debug();
        let details = details
            .as_deref()
            .and_then(|details| details.lines().last())
            .unwrap_or_default();
        let details = details
            .rsplit_once("/GstPipeline")
            .map_or(details, |(before, _)| before)
            .trim();
        let place = from.map(|from| from.name().to_string()).unwrap_or_default();
        let sentence = error.message().trim_end_matches('.');
        if details.is_empty() || details.contains(".c(") {
            stream(format!("{sentence} ({place})"))
        } else {
            stream(format!("{sentence} ({place}: {})", details.trim_end_matches('.')))
        }
    }

    /// Whether an object belongs to the output.
    fn is_behind(&self, object: &gst::Object) -> bool {
        let kinds = [
            "x264enc",
            "vp8enc",
            "mp4mux",
            "matroskamux",
            "webmmux",
            "filesink",
            "autovideosink",
            "kmssink",
            "appsink",
        ];
        object.path_string().split('/').any(|part| {
            let name = part.rsplit(':').next().unwrap_or_default();
            kinds.iter().any(|kind| name.starts_with(kind))
        })
    }

    fn draw(&self, bar: &ProgressBar, options: &Options) {
        if bar.is_hidden() {
            return;
        }
        let Some(snapshot) = self.persona.snapshot() else {
            return;
        };
        let seconds = self
            .progress
            .first_in
            .get()
            .map_or(0.0, |first| first.elapsed().as_secs_f64());
        let rate = if seconds > 0.0 {
            snapshot.frames as f64 / seconds
        } else {
            0.0
        };
        bar.set_message(format!(
            "{} frames, {rate:.1} fps, {} faces",
            snapshot.frames, snapshot.faces
        ));
        if bar.length().is_none() {
            if let Some(frames) = options.frames {
                bar.set_length(frames);
            } else if let Some(duration) = pad(&self.persona, "sink")
                .ok()
                .and_then(|pad| pad.peer_query_duration::<gst::ClockTime>())
                .filter(|_| !self.input.is_live())
            {
                bar.set_length(duration.mseconds());
            }
        }
        bar.set_position(match options.frames {
            Some(_) => snapshot.frames,
            None => self.progress.presented().mseconds(),
        });
    }
}

/// The element that shows pictures: in a window where there are windows, else on the bare screen. Left to itself,
/// autovideosink also tries outputs of another age, of which one crashes where there is no screen.
fn screen() -> &'static str {
    let windows = ["WAYLAND_DISPLAY", "DISPLAY"];
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if windows.into_iter().any(set) {
        "autovideosink"
    } else {
        "kmssink"
    }
}

/// A bar once the length is known, a spinner until then; hidden where standard error is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_bar} {percent:>3} %  {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Ends the stream at the element, from a thread of its own: a pad waits while a buffer passes through it.
fn end(ends: &Arc<Mutex<Vec<gst::Pad>>>) {
    for pad in ends.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let pad = pad.clone();
        std::thread::spawn(move || pad.send_event(gst::event::Eos::new()));
    }
}

/// What a missing-plugin message misses, as "H.265 decoder".
fn missing_codec(structure: &gst::StructureRef) -> Option<String> {
    (structure.name() == "missing-plugin")
        .then(|| structure.get("name").ok())
        .flatten()
}

/// The formats that the element takes.
pub(crate) fn formats() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format_list([gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12])
        .build()
}

/// Size and rate of the test picture.
pub(crate) fn test_caps() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format(gst_video::VideoFormat::I420)
        .width(1280)
        .height(720)
        .framerate(gst::Fraction::new(30, 1))
        .build()
}

/// The element with the options as its properties.
fn element(input: &Input, options: &Options) -> Result<Persona, Error> {
    let faces = &options.faces;
    let element = make("persona")?;
    element.set_property("models", faces.models());
    element.set_property_from_str("policy", faces.policy.nick());
    element.set_property_from_str("scan", if faces.thorough { "thorough" } else { "sweep" });
    element.set_property("look-ahead", faces.look_ahead);
    element.set_property("threshold", faces.threshold);
    element.set_property("min-face", faces.min_face);
    element.set_property("coast", faces.coast);
    element.set_property("threads", faces.threads);
    element.set_property("deadline", faces.deadline(input.is_live()));
    element
        .downcast()
        .map_err(|_| Error::Persona("another plugin has the name persona; remove it".into()))
}

fn pad(element: &impl IsA<gst::Element>, name: &str) -> Result<gst::Pad, Error> {
    element
        .static_pad(name)
        .ok_or_else(|| impossible(element.upcast_ref(), "has no such pad"))
}

fn impossible(element: &gst::Element, what: &str) -> Error {
    Error::Stream {
        input: format!("GStreamer element {}", element.name()),
        reason: what.to_owned(),
    }
}

/// Adds elements to the pipeline and links each to the next one.
fn assemble(pipeline: &gst::Pipeline, chain: &[&gst::Element]) -> Result<(), Error> {
    for element in chain {
        pipeline
            .add(*element)
            .map_err(|error| impossible(element, &error.to_string()))?;
    }
    chain.windows(2).try_for_each(|pair| link(pair[0], pair[1]))
}

fn link(from: &gst::Element, to: &gst::Element) -> Result<(), Error> {
    from.link(to)
        .map_err(|error| impossible(from, &error.to_string()))
}

/// Leaves out the last column and row of odd sizes, which H.264 in 4:2:0 cannot hold.
fn even(persona: &Persona) -> Result<gst::Element, Error> {
    let crop = make("videocrop")?;
    let target = crop.downgrade();
    on_caps(persona, move |info| {
        if let Some(crop) = target.upgrade() {
            crop.set_property("right", (info.width() % 2) as i32);
            crop.set_property("bottom", (info.height() % 2) as i32);
        }
    })?;
    Ok(crop)
}

/// What a file's frames have in common from the first one on: a muxer takes no other size, shape of pixels or colours.
fn shape_of(info: &gst_video::VideoInfo, odd: bool) -> gst::Caps {
    let (width, height) = (info.width() as i32, info.height() as i32);
    let (width, height) = if odd {
        (width, height)
    } else {
        (width & !1, height & !1)
    };
    let shape = gst_video::VideoCapsBuilder::new()
        .width(width)
        .height(height)
        .pixel_aspect_ratio(info.par());
    match info.colorimetry().to_string() {
        colorimetry if colorimetry.is_empty() => shape.build(),
        colorimetry => shape.field("colorimetry", colorimetry).build(),
    }
}

/// Calls `work` with the shape of the frames to come, before the first of them.
fn on_caps(persona: &Persona, work: impl FnMut(&gst_video::VideoInfo) + Send + 'static) -> Result<(), Error> {
    let work = Mutex::new(work);
    pad(persona, "src")?.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
            && let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps())
        {
            work.lock().unwrap_or_else(PoisonError::into_inner)(&info);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Encoder, muxer and file behind the element; gives the muxer.
fn file(
    pipeline: &gst::Pipeline,
    persona: &Persona,
    container: Container,
    path: &Path,
    encoding: &Encoding,
    progress: &Arc<Progress>,
) -> Result<gst::Element, Error> {
    let (queue, scale, convert, shape) = (
        make("queue")?,
        make("videoscale")?,
        make("videoconvert")?,
        make("capsfilter")?,
    );
    let (muxer, sink) = (muxer(container)?, make("filesink")?);
    sink.set_property("location", path);
    // What is encoded is in the file at once, whatever happens next.
    sink.set_property_from_str("buffer-mode", "unbuffered");
    scale.set_property("add-borders", true);
    let odd = container == Container::WebM;
    let target = shape.downgrade();
    let progress = progress.clone();
    on_caps(persona, move |info| {
        // Caps may come twice before the first frame: what turns pictures upright learns late that it has to.
        if let Some(shape) = target.upgrade().filter(|_| progress.first_out.get().is_none()) {
            shape.set_property("caps", shape_of(info, odd));
        }
    })?;
    if odd {
        // VP8 takes I420 only.
        let (planar, encoder) = (make("videoconvert")?, vp8(encoding)?);
        assemble(
            pipeline,
            &[&queue, &scale, &convert, &shape, &planar, &encoder, &muxer, &sink],
        )?;
    } else {
        let (crop, encoder) = (even(persona)?, x264(encoding, false)?);
        assemble(
            pipeline,
            &[&queue, &crop, &scale, &convert, &shape, &encoder, &muxer, &sink],
        )?;
    }
    link(persona.upcast_ref(), &queue)?;
    Ok(muxer)
}

fn muxer(container: Container) -> Result<gst::Element, Error> {
    match container {
        Container::Mp4 => {
            let muxer = make("mp4mux")?;
            muxer.set_property("fragment-duration", FRAGMENT);
            muxer.set_property_from_str("fragment-mode", "first-moov-then-finalise");
            Ok(muxer)
        }
        Container::Matroska => make("matroskamux"),
        Container::WebM => make("webmmux"),
    }
}

/// H.264 without B frames, so that frames keep their order; `live` encodes each frame at once.
pub(crate) fn x264(encoding: &Encoding, live: bool) -> Result<gst::Element, Error> {
    let encoder = make("x264enc")?;
    encoder.set_property_from_str(
        "speed-preset",
        match encoding.preset {
            Preset::Ultrafast => "ultrafast",
            Preset::Superfast => "superfast",
            Preset::Veryfast => "veryfast",
        },
    );
    if live {
        encoder.set_property_from_str("tune", "zerolatency");
    }
    encoder.set_property("bframes", 0_u32);
    encoder.set_property("key-int-max", 60_u32);
    match encoding.bitrate {
        Some(bitrate) => encoder.set_property("bitrate", bitrate),
        None => {
            encoder.set_property_from_str("pass", "qual");
            encoder.set_property("quantizer", encoding.quality);
        }
    }
    Ok(encoder)
}

/// VP8 in real time; its quality goes to 63 where H.264's goes to 51.
fn vp8(encoding: &Encoding) -> Result<gst::Element, Error> {
    let encoder = make("vp8enc")?;
    encoder.set_property("deadline", 1_i64);
    encoder.set_property("cpu-used", 8_i32);
    encoder.set_property("threads", 2_i32);
    encoder.set_property("keyframe-max-dist", 60_i32);
    match encoding.bitrate {
        Some(bitrate) => encoder.set_property("target-bitrate", (bitrate * 1000) as i32),
        None => {
            encoder.set_property_from_str("end-usage", "cq");
            encoder.set_property("cq-level", (encoding.quality * 63 / 51) as i32);
            encoder.set_property("target-bitrate", 50_000_000_i32);
        }
    }
    Ok(encoder)
}

/// What happens to the tracks of a source.
#[derive(Clone)]
struct Tracks {
    pipeline: gst::glib::WeakRef<gst::Pipeline>,
    /// Where the first video track goes.
    video: gst::Pad,
    /// Where sound goes, if it is kept.
    muxer: Option<gst::Element>,
    progress: Arc<Progress>,
    ends: Arc<Mutex<Vec<gst::Pad>>>,
}

impl Tracks {
    /// Whether a track has to be decoded: pictures always, sound when the file cannot hold it as it is.
    fn decode(&self, caps: &gst::Caps) -> bool {
        let Some(kind) = caps.structure(0).map(|caps| caps.name()) else {
            return true;
        };
        match kind.split('/').next().unwrap_or_default() {
            "audio" => self.muxer.as_ref().is_some_and(|muxer| !can_hold(muxer, caps)),
            "text" | "subpicture" | "subtitle" | "closedcaption" => false,
            _ => true,
        }
    }

    fn add(&self, pad: &gst::Pad) {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let kind = caps
            .structure(0)
            .map(|caps| caps.name().to_string())
            .unwrap_or_default();
        let linked = if kind.starts_with("video/x-raw") && !self.progress.video.swap(true, Ordering::AcqRel) {
            pad.link(&self.video)
                .map(|_| true)
                .map_err(|error| error.to_string())
        } else if let Some(muxer) = self.muxer.as_ref().filter(|_| kind.starts_with("audio/")) {
            self.keep(pad, muxer, kind == "audio/x-raw")
                .map(|()| true)
                .map_err(|error| error.to_string())
        } else {
            Ok(false)
        };
        match linked {
            Ok(true) => (),
            Ok(false) => {
                self.progress.tracks_dropped.fetch_add(1, Ordering::Relaxed);
                discard(pad);
            }
            Err(reason) => {
                self.progress.refuse(Error::Stream {
                    input: format!("track {kind}"),
                    reason,
                });
            }
        }
    }

    /// Puts a track of sound into the file, without the tags that travel with it.
    fn keep(&self, pad: &gst::Pad, muxer: &gst::Element, raw: bool) -> Result<(), Error> {
        let Some(pipeline) = self.pipeline.upgrade() else {
            return Ok(());
        };
        let first = make("queue")?;
        let encoder = if raw {
            vec![make("audioconvert")?, make("audioresample")?, make("opusenc")?]
        } else {
            Vec::new()
        };
        let chain: Vec<&gst::Element> = std::iter::once(&first).chain(&encoder).collect();
        assemble(&pipeline, &chain)?;
        let last = encoder.last().unwrap_or(&first);
        let way_in = muxer
            .request_pad_simple("audio_%u")
            .ok_or_else(|| impossible(muxer, "takes no more sound"))?;
        self::pad(last, "src")?
            .link(&way_in)
            .map_err(|error| impossible(last, &error.to_string()))?;
        for element in &chain {
            element
                .sync_state_with_parent()
                .map_err(|error| impossible(element, &error.to_string()))?;
        }
        let sink = self::pad(&first, "sink")?;
        sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| {
            match info.event() {
                Some(event) if !may_pass(event) => gst::PadProbeReturn::Handled,
                _ => gst::PadProbeReturn::Ok,
            }
        });
        pad.link(&sink)
            .map_err(|error| impossible(&first, &error.to_string()))?;
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sink);
        Ok(())
    }
}

/// Takes what a track delivers, so that the source does not stop because nobody wants it.
fn discard(pad: &gst::Pad) {
    let data = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(data, |_, _| gst::PadProbeReturn::Handled);
}

/// Links the first video track of a decoding bin, when it appears, and discards every other track.
pub(crate) fn link_video(decode: &gst::Element, to: gst::Pad) {
    decode.connect_pad_added(move |_, pad| {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let video = caps.structure(0).is_some_and(|caps| caps.name() == "video/x-raw");
        if !video || to.is_linked() || pad.link(&to).is_err() {
            discard(pad);
        }
    });
}

/// Whether the muxer takes this kind of stream as it is.
fn can_hold(muxer: &gst::Element, caps: &gst::Caps) -> bool {
    muxer.pad_template_list().iter().any(|template| {
        template.direction() == gst::PadDirection::Sink && template.caps().can_intersect(caps)
    })
}

/// Adds the source to the pipeline; its tracks are linked when they are known.
fn source(
    pipeline: &gst::Pipeline,
    input: &Input,
    output: &Output,
    options: &Options,
    tracks: Tracks,
) -> Result<(), Error> {
    match input {
        Input::Test => {
            let source = make("videotestsrc")?;
            let caps = make("capsfilter")?;
            caps.set_property("caps", test_caps());
            match output {
                Output::Video { .. } => {
                    let frames = options.frames.unwrap_or(TEST_FRAMES);
                    source.set_property("num-buffers", i32::try_from(frames).unwrap_or(i32::MAX));
                }
                _ => source.set_property("is-live", true),
            }
            assemble(pipeline, &[&source, &caps])?;
            pad(&caps, "src")?
                .link(&tracks.video)
                .map_err(|error| impossible(&caps, &error.to_string()))?;
            tracks.progress.video.store(true, Ordering::Release);
            Ok(())
        }
        Input::Device(path) => {
            let (source, decode) = (make("v4l2src")?, make("decodebin")?);
            source.set_property("device", path.to_string_lossy().as_ref());
            assemble(pipeline, &[&source, &decode])?;
            connect(&decode, tracks);
            Ok(())
        }
        Input::Video(path) | Input::Picture(path) | Input::Pictures(path) => {
            let absolute = std::path::absolute(path).map_err(|source| Error::File {
                path: path.clone(),
                action: "find the file",
                source,
            })?;
            let uri = gst::glib::filename_to_uri(&absolute, None).map_err(|error| Error::Stream {
                input: input.to_string(),
                reason: error.to_string(),
            })?;
            uri_source(pipeline, &uri, &options.camera, tracks)
        }
        Input::Rtsp(address) => uri_source(pipeline, address, &options.camera, tracks),
    }
}

fn uri_source(pipeline: &gst::Pipeline, uri: &str, camera: &Camera, tracks: Tracks) -> Result<(), Error> {
    let decode = make("uridecodebin")?;
    decode.set_property("uri", uri);
    let camera = camera.clone();
    decode.connect("source-setup", false, move |values| {
        let source: gst::Element = values.get(1)?.get().ok()?;
        if source.has_property("latency") && source.has_property("protocols") {
            source.set_property("latency", camera.latency);
            source.set_property("tcp-timeout", camera.timeout * 1_000_000);
            if !camera.udp {
                source.set_property_from_str("protocols", "tcp");
            }
        }
        None
    });
    assemble(pipeline, &[&decode])?;
    connect(&decode, tracks);
    Ok(())
}

/// Links the tracks of a decoding bin as they appear.
fn connect(decode: &gst::Element, tracks: Tracks) {
    let chosen = tracks.clone();
    decode.connect("autoplug-continue", false, move |values| {
        let caps: gst::Caps = values.get(2)?.get().ok()?;
        Some(chosen.decode(&caps).to_value())
    });
    let complete = tracks.progress.clone();
    decode.connect_no_more_pads(move |_| complete.complete.store(true, Ordering::Release));
    decode.connect_pad_added(move |_, pad| tracks.add(pad));
}
