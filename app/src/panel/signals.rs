//! A button made of two signals, for machines without one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use board::{Board, Input, Instant};
use signal_hook::consts::{SIGUSR1, SIGUSR2};

/// SIGUSR1 presses the button, SIGUSR2 releases it. There is no lamp: the log says what it would say.
pub(super) struct Signals {
    pressed: Arc<AtomicBool>,
    released: Arc<AtomicBool>,
}

impl Signals {
    pub(super) fn watch() -> std::io::Result<Self> {
        let signals = Self {
            pressed: Arc::default(),
            released: Arc::default(),
        };
        signal_hook::flag::register(SIGUSR1, signals.pressed.clone())?;
        signal_hook::flag::register(SIGUSR2, signals.released.clone())?;
        Ok(signals)
    }
}

impl Board for Signals {
    type Error = Infallible;

    fn poll(&mut self, now: Instant) -> Result<Option<(Input, Instant)>, Infallible> {
        for (signal, pressed) in [(&self.pressed, true), (&self.released, false)] {
            if signal.swap(false, Ordering::Relaxed) {
                return Ok(Some((Input::Button { pressed }, now)));
            }
        }
        Ok(None)
    }

    fn lamp(&mut self, _lit: bool) -> Result<(), Infallible> {
        Ok(())
    }

    fn relay(&mut self, _energised: bool) -> Result<(), Infallible> {
        Ok(())
    }
}
