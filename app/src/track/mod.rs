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
            coast: Duration::from_millis(1000),
            coast_tentative: Duration::from_millis(250),
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
    /// Since the first detection.
    age: Duration,
    confirmed: bool,
    /// Of a scene that is over: coasts, but is never detected again.
    ended: bool,
}

/// Weight of a new velocity measurement: the beta of an alpha-beta filter whose alpha is 1, because a detection's
/// box is trusted as it is (a smoothed box lags behind the face).
const VELOCITY_GAIN: f32 = 0.4;
/// Seconds in which a coasting face is believed to lose 63 % of its speed: few keep it for longer.
const VELOCITY_DECAY: f32 = 0.4;
/// Least overlap of an unsure detection with the track that it is to move: a hand or a poster beside a face must not
/// draw its track away (ByteTrack's second step has the same limit).
const UNSURE_IOU: f32 = 0.5;
/// Time without a frame after which the next one is of another scene, at least.
const GAP: Duration = Duration::from_secs(2);
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

    /// Says that the next frame shows another scene. The old one's tracks coast as tentative ones do, long enough for a
    /// flash of light, too short to litter the new scene with covers; a face of the new scene is a new track, because it
    /// may be another person's where the old one was.
    pub fn scene_changed(&mut self) {
        for track in &mut self.tracks {
            track.motion.confirmed = false;
            track.motion.ended = true;
        }
    }

    /// Whether a frame at this time cannot follow the latest one: time ran backwards, or stood still for longer than a
    /// track may coast and at least 2 s. [`Tracker::update`] then forgets the tracks of before.
    pub fn breaks_at(&self, time: Duration) -> bool {
        let longest = self.settings.coast.max(GAP);
        self.time
            .is_some_and(|before| time.checked_sub(before).is_none_or(|elapsed| elapsed > longest))
    }

    /// Takes the detections of the frame at presentation time `time`, in frame pixels, each face once. Every
    /// detection ends in exactly one track.
    ///
    /// When time [breaks](Tracker::breaks_at), the tracks of before are forgotten: this is another scene.
    pub fn update(&mut self, time: Duration, found: &[Detection]) {
        if self.breaks_at(time) {
            self.reset();
        }
        let elapsed = self
            .time
            .map_or(Duration::ZERO, |before| time.saturating_sub(before));
        self.time = Some(time);
        for track in &mut self.tracks {
            track.points = None;
            track.evidence = Evidence::Coasting;
            track.motion.unseen += elapsed;
            track.motion.age += elapsed;
        }
        self.taken.clear();
        self.taken.resize(found.len(), false);
        let confident = self.settings.confident;
        let min_iou = self.settings.min_iou;
        self.associate(found, min_iou, |detection| detection.score >= confident);
        self.associate(found, min_iou.max(UNSURE_IOU), |detection| {
            detection.score < confident
        });
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
    fn associate(&mut self, found: &[Detection], min_iou: f32, wanted: impl Fn(&Detection) -> bool) {
        self.pairs.clear();
        for (t, track) in self.tracks.iter().enumerate() {
            if track.evidence != Evidence::Coasting || track.motion.ended {
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
                if overlap >= min_iou {
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
                age: Duration::ZERO,
                confirmed,
                ended: false,
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
            // A track that was there before this one lost its face follows another face, which passes before it.
            let doubled = || {
                self.tracks.iter().any(|other| {
                    other.evidence == Evidence::Detected
                        && other.motion.age < track.motion.unseen
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn detection(x: f32, y: f32, side: f32, score: f32) -> Detection {
        let rect = Rect::new(x, y, side, side);
        Detection {
            rect,
            points: [rect.center(); 5],
            score,
        }
    }

    fn frame(index: u32) -> Duration {
        Duration::from_secs(1) * index / 30
    }

    fn tracker() -> Tracker {
        Tracker::new(TrackSettings::default())
    }

    /// Whether `outer` holds all of `inner`, to rounding.
    fn holds(outer: &Rect, inner: &Rect) -> bool {
        let outer = Rect::new(
            outer.x - 0.01,
            outer.y - 0.01,
            outer.width + 0.02,
            outer.height + 0.02,
        );
        outer.contains(Point::new(inner.x, inner.y))
            && outer.contains(Point::new(inner.right(), inner.bottom()))
    }

    #[test]
    fn what_a_detection_becomes() {
        struct Case {
            name: &'static str,
            before: Vec<Detection>,
            now: Detection,
            /// Evidence of each track afterwards, oldest first.
            wanted: &'static [Evidence],
        }
        let at = |x, score| detection(x, 0.0, 40.0, score);
        use Evidence::{Coasting, Detected, Tentative};
        let cases = [
            Case {
                name: "a confident newcomer",
                before: vec![],
                now: at(0.0, 0.9),
                wanted: &[Detected],
            },
            Case {
                name: "an unsure newcomer is perhaps a face",
                before: vec![],
                now: at(0.0, 0.25),
                wanted: &[Tentative],
            },
            Case {
                name: "an unsure detection keeps a known face",
                before: vec![at(0.0, 0.9)],
                now: at(4.0, 0.25),
                wanted: &[Detected],
            },
            Case {
                name: "a confident detection confirms",
                before: vec![at(0.0, 0.25)],
                now: at(4.0, 0.9),
                wanted: &[Detected],
            },
            Case {
                name: "elsewhere is another face, and the first one coasts",
                before: vec![at(0.0, 0.9)],
                now: at(200.0, 0.9),
                wanted: &[Coasting, Detected],
            },
            Case {
                name: "the nearer of two gets it",
                before: vec![at(0.0, 0.9), at(60.0, 0.9)],
                now: at(54.0, 0.9),
                wanted: &[Coasting, Detected],
            },
        ];
        for Case {
            name,
            before,
            now,
            wanted,
        } in cases
        {
            let mut tracker = tracker();
            if !before.is_empty() {
                tracker.update(frame(0), &before);
            }
            tracker.update(frame(1), &[now]);
            let got: Vec<_> = tracker.tracks().iter().map(|track| track.evidence).collect();
            assert_eq!(got, wanted, "{name}");
        }
    }

    #[test]
    fn confident_detections_choose_first() {
        let mut tracker = tracker();
        tracker.update(frame(0), &[detection(0.0, 0.0, 40.0, 0.9)]);
        // The unsure one overlaps better.
        let [near, far] = [detection(1.0, 0.0, 40.0, 0.3), detection(12.0, 0.0, 40.0, 0.8)];
        tracker.update(frame(1), &[near, far]);
        let [first, second] = tracker.tracks() else {
            panic!("{:?}", tracker.tracks())
        };
        assert_eq!((first.rect, second.rect), (far.rect, near.rect));
        assert!(first.id < second.id && second.evidence == Evidence::Tentative);
    }

    #[test]
    fn a_moving_face_keeps_its_id_through_a_gap() {
        let mut tracker = tracker();
        let place = |i: u32| detection(8.0 * i as f32, 3.0 * i as f32, 60.0, 0.9);
        for i in 0..20 {
            tracker.update(frame(i), &[place(i)]);
        }
        for i in 20..30 {
            tracker.update(frame(i), &[]);
            let [track] = tracker.tracks() else {
                panic!("lost in frame {i}")
            };
            assert_eq!((track.evidence, track.points), (Evidence::Coasting, None));
        }
        tracker.update(frame(30), &[place(22)]);
        let [track] = tracker.tracks() else {
            panic!("{:?}", tracker.tracks())
        };
        assert_eq!((track.id, track.evidence), (TrackId(0), Evidence::Detected));
    }

    #[test]
    fn a_coasting_box_holds_a_face_that_stopped_and_one_that_went_on() {
        let mut tracker = tracker();
        let place = |i: u32| detection(3.0 * i as f32, 0.0, 60.0, 0.9);
        for i in 0..30 {
            tracker.update(frame(i), &[place(i)]);
        }
        let mut before = 0.0;
        for i in 30..40 {
            tracker.update(frame(i), &[]);
            let rect = tracker.tracks()[0].rect;
            assert!(holds(&rect, &place(29).rect), "stopped, frame {i}: {rect:?}");
            assert!(
                rect.contains(place(i).rect.center()),
                "went on, frame {i}: {rect:?}"
            );
            assert!(rect.area() > before, "grows");
            before = rect.area();
        }
    }

    #[test]
    fn a_face_that_another_passes_before_stays_covered() {
        let mut tracker = tracker();
        let behind = detection(200.0, 0.0, 40.0, 0.9);
        let mut covered = true;
        for index in 0..30 {
            let passing = detection(100.0 + 8.0 * index as f32, 0.0, 40.0, 0.9);
            let hidden = passing.rect.iou(&behind.rect) > 0.0;
            let found = if hidden {
                vec![passing]
            } else {
                vec![passing, behind]
            };
            tracker.update(frame(index), &found);
            let middle = behind.rect.center();
            covered &= tracker.tracks().iter().any(|track| track.rect.contains(middle));
        }
        assert!(covered);
    }

    #[test]
    fn an_unsure_box_beside_a_face_does_not_draw_its_track_away() {
        let mut tracker = tracker();
        let face = detection(0.0, 0.0, 40.0, 0.9);
        tracker.update(frame(0), &[face]);
        tracker.update(frame(1), &[detection(18.0, 0.0, 40.0, 0.25)]);
        assert!(
            tracker
                .tracks()
                .iter()
                .any(|track| holds(&track.rect, &face.rect))
        );
    }

    #[test]
    fn after_a_cut_a_face_in_the_same_place_is_another_face() {
        let mut tracker = tracker();
        tracker.update(frame(0), &[detection(0.0, 0.0, 40.0, 0.9)]);
        let before = tracker.tracks()[0].id;
        tracker.scene_changed();
        tracker.update(frame(1), &[detection(0.0, 0.0, 40.0, 0.9)]);
        let ids: Vec<_> = tracker.tracks().iter().map(|track| track.id).collect();
        assert!(!ids.contains(&before) && ids.len() == 1, "{ids:?}");
    }

    #[test]
    fn after_a_cut_only_what_is_detected_again_coasts_on() {
        let settings = TrackSettings::default();
        let mut tracker = tracker();
        tracker.update(
            frame(0),
            &[detection(0.0, 0.0, 40.0, 0.9), detection(200.0, 0.0, 40.0, 0.9)],
        );
        tracker.scene_changed();
        tracker.update(frame(1), &[detection(200.0, 0.0, 40.0, 0.9)]);
        assert_eq!(tracker.tracks().len(), 2, "a flash hides a face for a frame");
        tracker.update(frame(1) + settings.coast_tentative + frame(1), &[]);
        let left: Vec<_> = tracker.tracks().iter().map(|track| track.seen().x).collect();
        assert_eq!(left, [200.0]);
    }

    #[test]
    fn tracks_end_when_their_patience_does() {
        let settings = TrackSettings::default();
        for (score, patience) in [(0.9, settings.coast), (0.25, settings.coast_tentative)] {
            let mut tracker = tracker();
            tracker.update(Duration::ZERO, &[detection(0.0, 0.0, 40.0, score)]);
            let mut time = Duration::ZERO;
            while time + frame(1) <= patience {
                time += frame(1);
                tracker.update(time, &[]);
                assert_eq!(tracker.tracks().len(), 1, "score {score} at {time:?}");
            }
            tracker.update(time + frame(2), &[]);
            assert!(tracker.tracks().is_empty(), "score {score}");
        }
    }

    #[test]
    fn time_that_jumps_begins_anew_with_new_ids() {
        struct Case {
            name: &'static str,
            second: Duration,
            is_new: bool,
        }
        let start = Duration::from_secs(100);
        let cases = [
            Case {
                name: "the next frame",
                second: start + frame(1),
                is_new: false,
            },
            Case {
                name: "the same time again",
                second: start,
                is_new: false,
            },
            Case {
                name: "backwards",
                second: start - frame(1),
                is_new: true,
            },
            Case {
                name: "a gap",
                second: start + Duration::from_secs(60),
                is_new: true,
            },
        ];
        for Case { name, second, is_new } in cases {
            let mut tracker = tracker();
            tracker.update(start, &[detection(0.0, 0.0, 40.0, 0.9)]);
            tracker.update(second, &[detection(1.0, 0.0, 40.0, 0.9)]);
            let [track] = tracker.tracks() else {
                panic!("{name}: {:?}", tracker.tracks())
            };
            assert_eq!(track.id, TrackId(u64::from(is_new)), "{name}");
            assert!(
                track.rect.x == 1.0 && track.motion.velocity.x.is_finite(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_face_found_again_elsewhere_is_not_covered_twice() {
        let mut tracker = tracker();
        tracker.update(frame(0), &[detection(0.0, 0.0, 40.0, 0.9)]);
        tracker.update(frame(1), &[detection(35.0, 0.0, 40.0, 0.9)]);
        assert_eq!(tracker.tracks().len(), 2, "too far to be the same for sure");
        // The second one moves onto the first one's place.
        for i in 2..6 {
            tracker.update(
                frame(i),
                &[detection(35.0 - 8.0 * (i - 1) as f32, 0.0, 40.0, 0.9)],
            );
        }
        assert_eq!(tracker.tracks().len(), 1);
    }

    fn scene() -> impl Strategy<Value = Vec<Vec<(f32, f32, f32, f32)>>> {
        let face = (0.0f32..600.0, 0.0f32..300.0, 8.0f32..120.0, 0.2f32..1.0);
        proptest::collection::vec(proptest::collection::vec(face, 0..6), 1..40)
    }

    proptest! {
        #[test]
        fn every_detection_is_in_a_track_and_none_is_left_before_its_time(frames in scene()) {
            let settings = TrackSettings::default();
            let mut tracker = tracker();
            let mut latest: Vec<(TrackId, Rect, Duration, bool)> = Vec::new();
            for (i, faces) in frames.iter().enumerate() {
                let time = frame(i as u32);
                let found: Vec<_> =
                    faces.iter().map(|&(x, y, side, score)| detection(x, y, side, score)).collect();
                tracker.update(time, &found);
                let tracks = tracker.tracks();
                for detection in &found {
                    prop_assert!(tracks.iter().any(|track| track.rect == detection.rect));
                }
                for (a, track) in tracks.iter().enumerate() {
                    prop_assert!(tracks[..a].iter().all(|other| other.id != track.id));
                    prop_assert!(holds(&track.rect, &track.seen()));
                }
                // Wherever a face was seen less than its patience ago, something is covered.
                for &(id, seen, at, confirmed) in &latest {
                    let patience = if confirmed { settings.coast } else { settings.coast_tentative };
                    let known = tracks.iter().any(|track| track.id == id);
                    let inherited = tracks.iter().any(|track| {
                        track.evidence == Evidence::Detected && track.rect.intersection(&seen).area() > 0.0
                    });
                    prop_assert!(known || inherited || time - at > patience, "{id:?} was dropped");
                }
                latest.retain(|(id, ..)| tracks.iter().all(|track| track.id != *id));
                for track in tracks {
                    let at = time - track.motion.unseen;
                    latest.push((track.id, track.seen(), at, track.is_confirmed()));
                }
            }
        }
    }
}
