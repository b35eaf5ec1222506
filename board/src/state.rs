use core::fmt;

use crate::{Duration, Instant};

/// How the button was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    /// Once, briefly.
    Short,
    /// Twice, briefly.
    Double,
    /// Once, held.
    Long,
}

/// Why the box can no longer vouch for its picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A stage of the pipeline has failed.
    Pipeline,
    /// The button cannot be read or the lamp cannot be set.
    Panel,
    /// The housing was opened.
    Tamper,
    /// Too hot to go on.
    Heat,
}

impl Cause {
    /// Every cause, in the order of the enumeration.
    pub const ALL: [Self; 4] = [Self::Pipeline, Self::Panel, Self::Tamper, Self::Heat];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pipeline => "a stage of the pipeline has failed",
            Self::Panel => "the button cannot be read or the lamp cannot be set",
            Self::Tamper => "the housing was opened",
            Self::Heat => "too hot",
        })
    }
}

/// What can change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Every network has passed its golden vectors.
    Ready,
    /// The button.
    Press(Press),
    /// Something that anonymizing or showing the state depends on has failed.
    Fault(Cause),
    /// The cause of a fault was removed; everything is checked again from the start.
    Reset,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("every network has passed its check"),
            Self::Press(Press::Short) => f.write_str("short press"),
            Self::Press(Press::Double) => f.write_str("double press"),
            Self::Press(Press::Long) => f.write_str("long press"),
            Self::Fault(cause) => write!(f, "fault: {cause}"),
            Self::Reset => f.write_str("reset"),
        }
    }
}

/// What a frame may look like when it leaves the box, from showing most to showing least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// The camera's own picture.
    Raw,
    /// Every face replaced or covered.
    Anonymized,
    /// The whole frame covered.
    Covered,
    /// A black slate: not even covered pixels of the camera.
    Slate,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "the camera's own picture",
            Self::Anonymized => "anonymized",
            Self::Covered => "covered",
            Self::Slate => "black slate",
        })
    }
}

/// The longest bypass that a configuration can allow.
pub const LONGEST_BYPASS: Duration = Duration::from_secs(15 * 60);

/// What the configuration allows. The default allows no bypass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
pub struct Rules {
    bypass: Option<Duration>,
}

/// A bypass longer than [`LONGEST_BYPASS`] was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong(pub Duration);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a bypass of {} s is longer than the {} s that a configuration can allow",
            self.0.as_secs(),
            LONGEST_BYPASS.as_secs()
        )
    }
}

impl core::error::Error for TooLong {}

impl Rules {
    /// Allows a long press to show the camera's own picture for `limit`.
    ///
    /// # Errors
    /// [`TooLong`] when `limit` is more than [`LONGEST_BYPASS`].
    pub fn with_bypass(limit: Duration) -> Result<Self, TooLong> {
        if limit > LONGEST_BYPASS {
            return Err(TooLong(limit));
        }
        Ok(Self { bypass: Some(limit) })
    }
}

/// The privacy state of the box. [`State::default`] is the state at power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
pub enum State {
    /// Power-on: nothing has proved yet that the networks work, so everything is covered.
    #[default]
    Covering,
    /// The normal state: every face is replaced or covered.
    Anonymizing,
    /// Somebody pressed the button: everything is covered until it is pressed again.
    CoveringOnRequest,
    /// A black slate until the button is pressed again.
    Shuttered {
        /// Whether the networks have passed their golden vectors, so that opening leads to `Anonymizing`.
        ready: bool,
    },
    /// The camera's own picture, because the configuration allows it and the button was held.
    Bypass {
        /// When it ends by itself.
        until: Instant,
    },
    /// Something failed; everything is covered until it was put right and checked.
    Fault,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Covering => "covering",
            Self::Anonymizing => "anonymizing",
            Self::CoveringOnRequest => "covering on request",
            Self::Shuttered { .. } => "shuttered",
            Self::Bypass { .. } => "bypass",
            Self::Fault => "fault",
        })
    }
}

