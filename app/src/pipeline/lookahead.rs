use std::collections::VecDeque;
use std::time::Duration;

use kernels::Rect;

use super::Job;
use crate::track::{Evidence, Track};

/// Most frames that look-ahead may hold: each costs a frame's time of delay and a frame's memory.
pub const MOST_HELD: usize = 3;

/// How fast a face is taken to have moved before its first detection, in box sides per second on each side: its
/// velocity is not known yet. Walking across a picture in which a face fills a hand's breadth gives about this.
const UNKNOWN_SPEED: f32 = 4.0;
/// The box of a face that is not yet detected grows by no more than this, in box sides on each side.
const MOST_GROWTH: f32 = 1.0;

/// Holds the latest frames, so that a face can be covered before its first detection.
///
/// A face's first detection comes late: it was there before, smaller, blurred, or not yet swept over. So a track that
/// appears is projected back onto the frames still held, in a box that grows with the distance in time, and covered
/// there. It is never *replaced* there, although the landmarker could be asked: the detector has just said that it
/// does not see a face in that frame, so nothing could vouch for the landmarks.
pub(crate) struct LookAhead<B> {
    held: VecDeque<Job<B>>,
    depth: usize,
}

impl<B> LookAhead<B> {
    /// Holds `depth` frames.
    pub(crate) fn new(depth: usize) -> Self {
        Self {
            held: VecDeque::with_capacity(depth + 1),
            depth,
        }
    }

    /// Takes the next frame, whose faces the held frames learn about; gives the frame that is now due.
    pub(crate) fn push(&mut self, job: Job<B>) -> Option<Job<B>> {
        for held in &mut self.held {
            let apart = job.frame.time().abs_diff(held.frame.time());
            for track in &job.tracks {
                if held.tracks.iter().all(|known| known.id != track.id) {
                    held.tracks.push(back_projected(track, apart));
                }
            }
        }
        self.held.push_back(job);
        if self.held.len() > self.depth {
            self.held.pop_front()
        } else {
            None
        }
    }

    /// Gives up the oldest frame, as at the end of a stream.
    pub(crate) fn pop(&mut self) -> Option<Job<B>> {
        self.held.pop_front()
    }
}

/// The track as it is to be covered `apart` earlier.
fn back_projected(track: &Track, apart: Duration) -> Track {
    let growth = (UNKNOWN_SPEED * apart.as_secs_f32()).min(MOST_GROWTH);
    let side = track.rect.width.max(track.rect.height) * growth;
    let mut earlier = *track;
    earlier.rect = Rect::new(
        track.rect.x - side,
        track.rect.y - side,
        track.rect.width + 2.0 * side,
        track.rect.height + 2.0 * side,
    );
    earlier.points = None;
    earlier.evidence = Evidence::LookAhead;
    earlier
}
