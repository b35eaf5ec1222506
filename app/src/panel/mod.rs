//! The front panel at work: contacts, sensors and the pipeline's health in; what may be shown, lamp and watchdog out.
//!
//! One thread looks every 5 ms. From the debounced edge of the button to the first covered frame that leaves the
//! element it takes the debounce time (20 ms), one look, and the frame in work. Everything that is decided is logged
//! with its reason, under the target `persona::panel`.
//!
//! * Elements show nothing but covered frames from [`Panel::attach`] until the networks have passed their check.
//! * When the thread ends, in order or not, the elements cover, and the lamp goes off.
//! * The watchdogs (systemd's, and the hardware's if asked for) are fed only while frames leave and the state is
//!   sound. While no element runs, because every camera is gone, none is expected.
//! * There is no bypass: nothing in the program can show a raw picture, so the panel is given no rule that allows one.

mod signals;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use board::boards::{self, Profile};
use board::sensors::Sensors;
use board::watchdog::Watchdog;
use board::{Board, Cause, Event, Instant, Ladder, Limits, Load, Press, Pulse, Rules, Rung, State, View};
use clap::Args;
use gstreamer::glib::WeakRef;
use gstreamer::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use sd_notify::NotifyState;

use crate::element::Persona;
use crate::pipeline::Vitals;
use signals::Signals;

/// How often the contacts are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How often sensors are read and watchdogs are fed.
const CARE: board::Duration = board::Duration::from_secs(1);

/// The front panel, on the command line.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "front-panel")]
pub struct Options {
    /// Button and lamp: auto (told from the device tree), the name of a board, a board file, "signals" or "none"
    ///
    /// Boards: orin-nano, orin-nx, agx-orin, xavier-nx, thor, raspberry-pi, emulated. With "signals", SIGUSR1 presses
    /// the button and SIGUSR2 releases it, for a machine without one. With "none" there is only what else the panel
    /// does: covering until the networks have passed their check, watchdogs, and less work when it is hot.
    #[arg(long, value_name = "BOARD")]
    pub board: Option<String>,

    /// Feed this hardware watchdog, /dev/watchdog0 say, while frames flow: if they stop, the machine is reset
    #[arg(long, value_name = "DEVICE")]
    pub watchdog: Option<PathBuf>,
}

/// Why a front panel cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The board or the watchdog.
    #[error(transparent)]
    Board(#[from] board::Error),
    /// Signals cannot be watched.
    #[error("the signals that stand for the button cannot be watched: {0}")]
    Signals(std::io::Error),
    /// The system gives no thread.
    #[error("the front panel's thread cannot be started: {0}; is a limit on processes set?")]
    Thread(std::io::Error),
}

/// What the panel has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The privacy state.
    pub state: State,
    /// What may be shown.
    pub view: View,
    /// How much work the pipeline is given.
    pub rung: Rung,
    /// The hottest sensor, thousandths of a degree Celsius.
    pub hottest: Option<i32>,
}

/// What the thread shares with whoever attaches elements and asks.
struct Shared {
    elements: Mutex<Vec<WeakRef<Persona>>>,
    status: Mutex<Status>,
    /// What was asked for elsewhere than at the box.
    requests: Mutex<Vec<Request>>,
    /// Frames that left without an element: slates.
    slates: AtomicU64,
    stop: AtomicBool,
}

/// What can be asked for elsewhere than at the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A gesture of the button.
    Press(Press),
    /// The cause of a fault was removed.
    Reset,
}

/// Requests that wait for the next look; more are dropped.
const REQUESTS: usize = 8;

impl Shared {
    fn elements(&self) -> Vec<Persona> {
        let mut elements = lock(&self.elements);
        elements.retain(|element| element.upgrade().is_some());
        elements.iter().filter_map(WeakRef::upgrade).collect()
    }

    /// Under the lock of the status, so that an element that is being attached gets the present view too.
    fn show(&self, view: View) {
        let mut status = lock(&self.status);
        status.view = view;
        for element in self.elements() {
            element.set_view(view);
        }
    }
}

