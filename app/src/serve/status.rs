//! How a stream is doing: counters, its camera's state, and what happened lately.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use gstreamer as gst;

use crate::element::Persona;
use crate::pipeline::{Distances, Reason, Snapshot, Stage};

/// Why a camera gives no picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The first attempt is under way.
    Connecting,
    /// Nobody answers at the camera's address.
    Unreachable,
    /// The camera refuses user name or password.
    Unauthorized,
    /// The camera does not know this stream, or the file or device is not there.
    NotFound,
    /// The connection stands, but no frame comes.
    Silent,
    /// The camera has closed the stream.
    Ended,
    /// No decoder for what the camera sends.
    Format,
    /// Anonymizing has failed and starts anew.
    Pipeline,
    /// Anything else.
    Broken,
}

impl Lost {
    /// Every reason, in the order of the enumeration.
    pub const ALL: [Self; 9] = [
        Self::Connecting,
        Self::Unreachable,
        Self::Unauthorized,
        Self::NotFound,
        Self::Silent,
        Self::Ended,
        Self::Format,
        Self::Pipeline,
        Self::Broken,
    ];

    /// The reason as a label: one lower case word.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::Silent => "silent",
            Self::Ended => "ended",
            Self::Format => "format",
            Self::Pipeline => "pipeline",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connecting => "connecting to the camera",
            Self::Unreachable => "the camera does not answer",
            Self::Unauthorized => "the camera refuses the password",
            Self::NotFound => "the camera has no such stream",
            Self::Silent => "the camera sends no picture",
            Self::Ended => "the camera closed the stream",
            Self::Format => "unknown video format",
            Self::Pipeline => "anonymizing starts anew",
            Self::Broken => "the connection broke",
        })
    }
}

/// What is counted of a stream beside what the pipeline counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Frames that the decoder gave.
    Decoded,
    /// Frames left out before the element, because it was behind.
    LateBefore,
    /// Anonymized frames left out before the encoder, because it was behind.
    LateAfter,
    /// Anonymized frames that went to the encoder.
    Sent,
    /// Slates that went to the encoder in place of a picture.
    Slates,
    /// Connections to the camera that were tried.
    Attempts,
    /// Times that a picture was lost.
    Losses,
    /// Times that the encoder was made anew, the first included.
    Encoders,
    /// Faults of the encoder.
    EncoderFaults,
    /// Faults of the pipeline: a stage panicked.
    PipelineFaults,
    /// Files that were begun.
    Files,
    /// Faults of the recording.
    RecordingFaults,
}

impl Count {
    /// Every counter, in the order of the enumeration.
    pub const ALL: [Self; 12] = [
        Self::Decoded,
        Self::LateBefore,
        Self::LateAfter,
        Self::Sent,
        Self::Slates,
        Self::Attempts,
        Self::Losses,
        Self::Encoders,
        Self::EncoderFaults,
        Self::PipelineFaults,
        Self::Files,
        Self::RecordingFaults,
    ];
}

/// What the pipelines of a stream did, those of earlier connections included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Frames anonymized.
    pub frames: u64,
    /// Frames dropped by the pipeline.
    pub dropped: u64,
    /// Frames covered whole.
    pub frames_covered: u64,
    /// Faces replaced.
    pub generated: u64,
    /// Faces covered, by reason.
    pub covered: [u64; Reason::ALL.len()],
    /// How far verified outputs were from the persons.
    pub distances: Distances,
    /// Verifications that could not be done.
    pub unverifiable: u64,
    /// Faces that were covered because their output resembled the person, each once.
    pub similar: u64,
    /// Runs and time of each stage.
    pub stages: [(u64, Duration); Stage::ALL.len()],
}

impl Totals {
    fn add(&mut self, snapshot: &Snapshot) {
        self.frames += snapshot.frames;
        self.dropped += snapshot.dropped;
        self.frames_covered += snapshot.frames_covered;
        self.generated += snapshot.generated;
        for (sum, (_, count)) in self.covered.iter_mut().zip(&snapshot.covered) {
            *sum += count;
        }
        for (sum, count) in self.distances.0.iter_mut().zip(&snapshot.distances.0) {
            *sum += count;
        }
        self.unverifiable += snapshot.unverifiable;
        self.similar += snapshot.similar;
        for ((count, time), (_, times)) in self.stages.iter_mut().zip(&snapshot.stages) {
            *count += times.count;
            *time += times
                .mean
                .saturating_mul(u32::try_from(times.count).unwrap_or(u32::MAX));
        }
    }

