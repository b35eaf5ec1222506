//! Tries the wiring of a front panel, without cameras and networks: `panel [auto | BOARD | FILE.toml]`.
//!
//! The button works as in the program, the lamp shows the state, and every decision is printed. The panel is told
//! that the networks are ready after 6 s. Ctrl-C ends it; the lamp then stands still, as with any program that dies.

use std::{convert::Infallible, error::Error, path::Path, process::ExitCode, thread, time::Duration};

use board::{Event, Instant, Panel, Rules, State, boards::Profile};
use rustix::time::{ClockId, clock_gettime};

/// The kernel's clock for edges.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_micros(time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000)
}

fn main() -> ExitCode {
    let Err(error) = run();
    eprintln!("panel: {error}");
    ExitCode::FAILURE
}

fn run() -> Result<Infallible, Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "auto".into());
    let profile = match name.as_str() {
        "auto" => Profile::detect(Path::new("/proc/device-tree"))?,
        name => Profile::named(name)?,
    };
    println!("{}", profile.name);
    for (role, line) in profile.lines() {
        println!("{role}: {line} of {}", line.chip);
    }
    let mut board = profile.open()?;
    let mut panel = Panel::new(Rules::default());
    let ready = now() + board::Duration::from_secs(6);
    let (mut lamp, mut relay) = (None, None);
    loop {
        let now = now();
        while let Some((input, at)) = board.poll(now)? {
            panel.input(input, at);
        }
        if now >= ready && panel.state() == State::Covering {
            panel.event(Event::Ready, now);
        }
        panel.advance(now);
        while let Some(record) = panel.trace().take() {
            println!("{:8.3} s  {}", record.at.as_millis() as f64 / 1e3, record.what);
        }
        let (lit, energised) = (panel.lamp(now), panel.relay());
        if lamp.replace(lit) != Some(lit) {
            board.lamp(lit)?;
        }
        if relay.replace(energised) != Some(energised) {
            board.relay(energised)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
