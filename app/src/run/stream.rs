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
use super::encode::{even, file, from_zero, x264};
use super::output::Partial;
use super::source::{Tracks, source};
use super::{Error, Faces, Input, Mount, Options, Output, Report, report};
use crate::element::Persona;
use crate::panel::Panel;
use crate::pipeline::{Polygon, Snapshot, Stats};
use crate::rtsp::{Feed, Listen, Server};

/// How often the run looks after itself.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(50);
/// How long a faulty stream may take to close its output.
const CLOSING: Duration = Duration::from_secs(5);
/// Raw time that may wait for the element before a camera's frames are left out.
const LIVE_QUEUE: gst::ClockTime = gst::ClockTime::from_mseconds(200);
/// How long a file may take to give its first frame. decodebin can lose the error of a demuxer that gives up while its
/// pads are still being linked; then no message ever comes.
const OPENING: Duration = Duration::from_secs(20);
/// A file whose video ends this much before its header says is damaged; sound may be longer than video.
const TRUNCATED: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// What the streaming threads tell the run.
#[derive(Default)]
pub(super) struct Progress {
    started: OnceLock<Instant>,
    first_in: OnceLock<Instant>,
    pub(super) first_out: OnceLock<Instant>,
    /// Milliseconds from `started` to the latest frame in.
    latest_in: AtomicU64,
    frames_in: AtomicU64,
    /// Presentation times of the first and the latest frame, nanoseconds.
    first_time: OnceLock<gst::ClockTime>,
    latest_time: AtomicU64,
    /// Whether a video track is linked.
    pub(super) video: AtomicBool,
    /// Set when every track is known.
    pub(super) complete: AtomicBool,
    pub(super) tracks_dropped: AtomicUsize,
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

