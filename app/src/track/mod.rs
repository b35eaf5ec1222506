//! Faces through time: which detections of successive frames are one face, and where a face is between detections.
//!
//! [`Tracker`] associates in two steps after ByteTrack (Zhang et al., ECCV 2022): confident detections first, then
//! the unsure ones to the tracks that are left. It differs where privacy demands it: an unsure detection that belongs
//! to no track is not thrown away but becomes a [`Evidence::Tentative`] track (unknown is a face), and a track that
//! loses its face *coasts*: it lives on, growing, for a set time, so that the face stays covered.
//!
//! Everything here is a pure function of the detections and of the time that the caller passes.

mod smooth;

use std::time::Duration;

use engines::Detection;
use kernels::{Point, Rect};

pub use smooth::{LandmarkFilter, OneEuro};

/// How faces are followed. Times are presentation time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackSettings {
    /// Score from which a detection is a face without doubt, 0 to 1.
    pub confident: f32,
    /// Least intersection over union of a detection with a track's predicted box, 0 to 1.
    pub min_iou: f32,
    /// How long a confirmed track stays covered without a detection.
    pub coast: Duration,
    /// How long a track of which no detection was ever confident stays covered without a detection.
    pub coast_tentative: Duration,
    /// How much a coasting box grows, in box sides per second on each side.
    pub growth: f32,
}

impl Default for TrackSettings {
    fn default() -> Self {
        Self {
            confident: 0.35,
            min_iou: 0.2,
            coast: Duration::from_millis(1500),
            coast_tentative: Duration::from_millis(500),
            growth: 0.25,
        }
    }
}

/// What speaks for a face being in a track's box in this frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A detection in this frame, and at least one confident detection since the track began.
    Detected,
    /// A detection in this frame, but never a confident one: perhaps a face.
    Tentative,
    /// No detection in this frame; the box is predicted and grown.
    Coasting,
    /// First detected in a later frame that look-ahead has already seen.
    LookAhead,
}

/// Identifies a face for as long as it is followed; never used twice by one [`Tracker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub u64);

/// A face in the latest frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Track {
    /// Which face.
    pub id: TrackId,
    /// Where it is, in frame pixels: the detection's box, or the grown prediction of a coasting track.
    pub rect: Rect,
    /// Eyes, nose tip and mouth corners as the detector gave them in this frame, if it did.
    pub points: Option<[Point; 5]>,
    /// Score of the latest detection, 0 to 1.
    pub score: f32,
    /// Why this is thought to be a face.
    pub evidence: Evidence,
    motion: Motion,
}

impl Track {
    /// Whether a confident detection was ever among the track's.
    pub fn is_confirmed(&self) -> bool {
        self.motion.confirmed
    }

    /// Box of the latest detection, in frame pixels.
    pub fn seen(&self) -> Rect {
        self.motion.seen
    }
}

/// Constant velocity with the box's size held.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Motion {
    /// Box at the latest detection.
    seen: Rect,
    /// Pixels per second.
    velocity: Point,
    /// Since the latest detection.
    unseen: Duration,
    confirmed: bool,
}

/// Weight of a new velocity measurement: the beta of an alpha-beta filter whose alpha is 1, because a detection's
/// box is trusted as it is (a smoothed box lags behind the face).
const VELOCITY_GAIN: f32 = 0.4;
/// Seconds in which a coasting face is believed to lose 63 % of its speed: few keep it for longer.
const VELOCITY_DECAY: f32 = 0.4;
/// A coasting track that overlaps a detected one this much follows the same face.
const SAME_FACE_IOU: f32 = 0.7;
/// A coasting box starts this much larger on each side, in box sides.
const FIRST_GROWTH: f32 = 0.05;

impl Motion {
    /// Where the box would be now if nothing but time had passed: constant velocity that fades away.
    fn predicted(&self) -> Rect {
        let seconds = self.unseen.as_secs_f32();
        let travelled = VELOCITY_DECAY * (1.0 - (-seconds / VELOCITY_DECAY).exp());
        Rect {
            x: self.seen.x + self.velocity.x * travelled,
            y: self.seen.y + self.velocity.y * travelled,
            ..self.seen
        }
    }

    /// What must be covered while the face is not seen: everything between the last seen and the predicted box (it
    /// may have stopped at once), grown with time.
    fn coasting(&self, growth: f32) -> Rect {
        let grown = FIRST_GROWTH + growth * self.unseen.as_secs_f32();
        let corners = [self.seen, self.predicted()].map(|rect| rect.scaled(1.0 + 2.0 * grown));
        Rect::around(&[
            Point::new(corners[0].x, corners[0].y),
            Point::new(corners[0].right(), corners[0].bottom()),
            Point::new(corners[1].x, corners[1].y),
            Point::new(corners[1].right(), corners[1].bottom()),
        ])
    }
}

/// Follows faces from frame to frame.
#[derive(Debug)]
pub struct Tracker {
    settings: TrackSettings,
    tracks: Vec<Track>,
    next_id: u64,
    time: Option<Duration>,
    /// Candidate pairs (overlap, index of the track, index of the detection), kept for its memory.
    pairs: Vec<(f32, usize, usize)>,
    /// Which detections are taken, kept for its memory.
    taken: Vec<bool>,
}

