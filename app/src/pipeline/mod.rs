//! From a raw frame to one that may be shown.
//!
//! ```text
//! RawFrame ─► Detect ─► Tracker ─► LookAhead ─► Anonymize ─► Anonymized
//!             (scan)   (../track)  (0 to 3 held)  landmarks, align, embed, generate, blend, verify; or cover
//! ```
//! [`Detect`] finds the faces of a frame and follows them; [`Anonymize`] replaces or covers every one of them and is
//! the only code that makes an [`Anonymized`] frame. [`Pipeline`] calls one after the other; [`Threads`] runs them
//! side by side. Both are generic over where pixels live (`K`) and over the buffer (`B`).
//!
//! # What is promised
//! * Every face that the detector found, that look-ahead reports, or that a track still expects is replaced or
//!   covered. A face begins as "to be covered" and only a finished blend changes that.
//! * An error about a face covers the face; an error about a frame covers the frame; a frame whose pixels cannot be
//!   reached is dropped. A panic, and a place that cannot even cover, covers this and every later frame
//!   ([`Stats::is_faulty`]).
//!
//! The tracker, the scan and the filters take presentation time from the frames. Only measuring and
//! [`Settings::deadline`] read the monotonic clock.

mod anonymize;
mod detect;
mod lookahead;
mod quality;
mod stats;
mod threads;
mod trust;
mod verify;
mod zones;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use board::{Rung, View};
use kernels::Kernels;
use thiserror::Error;

pub use anonymize::Anonymize;
pub use detect::{Detect, LARGEST_INPUT, Scan};
pub use lookahead::MOST_HELD;
pub use stats::{Distances, Snapshot, Stage, Stats, Times, Vitals};
pub use threads::{Stopped, Threads};
pub use trust::Trust;
pub use verify::Verify;
pub use zones::{BadPolygon, Polygon, Zones};

use crate::frame::{Anonymized, Pixels, RawFrame};
use crate::track::{OneEuro, Track, TrackSettings};
use lookahead::LookAhead;

/// What to do with the faces of a stream, from what shows most to what shows least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Replace each face, or cover it where that cannot be done well.
    #[default]
    Anonymize,
    /// Cover each face with a box from hair line to chin.
    Cover,
    /// Cover each head with a box that hides hair and ears too.
    Head,
    /// Cover the whole frame.
    Shutter,
}

impl Policy {
    const ALL: [Self; 4] = [Self::Anonymize, Self::Cover, Self::Head, Self::Shutter];
}

/// What became of a face.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Replaced by a generated face.
    Generate,
    /// Made unrecognisable.
    Cover(Reason),
}

/// Why a face was covered and not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Too few pixels for the generator.
    Small,
    /// Turned away from the camera.
    Turned,
    /// The landmarks are not plausible.
    Landmarks,
    /// Perhaps not a face: never detected with confidence.
    Tentative,
    /// Not detected in this frame, but a moment ago.
    Coasting,
    /// First detected in a later frame.
    LookAhead,
    /// The frame's time was up.
    Late,
    /// The generator would have let the person show through.
    Mask,
    /// Embedded again, the replaced face resembled the person: covered for as long as it is followed.
    Similar,
    /// The replaced face could not be verified, or is yet to be.
    Unverified,
    /// A network or kernel failed.
    Network,
    /// The operator wants it so.
    Policy,
    /// In a zone in which faces are always covered.
    Zone,
    /// The box sheds work: too hot, or late.
    Load,
    /// The whole frame was covered.
    Frame,
}

impl Reason {
    /// Every reason, in the order of the enumeration.
    pub const ALL: [Self; 15] = [
        Self::Small,
        Self::Turned,
        Self::Landmarks,
        Self::Tentative,
        Self::Coasting,
        Self::LookAhead,
        Self::Late,
        Self::Mask,
        Self::Similar,
        Self::Unverified,
        Self::Network,
        Self::Policy,
        Self::Zone,
        Self::Load,
        Self::Frame,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Small => "too small",
            Self::Turned => "turned away",
            Self::Landmarks => "landmarks not plausible",
            Self::Tentative => "perhaps a face",
            Self::Coasting => "lost for a moment",
            Self::LookAhead => "not yet detected (look-ahead)",
            Self::Late => "out of time",
            Self::Mask => "mask with holes",
            Self::Similar => "resembles the person",
            Self::Unverified => "not verified",
            Self::Network => "network failed",
            Self::Policy => "asked for",
            Self::Zone => "in a covered zone",
            Self::Load => "too hot or too late",
            Self::Frame => "whole frame covered",
        })
    }
}