    /// Faces, each counted once per frame.
    pub fn faces(&self) -> u64 {
        self.generated + self.covered.iter().sum::<u64>()
    }
}

/// A stream's state, shared by its threads and whoever asks.
pub struct Health {
    name: String,
    started: Instant,
    counts: [AtomicU64; Count::ALL.len()],
    /// Milliseconds from `started` to the latest anonymized frame; 0 before the first one.
    latest: AtomicU64,
    camera: Mutex<(Option<Lost>, Instant)>,
    element: Mutex<(Option<Persona>, Totals)>,
    /// The latest frame that went to the encoder, kept only while somebody looks at the page.
    preview: Mutex<Option<gst::Sample>>,
    /// Milliseconds from `started` until which somebody looks.
    watched: AtomicU64,
    /// Width and height, each in 32 bits.
    size: AtomicU64,
    /// Whether the latest recording fault still stands.
    recording_stopped: AtomicBool,
    events: Arc<Events>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Health {
    /// How long frames are kept for the page after it last asked for one.
    const LOOK: Duration = Duration::from_secs(5);

    pub(super) fn new(name: &str, now: Instant, events: Arc<Events>) -> Self {
        Self {
            name: name.into(),
            started: now,
            counts: [const { AtomicU64::new(0) }; Count::ALL.len()],
            latest: AtomicU64::new(0),
            camera: Mutex::new((Some(Lost::Connecting), now)),
            element: Mutex::default(),
            preview: Mutex::default(),
            watched: AtomicU64::new(0),
            size: AtomicU64::new(0),
            recording_stopped: AtomicBool::new(false),
            events,
        }
    }

    /// Name of the stream.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn count(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A counter's value.
    pub fn counted(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// An anonymized frame has come out of the element.
    pub(super) fn picture(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.started).as_millis();
        self.latest.store(
            u64::try_from(elapsed).unwrap_or(u64::MAX).max(1),
            Ordering::Relaxed,
        );
    }

    /// Time since the latest anonymized frame; `None` before the first one.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        let latest = self.latest.load(Ordering::Relaxed);
        let elapsed = now.saturating_duration_since(self.started);
        (latest > 0).then(|| elapsed.saturating_sub(Duration::from_millis(latest)))
    }

    /// Why there is no picture, and since when; with `None` there is one.
    pub fn camera(&self) -> (Option<Lost>, Instant) {
        lock(&self.camera).clone()
    }

    /// The camera gives a picture, or does not for this reason.
    pub(super) fn set_camera(&self, lost: Option<Lost>, now: Instant) {
        let mut camera = lock(&self.camera);
        let before = camera.0.clone();
        if before == lost {
            return;
        }
        match (&before, &lost) {
            (None, Some(lost)) => {
                self.count(Count::Losses);
                *camera = (Some(lost.clone()), now);
                self.events.note(&self.name, format!("picture lost: {lost}"));
            }
            (Some(_), Some(lost)) => {
                // Lost since the first reason; the latest reason says why it does not come back.
                camera.0 = Some(lost.clone());
                self.events.note(&self.name, lost.to_string());
            }
            (Some(_), None) => {
                *camera = (None, now);
                self.events.note(&self.name, "picture");
            }
            (None, None) => (),
        }
    }

    /// The element of the present connection; the one before has ended.
    pub(super) fn set_element(&self, element: Option<Persona>) {
        let mut held = lock(&self.element);
        let before = held.0.as_ref().and_then(Persona::snapshot);
        if let Some(before) = before {
            held.1.add(&before);
        }
        held.0 = element;
    }

    /// Somebody looks at the stream on the page; its frames are kept for a moment.
    pub(super) fn watch(&self, now: Instant) {
        let until = now.saturating_duration_since(self.started) + Self::LOOK;
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.watched.store(until, Ordering::Relaxed);
    }

    /// The latest frame that went to viewers; `None` until one has come since somebody looks.
    pub(super) fn preview(&self) -> Option<gst::Sample> {
        lock(&self.preview).clone()
    }