impl State {
    /// The state after `event` (or after mere time, with `None`) at `now`.
    ///
    /// Pure. A fault wins from every state; a bypass begins only where `rules` allow it, and never in the same step in
    /// which another one ends.
    #[must_use]
    pub fn next(self, event: Option<Event>, now: Instant, rules: &Rules) -> State {
        if matches!(event, Some(Event::Fault(_))) {
            return State::Fault;
        }
        let current = match self {
            State::Bypass { until } if now >= until => State::Anonymizing,
            state => state,
        };
        let Some(event) = event else { return current };
        match (current, event) {
            (State::Covering, Event::Ready) => State::Anonymizing,
            (State::Covering, Event::Press(Press::Double)) => State::Shuttered { ready: false },
            (State::Anonymizing, Event::Press(Press::Short)) => State::CoveringOnRequest,
            (State::Anonymizing, Event::Press(Press::Long)) => match (rules.bypass, self) {
                (Some(limit), State::Anonymizing) => State::Bypass {
                    until: now.saturating_add(limit),
                },
                _ => State::Anonymizing,
            },
            (State::CoveringOnRequest, Event::Press(Press::Short)) => State::Anonymizing,
            (State::Shuttered { .. }, Event::Ready) => State::Shuttered { ready: true },
            (State::Shuttered { ready: true }, Event::Press(Press::Double)) => State::Anonymizing,
            (State::Shuttered { ready: false }, Event::Press(Press::Double)) => State::Covering,
            (State::Bypass { .. }, Event::Press(Press::Short | Press::Long)) => State::Anonymizing,
            (
                State::Anonymizing | State::CoveringOnRequest | State::Bypass { .. },
                Event::Press(Press::Double),
            ) => State::Shuttered { ready: true },
            (State::Fault, Event::Reset) => State::Covering,
            (state, _) => state,
        }
    }

