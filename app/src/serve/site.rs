//! The box as its page, its metrics and its panel see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use board::sensors::{Readings, Sensors};
use board::{Press, State};
use gstreamer as gst;

use super::config::Config;
use super::report::{self, Figures, Report};
use super::status::Count;
use super::status::{Events, Health, Lost};
use crate::panel::{Panel, Request};
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
    streams: RwLock<Vec<Arc<Served>>>,
    /// The configuration's text, for the support bundle.
    config: Mutex<String>,
    /// Configurations taken over, and not.
    reloads: [AtomicU64; 2],
    pub(super) events: Arc<Events>,
    pub(super) server: Server,
    pub(super) panel: Arc<Panel>,
    /// The privacy state of the latest round.
    state: Mutex<State>,
    sensors: Sensors,
    report: Mutex<Report>,
    /// Whether the report's latest file could not be written.
    report_stopped: AtomicBool,
    started: Instant,
    /// Milliseconds from `started` to the main loop's last round.
    alive: AtomicU64,
}

impl Site {
    /// A box that has just been switched on.
    pub(super) fn new(
        config: &Config,
        text: String,
        events: Arc<Events>,
        server: Server,
        panel: Arc<Panel>,
        sensors: Sensors,
        now: Instant,
    ) -> Self {
        Self {
            name: config.site.clone(),
            streams: RwLock::default(),
            config: Mutex::new(text),
            reloads: Default::default(),
            events,
            server,
            panel,
            state: Mutex::default(),
            sensors,
            report: Mutex::new(Report::new(
                config.report.folder.clone(),
                config.report.keep as usize,
                &config.site,
            )),
            report_stopped: AtomicBool::new(false),
            started: now,
            alive: AtomicU64::new(0),
        }
    }

    /// The streams, in the order of the configuration.
    pub(super) fn streams(&self) -> Vec<Arc<Served>> {
        self.streams
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes over the streams of a configuration, and its text.
    pub(super) fn set_streams(&self, streams: Vec<Arc<Served>>, text: String) {
        *self.streams.write().unwrap_or_else(PoisonError::into_inner) = streams;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// The configuration's text.
    pub(super) fn config(&self) -> String {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A changed configuration has been taken over, or not.
    pub(super) fn reloaded(&self, taken: bool) {
        self.reloads[usize::from(!taken)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many changed configurations have been taken over, and how many have not.
    pub(super) fn reloads(&self) -> [u64; 2] {
        self.reloads.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// The privacy state.
    pub(super) fn state(&self) -> State {
        self.panel.status().state
    }

    /// One round of the main loop.
    pub(super) fn round(&self, now: Instant) {
        let alive = u64::try_from(self.uptime(now).as_millis()).unwrap_or(u64::MAX);
        self.alive.store(alive, Ordering::Relaxed);
        let slates = |stream: &Arc<Served>| stream.health.counted(Count::Slates);
        self.panel.set_slates(self.streams().iter().map(slates).sum());
        let state = self.state();
        let before = std::mem::replace(
            &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner),
            state,
        );
        if before != state {
            self.events.note("box", state.to_string());
        }
        let mut report = self.report();
        if report.is_due(now) {
            self.look(&mut report, now);
        }
    }

    /// The last round: what was counted is written down.
    pub(super) fn finish(&self) {
        let mut report = self.report();
        self.look(&mut report, Instant::now());
        self.reported(report.write());
    }

    /// The daily privacy report.
    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the report's latest file could not be written.
    pub(super) fn report_stopped(&self) -> bool {
        self.report_stopped.load(Ordering::Relaxed)
    }

    fn look(&self, report: &mut Report, now: Instant) {
        let date = gst::glib::DateTime::now_local().and_then(|now| now.format("%Y-%m-%d"));
        // Without a date there is no day to count to; the counters go on.
        let Ok(date) = date else { return };
        let streams = self.streams();
        let figures = streams
            .iter()
            .map(|stream| (stream.health.name(), Figures::of(&stream.health)));
        self.reported(report.look(now, &date, figures));
    }

    /// Says once that the report cannot be kept.
    fn reported(&self, result: Result<(), report::Error>) {
        let stopped = self.report_stopped.swap(result.is_err(), Ordering::Relaxed);
        if let Err(error) = result
            && !stopped
        {
            self.events.note("box", format!("privacy report: {error}"));
        }
    }

    /// A press of the button that was made elsewhere.
    pub(super) fn press(&self, press: Press) {
        self.panel.request(Request::Press(press));
    }

    /// Clears a fault; everything is proved anew.
    pub(super) fn reset(&self) {
        self.panel.request(Request::Reset);
    }

    /// Whether the main loop still turns.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        let last = Duration::from_millis(self.alive.load(Ordering::Relaxed));
        self.uptime(now).saturating_sub(last) < STALLED
    }

    /// The streams that give no picture, and why; empty when the box does all of its work.
    pub(super) fn unready(&self) -> Vec<(String, Lost)> {
        let lost = |stream: Arc<Served>| Some((stream.health.name().to_owned(), stream.health.camera().0?));
        self.streams().into_iter().filter_map(lost).collect()
    }

    /// Temperatures and load of the machine.
    pub(super) fn readings(&self) -> Readings {
        self.sensors.read()
    }
}