    /// Keeps a frame that goes to viewers, if somebody looks.
    pub(super) fn keep(&self, caps: &gst::Caps, buffer: &gst::Buffer, now: Instant) {
        let elapsed = now.saturating_duration_since(self.started).as_millis();
        let watched = elapsed < u128::from(self.watched.load(Ordering::Relaxed));
        let sample = watched.then(|| gst::Sample::builder().caps(caps).buffer(buffer).build());
        let mut preview = lock(&self.preview);
        if watched || preview.is_some() {
            *preview = sample;
        }
    }

    /// What was done to faces since the program started.
    pub fn totals(&self) -> Totals {
        let held = lock(&self.element);
        let mut totals = held.1.clone();
        if let Some(now) = held.0.as_ref().and_then(Persona::snapshot) {
            totals.add(&now);
        }
        totals
    }

    /// What the present connection's pipeline says; `None` while there is none.
    pub fn snapshot(&self) -> Option<Snapshot> {
        lock(&self.element).0.as_ref().and_then(Persona::snapshot)
    }

    pub(super) fn set_size(&self, width: u32, height: u32) {
        self.size
            .store(u64::from(width) << 32 | u64::from(height), Ordering::Relaxed);
    }

    /// Width and height of the stream, 0 before it has begun.
    pub fn size(&self) -> (u32, u32) {
        let size = self.size.load(Ordering::Relaxed);
        ((size >> 32) as u32, size as u32)
    }

    pub(super) fn set_recording_stopped(&self, stopped: bool) {
        self.recording_stopped.store(stopped, Ordering::Relaxed);
    }

    /// Whether the stream should be recorded and is not.
    pub fn recording_stopped(&self) -> bool {
        self.recording_stopped.load(Ordering::Relaxed)
    }

    /// Notes an event of this stream.
    pub(super) fn note(&self, what: impl Into<String>) {
        self.events.note(&self.name, what);
    }
}

/// Something that happened; it never says what is in a picture.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub time: SystemTime,
    /// Stream that it concerns.
    pub stream: String,
    /// What.
    pub what: String,
}

/// The latest events of the box; older ones are in the log.
#[derive(Debug, Default)]
pub struct Events {
    latest: Mutex<VecDeque<Event>>,
    noted: AtomicU64,
}

impl Events {
    /// Events that are kept.
    pub const KEPT: usize = 100;

    /// Notes an event, in the log too.
    pub fn note(&self, stream: &str, what: impl Into<String>) {
        let what = what.into();
        log::info!("{stream}: {what}");
        let mut events = lock(&self.latest);
        if events.len() == Self::KEPT {
            events.pop_front();
        }
        self.noted.fetch_add(1, Ordering::Relaxed);
        events.push_back(Event {
            time: SystemTime::now(),
            stream: stream.into(),
            what,
        });
    }

    /// How many events there were, those no longer kept included.
    pub fn noted(&self) -> u64 {
        self.noted.load(Ordering::Relaxed)
    }

    /// The latest events, newest first.
    pub fn latest(&self) -> Vec<Event> {
        lock(&self.latest).iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_counted_once_and_begins_with_its_first_reason() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new("hall", start, Arc::default());
        assert_eq!(health.silence(at(1)), None);
        health.set_camera(None, at(1));
        health.picture(at(1));
        health.set_camera(Some(Lost::Ended), at(2));
        health.set_camera(Some(Lost::Unreachable), at(3));
        health.set_camera(Some(Lost::Unreachable), at(4));
        assert_eq!(health.camera(), (Some(Lost::Unreachable), at(2)));
        assert_eq!(health.counted(Count::Losses), 1);
        assert_eq!(health.silence(at(4)), Some(Duration::from_secs(3)));
        let events: Vec<_> = health
            .events
            .latest()
            .into_iter()
            .map(|event| event.what)
            .collect();
        assert_eq!(
            events,
            [
                "the camera does not answer",
                "picture lost: the camera closed the stream",
                "picture"
            ]
        );
    }

    #[test]
    fn events_are_bounded() {
        let events = Events::default();
        for number in 0..=Events::KEPT {
            events.note("hall", number.to_string());
        }
        let latest = events.latest();
        assert_eq!(latest.len(), Events::KEPT);
        assert_eq!(latest[0].what, Events::KEPT.to_string());
    }
}
