//! Front panel and privacy state: what may be shown, and how the box says so.
//!
//! [`Panel`] is the only owner of the answer to "may this be shown". It knows no pixels, no clock and no pin: the
//! program hands in the levels of the contacts ([`Input`]), [`Event`]s and the time, asks [`Panel::view`] what the next
//! frame may be, and sets lamp and relay of a [`Board`].
//!
//! ```text
//!                Ready                 short press
//! power-on ─► Covering ─► Anonymizing ◄───────────► CoveringOnRequest
//!                             │  ▲
//!     long press, if allowed  ▼  │  any press, or the time limit
//!                            Bypass
//! double press: to and from Shuttered.     Fault: from everywhere, left only through Reset to Covering.
//! ```
//!
//! | state | lamp |
//! |---|---|
//! | `Anonymizing` | lit, with a wink every 2 s |
//! | `Covering` (power-on) | half a second lit, half a second dark |
//! | `CoveringOnRequest` | one flash every 2 s |
//! | `Shuttered` | two flashes every 2 s |
//! | `Fault` | three flashes every 2 s |
//! | `Bypass` | flashes without a pause |
//! | program dead | stands still, lit or dark |
//!
//! The logic is `no_std` and allocates nothing, so that it runs in a test, in the program and on a microcontroller.
//! Times are `embassy-time`'s types and always arguments. The feature `std` adds what a Linux box has ([`boards`],
//! [`sensors`], [`watchdog`]), `gpio` and `pi` the real pins.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(feature = "std")]
pub mod boards;
mod button;
#[cfg(feature = "gpio")]
pub mod cdev;
#[cfg(feature = "std")]
mod error;
mod ladder;
mod lamp;
mod panel;
#[cfg(feature = "pi")]
pub mod pi;
mod pulse;
#[cfg(feature = "std")]
pub mod sensors;
mod sim;
mod state;
mod trace;
#[cfg(feature = "std")]
pub mod watchdog;

pub use button::{Button, DEBOUNCE, Debounce, GAP, LONG};
pub use embassy_time::{Duration, Instant};
#[cfg(feature = "std")]
pub use error::Error;
pub use ladder::{Ladder, Limits, Load, Rung};
pub use lamp::{Pattern, STILL};
pub use panel::Panel;
pub use pulse::{Pulse, SILENCE, START};
pub use sim::{Full, QUEUE, Sim};
pub use state::{Cause, Event, LONGEST_BYPASS, Press, Rules, State, TooLong, View};
pub use trace::{RECORDS, Record, Trace, What};

/// A level at a contact of the front panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The button.
    Button {
        /// Whether it is pressed.
        pressed: bool,
    },
    /// The tamper switch.
    Tamper {
        /// Whether the housing is open.
        open: bool,
    },
}

/// A front panel: where levels come from and where the state is shown.
pub trait Board {
    /// Why the panel cannot be read or set.
    type Error: core::error::Error;

    /// The oldest change of a contact not yet taken, with its time, if any by `now`. Does not wait.
    ///
    /// # Errors
    /// The board's own error. The caller must treat it as [`Cause::Panel`]: a button that cannot be read may have
    /// been pressed.
    fn poll(&mut self, now: Instant) -> Result<Option<(Input, Instant)>, Self::Error>;

    /// Lights the lamp or not.
    ///
    /// # Errors
    /// The board's own error. The caller must treat it as [`Cause::Panel`]: a lamp that does not tell the truth is
    /// worse than none.
    fn lamp(&mut self, lit: bool) -> Result<(), Self::Error>;

    /// Energises the relay or not; does nothing on a board without one.
    ///
    /// # Errors
    /// As [`Board::lamp`].
    fn relay(&mut self, energised: bool) -> Result<(), Self::Error>;
}