/// Locks; what the lock protects is valid at every moment, so that a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A front panel at work. When it is dropped, the elements cover and the lamp goes off.
pub struct Panel {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Panel {
    /// The panel that the options ask for; `None` when they ask for none.
    ///
    /// # Errors
    /// [`Error`] names the board, the line or the device.
    pub fn open(options: &Options) -> Result<Option<Self>, Error> {
        let watchdog = |path: &PathBuf| Watchdog::open(path, Path::new("/sys"));
        let sensors = || Sensors::find(Path::new("/sys"), Path::new("/proc"));
        // The watchdog comes last: one that is open bites.
        let watchdog = || options.watchdog.as_ref().map(watchdog).transpose();
        let panel = match options.board.as_deref() {
            None if options.watchdog.is_none() => return Ok(None),
            None | Some("none") => Self::start(board::Sim::default(), sensors(), watchdog()?),
            Some("signals") => {
                let signals = Signals::watch().map_err(Error::Signals)?;
                Self::start(signals, sensors(), watchdog()?)
            }
            Some(name) => {
                let profile = match name {
                    "auto" => Profile::detect(Path::new("/proc/device-tree")),
                    name => Profile::named(name),
                }?;
                let lines = profile.open()?;
                log::info!("front panel of {}", profile.name);
                Self::start(Opened(lines), sensors(), watchdog()?)
            }
        };
        panel.map(Some)
    }

