//! The box as its page, its metrics and its panel see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use board::sensors::{Readings, Sensors};
use board::{Event, Panel, Press, Rules, State, View};

use super::status::{Events, Health, Lost};
use crate::rtsp::{Feed, Server};

/// How old the main loop's last sign of life may be before the box is not healthy.
const STALLED: Duration = Duration::from_secs(5);

/// One stream, as those who ask about it see it.
pub(super) struct Served {
    pub(super) health: Arc<Health>,
    pub(super) feed: Feed,
    /// Where viewers find it.
    pub(super) address: String,
    pub(super) recorded: bool,
}

/// The box.
pub(super) struct Site {
    pub(super) name: String,
    pub(super) streams: Vec<Served>,
    pub(super) events: Arc<Events>,
    pub(super) server: Server,
    panel: Mutex<Panel>,
    sensors: Sensors,
    started: Instant,
    /// Milliseconds from `started` to the main loop's last round.
    alive: AtomicU64,
}

impl Site {
    /// A box that has just been switched on: it covers until its networks have proved themselves.
    pub(super) fn new(
        name: &str,
        streams: Vec<Served>,
        events: Arc<Events>,
        server: Server,
        sensors: Sensors,
        now: Instant,
    ) -> Self {
        Self {
            name: name.into(),
            streams,
            events,
            server,
            panel: Mutex::new(Panel::new(Rules::default())),
            sensors,
            started: now,
            alive: AtomicU64::new(0),
        }
    }

    pub(super) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// The panel's clock: since the program's start, never a wall clock.
    fn moment(&self, now: Instant) -> board::Instant {
        let milliseconds = self.uptime(now).as_millis();
        board::Instant::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
    }

    fn panel(&self) -> MutexGuard<'_, Panel> {
        self.panel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The privacy state, and what the next frame may look like.
    pub(super) fn privacy(&self) -> (State, View) {
        let panel = self.panel();
        (panel.state(), panel.view())
    }

    /// One round of the main loop.
    pub(super) fn round(&self, now: Instant) {
        let alive = u64::try_from(self.uptime(now).as_millis()).unwrap_or(u64::MAX);
        self.alive.store(alive, Ordering::Relaxed);
        let waiting = self.privacy().0 == State::Covering;
        // An element that is ready to work has admitted its networks by their golden values.
        if waiting
            && self
                .streams
                .iter()
                .any(|stream| stream.health.snapshot().is_some())
        {
            self.event(Event::Ready, now);
        }
        self.panel().advance(self.moment(now));
        self.apply();
    }

    /// A press of the button, wherever the button is.
    pub(super) fn press(&self, press: Press, now: Instant) {
        self.event(Event::Press(press), now);
        self.apply();
    }

    /// Clears a fault; everything is proved anew.
    pub(super) fn reset(&self, now: Instant) {
        self.event(Event::Reset, now);
        self.apply();
    }

    fn event(&self, event: Event, now: Instant) {
        let (before, after) = {
            let mut panel = self.panel();
            let before = panel.state();
            panel.event(event, self.moment(now));
            (before, panel.state())
        };
        if before != after {
            self.events.note("box", format!("{after}"));
        }
    }

    /// Lets every stream show what the panel allows.
    fn apply(&self) {
        let view = self.privacy().1;
        for stream in &self.streams {
            stream.health.show(view);
        }
    }

    /// Whether the main loop still turns.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        let last = Duration::from_millis(self.alive.load(Ordering::Relaxed));
        self.uptime(now).saturating_sub(last) < STALLED
    }

    /// The streams that give no picture, and why; empty when the box does all of its work.
    pub(super) fn unready(&self) -> Vec<(&str, Lost)> {
        let lost = |stream: &'_ Served| stream.health.camera().0;
        self.streams
            .iter()
            .filter_map(|stream| Some((stream.health.name(), lost(stream)?)))
            .collect()
    }

    /// Temperatures and load of the machine.
    pub(super) fn readings(&self) -> Readings {
        self.sensors.read()
    }
}
