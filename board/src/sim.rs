use core::{convert::Infallible, fmt};

use heapless::Deque;

use crate::{Board, Input, Instant};

/// How many inputs a simulated board keeps until they are taken.
pub const QUEUE: usize = 64;

/// A board without hardware: a test or a web page moves the contacts and reads lamp and relay back.
#[derive(Debug, Clone, Default)]
pub struct Sim {
    inputs: Deque<(Input, Instant), QUEUE>,
    /// Level of the lamp; `None` before it was first set.
    pub lamp: Option<bool>,
    /// Level of the relay; `None` before it was first set.
    pub relay: Option<bool>,
}

/// The queue of a simulated board is full; the input was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full(pub Input);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(input) = self;
        write!(
            f,
            "the simulated board already holds {QUEUE} inputs; {input:?} was dropped"
        )
    }
}

impl core::error::Error for Full {}

impl Sim {
    /// Moves a contact at `at`, no earlier than the ones before.
    ///
    /// # Errors
    /// [`Full`] when [`QUEUE`] inputs wait.
    pub fn send(&mut self, input: Input, at: Instant) -> Result<(), Full> {
        self.inputs.push_back((input, at)).map_err(|_| Full(input))
    }
}

impl Board for Sim {
    type Error = Infallible;

    fn poll(&mut self, now: Instant) -> Result<Option<(Input, Instant)>, Infallible> {
        let due = self.inputs.front().is_some_and(|(_, at)| *at <= now);
        Ok(due.then(|| self.inputs.pop_front()).flatten())
    }

    fn lamp(&mut self, lit: bool) -> Result<(), Infallible> {
        self.lamp = Some(lit);
        Ok(())
    }

    fn relay(&mut self, energised: bool) -> Result<(), Infallible> {
        self.relay = Some(energised);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(10);
    const PRESSED: Input = Input::Button { pressed: true };
    const RELEASED: Input = Input::Button { pressed: false };

    #[test]
    fn inputs_come_out_in_order_and_not_before_their_time() {
        let mut board = Sim::default();
        board.send(PRESSED, NOW).unwrap();
        board.send(RELEASED, Instant::from_millis(20)).unwrap();
        assert_eq!(board.poll(Instant::from_millis(9)), Ok(None));
        assert_eq!(board.poll(NOW), Ok(Some((PRESSED, NOW))));
        assert_eq!(board.poll(NOW), Ok(None));
        let late = Instant::from_millis(20);
        assert_eq!(board.poll(Instant::from_secs(1)), Ok(Some((RELEASED, late))));
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has() {
        let mut board = Sim::default();
        for _ in 0..QUEUE {
            board.send(PRESSED, NOW).unwrap();
        }
        assert_eq!(board.send(RELEASED, NOW), Err(Full(RELEASED)));
        for _ in 0..QUEUE {
            assert_eq!(board.poll(NOW), Ok(Some((PRESSED, NOW))));
        }
        assert_eq!(board.poll(NOW), Ok(None));
    }

    #[test]
    fn what_is_set_can_be_read_back() {
        let mut board = Sim::default();
        assert_eq!((board.lamp, board.relay), (None, None));
        board.lamp(true).unwrap();
        board.relay(false).unwrap();
        assert_eq!((board.lamp, board.relay), (Some(true), Some(false)));
    }
}
