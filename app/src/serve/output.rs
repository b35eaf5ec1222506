//! The stream that viewers see: it never ends, whatever the camera does.
//!
//! ```text
//! pictures ─┐
//!           ├─► appsrc ─► (even size) ─► encoder ─► viewers, recording
//! slates  ──┘
//! ```
//! A thread takes anonymized pictures as they come and puts slates in their place while there are none. The encoder is
//! made anew only when the size changes or when it fails.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::config::Camera;
use super::recording::Recorder;
use super::slate::slate;
use super::status::{Count, Health};
use crate::rtsp::Feed;
use crate::run::{Error, make, x264};

/// Pictures that may wait for the encoder.
pub(super) const WAITING: usize = 3;
/// Without a picture for this long the slate comes.
const PATIENCE: Duration = Duration::from_millis(700);
/// Time from one slate to the next.
const SLATE: Duration = Duration::from_millis(200);
/// The slate's size before a camera has ever given one.
const UNKNOWN: (u32, u32) = (1280, 720);
/// Pause after a fault of the encoder or the recording.
const REST: Duration = Duration::from_secs(5);

/// What the output is told.
pub(super) enum Message {
    /// An anonymized picture.
    Picture(Picture),
    /// The camera is lost; no picture comes before it is back.
    Lost,
}

/// What came out of the element `persona`, and when it was taken by the system's clock.
pub(super) struct Picture {
    sample: gst::Sample,
    taken: gst::ClockTime,
}

impl Picture {
    /// `base` is the base time of the element's pipeline. `None` for a sample without a picture or a time.
    pub(super) fn new(sample: gst::Sample, base: gst::ClockTime) -> Option<Self> {
        let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
        let running = segment.to_running_time(sample.buffer()?.pts()?)?;
        sample.caps()?;
        Some(Self {
            sample,
            taken: base + running,
        })
    }
}

/// What an output's thread needs.
pub(super) struct Output {
    site: String,
    camera: Camera,
    health: Arc<Health>,
    feed: Feed,
    encoder: Option<Encoder>,
    /// No encoder is made before.
    rest: Option<Instant>,
    /// When a slate went to the encoder, if nothing else went there since.
    slated: Option<Instant>,
    /// The slate that was drawn last, and what it says.
    drawn: Option<(String, gst::Buffer)>,
}

impl Output {
    pub(super) fn new(site: &str, camera: Camera, health: Arc<Health>, feed: Feed) -> Self {
        Self {
            site: site.into(),
            camera,
            health,
            feed,
            encoder: None,
            rest: None,
            slated: None,
            drawn: None,
        }
    }

