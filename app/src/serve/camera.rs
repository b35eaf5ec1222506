//! One camera, for ever: connect, anonymize, notice when it is lost, connect anew.
//!
//! ```text
//! uridecodebin | v4l2src ! decodebin | nvarguscamerasrc | videotestsrc
//!   ─► converter ─► queue (bounded, late frames are left out) ─► persona ─► appsink
//! ```
//! Each connection is a GStreamer pipeline of its own, from the camera to the element `persona`, so that nothing of an
//! earlier one is left. What comes out of the element goes to the stream's output ([`super::output`]), which lives on.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::config::{Camera, Secret, Source, Transport};
use super::output::{Message, Picture};
use super::status::{Count, Health, Lost};
use crate::element::Persona;
use crate::networks::Pool;
use crate::panel::Panel;
use crate::run::{Error, formats, link_video, make, test_caps};

/// How often a connection is looked at.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);
/// Raw time that may wait for the element before frames are left out, nanoseconds.
const BACKLOG: u64 = 200_000_000;
/// Pause before the first new attempt; it doubles with each one that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that held this long was a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(10);

/// What a camera's thread needs.
pub(super) struct Supervisor {
    pub(super) camera: Camera,
    pub(super) networks: Arc<Pool>,
    /// Name and password for the camera.
    pub(super) login: Option<(String, Secret)>,
    pub(super) health: Arc<Health>,
    pub(super) panel: Arc<Panel>,
    pub(super) output: SyncSender<Message>,
    /// The camera with other rules for its faces; closed when the stream stops.
    pub(super) orders: Receiver<Camera>,
}

impl Supervisor {
    /// Keeps the camera connected until the box stops.
    pub(super) fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let lost = self.connect();
            let Some(lost) = lost else { return };
            self.health.set_camera(Some(lost.clone()), Instant::now());
            // Whoever waits has gone with the box.
            let _ = self.output.send(Message::Lost);
            if begun.elapsed() >= GOOD || lost == Lost::Ended && matches!(self.camera.source, Source::File(_))
            {
                pause = FIRST_PAUSE;
            }
            match self.orders.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => pause = (2 * pause).min(LONGEST_PAUSE),
                Ok(camera) => self.camera = camera,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One connection, from its first packet to its last; `None` when the box stops.
    fn connect(&mut self) -> Option<Lost> {
        self.health.count(Count::Attempts);
        let pipeline = gst::Pipeline::new();
        let persona = match self.build(&pipeline) {
            Ok(persona) => persona,
            Err(error) => {
                self.health.note(error.to_string());
                return Some(Lost::Broken);
            }
        };
        self.panel.attach(&persona);
        self.health.set_element(Some(persona.clone()));
        let lost = self.watch(&pipeline, &persona);
        self.health.set_element(None);
        if pipeline.set_state(gst::State::Null).is_err() {
            log::warn!("{}: the connection did not end in order", self.camera.name);
        }
        lost
    }