impl Tracker {
    /// A tracker that follows nothing yet.
    pub fn new(settings: TrackSettings) -> Self {
        Self {
            settings,
            tracks: Vec::new(),
            next_id: 0,
            time: None,
            pairs: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// The faces of the latest frame.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Forgets every face, as after a seek. Ids go on counting.
    pub fn reset(&mut self) {
        self.tracks.clear();
        self.time = None;
    }

    /// Takes the detections of the frame at presentation time `time`, in frame pixels, each face once. Every
    /// detection ends in exactly one track.
    ///
    /// When time runs backwards, or stands still for longer than a track may coast, the tracks of before are
    /// forgotten: this is another scene.
    pub fn update(&mut self, time: Duration, found: &[Detection]) {
        let elapsed = match self.time.map(|before| time.checked_sub(before)) {
            Some(Some(elapsed)) if elapsed <= self.settings.coast => elapsed,
            Some(_) => {
                self.tracks.clear();
                Duration::ZERO
            }
            None => Duration::ZERO,
        };
        self.time = Some(time);
        for track in &mut self.tracks {
            track.points = None;
            track.evidence = Evidence::Coasting;
            track.motion.unseen += elapsed;
        }
        self.taken.clear();
        self.taken.resize(found.len(), false);
        let confident = self.settings.confident;
        self.associate(found, |detection| detection.score >= confident);
        self.associate(found, |detection| detection.score < confident);
        let taken = std::mem::take(&mut self.taken);
        for detection in found
            .iter()
            .zip(&taken)
            .filter(|(_, taken)| !**taken)
            .map(|(d, _)| d)
        {
            self.begin(detection);
        }
        self.taken = taken;
        self.coast();
    }

    /// Greedy assignment by falling overlap: for the few faces of a frame it equals the optimal one but for ties
    /// (ByteTrack's Hungarian step gains nothing at these counts).
    fn associate(&mut self, found: &[Detection], wanted: impl Fn(&Detection) -> bool) {
        self.pairs.clear();
        for (t, track) in self.tracks.iter().enumerate() {
            if track.evidence != Evidence::Coasting {
                continue;
            }
            let predicted = track.motion.predicted();
            for (d, detection) in found.iter().enumerate() {
                if self.taken[d] || !wanted(detection) {
                    continue;
                }
                // The last seen box too: a face that stopped or turned round is not where it was headed.
                let overlap = predicted
                    .iou(&detection.rect)
                    .max(track.motion.seen.iou(&detection.rect));
                if overlap >= self.settings.min_iou {
                    self.pairs.push((overlap, t, d));
                }
            }
        }
        // Ties break by index, so that equal input gives equal tracks.
        self.pairs
            .sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for &(_, t, d) in &self.pairs {
            if self.tracks[t].evidence == Evidence::Coasting && !self.taken[d] {
                self.taken[d] = true;
                see(&mut self.tracks[t], &found[d], self.settings.confident);
            }
        }
    }

    fn begin(&mut self, detection: &Detection) {
        let confirmed = detection.score >= self.settings.confident;
        self.tracks.push(Track {
            id: TrackId(self.next_id),
            rect: detection.rect,
            points: Some(detection.points),
            score: detection.score,
            evidence: if confirmed {
                Evidence::Detected
            } else {
                Evidence::Tentative
            },
            motion: Motion {
                seen: detection.rect,
                velocity: Point::default(),
                unseen: Duration::ZERO,
                confirmed,
            },
        });
        self.next_id += 1;
    }

    /// Grows the boxes of unseen tracks; ends those unseen for too long and those whose face another track follows.
    fn coast(&mut self) {
        let settings = self.settings;
        for track in &mut self.tracks {
            if track.evidence == Evidence::Coasting {
                track.rect = track.motion.coasting(settings.growth);
            }
        }
        let mut index = 0;
        while index < self.tracks.len() {
            let track = self.tracks[index];
            let patience = if track.motion.confirmed {
                settings.coast
            } else {
                settings.coast_tentative
            };
            let doubled = || {
                self.tracks.iter().any(|other| {
                    other.evidence == Evidence::Detected
                        && other.rect.iou(&track.motion.predicted()) >= SAME_FACE_IOU
                })
            };
            if track.evidence == Evidence::Coasting && (track.motion.unseen > patience || doubled()) {
                self.tracks.remove(index);
            } else {
                index += 1;
            }
        }
    }
}

/// Moves a track to where its face was detected.
fn see(track: &mut Track, detection: &Detection, confident: f32) {
    let motion = &mut track.motion;
    let seconds = motion.unseen.as_secs_f32();
    if seconds > 0.0 {
        let (before, now) = (motion.seen.center(), detection.rect.center());
        let measured = Point::new((now.x - before.x) / seconds, (now.y - before.y) / seconds);
        motion.velocity.x += VELOCITY_GAIN * (measured.x - motion.velocity.x);
        motion.velocity.y += VELOCITY_GAIN * (measured.y - motion.velocity.y);
    }
    motion.seen = detection.rect;
    motion.unseen = Duration::ZERO;
    motion.confirmed |= detection.score >= confident;
    track.rect = detection.rect;
    track.points = Some(detection.points);
    track.score = detection.score;
    track.evidence = if motion.confirmed {
        Evidence::Detected
    } else {
        Evidence::Tentative
    };
}