    pub(super) fn refuse(&self, error: Error) {
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
    let panel = Panel::open(&options.panel)?;
    let stream = Stream::build(input, output, options)?;
    if let Some(panel) = &panel {
        panel.attach(&stream.persona);
    }
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

/// What the run has learnt from GStreamer so far.
#[derive(Default)]
struct Watch {
    /// Why the stream ends early.
    fault: Option<Error>,
    /// A decoder that is not installed.
    codec: Option<String>,
    /// What a camera's source has warned of.
    broken: Option<String>,
    /// Until when the output may take to close, once the end was asked for.
    closing: Option<Instant>,
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
        let persona = persona(&options.faces, input.is_live())?;
        let sink_pad = pad(&persona, "sink")?;
        let ends = Arc::new(Mutex::new(vec![sink_pad.clone()]));

        let convert = make("videoconvert")?;
        let formats = make("capsfilter")?;
        let upright = make("videoflip")?;
        let queue = make("queue")?;
        formats.set_property("caps", self::formats());
        upright.set_property_from_str("video-direction", "auto");
        queue.set_property("max-size-bytes", 0_u32);
        if input.is_live() {
            queue.set_property("max-size-buffers", 0_u32);
            queue.set_property("max-size-time", LIVE_QUEUE);
            queue.set_property_from_str("leaky", "downstream");
        } else {
            queue.set_property("max-size-buffers", 3_u32);
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
                if !options.keep_audio {
                    from_zero(&muxer);
                }
                (Some(partial), Some(muxer), None)
            }
            Output::Rtsp(mount) => {
                let (encoder, format) = (x264(&options.encoding, true)?, make("capsfilter")?);
                format.set_property("caps", Feed::caps());
                let crop = even(&persona)?;
                let queue = make("queue")?;
                // Nobody hears of a stream that cannot be made.
                let server = serve(mount)?;
                let sink = server.mount(&mount.path).sink();
                sink.set_property("sync", !input.is_live());
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
        let mut watch = Watch::default();
        let Some(bus) = self.pipeline.bus() else {
            // A pipeline always has a bus.
            return self.outcome(None);
        };
        if self.pipeline.set_state(gst::State::Playing).is_err() {
            // The reason is on the bus.
            watch.closing = Some(Instant::now());
        }
        // The networks are loaded by now; only from here on is it the camera that is waited for.
        self.progress.heard();
        loop {
            let message = bus.timed_pop(TICK);
            let ended = message
                .as_ref()
                .is_some_and(|message| self.hear(message, &mut watch));
            if let Some(fault) = self.look(options, &watch) {
                watch.fault.get_or_insert(fault);
            }
            let stop = watch.fault.is_some() || interrupted.load(Ordering::Relaxed);
            if stop && watch.closing.is_none() {
                end(&self.ends);
                watch.closing = Some(Instant::now() + CLOSING);
            }
            // An output into which nothing went needs no closing.
            let started = self.progress.first_out.get().is_some();
            let closed = watch
                .closing
                .is_some_and(|until| !started || Instant::now() >= until);
            // Messages that wait may hold the reason.
            if ended || (closed && message.is_none()) {
                break;
            }
            self.draw(&bar, options);
        }
        bar.finish_and_clear();
        let complete = watch.closing.is_none() && options.frames.is_none();
        self.outcome(
            watch
                .fault
                .or_else(|| if complete { self.truncation() } else { None }),
        )
    }

    /// Takes note of a message; `true` at the end of the stream.
    fn hear(&self, message: &gst::Message, watch: &mut Watch) -> bool {
        match message.view() {
            gst::MessageView::Eos(_) => {
                // rtspsrc takes a connection that breaks for an end, and only warns.
                if let Some(reason) = watch.broken.take().filter(|_| watch.closing.is_none()) {
                    watch.fault.get_or_insert(Error::Stream {
                        input: self.input.to_string(),
                        reason: format!("the camera has gone away: {reason}"),
                    });
                }
                return true;
            }
            gst::MessageView::Error(error) => {
                let fault = self.explain(error, watch.codec.take());
                watch.fault.get_or_insert(fault);
            }
            gst::MessageView::Warning(warning) => {
                let warning = warning.error();
                if self.input.is_live() && warning.kind::<gst::ResourceError>().is_some() {
                    watch.broken = Some(warning.message().trim_end_matches('.').to_owned());
                } else if !warning.matches(gst::StreamError::CodecNotFound) {
                    log::warn!("{}: {warning}", self.input);
                }
            }
            gst::MessageView::Element(element) => {
                if let Some(codec) = element.structure().and_then(missing_codec) {
                    watch.codec = Some(codec);
                }
            }
            gst::MessageView::Latency(_) => {
                if let Err(error) = self.pipeline.recalculate_latency() {
                    log::warn!("{}: {error}", self.input);
                }
            }
            _ => (),
        }
        false
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
    fn look(&self, options: &Options, watch: &Watch) -> Option<Error> {
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
            return Some(match &watch.codec {
                Some(codec) => Error::Codec {
                    input,
                    codec: codec.clone(),
                    package: elements::DECODERS,
                },
                None => Error::NoVideo { input },
            });
        }
        let unopened = !self.input.is_live() && progress.first_in.get().is_none();
        if unopened && progress.silence() >= OPENING {
            return Some(Error::Stream {
                input: self.input.to_string(),
                reason: format!("no frame could be decoded within {} s", OPENING.as_secs()),
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

/// A server for one stream, to which everybody has access.
fn serve(mount: &Mount) -> Result<Server, Error> {
    // Asked for here, because the server would only fail at the first client.
    make("rtph264pay")?;
    let listen = Listen {
        host: mount.host.clone(),
        port: mount.port,
        ..Listen::default()
    };
    let server = Server::start(listen).map_err(|error| Error::Address {
        address: mount.to_string(),
        reason: error.to_string(),
    })?;
    log::info!("serving {mount}");
    Ok(server)
}

/// The formats that the element takes.
pub(crate) fn formats() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format_list([gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12])
        .build()
}

/// The element with the options as its properties.
pub(crate) fn persona(faces: &Faces, live: bool) -> Result<Persona, Error> {
    let element = make("persona")?;
    element.set_property("models", faces.models());
    element.set_property("place", faces.place);
    element.set_property("precision", faces.precision);
    element.set_property_from_str("policy", faces.policy.nick());
    element.set_property_from_str("scan", if faces.thorough { "thorough" } else { "sweep" });
    element.set_property("look-ahead", faces.look_ahead);
    element.set_property("threshold", faces.threshold);
    element.set_property("min-face", faces.min_face);
    element.set_property("coast", faces.coast);
    element.set_property("verify", faces.verify);
    element.set_property("masks", Polygon::join(&faces.masks));
    element.set_property("covered-zones", Polygon::join(&faces.covered_zones));
    element.set_property("threads", faces.threads);
    element.set_property("deadline", faces.deadline(live));
    element
        .downcast()
        .map_err(|_| Error::Persona("another plugin has the name persona; remove it".into()))
}

pub(super) fn pad(element: &impl IsA<gst::Element>, name: &str) -> Result<gst::Pad, Error> {
    element
        .static_pad(name)
        .ok_or_else(|| impossible(element.upcast_ref(), "has no such pad"))
}

pub(super) fn impossible(element: &gst::Element, what: &str) -> Error {
    Error::Stream {
        input: format!("GStreamer element {}", element.name()),
        reason: what.to_owned(),
    }
}

/// Adds elements to the pipeline and links each to the next one.
pub(super) fn assemble(pipeline: &gst::Pipeline, chain: &[&gst::Element]) -> Result<(), Error> {
    for element in chain {
        pipeline
            .add(*element)
            .map_err(|error| impossible(element, &error.to_string()))?;
    }
    chain.windows(2).try_for_each(|pair| link(pair[0], pair[1]))
}

pub(super) fn link(from: &gst::Element, to: &gst::Element) -> Result<(), Error> {
    from.link(to)
        .map_err(|error| impossible(from, &error.to_string()))
}