    fn build(&self, pipeline: &gst::Pipeline) -> Result<Persona, Error> {
        let (queue, caps, sink) = (make("queue")?, make("capsfilter")?, self.sink());
        let convert = converter()?;
        caps.set_property("caps", formats());
        queue.set_property("max-size-bytes", 0_u32);
        queue.set_property("max-size-time", 0_u64);
        // A file waits for the element, a camera does not: its frames are left out below.
        let file = matches!(self.camera.source, Source::File(_));
        queue.set_property("max-size-buffers", if file { 3_u32 } else { 0 });
        let persona = self.element()?;
        let chain = [&convert, &caps, &queue, persona.upcast_ref(), sink.upcast_ref()];
        let impossible = |error: gst::glib::BoolError| Error::Stream {
            input: self.camera.source.to_string(),
            reason: error.to_string(),
        };
        pipeline.add_many(chain).map_err(impossible)?;
        gst::Element::link_many(chain).map_err(impossible)?;
        // Both of a stream's pipelines run by this clock, so that times can be carried over.
        pipeline.use_clock(Some(&gst::SystemClock::obtain()));
        if let Some(entry) = queue.static_pad("sink") {
            let (health, queue) = (self.health.clone(), queue.downgrade());
            entry.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                health.count(Count::Decoded);
                let waiting: u64 = queue
                    .upgrade()
                    .map_or(0, |queue| queue.property("current-level-time"));
                if file || waiting < BACKLOG {
                    return gst::PadProbeReturn::Ok;
                }
                health.count(Count::LateBefore);
                gst::PadProbeReturn::Handled
            });
        }
        let first = self.source(&convert)?;
        pipeline.add_many(&first).map_err(impossible)?;
        gst::Element::link_many(&first).map_err(impossible)?;
        if let Some(last) = first.last().filter(|last| last.static_pad("src").is_some()) {
            last.link(&convert).map_err(impossible)?;
        }
        Ok(persona)
    }

    /// The elements before the converter, to be linked one to the next; the last one links itself when it has found
    /// the video track.
    fn source(&self, convert: &gst::Element) -> Result<Vec<gst::Element>, Error> {
        let entry = convert.static_pad("sink").ok_or_else(|| Error::Stream {
            input: self.camera.source.to_string(),
            reason: "the converter has no way in".into(),
        })?;
        match &self.camera.source {
            Source::Test => {
                let (source, caps) = (make("videotestsrc")?, make("capsfilter")?);
                source.set_property("is-live", true);
                source.set_property_from_str("pattern", "ball");
                caps.set_property("caps", test_caps());
                Ok(vec![source, caps])
            }
            Source::Csi(number) => {
                let source = make("nvarguscamerasrc")?;
                source.set_property("sensor-id", *number as i32);
                Ok(vec![source])
            }
            Source::Device(path) => {
                let (source, decode) = (make("v4l2src")?, make("decodebin")?);
                source.set_property("device", path.to_string_lossy().as_ref());
                link_video(&decode, entry);
                let Some(size) = self.camera.size else {
                    return Ok(vec![source, decode]);
                };
                let caps = make("capsfilter")?;
                caps.set_property("caps", size.caps());
                Ok(vec![source, caps, decode])
            }
            Source::File(path) => {
                let uri = std::path::absolute(path)
                    .map_err(|error| error.to_string())
                    .and_then(|path| {
                        gst::glib::filename_to_uri(path, None).map_err(|error| error.to_string())
                    })
                    .map_err(|reason| Error::Stream {
                        input: path.display().to_string(),
                        reason,
                    })?;
                Ok(vec![self.decode(&uri, entry)?])
            }
            Source::Rtsp(address) => Ok(vec![self.decode(address, entry)?]),
        }
    }

    fn decode(&self, uri: &str, entry: gst::Pad) -> Result<gst::Element, Error> {
        let decode = make("uridecodebin")?;
        decode.set_property("uri", uri);
        // Sound is not even decoded.
        decode.connect("autoplug-continue", false, |values| {
            let caps: gst::Caps = values.get(2)?.get().ok()?;
            let sound = caps
                .structure(0)
                .is_some_and(|caps| caps.name().starts_with("audio/"));
            Some((!sound).to_value())
        });
        let (camera, login) = (self.camera.clone(), self.login.clone());
        decode.connect("source-setup", false, move |values| {
            let source: gst::Element = values.get(1)?.get().ok()?;
            if source.has_property("user-pw") {
                rtsp(&source, &camera, login.as_ref());
            }
            None
        });
        link_video(&decode, entry);
        Ok(decode)
    }

    fn element(&self) -> Result<Persona, Error> {
        let faces = &self.camera.faces;
        let element = make("persona")?;
        element.set_property_from_str("scan", if faces.thorough { "thorough" } else { "sweep" });
        element.set_property("look-ahead", faces.look_ahead);
        element.set_property("threshold", faces.threshold);
        element.set_property("coast", faces.coast);
        element.set_property("deadline", faces.deadline);
        let persona: Persona = element
            .downcast()
            .map_err(|_| Error::Persona("another plugin has the name persona; remove it".into()))?;
        persona.set_rules(faces.policy.into(), self.camera.rules());
        persona.set_engines(self.networks.engines()?);
        Ok(persona)
    }

    /// Hands each anonymized frame to the output; a frame for which it has no room is left out.
    fn sink(&self) -> gst_app::AppSink {
        let (health, output) = (self.health.clone(), self.output.clone());
        let callbacks = gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                health.picture(Instant::now());
                let Some(picture) = sink.base_time().and_then(|base| Picture::new(sample, base)) else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                match output.try_send(Message::Picture(picture)) {
                    Ok(()) => Ok(gst::FlowSuccess::Ok),
                    Err(TrySendError::Full(_)) => {
                        health.count(Count::LateAfter);
                        Ok(gst::FlowSuccess::Ok)
                    }
                    Err(TrySendError::Disconnected(_)) => Err(gst::FlowError::Eos),
                }
            })
            .build();
        gst_app::AppSink::builder()
            .callbacks(callbacks)
            // Only files have to be held back to their own pace.
            .sync(matches!(self.camera.source, Source::File(_)))
            .build()
    }

    /// Runs the pipeline until it fails; `None` when the box stops.
    fn watch(&mut self, pipeline: &gst::Pipeline, persona: &Persona) -> Option<Lost> {
        let bus = pipeline.bus()?;
        if pipeline.set_state(gst::State::Playing).is_err() {
            let error = bus.pop_filtered(&[gst::MessageType::Error]);
            return Some(match error.as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Error(error)) => self.explain(error, persona),
                _ => Lost::Broken,
            });
        }
        let begun = Instant::now();
        let (mut shown, mut similar, mut broken) = (false, 0, None);
        loop {
            match self.orders.try_recv() {
                Ok(camera) => {
                    persona.set_rules(camera.faces.policy.into(), camera.rules());
                    self.camera = camera;
                }
                Err(TryRecvError::Empty) => (),
                Err(TryRecvError::Disconnected) => return None,
            }
            let message = bus.timed_pop(TICK);
            match message.as_ref().map(|message| message.view()) {
                // rtspsrc takes a connection that breaks for an end, and only warns.
                Some(gst::MessageView::Eos(_)) => return Some(broken.unwrap_or(Lost::Ended)),
                Some(gst::MessageView::Error(error)) => return Some(self.explain(error, persona)),
                Some(gst::MessageView::Warning(warning))
                    if warning.error().kind::<gst::ResourceError>().is_some() =>
                {
                    broken = Some(Lost::Broken);
                }
                Some(gst::MessageView::Latency(_)) => {
                    if let Err(error) = pipeline.recalculate_latency() {
                        log::warn!("{}: {error}", self.camera.name);
                    }
                }
                _ => (),
            }
            let now = Instant::now();
            let silence = self
                .health
                .silence(now)
                .unwrap_or(Duration::MAX)
                .min(now.saturating_duration_since(begun));
            if silence >= self.camera.timeout() {
                return Some(Lost::Silent);
            }
            let snapshot = persona.snapshot();
            if snapshot.as_ref().is_some_and(|snapshot| snapshot.fault) {
                self.health.count(Count::PipelineFaults);
                return Some(Lost::Pipeline);
            }
            let Some(snapshot) = snapshot else { continue };
            if snapshot.similar > similar {
                similar = snapshot.similar;
                self.health
                    .note("a replaced face resembled its person; it stays covered");
            }
            if !shown && snapshot.frames > 0 {
                shown = true;
                self.health.set_camera(None, now);
            }
        }
    }

    /// The reason for which a connection failed; GStreamer's own words go to the events.
    fn explain(&self, message: &gst::message::Error, persona: &Persona) -> Lost {
        let error = message.error();
        let ours = message
            .src()
            .is_some_and(|from| from == persona.upcast_ref::<gst::Object>());
        let place = message
            .src()
            .map(|from| from.name().to_string())
            .unwrap_or_default();
        let details = message.debug();
        let details = details
            .as_deref()
            .and_then(|details| details.lines().last())
            .unwrap_or_default();
        let words = error.message().trim_end_matches('.').to_owned();
        log::warn!("{}: {words} ({place}: {details})", self.camera.name);
        if ours {
            self.health.note(words);
            return Lost::Pipeline;
        }
        match (
            error.kind::<gst::ResourceError>(),
            error.kind::<gst::StreamError>(),
        ) {
            (Some(gst::ResourceError::NotAuthorized), _) => Lost::Unauthorized,
            (Some(gst::ResourceError::NotFound), _) => Lost::NotFound,
            (Some(_), _) => Lost::Unreachable,
            (_, Some(gst::StreamError::CodecNotFound | gst::StreamError::TypeNotFound)) => Lost::Format,
            _ if error.matches(gst::CoreError::MissingPlugin) => Lost::Format,
            _ => Lost::Broken,
        }
    }
}