/// How the pipeline works. [`Settings::default`] suits a camera with 25 to 30 frames per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where in a frame to look for faces, and how closely.
    pub scan: Scan,
    /// Score from which a detection may be a face, 0 to 1. Those below [`TrackSettings::confident`] are covered, never
    /// replaced, until the same face is detected with confidence.
    pub possible: f32,
    /// How faces are followed.
    pub track: TrackSettings,
    /// Frames held back so that a face is covered before its first detection, at most [`MOST_HELD`].
    pub look_ahead: usize,
    /// When landmarks are good enough to replace a face.
    pub trust: Trust,
    /// How landmarks are smoothed.
    pub smoothing: OneEuro,
    /// Least value of the generator's mask inside the hull, 0 to 1: lower ones are raised to it, because where the
    /// mask is 0 the person shows through.
    pub mask_floor: f32,
    /// Least share of the hull, 0 to 1, in which the generator's own mask reaches `mask_floor`; below it the face is
    /// covered ([`Reason::Mask`]).
    pub mask_coverage: f32,
    /// Parts of the picture that are covered, and parts in which faces are.
    pub zones: Zones,
    /// How the output is verified.
    pub verify: Verify,
    /// Most faces in one run of a network; what the networks were made for.
    pub max_faces: usize,
    /// What to do at the start.
    pub policy: Policy,
    /// Longest time from a frame's arrival to its sink, look-ahead included; faces still untreated then are covered
    /// ([`Reason::Late`]), and [`Threads`] drop a frame that has waited this long before anybody looked at it. `None`
    /// for files.
    pub deadline: Option<Duration>,
    /// Frames that may wait before each thread of [`Threads`].
    pub queue: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scan: Scan::default(),
            possible: 0.2,
            track: TrackSettings::default(),
            look_ahead: 2,
            trust: Trust::default(),
            smoothing: OneEuro::default(),
            mask_floor: 0.9,
            mask_coverage: 0.9,
            zones: Zones::default(),
            verify: Verify::default(),
            max_faces: 4,
            policy: Policy::default(),
            deadline: None,
            queue: 2,
        }
    }
}

impl Settings {
    /// Whether the pipeline can work like this.
    ///
    /// # Errors
    /// [`Error::Settings`] names the first number out of range.
    pub fn check(&self) -> Result<(), Error> {
        let shares = [
            ("possible", self.possible),
            ("track.confident", self.track.confident),
            ("track.min_iou", self.track.min_iou),
            ("mask_floor", self.mask_floor),
            ("mask_coverage", self.mask_coverage),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::Settings(format!("{name} is {share}, wanted 0 to 1")));
            }
        }
        if self.possible > self.track.confident {
            let (possible, confident) = (self.possible, self.track.confident);
            return Err(Error::Settings(format!(
                "possible is {possible}, wanted at most track.confident, which is {confident}"
            )));
        }
        if self.look_ahead > MOST_HELD {
            let got = self.look_ahead;
            return Err(Error::Settings(format!(
                "look_ahead is {got}, wanted 0 to {MOST_HELD} frames"
            )));
        }
        let distance = self.verify.least_distance;
        if !(distance > 0.0 && distance.is_finite()) {
            return Err(Error::Settings(format!(
                "verify.least_distance is {distance}, wanted more than 0"
            )));
        }
        for (name, count) in [
            ("max_faces", self.max_faces),
            ("queue", self.queue),
            ("verify.most", self.verify.most),
        ] {
            if count == 0 {
                return Err(Error::Settings(format!("{name} is 0, wanted at least 1")));
            }
        }
        self.scan.check()
    }
}

/// Why a pipeline cannot be made.
#[derive(Debug, Error)]
pub enum Error {
    /// A setting is out of range.
    #[error("pipeline settings: {0}")]
    Settings(String),
    /// The place has no memory for the pipeline's tensors.
    #[error("pipeline: {0}")]
    Kernels(#[from] kernels::Error),
    /// A thread cannot be started.
    #[error("pipeline: the {name} thread cannot be started: {source}; is a limit on processes set?")]
    Thread {
        /// Which thread.
        name: &'static str,
        /// The system's own words.
        source: std::io::Error,
    },
}

/// A raw frame on its way from detection to anonymization.
pub(crate) struct Job<B> {
    frame: RawFrame<B>,
    /// When the frame came in: for the deadline and for measuring.
    arrived: Instant,
    /// The faces in the frame.
    tracks: Vec<Track>,
    /// Whether `tracks` can be relied on. If not, the whole frame must be covered.
    sound: bool,
}

/// What may change while a pipeline runs, beside the policy; it holds for whole frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// See [`Settings::zones`].
    pub zones: Zones,
    /// See [`Trust::smallest_face`].
    pub smallest_face: f32,
    /// See [`Verify::every`].
    pub verify_every: Duration,
}

impl From<&Settings> for Rules {
    fn from(settings: &Settings) -> Self {
        Self {
            zones: settings.zones.clone(),
            smallest_face: settings.trust.smallest_face,
            verify_every: settings.verify.every,
        }
    }
}

