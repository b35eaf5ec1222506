use crate::button::{Button, Debounce};
use crate::{Cause, Event, Input, Instant, Rules, Rung, State, Trace, View, What};

/// All that decides what may be shown; a few words that can be copied, so that a test can go every way from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
struct Logic {
    rules: Rules,
    state: State,
    button: Button,
    tamper: Debounce,
    /// Whether the housing was ever open. No reset ends that: only whoever starts the program anew.
    tampered: bool,
    /// What was shown at the last look.
    view: Option<View>,
}

impl Logic {
    fn input(&mut self, input: Input, at: Instant, note: &mut impl FnMut(Instant, What)) {
        self.advance(at, note);
        match input {
            Input::Button { pressed } => self.button.level(pressed, at),
            Input::Tamper { open } => self.tamper.level(open, at),
        }
    }

    fn event(&mut self, event: Event, now: Instant, note: &mut impl FnMut(Instant, What)) {
        self.advance(now, note);
        self.step(Some(event), now, note);
        self.look(now, note);
    }

    fn advance(&mut self, now: Instant, note: &mut impl FnMut(Instant, What)) {
        while let Some(press) = self.button.poll(now) {
            self.step(Some(Event::Press(press)), now, note);
        }
        if self.tamper.due(now).is_some() && self.tamper.settle() {
            self.tampered = true;
            self.step(Some(Event::Fault(Cause::Tamper)), now, note);
        }
        self.step(None, now, note);
        self.look(now, note);
    }

    fn step(&mut self, event: Option<Event>, now: Instant, note: &mut impl FnMut(Instant, What)) {
        let from = self.state;
        let refused = self.tampered && event == Some(Event::Reset);
        self.state = from.next(event.filter(|_| !refused), now, &self.rules);
        if event.is_some() || from != self.state {
            let to = self.state;
            note(now, What::Step { event, from, to });
        }
    }

    fn look(&mut self, now: Instant, note: &mut impl FnMut(Instant, What)) {
        let to = self.view();
        // Nothing was shown before the first look.
        let from = self.view.replace(to).unwrap_or(View::Slate);
        if from != to {
            let pressed = to != self.state.view();
            note(now, What::View { from, to, pressed });
        }
    }

    fn view(&self) -> View {
        let pressed = if self.button.is_undecided() {
            View::Covered
        } else {
            View::Raw
        };
        self.state.view().max(pressed)
    }
}

/// The front panel's logic: levels of the contacts and events in; what may be shown, lamp and relay out.
///
/// It is driven by time: call [`Panel::advance`] at least every 20 ms, and never with an earlier time than before.
/// A press takes effect in two steps. **At the debounced edge the picture is covered**, whatever the press may turn
/// out to mean; what it means decides what follows. So hiding takes one debounce time, and showing again waits until
/// the gesture is known.
#[derive(Debug, Clone, Default)]
pub struct Panel {
    logic: Logic,
    trace: Trace,
}

impl Panel {
    /// The panel at power-on.
    pub fn new(rules: Rules) -> Self {
        let mut panel = Self::default();
        panel.logic.rules = rules;
        panel
    }

    /// A level at a contact, from `at` on.
    pub fn input(&mut self, input: Input, at: Instant) {
        let Self { logic, trace } = self;
        logic.input(input, at, &mut |at, what| trace.push(at, what));
    }

    /// An event that is not the button's.
    pub fn event(&mut self, event: Event, now: Instant) {
        let Self { logic, trace } = self;
        logic.event(event, now, &mut |at, what| trace.push(at, what));
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Instant) {
        let Self { logic, trace } = self;
        logic.advance(now, &mut |at, what| trace.push(at, what));
    }

    /// Notes that the pipeline was given another amount of work.
    pub fn shed(&mut self, from: Rung, to: Rung, now: Instant) {
        self.trace.push(now, What::Load { from, to });
    }

    /// The state.
    pub fn state(&self) -> State {
        self.logic.state
    }

    /// What the next frame may look like: never more than [`State::view`], and covered while a press is
    /// [undecided](Button::is_undecided).
    pub fn view(&self) -> View {
        self.logic.view()
    }

    /// Whether the lamp is lit at `now`.
    pub fn lamp(&self, now: Instant) -> bool {
        self.logic.state.lamp().is_lit(now)
    }

    /// Whether the relay is energised: only while the box is anonymizing or hides more than that. It falls off at
    /// power-on, in a bypass, with a fault and without power, so that an alarm can hang on it.
    pub fn relay(&self) -> bool {
        match self.logic.state {
            State::Anonymizing | State::CoveringOnRequest | State::Shuttered { ready: true } => true,
            State::Covering | State::Shuttered { ready: false } | State::Bypass { .. } | State::Fault => {
                false
            }
        }
    }

