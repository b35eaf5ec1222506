use crate::{Duration, Instant, Press};

/// How long a contact must be at rest to be believed.
pub const DEBOUNCE: Duration = Duration::from_millis(20);
/// How long the button must be held for a long press.
pub const LONG: Duration = Duration::from_millis(1000);
/// How soon after the first press the second one of a double press must begin.
pub const GAP: Duration = Duration::from_millis(300);

/// A contact whose bounces are taken away: a level counts once it has been the same for [`DEBOUNCE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
pub struct Debounce {
    raw: bool,
    /// When the raw level last changed.
    since: Instant,
    stable: bool,
}

impl Default for Debounce {
    fn default() -> Self {
        Self {
            raw: false,
            since: Instant::MIN,
            stable: false,
        }
    }
}

impl Debounce {
    /// The level at the contact itself; call [`Debounce::due`] with the same time before.
    pub fn level(&mut self, level: bool, at: Instant) {
        if level != self.raw {
            self.raw = level;
            self.since = at;
        }
    }

    /// When the level that has not been believed yet came to rest, if that was by `now`.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let at = self.since.saturating_add(DEBOUNCE);
        (self.raw != self.stable && at <= now).then_some(at)
    }

    /// Believes the level at the contact, and gives it.
    pub fn settle(&mut self) -> bool {
        self.stable = self.raw;
        self.stable
    }
}

/// Where a gesture stands; all times are those of the debounced level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
enum Phase {
    #[default]
    Up,
    /// Pressed for the first time.
    Down { since: Instant },
    /// Released; a second press may follow.
    Between { since: Instant },
    /// Still pressed, but what it means has been said.
    Spent,
}

/// A push button: levels in, presses out.
///
/// A long press is known while the button is held, a double press when the second one begins, a short press
/// [`GAP`] after the release. Until one of them is known the button is [undecided](Self::is_undecided).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
pub struct Button {
    contact: Debounce,
    phase: Phase,
}

impl Button {
    /// The level at the contact from `at` on, `true` for pressed. [`Button::poll`] must have given `None` for the
    /// same time before, so that everything happens in order.
    pub fn level(&mut self, pressed: bool, at: Instant) {
        self.contact.level(pressed, at);
    }

    /// The next press that is known by `now`. Call it until it gives `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Press> {
        while let Some(at) = self.contact.due(now) {
            // A gesture that is complete before the level comes to rest is first.
            let press = self.complete(at).or_else(|| {
                let pressed = self.contact.settle();
                self.edge(pressed, at)
            });
            if press.is_some() {
                return press;
            }
        }
        self.complete(now)
    }

    /// Whether somebody has pressed, and what it means is not known yet.
    pub fn is_undecided(&self) -> bool {
        matches!(self.phase, Phase::Down { .. } | Phase::Between { .. })
    }

    fn edge(&mut self, pressed: bool, at: Instant) -> Option<Press> {
        let (phase, press) = match (self.phase, pressed) {
            (Phase::Up, true) => (Phase::Down { since: at }, None),
            (Phase::Down { .. }, false) => (Phase::Between { since: at }, None),
            (Phase::Between { .. }, true) => (Phase::Spent, Some(Press::Double)),
            (Phase::Spent, false) => (Phase::Up, None),
            (phase, _) => (phase, None),
        };
        self.phase = phase;
        press
    }

    /// The press that is complete by mere time.
    fn complete(&mut self, now: Instant) -> Option<Press> {
        let (phase, press) = match self.phase {
            Phase::Down { since } if since.saturating_add(LONG) <= now => (Phase::Spent, Press::Long),
            Phase::Between { since } if since.saturating_add(GAP) <= now => (Phase::Up, Press::Short),
            _ => return None,
        };
        self.phase = phase;
        Some(press)
    }
}

#[cfg(test)]
impl Debounce {
    /// The same contact with its times changed.
    pub(crate) fn map_times(self, shift: impl Fn(Instant) -> Instant) -> Self {
        // A level that is believed has no time any more.
        let rest = self.raw == self.stable;
        Self {
            since: if rest { Instant::MIN } else { shift(self.since) },
            ..self
        }
    }
}

