use crate::{Duration, Instant, State};

/// How long the program may take to load its networks and get its first frame.
pub const START: Duration = Duration::from_secs(120);
/// How long no frame may come once frames have come.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Decides whether the watchdogs are fed: only while frames flow and the privacy state is sound. Whatever hangs,
/// starves or fails, the box is reset, and starts covering.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    frames: u64,
    /// Until when no further frame need come.
    until: Instant,
}

impl Pulse {
    /// The program starts at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            frames: 0,
            until: now.saturating_add(START),
        }
    }

    /// Whether the watchdogs may be fed at `now`, with `frames` that have left so far; `None` while nothing runs from
    /// which a frame could be expected. A box that covers because it was asked to is sound; one at fault is not.
    pub fn is_sound(&mut self, frames: Option<u64>, state: State, now: Instant) -> bool {
        match frames {
            None => self.until = now.saturating_add(START),
            Some(frames) if frames != self.frames => {
                self.frames = frames;
                self.until = now.saturating_add(SILENCE);
            }
            Some(_) => (),
        }
        now < self.until && state != State::Fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fed_only_while_frames_flow_and_the_state_is_sound() {
        let at = Instant::from_secs;
        struct Case {
            name: &'static str,
            /// Second, frames so far, whether at fault, whether fed.
            looks: &'static [(u64, u64, bool, bool)],
        }
        let cases = [
            Case {
                name: "loading takes its time, but not for ever",
                looks: &[(0, 0, false, true), (119, 0, false, true), (120, 0, false, false)],
            },
            Case {
                name: "frames stop",
                looks: &[(5, 1, false, true), (14, 1, false, true), (15, 1, false, false)],
            },
            Case {
                name: "frames come again",
                looks: &[(5, 1, false, true), (15, 1, false, false), (16, 2, false, true)],
            },
            Case {
                name: "a counter that begins anew is a frame too",
                looks: &[(5, 9, false, true), (14, 1, false, true), (23, 1, false, true)],
            },
            Case {
                name: "a fault, whatever flows",
                looks: &[(5, 1, false, true), (6, 2, true, false), (7, 3, false, true)],
            },
        ];
        for Case { name, looks } in cases {
            let mut pulse = Pulse::new(at(0));
            for &(second, frames, fault, wanted) in looks {
                let state = if fault { State::Fault } else { State::Anonymizing };
                assert_eq!(
                    pulse.is_sound(Some(frames), state, at(second)),
                    wanted,
                    "{name}, {second} s"
                );
            }
        }
    }

    #[test]
    fn what_does_not_run_gives_no_frames() {
        let at = Instant::from_secs;
        let mut pulse = Pulse::new(at(0));
        for second in 0..1000 {
            assert!(pulse.is_sound(None, State::Covering, at(second)), "{second} s");
        }
        assert!(pulse.is_sound(Some(0), State::Covering, at(1118)));
        assert!(!pulse.is_sound(Some(0), State::Covering, at(1119)));
    }

    #[test]
    fn every_state_but_a_fault_is_sound() {
        for state in [
            State::Covering,
            State::Anonymizing,
            State::CoveringOnRequest,
            State::Shuttered { ready: false },
        ] {
            assert!(
                Pulse::new(Instant::MIN).is_sound(Some(1), state, Instant::MIN),
                "{state:?}"
            );
        }
    }
}