/// Sets up GStreamer's RTSP client.
fn rtsp(source: &gst::Element, camera: &Camera, login: Option<&(String, Secret)>) {
    if let Some((name, password)) = login {
        source.set_property("user-id", name);
        source.set_property("user-pw", password.reveal());
    }
    source.set_property("latency", camera.latency);
    source.set_property("drop-on-latency", true);
    let microseconds = u64::from(camera.timeout) * 1_000_000;
    source.set_property("tcp-timeout", microseconds);
    // 0 keeps it from trying TCP by itself when UDP is silent: a camera that is lost is connected to anew.
    source.set_property("timeout", 0_u64);
    source.set_property_from_str(
        "protocols",
        match camera.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        },
    );
    // Sound and the camera's metadata are not even asked for.
    source.connect("select-stream", false, |values| {
        let caps: gst::Caps = values.get(2)?.get().ok()?;
        let video = caps
            .structure(0)
            .and_then(|caps| caps.get::<&str>("media").ok())
            .is_some_and(|media| media == "video");
        Some(video.to_value())
    });
}

/// From whatever a decoder gives to I420 or NV12 in ordinary memory. On a Jetson NVIDIA's converter takes pictures out of
/// the decoder's memory; elsewhere formats that fit already pass through untouched.
fn converter() -> Result<gst::Element, Error> {
    make("nvvidconv").or_else(|_| make("videoconvert"))
}