    /// What happened and was not read yet.
    pub fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeSet, VecDeque},
        vec::Vec,
    };

    use super::*;
    use crate::{
        Duration, Press,
        button::{DEBOUNCE, GAP, LONG},
    };

    const BYPASS: Duration = Duration::from_millis(400);
    /// The model's step: divides all times, and half of the debounce time, so that bounces are among the ways.
    const QUANTUM: Duration = Duration::from_millis(10);

    const fn ms(milliseconds: u64) -> Instant {
        Instant::from_millis(milliseconds)
    }

    const EVENTS: [Option<Event>; 4] = [
        None,
        Some(Event::Ready),
        Some(Event::Fault(Cause::Pipeline)),
        Some(Event::Reset),
    ];

    /// What the properties need to know of the past, from the raw contact alone.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
    struct Past {
        /// For how many quanta the contact was pressed, holes shorter than the debounce time among them.
        held: u64,
        /// How long the latest such time was, if it ended no longer than the debounce time ago.
        before: u64,
        /// For how many quanta it has been released.
        released: u64,
    }

    impl Past {
        const DEBOUNCE: u64 = DEBOUNCE.as_ticks() / QUANTUM.as_ticks();
        const LONG: u64 = LONG.as_ticks() / QUANTUM.as_ticks();

        fn step(self, pressed: bool) -> Self {
            let Self {
                held,
                before,
                released,
            } = self;
            let next = match (pressed, released + 1) {
                (true, _) => Self {
                    held: held + 1,
                    before: 0,
                    released: 0,
                },
                (false, released) if held > 0 && released < Self::DEBOUNCE => Self {
                    held: held + 1,
                    before: 0,
                    released,
                },
                (false, released) if released <= Self::DEBOUNCE => Self {
                    held: 0,
                    before: held.max(before),
                    released,
                },
                (false, _) => Self {
                    held: 0,
                    before: 0,
                    released: Self::DEBOUNCE,
                },
            };
            Self {
                held: next.held.min(Self::LONG),
                before: next.before.min(Self::LONG),
                ..next
            }
        }

        fn was_long(self) -> bool {
            self.held.max(self.before) >= Self::LONG
        }
    }

    /// The logic seen from `now`: nothing in it depends on more than this.
    fn relative(mut logic: Logic, now: Instant) -> Logic {
        const BASE: u64 = 1 << 32;
        let shift = |at: Instant| {
            // What lies further back than every duration is only "long ago".
            let ago = now.saturating_duration_since(at).min(LONG + GAP + BYPASS);
            let ahead = at.saturating_duration_since(now);
            Instant::from_ticks(BASE + ahead.as_ticks() - ago.as_ticks())
        };
        logic.button = logic.button.map_times(shift);
        logic.tamper = logic.tamper.map_times(shift);
        if let State::Bypass { until } = &mut logic.state {
            *until = shift(*until);
        }
        logic
    }

    /// Goes every way from power-on: pressed or not, tampered with or not, with each event or none, in every quantum,
    /// until nothing new is found. Calls `check` for every step and gives the number of states.
    fn every_way(rules: Rules, mut check: impl FnMut(&Logic, Option<Event>, Instant, &Logic)) -> usize {
        let begin = Logic {
            rules,
            ..Logic::default()
        };
        let now = Instant::from_secs(1000);
        let mut seen = BTreeSet::from([(relative(begin, now), Past::default())]);
        let mut open = VecDeque::from([(begin, Past::default(), now)]);
        while let Some((logic, past, now)) = open.pop_front() {
            let later = now + QUANTUM;
            for pressed in [false, true] {
                for tampered in [false, true] {
                    for event in EVENTS {
                        let mut next = logic;
                        next.input(Input::Button { pressed }, now, &mut |_, _| ());
                        next.input(Input::Tamper { open: tampered }, now, &mut |_, _| ());
                        next.advance(later, &mut |_, _| ());
                        let before = next;
                        if let Some(event) = event {
                            next.event(event, later, &mut |_, _| ());
                        }
                        let past = past.step(pressed);
                        check(&before, event, later, &next);
                        check_step(&logic, past, &before);
                        if seen.insert((relative(next, later), past)) {
                            open.push_back((next, past, later));
                        }
                    }
                }
            }
        }
        seen.len()
    }

    /// What must hold for every step in time: a bypass begins only out of `Anonymizing`, with the button held long.
    fn check_step(from: &Logic, past: Past, to: &Logic) {
        if to.state.view() == View::Raw && from.state.view() != View::Raw {
            assert!(
                to.rules != Rules::default(),
                "a bypass without permission: {from:?}"
            );
            assert_eq!(from.state, State::Anonymizing);
            assert!(past.was_long(), "a bypass after {past:?}: {from:?}");
        }
    }

    #[test]
    fn no_path_reaches_a_bypass_without_permission() {
        let states = every_way(Rules::default(), |before, _, _, after| {
            assert!(before.view() != View::Raw && after.view() != View::Raw);
        });
        assert!(
            states > 1000,
            "only {states} states: the model is not what it was"
        );
    }

    #[test]
    fn with_permission_only_the_long_press_reaches_it_and_a_fault_always_covers() {
        let rules = Rules::with_bypass(BYPASS).unwrap();
        let mut bypasses = 0;
        every_way(rules, |before, event, now, after| {
            if let State::Bypass { until } = before.state {
                bypasses += 1;
                assert!(until > now && until <= now + BYPASS, "{until:?} at {now:?}");
            }
            // The button's edge begins one, no event does.
            if after.state != before.state {
                assert_ne!(after.view(), View::Raw, "by {event:?}");
            }
            if matches!(event, Some(Event::Fault(_))) {
                assert_eq!(after.state, State::Fault, "from {before:?}");
            }
            if before.state == State::Fault && (event != Some(Event::Reset) || before.tampered) {
                assert_eq!(after.state, State::Fault, "by {event:?}");
            }
            if after.state == State::Fault || after.button.is_undecided() {
                assert!(after.view() >= View::Covered, "{after:?}");
            }
            assert!(after.view() >= after.state.view(), "{after:?}");
        });
        assert!(bypasses > 0, "the bypass that is allowed is never reached");
    }

    /// A panel that is anonymizing, and the time.
    fn anonymizing() -> (Panel, Instant) {
        let mut panel = Panel::new(Rules::default());
        panel.event(Event::Ready, ms(0));
        assert_eq!(panel.view(), View::Anonymized);
        while panel.trace().take().is_some() {}
        (panel, ms(1000))
    }

    #[test]
    fn a_press_hides_after_the_debounce_time_and_not_before() {
        let (mut panel, at) = anonymizing();
        panel.input(Input::Button { pressed: true }, at);
        panel.advance(at + Duration::from_millis(19));
        assert_eq!(panel.view(), View::Anonymized);
        panel.advance(at + DEBOUNCE);
        assert_eq!(panel.view(), View::Covered);
        assert_eq!(panel.state(), State::Anonymizing);
    }

    #[test]
    fn everything_that_is_shown_is_traced_with_its_reason() {
        let (mut panel, at) = anonymizing();
        panel.input(Input::Button { pressed: true }, at);
        panel.input(Input::Button { pressed: false }, at + Duration::from_millis(100));
        panel.advance(at + Duration::from_millis(500));
        let records: Vec<_> = std::iter::from_fn(|| panel.trace().take())
            .map(|record| record.what)
            .collect();
        let (anonymized, covered) = (View::Anonymized, View::Covered);
        assert_eq!(
            records,
            [
                What::View {
                    from: anonymized,
                    to: covered,
                    pressed: true
                },
                What::Step {
                    event: Some(Event::Press(Press::Short)),
                    from: State::Anonymizing,
                    to: State::CoveringOnRequest
                },
            ]
        );
    }

    #[test]
    fn a_housing_that_is_open_is_a_fault_and_one_that_shakes_is_none() {
        let (mut panel, at) = anonymizing();
        panel.input(Input::Tamper { open: true }, at);
        panel.input(Input::Tamper { open: false }, at + Duration::from_millis(10));
        panel.advance(at + Duration::from_millis(200));
        assert_eq!(panel.state(), State::Anonymizing);
        panel.input(Input::Tamper { open: true }, at + Duration::from_millis(300));
        panel.advance(at + Duration::from_millis(320));
        assert_eq!((panel.state(), panel.view()), (State::Fault, View::Covered));
        assert!(!panel.relay());
        panel.event(Event::Reset, at + Duration::from_secs(1));
        assert_eq!(panel.state(), State::Fault, "a reset does not close the housing");
    }

    #[test]
    fn the_relay_holds_only_while_the_box_protects() {
        let mut panel = Panel::new(Rules::default());
        assert!(!panel.relay());
        panel.event(Event::Ready, ms(0));
        assert!(panel.relay());
        panel.event(Event::Fault(Cause::Heat), ms(1));
        assert!(!panel.relay());
    }
}
