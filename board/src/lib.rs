//! Front panel and privacy state: what may be shown, and how the box says so.
//!
//! [`State`] is the only owner of the answer to "may this be shown". It knows no pixels, no clock and no pin: the
//! program hands in [`Event`]s and the time, asks [`State::view`] what the next frame may be, and passes the state to a
//! [`Board`], which has the button and the lamp.
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
//! The package is `no_std` and allocates nothing, so that the same logic runs in a test, in the program and on a
//! microcontroller.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod sim;
mod state;

pub use sim::{Full, QUEUE, Sim};
pub use state::{Event, Instant, LONGEST_BYPASS, Press, Rules, State, TooLong, View};

/// A front panel: where events come from and where the state is shown.
pub trait Board {
    /// Why the panel cannot be read or set.
    type Error;

    /// The oldest event not yet taken, if any. Does not wait.
    ///
    /// # Errors
    /// The panel's own error. The caller must treat it as [`Event::Fault`]: a button that cannot be read may have
    /// been pressed.
    fn poll(&mut self) -> Result<Option<Event>, Self::Error>;

    /// Shows the state to whoever stands in front of the box.
    ///
    /// # Errors
    /// The panel's own error. The caller must treat it as [`Event::Fault`]: a lamp that does not tell the truth is
    /// worse than none.
    fn show(&mut self, state: State) -> Result<(), Self::Error>;
}