    /// What the next frame may look like.
    pub const fn view(self) -> View {
        match self {
            State::Covering | State::CoveringOnRequest | State::Fault => View::Covered,
            State::Anonymizing => View::Anonymized,
            State::Shuttered { .. } => View::Slate,
            State::Bypass { .. } => View::Raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    const LIMIT: Duration = Duration::from_secs(60);
    const NOW: Instant = at(1000);

    const fn at(seconds: u64) -> Instant {
        Instant::from_secs(seconds)
    }

    const EVENTS: [Option<Event>; 7] = [
        None,
        Some(Event::Ready),
        Some(Event::Press(Press::Short)),
        Some(Event::Press(Press::Double)),
        Some(Event::Press(Press::Long)),
        Some(Event::Fault(Cause::Pipeline)),
        Some(Event::Reset),
    ];

    /// Every state; a bypass that has ended, ends now, and has not ended at `NOW`.
    const STATES: [State; 9] = [
        State::Covering,
        State::Anonymizing,
        State::CoveringOnRequest,
        State::Shuttered { ready: false },
        State::Shuttered { ready: true },
        State::Bypass { until: at(999) },
        State::Bypass { until: NOW },
        State::Bypass { until: at(1001) },
        State::Fault,
    ];

    fn allowed() -> Rules {
        Rules::with_bypass(LIMIT).unwrap()
    }

    /// The whole table: rows are `STATES`, columns are `EVENTS`, at `NOW`, with a bypass allowed.
    #[test]
    fn every_state_and_event() {
        use State::*;
        const OPEN: State = Shuttered { ready: true };
        const SHUT: State = Shuttered { ready: false };
        const RUNNING: State = Bypass { until: at(1001) };
        const BEGUN: State = Bypass { until: at(1060) };
        #[rustfmt::skip]
        let table = [
            //  time passes        Ready              short              double    long           fault  reset
            [Covering,          Anonymizing,       Covering,          SHUT,     Covering,          Fault, Covering],
            [Anonymizing,       Anonymizing,       CoveringOnRequest, OPEN,     BEGUN,             Fault, Anonymizing],
            [CoveringOnRequest, CoveringOnRequest, Anonymizing,       OPEN,     CoveringOnRequest, Fault, CoveringOnRequest],
            [SHUT,              OPEN,              SHUT,              Covering, SHUT,              Fault, SHUT],
            [OPEN,              OPEN,              OPEN,              Anonymizing, OPEN,           Fault, OPEN],
            [Anonymizing,       Anonymizing,       CoveringOnRequest, OPEN,     Anonymizing,       Fault, Anonymizing],
            [Anonymizing,       Anonymizing,       CoveringOnRequest, OPEN,     Anonymizing,       Fault, Anonymizing],
            [RUNNING,           RUNNING,           Anonymizing,       OPEN,     Anonymizing,       Fault, RUNNING],
            [Fault,             Fault,             Fault,             Fault,    Fault,             Fault, Covering],
        ];
        for (state, row) in STATES.into_iter().zip(table) {
            for (event, wanted) in EVENTS.into_iter().zip(row) {
                assert_eq!(
                    state.next(event, NOW, &allowed()),
                    wanted,
                    "from {state:?} at {event:?}"
                );
            }
        }
    }

    #[test]
    fn the_power_on_state_covers() {
        assert_eq!(State::default(), State::Covering);
        assert_eq!(State::default().view(), View::Covered);
    }

    /// All states, with their times, that can be reached from power-on in up to `steps` steps of 0, 30 and 61 seconds.
    fn reachable(rules: &Rules, steps: usize) -> Vec<(State, Instant)> {
        let mut found = vec![(State::default(), at(0))];
        let mut edge = 0;
        for _ in 0..steps {
            let known = found.len();
            for index in edge..known {
                let (state, time) = found[index];
                for pause in [0, 30, 61] {
                    let time = time + Duration::from_secs(pause);
                    for event in EVENTS {
                        let next = (state.next(event, time, rules), time);
                        if !found.contains(&next) {
                            found.push(next);
                        }
                    }
                }
            }
            edge = known;
        }
        found
    }

    #[test]
    fn without_permission_no_path_shows_the_raw_picture() {
        let states = reachable(&Rules::default(), 8);
        assert!(states.iter().any(|(state, _)| *state == State::Anonymizing));
        assert!(states.iter().all(|(state, _)| state.view() != View::Raw));
    }

    #[test]
    fn with_permission_a_bypass_is_reached_and_always_ends() {
        let states = reachable(&allowed(), 8);
        let bypasses: Vec<_> = states
            .iter()
            .filter(|(state, _)| state.view() == View::Raw)
            .collect();
        assert!(!bypasses.is_empty());
        for (state, time) in bypasses {
            let end = *time + LIMIT;
            assert_ne!(state.next(None, end, &allowed()).view(), View::Raw, "{state:?}");
        }
    }

    #[test]
    fn only_a_long_press_while_anonymizing_begins_a_bypass() {
        for (state, now) in reachable(&allowed(), 6) {
            for event in EVENTS {
                let next = state.next(event, now, &allowed());
                if next.view() == View::Raw && state.view() != View::Raw {
                    assert_eq!(
                        (state, event),
                        (State::Anonymizing, Some(Event::Press(Press::Long)))
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_shown_before_the_networks_are_proved() {
        let mut seen = vec![State::default()];
        let mut index = 0;
        while let Some(state) = seen.get(index).copied() {
            for event in EVENTS.into_iter().filter(|event| *event != Some(Event::Ready)) {
                let next = state.next(event, NOW, &allowed());
                if !seen.contains(&next) {
                    seen.push(next);
                }
            }
            index += 1;
        }
        for state in seen {
            assert!(matches!(state.view(), View::Covered | View::Slate), "{state:?}");
        }
    }

    #[test]
    fn a_fault_covers_from_everywhere_until_it_is_reset() {
        for state in STATES {
            let fault = state.next(Some(Event::Fault(Cause::Pipeline)), NOW, &allowed());
            assert_eq!((fault, fault.view()), (State::Fault, View::Covered));
            for event in EVENTS.into_iter().filter(|event| *event != Some(Event::Reset)) {
                assert_eq!(fault.next(event, at(100_000), &allowed()), State::Fault);
            }
        }
    }

    #[test]
    fn a_bypass_longer_than_the_longest_is_refused() {
        assert!(Rules::with_bypass(LONGEST_BYPASS).is_ok());
        let error = Rules::with_bypass(LONGEST_BYPASS + Duration::from_secs(1)).unwrap_err();
        assert_eq!(
            std::format!("{error}"),
            "a bypass of 901 s is longer than the 900 s that a configuration can allow"
        );
    }
}
