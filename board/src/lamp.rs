use crate::{Duration, Instant, State};

/// How the lamp blinks: milliseconds lit, dark, lit, ... and again from the beginning.
///
/// No pattern stands still: a lamp that neither lights up nor goes dark for [`STILL`] belongs to a program that is
/// dead, whatever the level at which it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern(&'static [u16]);

/// The longest that any pattern stays lit or dark.
pub const STILL: Duration = Duration::from_secs(2);

impl Pattern {
    /// Whether the lamp is lit at `now`.
    pub fn is_lit(self, now: Instant) -> bool {
        let mut rest = now.as_millis() % self.period().as_millis();
        self.0
            .iter()
            .position(|&length| {
                let inside = rest < u64::from(length);
                rest = rest.saturating_sub(u64::from(length));
                inside
            })
            .is_some_and(|index| index % 2 == 0)
    }

    /// After which time the pattern repeats.
    pub fn period(self) -> Duration {
        Duration::from_millis(self.0.iter().copied().map(u64::from).sum())
    }
}

impl State {
    /// What the lamp does in this state. One look of two seconds tells the states apart: how many flashes, and
    /// whether they are long or short.
    pub const fn lamp(self) -> Pattern {
        Pattern(match self {
            // Lit, with a wink.
            Self::Anonymizing => &[1800, 200],
            // Half and half.
            Self::Covering => &[500, 500],
            Self::CoveringOnRequest => &[200, 1800],
            Self::Shuttered { .. } => &[200, 200, 200, 1400],
            Self::Fault => &[200, 200, 200, 200, 200, 1000],
            // Without a pause, at less than the three flashes per second that WCAG 2.3.1 allows.
            Self::Bypass { .. } => &[200, 200],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const STATES: [State; 6] = [
        State::Covering,
        State::Anonymizing,
        State::CoveringOnRequest,
        State::Shuttered { ready: true },
        State::Bypass {
            until: Instant::from_secs(9),
        },
        State::Fault,
    ];

    /// Lit or dark, every 10 ms for as long as one looks.
    fn look(state: State) -> Vec<bool> {
        (0..200)
            .map(|i| state.lamp().is_lit(Instant::from_millis(i * 10)))
            .collect()
    }

    /// Flashes that begin, and the share of the time that is lit, in percent.
    fn seen(state: State) -> (usize, usize) {
        let look = look(state);
        let flashes = (0..look.len())
            .filter(|&i| look[i] && !look[(i + look.len() - 1) % look.len()])
            .count();
        (
            flashes,
            look.iter().filter(|lit| **lit).count() * 100 / look.len(),
        )
    }

    #[test]
    fn what_each_state_looks_like() {
        let seen: Vec<_> = STATES.map(seen).to_vec();
        assert_eq!(seen, [(2, 50), (1, 90), (1, 10), (2, 20), (5, 50), (3, 30)]);
    }

    #[test]
    fn two_seconds_tell_every_two_states_apart() {
        for (index, one) in STATES.into_iter().enumerate() {
            for other in STATES.into_iter().skip(index + 1) {
                let ((flashes, lit), (other_flashes, other_lit)) = (seen(one), seen(other));
                assert!(
                    flashes != other_flashes || lit.abs_diff(other_lit) >= 30,
                    "{one:?} looks like {other:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_too_short_to_be_seen_nor_so_long_that_it_looks_dead() {
        for state in STATES {
            for length in state.lamp().0 {
                assert!(
                    (100..STILL.as_millis()).contains(&u64::from(*length)),
                    "{state:?}"
                );
            }
            assert_eq!(
                STILL.as_millis() % state.lamp().period().as_millis(),
                0,
                "{state:?}"
            );
            let flashes_per_second = seen(state).0 as f32 / STILL.as_secs() as f32;
            assert!(flashes_per_second <= 3.0, "{state:?}");
        }
    }

    #[test]
    fn both_shutters_look_alike() {
        let [open, shut] = [true, false].map(|ready| State::Shuttered { ready }.lamp());
        assert_eq!(open, shut);
    }
}