    /// Serves the stream until every sender of pictures has gone.
    pub(super) fn run(mut self, pictures: &Receiver<Message>) {
        let mut latest = Instant::now();
        let mut lost = true;
        loop {
            let patience = if lost { SLATE } else { PATIENCE };
            match pictures.recv_timeout(patience) {
                Ok(Message::Picture(picture)) => {
                    lost = false;
                    latest = Instant::now();
                    self.show(&picture, latest);
                }
                Ok(Message::Lost) => {
                    lost = true;
                    self.wait_with_slate(Instant::now());
                }
                Err(RecvTimeoutError::Timeout) => {
                    lost |= latest.elapsed() >= PATIENCE;
                    if lost {
                        self.wait_with_slate(Instant::now());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(encoder) = self.encoder.take() {
            encoder.finish();
        }
    }

    fn show(&mut self, picture: &Picture, now: Instant) {
        let (Some(caps), Some(buffer)) = (picture.sample.caps_owned(), picture.sample.buffer_owned()) else {
            return;
        };
        self.health.keep(&caps, &buffer, now);
        // Nothing is predicted from a slate.
        let key_frame = self.slated.take().is_some();
        let Some(encoder) = self.encoder(&caps) else {
            return;
        };
        if key_frame {
            encoder.ask_for_key_frame();
        }
        if encoder.push(buffer, picture.taken) {
            self.health.count(Count::Sent);
        } else {
            self.fail();
        }
    }

    /// Puts a slate in the place of the picture that has not come, not more often than need be.
    fn wait_with_slate(&mut self, now: Instant) {
        if self.slated.is_some_and(|latest| now < latest + SLATE / 2) {
            return;
        }
        self.slated = Some(now);
        let caps = match &self.encoder {
            Some(encoder) => Some(encoder.caps.clone()),
            None => gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, UNKNOWN.0, UNKNOWN.1)
                .fps(gst::Fraction::new(25, 1))
                .build()
                .and_then(|info| info.to_caps())
                .ok(),
        };
        let Some(caps) = caps else { return };
        let Some(buffer) = self.slate(&caps) else { return };
        self.health.keep(&caps, &buffer, now);
        let Some(encoder) = self.encoder(&caps) else {
            return;
        };
        if encoder.push(buffer, gst::SystemClock::obtain().time()) {
            self.health.count(Count::Slates);
        } else {
            self.fail();
        }
    }

    /// The slate for this moment; drawn only when it says something new.
    fn slate(&mut self, caps: &gst::Caps) -> Option<gst::Buffer> {
        let (lost, since) = self.health.camera();
        let reason = lost.map_or_else(|| "waiting for the camera".to_owned(), |lost| lost.to_string());
        let seconds = i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
        let since = gst::glib::DateTime::now_utc()
            .and_then(|now| now.add_seconds(-(seconds as f64)))
            .and_then(|since| since.format("%H:%M:%S UTC"))
            .map(String::from)
            .unwrap_or_default();
        let lines = [
            format!("{}  {}", self.site, self.camera.name),
            "No picture".to_owned(),
            reason,
            format!("since {since}"),
        ];
        let info = gst_video::VideoInfo::from_caps(caps).ok()?;
        let says = format!("{caps} {}", lines.join("\n"));
        if let Some((drawn, buffer)) = &self.drawn
            && *drawn == says
        {
            return Some(buffer.clone());
        }
        let buffer = slate(&info, &lines.each_ref().map(String::as_str))?;
        self.drawn = Some((says, buffer.clone()));
        Some(buffer)
    }

    /// The encoder for pictures of this shape; `None` while it rests after a fault.
    fn encoder(&mut self, caps: &gst::Caps) -> Option<&mut Encoder> {
        if self.encoder.as_mut().is_some_and(Encoder::has_failed) {
            self.fail();
        }
        if self.rest.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let fits = self.encoder.as_mut().is_some_and(|encoder| encoder.fit(caps));
        if !fits {
            if let Some(encoder) = self.encoder.take() {
                encoder.finish();
            }
            self.health.count(Count::Encoders);
            match Encoder::start(&self.camera, caps, &self.feed, &self.health) {
                Ok(encoder) => self.encoder = Some(encoder),
                Err(error) => {
                    self.health.note(error.to_string());
                    self.fail();
                }
            }
        }
        self.encoder.as_mut()
    }

    fn fail(&mut self) {
        self.health.count(Count::EncoderFaults);
        self.encoder = None;
        self.rest = Some(Instant::now() + REST);
    }
}

/// One encoder with what it fills.
struct Encoder {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    caps: gst::Caps,
    shape: (u32, u32, gst::Fraction),
    base: gst::ClockTime,
    /// Time of the latest frame; times only go up.
    latest: Option<gst::ClockTime>,
    recorder: Option<Arc<Mutex<Recorder>>>,
}

fn shape(caps: &gst::Caps) -> Option<(u32, u32, gst::Fraction)> {
    let info = gst_video::VideoInfo::from_caps(caps).ok()?;
    Some((info.width(), info.height(), info.par()))
}

impl Encoder {
    fn start(camera: &Camera, caps: &gst::Caps, feed: &Feed, health: &Arc<Health>) -> Result<Self, Error> {
        let broken = |reason: String| Error::Stream {
            input: format!("encoder of {}", camera.name),
            reason,
        };
        let shape = shape(caps).ok_or_else(|| broken(format!("cannot encode {caps}")))?;
        let source = gst_app::AppSrc::builder()
            .caps(caps)
            .format(gst::Format::Time)
            .is_live(true)
            .max_buffers(WAITING as u64)
            .max_bytes(0)
            .block(true)
            .build();
        let recorder = camera
            .recording
            .as_ref()
            .map(|recording| Recorder::new(camera.name.as_str(), recording, health.clone()))
            .map(|recorder| Arc::new(Mutex::new(recorder)));
        let sink = sink(feed, recorder.clone());
        // H.264 in 4:2:0 has no odd sizes.
        let crop = make("videocrop")?;
        crop.set_property("right", (shape.0 % 2) as i32);
        crop.set_property("bottom", (shape.1 % 2) as i32);
        let (convert, encoder, format) = (
            make("videoconvert")?,
            x264(&camera.encoding.encoding(), true)?,
            make("capsfilter")?,
        );
        format.set_property("caps", Feed::caps());
        let pipeline = gst::Pipeline::new();
        let chain = [
            source.upcast_ref(),
            &crop,
            &convert,
            &encoder,
            &format,
            sink.upcast_ref(),
        ];
        pipeline
            .add_many(chain)
            .and_then(|()| gst::Element::link_many(chain))
            .map_err(|error| broken(error.to_string()))?;
        let clock = gst::SystemClock::obtain();
        pipeline.use_clock(Some(&clock));
        let base = clock.time();
        pipeline.set_start_time(gst::ClockTime::NONE);
        pipeline.set_base_time(base);
        feed.attach(&sink);
        pipeline
            .set_state(gst::State::Playing)
            .map_err(|error| broken(error.to_string()))?;
        health.set_size(shape.0, shape.1);
        Ok(Self {
            pipeline,
            source,
            caps: caps.clone(),
            shape,
            base,
            latest: None,
            recorder,
        })
    }

    /// Takes over the caps of pictures of the same size; `false` for another size.
    fn fit(&mut self, caps: &gst::Caps) -> bool {
        if self.caps == *caps {
            return true;
        }
        if shape(caps) != Some(self.shape) {
            return false;
        }
        self.source.set_caps(Some(caps));
        self.caps = caps.clone();
        true
    }

    /// Hands over a frame that was taken at this time of the system's clock; waits while the encoder is behind. `false`
    /// when it takes nothing more.
    fn push(&mut self, mut buffer: gst::Buffer, taken: gst::ClockTime) -> bool {
        let mut time = taken.saturating_sub(self.base);
        if let Some(latest) = self.latest {
            // The camera's clock may jump; the stream's does not.
            time = time.max(latest + gst::ClockTime::MSECOND);
        }
        self.latest = Some(time);
        let writable = buffer.make_mut();
        writable.set_pts(time);
        writable.set_dts(gst::ClockTime::NONE);
        writable.set_duration(gst::ClockTime::NONE);
        self.source.push_buffer(buffer).is_ok()
    }

    fn ask_for_key_frame(&self) {
        let event = gst_video::DownstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        self.source.send_event(event);
    }

    /// Whether GStreamer has reported an error.
    fn has_failed(&mut self) -> bool {
        let Some(message) = self
            .pipeline
            .bus()
            .and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]))
        else {
            return false;
        };
        log::error!("encoder: {message:?}");
        true
    }

    /// Lets what was taken come out, and closes the recording.
    fn finish(self) {
        if self.source.end_of_stream().is_ok()
            && let Some(bus) = self.pipeline.bus()
        {
            let ends = [gst::MessageType::Eos, gst::MessageType::Error];
            bus.timed_pop_filtered(gst::ClockTime::from_seconds(2), &ends);
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            log::warn!("an encoder did not stop in order");
        }
        if let Some(recorder) = &self.recorder {
            recorder.lock().unwrap_or_else(PoisonError::into_inner).finish();
        }
    }
}

/// Hands each access unit to the viewers and to the recording.
fn sink(feed: &Feed, recorder: Option<Arc<Mutex<Recorder>>>) -> gst_app::AppSink {
    let feed = feed.clone();
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            feed.push(&sample);
            if let Some(recorder) = &recorder {
                recorder
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(&sample, Instant::now());
            }
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    gst_app::AppSink::builder()
        .caps(&Feed::caps())
        .sync(false)
        .callbacks(callbacks)
        .build()
}