    /// Starts the panel on a board that is open.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(
        board: impl Board + Send + 'static,
        sensors: Sensors,
        watchdog: Option<Watchdog>,
    ) -> Result<Self, Error> {
        let panel = board::Panel::new(Rules::default());
        let shared = Arc::new(Shared {
            elements: Mutex::default(),
            status: Mutex::new(Status {
                state: panel.state(),
                view: panel.view(),
                rung: Rung::default(),
                hottest: None,
            }),
            requests: Mutex::default(),
            slates: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let now = now();
        let task = Task {
            panel,
            board,
            sensors,
            watchdog,
            ladder: Ladder::new(Limits::default()),
            pulse: Pulse::new(now),
            shared: shared.clone(),
            lamp: None,
            relay: None,
            ready: false,
            fault: None,
            cared: None,
            rung: Rung::default(),
            vitals: Vitals::default(),
        };
        let thread = std::thread::Builder::new()
            .name("panel".into())
            .spawn(move || task.run())
            .map_err(Error::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Puts an element under the panel, before it is started: from now on it shows what the panel allows.
    pub fn attach(&self, element: &Persona) {
        let status = lock(&self.shared.status);
        element.set_view(status.view);
        lock(&self.shared.elements).push(element.downgrade());
    }

    /// Asks for something as if at the box, from a page say; it is decided at the next look.
    pub fn request(&self, request: Request) {
        let mut requests = lock(&self.shared.requests);
        if requests.len() < REQUESTS {
            requests.push(request);
        }
    }

    /// Says how many frames have left so far that did not come out of an element. A box whose cameras are all lost
    /// still works.
    pub fn set_slates(&self, slates: u64) {
        self.shared.slates.store(slates, Ordering::Relaxed);
    }

    /// What the panel has decided.
    pub fn status(&self) -> Status {
        *lock(&self.shared.status)
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the front panel's thread panicked");
        }
    }
}

/// A board whose kind is known only at run time.
struct Opened(Box<dyn Board<Error = board::Error> + Send>);

impl Board for Opened {
    type Error = board::Error;

    fn poll(&mut self, now: Instant) -> Result<Option<(board::Input, Instant)>, board::Error> {
        self.0.poll(now)
    }

    fn lamp(&mut self, lit: bool) -> Result<(), board::Error> {
        self.0.lamp(lit)
    }

    fn relay(&mut self, energised: bool) -> Result<(), board::Error> {
        self.0.relay(energised)
    }
}

/// The kernel's clock for edges of contacts, too.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is ever negative.
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Instant::from_micros(seconds * 1_000_000 + nanoseconds / 1000)
}

/// What the thread owns.
struct Task<B> {
    panel: board::Panel,
    board: B,
    sensors: Sensors,
    watchdog: Option<Watchdog>,
    ladder: Ladder,
    pulse: Pulse,
    shared: Arc<Shared>,
    /// What lamp and relay were last set to.
    lamp: Option<bool>,
    relay: Option<bool>,
    /// Whether the networks are loaded, as far as the panel was told.
    ready: bool,
    /// Why the panel is at fault.
    fault: Option<Cause>,
    /// When sensors and watchdogs were last cared for.
    cared: Option<Instant>,
    rung: Rung,
    /// The elements' numbers at that time, added up.
    vitals: Vitals,
}

/// Covers when the thread ends, however it does.
struct CoverAtEnd(Arc<Shared>);

impl Drop for CoverAtEnd {
    fn drop(&mut self) {
        self.0.show(View::Covered);
    }
}

impl<B: Board> Task<B> {
    fn run(mut self) {
        let _cover = CoverAtEnd(self.shared.clone());
        // Ready is the program, not its cameras, which may come later.
        notify(&[NotifyState::Ready]);
        while !self.shared.stop.load(Ordering::Acquire) {
            self.look(now());
            std::thread::sleep(LOOK);
        }
        notify(&[NotifyState::Stopping]);
        // Nothing is left that a lamp or a watchdog could speak for.
        let _ = self.board.lamp(false);
        let _ = self.board.relay(false);
        if let Some(Err(error)) = self.watchdog.take().map(Watchdog::disarm) {
            log::error!("{error}");
        }
    }

    fn look(&mut self, now: Instant) {
        loop {
            match self.board.poll(now) {
                Ok(Some((input, at))) => self.panel.input(input, at),
                Ok(None) => break,
                Err(error) => {
                    self.fail(Cause::Panel, &error, now);
                    break;
                }
            }
        }
        let requests = std::mem::take(&mut *lock(&self.shared.requests));
        for request in requests {
            match request {
                Request::Press(press) => self.panel.event(Event::Press(press), now),
                Request::Reset if self.fault.is_some() => self.reset(now),
                Request::Reset => (),
            }
        }
        self.panel.advance(now);
        self.hear(now);
        if self
            .cared
            .is_none_or(|cared| now.saturating_duration_since(cared) >= CARE)
        {
            self.cared = Some(now);
            self.care(now);
        }
        self.tell(now);
    }

    /// What the elements say: whether the networks are loaded, and whether a stage has failed.
    fn hear(&mut self, now: Instant) {
        let vitals = self.vitals();
        if vitals.is_some_and(|vitals| vitals.faulty) {
            self.fault(Cause::Pipeline, now);
        } else if self.fault == Some(Cause::Pipeline) {
            // The element that failed was replaced.
            self.reset(now);
        }
        if vitals.is_some() && !self.ready && self.fault.is_none() {
            self.ready = true;
            self.panel.event(Event::Ready, now);
        }
    }

    /// Sensors, load and watchdogs.
    fn care(&mut self, now: Instant) {
        let running = self.vitals();
        let vitals = running.unwrap_or_default();
        let before = std::mem::replace(&mut self.vitals, vitals);
        let faces = vitals.faces.saturating_sub(before.faces).max(1);
        let late = vitals.late.saturating_sub(before.late) * 1000 / faces;
        let readings = self.sensors.read();
        let load = Load {
            hottest: readings.hottest(),
            late: u16::try_from(late).unwrap_or(u16::MAX),
            throttled: readings.throttled,
        };
        let rung = self.ladder.next(load, now);
        if rung != self.rung {
            self.panel.shed(self.rung, rung, now);
            self.rung = rung;
        }
        // An element that was attached since has not heard of it.
        for element in self.shared.elements() {
            element.set_rung(rung);
        }
        if self.ladder.is_critical(load) {
            self.fault(Cause::Heat, now);
        } else if self.fault == Some(Cause::Heat) && self.ladder.is_cool(load) {
            self.reset(now);
        }
        let slates = self.shared.slates.load(Ordering::Relaxed);
        let frames = running.map(|vitals| vitals.frames.wrapping_add(slates));
        if self.pulse.is_sound(frames, self.panel.state(), now) {
            notify(&[NotifyState::Watchdog]);
            if let Some(Err(error)) = self.watchdog.as_mut().map(Watchdog::feed) {
                log::error!("{error}");
            }
        }
        let mut status = lock(&self.shared.status);
        (status.rung, status.hottest) = (rung, load.hottest);
    }

    /// Tells elements, lamp, relay, log and systemd what was decided.
    fn tell(&mut self, now: Instant) {
        let view = self.panel.view();
        if view != lock(&self.shared.status).view {
            self.shared.show(view);
        }
        let (lit, energised) = (self.panel.lamp(now), self.panel.relay());
        if self.lamp != Some(lit) {
            match self.board.lamp(lit) {
                Ok(()) => self.lamp = Some(lit),
                Err(error) => self.fail(Cause::Panel, &error, now),
            }
        }
        if self.relay != Some(energised) {
            match self.board.relay(energised) {
                Ok(()) => self.relay = Some(energised),
                Err(error) => self.fail(Cause::Panel, &error, now),
            }
        }
        let state = self.panel.state();
        let mut changed = false;
        while let Some(record) = self.panel.trace().take() {
            changed = true;
            if record.times > 1 {
                log::info!("{}, {} times", record.what, record.times);
            } else {
                log::info!("{}", record.what);
            }
        }
        let lost = self.panel.trace().take_lost();
        if lost > 0 {
            log::warn!("{lost} more records of the panel were lost");
        }
        if changed {
            notify(&[NotifyState::Status(&state.to_string())]);
        }
        lock(&self.shared.status).state = state;
    }

    /// The elements' numbers, added up; `None` while none has its networks loaded.
    fn vitals(&self) -> Option<Vitals> {
        let elements = self.shared.elements();
        elements
            .iter()
            .filter_map(Persona::vitals)
            .reduce(|sum, vitals| Vitals {
                frames: sum.frames + vitals.frames,
                faces: sum.faces + vitals.faces,
                late: sum.late + vitals.late,
                faulty: sum.faulty || vitals.faulty,
            })
    }

    /// The front panel cannot be read or set.
    fn fail(&mut self, cause: Cause, error: &dyn std::error::Error, now: Instant) {
        if self.fault != Some(cause) {
            log::error!("{error}");
        }
        self.fault(cause, now);
    }

    fn fault(&mut self, cause: Cause, now: Instant) {
        // The first cause stays: what follows from it changes nothing.
        if self.fault.is_none() {
            self.fault = Some(cause);
            self.panel.event(Event::Fault(cause), now);
        }
    }

    /// The cause of the fault is gone; everything is checked again.
    fn reset(&mut self, now: Instant) {
        self.fault = None;
        self.ready = false;
        self.panel.event(Event::Reset, now);
    }
}

/// Tells systemd, when it has started this program.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("systemd cannot be told: {error}");
    }
}

/// The boards that [`Options::board`] takes by name.
pub fn boards() -> impl Iterator<Item = &'static str> {
    boards::names()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_panel_is_no_error_and_a_wrong_one_is_named() {
        assert!(Panel::open(&Options::default()).unwrap().is_none());
        let options = Options {
            board: Some("orin".into()),
            watchdog: None,
        };
        let Err(error) = Panel::open(&options) else {
            panic!("opened a board that does not exist");
        };
        assert!(error.to_string().starts_with("orin: no such board"), "{error}");
    }

    #[test]
    fn the_help_names_every_board() {
        use clap::Command;
        let command = Options::augment_args(Command::new("test"));
        let help = command
            .get_arguments()
            .find_map(|argument| argument.get_long_help().filter(|_| argument.get_id() == "board"))
            .unwrap()
            .to_string();
        for name in boards() {
            assert!(help.contains(name), "{name} in {help}");
        }
    }

    #[test]
    fn the_clock_is_that_of_the_kernel_and_goes_on() {
        let first = now();
        std::thread::sleep(Duration::from_millis(2));
        let passed = now().saturating_duration_since(first);
        assert!(passed >= board::Duration::from_millis(2), "{passed:?}");
    }
}
