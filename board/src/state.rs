use core::{fmt, time::Duration};

/// A moment, counted from the start of the program by whoever owns the clock. Never from a wall clock: that one jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The moment `elapsed` after the start of the program.
    pub const fn after_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// This moment and `duration` more; the latest representable one on overflow.
    pub const fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// How the button was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Press {
    /// Once, briefly.
    Short,
    /// Twice, briefly.
    Double,
    /// Once, held.
    Long,
}

/// What can change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Every network has passed its golden vectors.
    Ready,
    /// The button.
    Press(Press),
    /// Something that anonymizing or showing the state depends on has failed.
    Fault,
    /// The cause of a fault was removed; everything is checked again from the start.
    Reset,
}

/// What a frame may look like when it leaves the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// Every face replaced or covered.
    Anonymized,
    /// The whole frame covered.
    Covered,
    /// A black slate: not even covered pixels of the camera.
    Slate,
    /// The camera's own picture.
    Raw,
}

/// The longest bypass that a configuration can allow.
pub const LONGEST_BYPASS: Duration = Duration::from_secs(15 * 60);

/// What the configuration allows. The default allows no bypass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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

impl State {
    /// The state after `event` (or after mere time, with `None`) at `now`.
    ///
    /// Pure. A fault wins from every state; a bypass begins only where `rules` allow it, and never in the same step in
    /// which another one ends.
    #[must_use]
    pub fn next(self, event: Option<Event>, now: Instant, rules: &Rules) -> State {
        if event == Some(Event::Fault) {
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
                    until: now.plus(limit),
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
    use std::{collections::HashSet, vec, vec::Vec};

    const LIMIT: Duration = Duration::from_secs(60);
    const NOW: Instant = at(1000);

    const fn at(seconds: u64) -> Instant {
        Instant::after_start(Duration::from_secs(seconds))
    }

    const EVENTS: [Option<Event>; 7] = [
        None,
        Some(Event::Ready),
        Some(Event::Press(Press::Short)),
        Some(Event::Press(Press::Double)),
        Some(Event::Press(Press::Long)),
        Some(Event::Fault),
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

    /// All states that can be reached from power-on in up to `steps` steps of 0, 30 and 61 seconds.
    fn reachable(rules: &Rules, steps: usize) -> HashSet<(State, Duration)> {
        let mut seen = HashSet::from([(State::default(), Duration::ZERO)]);
        let mut edge: Vec<_> = seen.iter().copied().collect();
        for _ in 0..steps {
            let mut found = vec![];
            for (state, time) in edge {
                for pause in [0, 30, 61] {
                    let time = time + Duration::from_secs(pause);
                    for event in EVENTS {
                        let next = state.next(event, Instant::after_start(time), rules);
                        if seen.insert((next, time)) {
                            found.push((next, time));
                        }
                    }
                }
            }
            edge = found;
        }
        seen
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
            let end = Instant::after_start(*time + LIMIT);
            assert_ne!(state.next(None, end, &allowed()).view(), View::Raw, "{state:?}");
        }
    }

    #[test]
    fn only_a_long_press_while_anonymizing_begins_a_bypass() {
        for (state, time) in reachable(&allowed(), 6) {
            let now = Instant::after_start(time);
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
        let mut seen = HashSet::from([State::default()]);
        loop {
            let found: Vec<_> = seen
                .iter()
                .flat_map(|state: &State| {
                    EVENTS
                        .into_iter()
                        .filter(|event| *event != Some(Event::Ready))
                        .map(|event| state.next(event, NOW, &allowed()))
                })
                .filter(|state| !seen.contains(state))
                .collect();
            if found.is_empty() {
                break;
            }
            seen.extend(found);
        }
        for state in seen {
            assert!(matches!(state.view(), View::Covered | View::Slate), "{state:?}");
        }
    }

    #[test]
    fn a_fault_covers_from_everywhere_until_it_is_reset() {
        for state in STATES {
            let fault = state.next(Some(Event::Fault), NOW, &allowed());
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
