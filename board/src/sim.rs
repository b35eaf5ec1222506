use core::{convert::Infallible, fmt};

use crate::{Board, Event, State};

/// How many events a simulated panel keeps until they are taken.
pub const QUEUE: usize = 8;

/// A panel without hardware: a test or a web page sends the events and reads back what is shown.
#[derive(Debug, Clone, Default)]
pub struct Sim {
    queue: [Option<Event>; QUEUE],
    shown: Option<State>,
}

/// The queue of a simulated panel is full; the event was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full(pub Event);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the simulated panel already holds {QUEUE} events; {:?} was dropped",
            self.0
        )
    }
}

impl core::error::Error for Full {}

impl Sim {
    /// Adds an event behind those not yet taken.
    ///
    /// # Errors
    /// [`Full`] when [`QUEUE`] events wait.
    pub fn send(&mut self, event: Event) -> Result<(), Full> {
        match self.queue.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(event);
                Ok(())
            }
            None => Err(Full(event)),
        }
    }

    /// What was shown last; `None` before the first time.
    pub fn shown(&self) -> Option<State> {
        self.shown
    }
}

impl Board for Sim {
    type Error = Infallible;

    fn poll(&mut self) -> Result<Option<Event>, Infallible> {
        let event = self.queue[0].take();
        self.queue.rotate_left(1);
        Ok(event)
    }

    fn show(&mut self, state: State) -> Result<(), Infallible> {
        self.shown = Some(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Press;

    #[test]
    fn events_come_out_in_the_order_they_went_in() {
        let mut board = Sim::default();
        assert_eq!(board.poll(), Ok(None));
        for _ in 0..3 {
            board.send(Event::Ready).unwrap();
            board.send(Event::Press(Press::Short)).unwrap();
            assert_eq!(board.poll(), Ok(Some(Event::Ready)));
            board.send(Event::Fault).unwrap();
            assert_eq!(board.poll(), Ok(Some(Event::Press(Press::Short))));
            assert_eq!(board.poll(), Ok(Some(Event::Fault)));
            assert_eq!(board.poll(), Ok(None));
        }
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has() {
        let mut board = Sim::default();
        for _ in 0..QUEUE {
            board.send(Event::Ready).unwrap();
        }
        assert_eq!(board.send(Event::Fault), Err(Full(Event::Fault)));
        for _ in 0..QUEUE {
            assert_eq!(board.poll(), Ok(Some(Event::Ready)));
        }
        assert_eq!(board.poll(), Ok(None));
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let mut board = Sim::default();
        assert_eq!(board.shown(), None);
        board.show(State::Fault).unwrap();
        assert_eq!(board.shown(), Some(State::Fault));
    }
}
