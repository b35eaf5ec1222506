use std::time::Duration;

use engines::Embedding;

/// How the output is verified: a replaced face is embedded again, out of the finished frame, and compared with the
/// person.
///
/// A face is shown only while its latest verification is younger than three times [`Verify::every`]; a new face is
/// verified in its first frame, before that frame leaves. docs/privacy.md says what this proves and what it does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verify {
    /// Presentation time from one verification of a face to its next.
    pub every: Duration,
    /// Euclidean distance of embeddings below which the output is taken for the person: the face is covered from then
    /// on.
    pub least_distance: f32,
    /// Most faces of a frame that are verified at once because they may not be shown otherwise; more of them are
    /// covered in this frame and verified in the next.
    pub most: usize,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(1),
            least_distance: 0.54,
            most: 4,
        }
    }
}

/// What is known of a face's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Verified {
    /// Nothing yet, or the latest verification could not be done.
    #[default]
    Never,
    /// It was another person at this presentation time.
    At(Duration),
    /// It was the person: never shown again.
    Similar,
}

/// Whether a face is to be verified in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// It was verified a moment ago.
    No,
    /// It was verified so long ago.
    Due(Duration),
    /// It may not be shown without.
    Must,
}

impl Verify {
    /// Unverified for this many times [`Verify::every`] a face is covered.
    const PATIENCE: u32 = 3;

    pub(super) fn need(&self, known: Verified, time: Duration) -> Need {
        let Verified::At(latest) = known else {
            return Need::Must;
        };
        // Time that runs backwards proves nothing.
        match time.checked_sub(latest) {
            Some(age) if age < self.every => Need::No,
            Some(age) if age < Self::PATIENCE * self.every => Need::Due(age),
            _ => Need::Must,
        }
    }

    /// Judges a face whose output is this far from the person.
    pub(super) fn judge(&self, distance: f32, time: Duration) -> Verified {
        // Written so that a number which is none fails.
        if distance >= self.least_distance {
            Verified::At(time)
        } else {
            Verified::Similar
        }
    }
}

/// How far the output is from the person: from the same frame's input, or from the picture that the new face was made
/// from, whichever is nearer.
pub(super) fn distance(output: &Embedding, input: &Embedding, kept: &Embedding) -> f32 {
    output.distance(input).min(output.distance(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(2);

    fn verify() -> Verify {
        Verify {
            every: EVERY,
            ..Verify::default()
        }
    }

    #[test]
    fn when_a_face_is_verified() {
        let at = Duration::from_secs(100);
        let cases = [
            (Verified::Never, at, Need::Must),
            (Verified::Similar, at, Need::Must),
            (Verified::At(at), at, Need::No),
            (Verified::At(at), at + EVERY / 2, Need::No),
            (Verified::At(at), at + EVERY, Need::Due(EVERY)),
            (Verified::At(at), at + 3 * EVERY, Need::Must),
            (Verified::At(at), at - EVERY, Need::Must),
        ];
        for (known, time, wanted) in cases {
            assert_eq!(verify().need(known, time), wanted, "{known:?} {time:?}");
        }
    }

    #[test]
    fn what_a_distance_says() {
        let limit = verify().least_distance;
        for (distance, is_other) in [
            (limit, true),
            (1.5, true),
            (limit - 0.01, false),
            (0.0, false),
            (f32::NAN, false),
        ] {
            let judged = verify().judge(distance, EVERY);
            let wanted = if is_other {
                Verified::At(EVERY)
            } else {
                Verified::Similar
            };
            assert_eq!(judged, wanted, "{distance}");
        }
    }
}