#[cfg(test)]
impl Button {
    /// The same button with its times changed.
    pub(crate) fn map_times(self, shift: impl Fn(Instant) -> Instant) -> Self {
        Self {
            contact: self.contact.map_times(&shift),
            phase: match self.phase {
                Phase::Down { since } => Phase::Down { since: shift(since) },
                Phase::Between { since } => Phase::Between { since: shift(since) },
                phase => phase,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    /// Feeds levels, each from its millisecond on, looks at the button every `every` milliseconds until `end`, and
    /// gives the presses with the millisecond at which they were seen.
    fn presses(levels: &[(u64, bool)], every: u64, end: u64) -> Vec<(u64, Press)> {
        let mut button = Button::default();
        let mut seen = vec![];
        let mut levels = levels.iter().peekable();
        for ms in 0..=end {
            while let Some((_, pressed)) = levels.next_if(|(at, _)| *at == ms) {
                let at = Instant::from_millis(ms);
                seen.extend(std::iter::from_fn(|| button.poll(at)).map(|press| (ms, press)));
                button.level(*pressed, at);
            }
            if ms % every == 0 {
                let now = Instant::from_millis(ms);
                seen.extend(std::iter::from_fn(|| button.poll(now)).map(|press| (ms, press)));
            }
        }
        seen
    }

    #[test]
    fn gestures() {
        use Press::{Double, Long, Short};
        struct Case {
            name: &'static str,
            levels: &'static [(u64, bool)],
            wanted: &'static [(u64, Press)],
        }
        let cases = [
            Case {
                name: "a short press is known when no second one can follow",
                levels: &[(0, true), (100, false)],
                wanted: &[(420, Short)],
            },
            Case {
                name: "a double press is known when the second one begins",
                levels: &[(0, true), (100, false), (250, true), (2000, false)],
                wanted: &[(270, Double)],
            },
            Case {
                name: "a second press that comes too late is a press of its own",
                levels: &[(0, true), (100, false), (401, true), (500, false)],
                wanted: &[(420, Short), (820, Short)],
            },
            Case {
                name: "a long press is known while it is held, once",
                levels: &[(0, true), (9000, false)],
                wanted: &[(1020, Long)],
            },
            Case {
                name: "a release just before it is long makes it short",
                levels: &[(0, true), (999, false)],
                wanted: &[(1319, Short)],
            },
            Case {
                name: "what is shorter than the bounce is nothing",
                levels: &[
                    (0, true),
                    (19, false),
                    (40, true),
                    (50, false),
                    (60, true),
                    (79, false),
                ],
                wanted: &[],
            },
            Case {
                name: "bounces at both edges are one press",
                levels: &[
                    (0, true),
                    (3, false),
                    (5, true),
                    (9, false),
                    (11, true),
                    (100, false),
                    (102, true),
                    (104, false),
                ],
                wanted: &[(424, Short)],
            },
            Case {
                name: "a hole shorter than the bounce does not end a long press",
                levels: &[(0, true), (500, false), (515, true), (1500, false)],
                wanted: &[(1020, Long)],
            },
            Case {
                name: "three presses are a double one and a short one",
                levels: &[
                    (0, true),
                    (100, false),
                    (200, true),
                    (300, false),
                    (400, true),
                    (500, false),
                ],
                wanted: &[(220, Double), (820, Short)],
            },
        ];
        for case in cases {
            assert_eq!(presses(case.levels, 1, 10_000), case.wanted, "{}", case.name);
            // Whoever looks seldom sees the same presses, later.
            for every in [7, 50, 333] {
                let presses: Vec<_> = presses(case.levels, every, 10_000)
                    .into_iter()
                    .map(|(_, press)| press)
                    .collect();
                let wanted: Vec<_> = case.wanted.iter().map(|(_, press)| *press).collect();
                assert_eq!(presses, wanted, "{}, every {every} ms", case.name);
            }
        }
    }

    #[test]
    fn a_button_is_undecided_from_its_edge_until_its_meaning_is_known() {
        let mut button = Button::default();
        let mut look = |ms| {
            let press = button.poll(Instant::from_millis(ms));
            (press, button.is_undecided())
        };
        assert_eq!(look(0), (None, false));
        button.level(true, Instant::from_millis(0));
        let mut look = |ms| {
            let press = button.poll(Instant::from_millis(ms));
            (press, button.is_undecided())
        };
        assert_eq!(look(19), (None, false));
        assert_eq!(look(20), (None, true));
        assert_eq!(look(1019), (None, true));
        assert_eq!(look(1020), (Some(Press::Long), false));
    }

    #[test]
    fn a_button_that_is_held_at_power_on_is_one_long_press() {
        assert_eq!(presses(&[(0, true)], 10, 60_000), [(1020, Press::Long)]);
    }
}