/// What the threads of a pipeline share with whoever runs it.
#[derive(Default)]
pub(crate) struct Shared {
    stats: Stats,
    policy: AtomicU8,
    /// [`View`] as a number: the higher, the less is shown.
    view: AtomicU8,
    /// [`Rung`] as its place in [`Rung::ALL`].
    rung: AtomicU8,
    /// Whether there are new rules: the lock is not asked otherwise.
    changed: AtomicBool,
    rules: Mutex<Option<Rules>>,
}

impl Shared {
    fn new(policy: Policy) -> Self {
        let shared = Self::default();
        shared.set_policy(policy);
        shared
    }

    fn set_policy(&self, policy: Policy) {
        self.policy.store(policy as u8, Ordering::Release);
    }

    fn policy(&self) -> Policy {
        let index = usize::from(self.policy.load(Ordering::Acquire));
        // No other number is ever stored; should one be, nothing is shown.
        Policy::ALL.get(index).copied().unwrap_or(Policy::Shutter)
    }

    fn set_rules(&self, rules: Rules) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Some(rules);
        self.changed.store(true, Ordering::Release);
    }

    /// The new rules, once.
    fn take_rules(&self) -> Option<Rules> {
        if !self.changed.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set_view(&self, view: View) {
        self.view.store(view as u8, Ordering::Release);
    }

    /// Whether frames are covered whole, whatever the policy. There is no way to show less than [`View::Anonymized`]
    /// hides: a pipeline that was asked for [`View::Raw`] anonymizes.
    fn is_hidden(&self) -> bool {
        self.view.load(Ordering::Acquire) >= View::Covered as u8
    }

    fn set_rung(&self, rung: Rung) {
        self.rung.store(rung as u8, Ordering::Release);
    }

    fn rung(&self) -> Rung {
        let index = usize::from(self.rung.load(Ordering::Acquire));
        // No other number is ever stored; should one be, nothing is replaced.
        Rung::ALL.get(index).copied().unwrap_or(Rung::Cover)
    }
}

/// The whole way of a frame, one step after the other: for pictures and tests.
pub struct Pipeline<K: Kernels, B> {
    detect: Detect<K>,
    look_ahead: LookAhead<B>,
    anonymize: Anonymize<K>,
    shared: Shared,
    /// Empty lists whose memory is used again.
    spare: Vec<Vec<Track>>,
}

impl<K: Kernels, B: Pixels<K>> Pipeline<K, B> {
    /// Joins the two halves, made with the same settings.
    ///
    /// # Errors
    /// [`Error::Settings`] for settings out of range.
    pub fn new(detect: Detect<K>, anonymize: Anonymize<K>, settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        Ok(Self {
            detect,
            look_ahead: LookAhead::new(settings.look_ahead),
            anonymize,
            shared: Shared::new(settings.policy),
            spare: Vec::with_capacity(settings.look_ahead + 1),
        })
    }

    /// Takes a frame; hands the frame that is now due, if any, to `sink`. With [`Settings::look_ahead`] 0 that is the
    /// same frame.
    pub fn submit(&mut self, frame: RawFrame<B>, sink: &mut impl FnMut(Anonymized<B>)) {
        let tracks = self.spare.pop().unwrap_or_default();
        let job = self.detect.look(frame, Instant::now(), tracks, &self.shared);
        if let Some(due) = self.look_ahead.push(job) {
            self.finish(due, sink);
        }
    }

    /// Hands every frame still held to `sink`, as at the end of a stream.
    pub fn drain(&mut self, sink: &mut impl FnMut(Anonymized<B>)) {
        while let Some(due) = self.look_ahead.pop() {
            self.finish(due, sink);
        }
    }

    /// Forgets faces and held frames, as after a seek. The held frames are dropped and counted.
    pub fn flush(&mut self) {
        while self.look_ahead.pop().is_some() {
            self.shared.stats.dropped();
        }
        self.detect.reset();
        self.anonymize.reset();
    }

    /// Changes the policy for the frames that have not been anonymized yet, held ones included.
    pub fn set_policy(&mut self, policy: Policy) {
        self.shared.set_policy(policy);
    }

    /// Changes what may be shown of the frames that have not been anonymized yet, held ones included: covers them
    /// whole, or leaves them to the policy.
    pub fn set_view(&mut self, view: View) {
        self.shared.set_view(view);
    }

    /// Changes the rules for the frames that have not been anonymized yet, held ones included.
    pub fn set_rules(&mut self, rules: Rules) {
        self.shared.set_rules(rules);
    }

    /// Changes how much work the frames that have not been anonymized yet are given.
    pub fn set_rung(&mut self, rung: Rung) {
        self.shared.set_rung(rung);
    }

    /// What was done so far.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    fn finish(&mut self, job: Job<B>, sink: &mut impl FnMut(Anonymized<B>)) {
        let (frame, tracks) = self.anonymize.finish(job, &self.shared);
        self.spare.push(tracks);
        if let Some(frame) = frame {
            sink(frame);
        }
    }
}
