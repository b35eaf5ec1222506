use core::fmt;

use heapless::Deque;

use crate::{Event, Instant, Rung, State, View};

/// How many records wait at most to be read.
pub const RECORDS: usize = 64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An event, or mere time (`None`), and what it did to the state. An event that changes nothing is traced too.
    Step {
        /// The event.
        event: Option<Event>,
        /// State before.
        from: State,
        /// State after.
        to: State,
    },
    /// The picture changed.
    View {
        /// What it was.
        from: View,
        /// What it is now.
        to: View,
        /// Whether it is so only because somebody has pressed the button and what it means is not known yet.
        pressed: bool,
    },
    /// The pipeline was given another amount of work.
    Load {
        /// What it was.
        from: Rung,
        /// What it is now.
        to: Rung,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { event, from, to } if from == to => match event {
                Some(event) => write!(f, "{event}: state stays {from}"),
                None => write!(f, "state stays {from}"),
            },
            Self::Step { event, from, to } => match event {
                Some(event) => write!(f, "{event}: state {from} -> {to}"),
                None => write!(f, "time is up: state {from} -> {to}"),
            },
            Self::View {
                from,
                to,
                pressed: false,
            } => write!(f, "picture {from} -> {to}"),
            Self::View { from, to, .. } => write!(f, "button pressed: picture {from} -> {to}"),
            Self::Load { from, to } => write!(f, "load {from} -> {to}"),
        }
    }
}

/// Something that happened, once or several times in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it happened first.
    pub at: Instant,
    /// What.
    pub what: What,
    /// How often in a row.
    pub times: u32,
}

/// What happened and has not been read yet, oldest first.
///
/// A record stays until it is read: when [`RECORDS`] wait, newer ones are counted and dropped, because the cause of
/// what follows is among the first.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    records: Deque<Record, RECORDS>,
    lost: u32,
}

impl Trace {
    /// Adds a record; one that repeats the latest unread one is counted there.
    pub fn push(&mut self, at: Instant, what: What) {
        if let Some(latest) = self.records.back_mut()
            && latest.what == what
        {
            latest.times = latest.times.saturating_add(1);
        } else if self.records.push_back(Record { at, what, times: 1 }).is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Reads the oldest record.
    pub fn take(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    /// How many records were dropped since this was last asked.
    pub fn take_lost(&mut self) -> u32 {
        core::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::{Cause, Press};

    fn step(event: Event) -> What {
        What::Step {
            event: Some(event),
            from: State::Anonymizing,
            to: State::Anonymizing,
        }
    }

    #[test]
    fn records_survive_until_they_are_read() {
        let mut trace = Trace::default();
        let events = [Event::Ready, Event::Reset];
        for i in 0..RECORDS {
            trace.push(Instant::from_secs(i as u64), step(events[i % 2]));
        }
        for _ in 0..5 {
            trace.push(Instant::from_secs(100), step(Event::Press(Press::Short)));
        }
        for i in 0..RECORDS {
            let record = trace.take().unwrap();
            let wanted = (Instant::from_secs(i as u64), step(events[i % 2]), 1);
            assert_eq!((record.at, record.what, record.times), wanted);
        }
        assert_eq!(trace.take(), None);
        assert_eq!((trace.take_lost(), trace.take_lost()), (5, 0));
    }

    #[test]
    fn what_repeats_is_counted() {
        let mut trace = Trace::default();
        for i in 0..1000 {
            trace.push(Instant::from_secs(i), step(Event::Press(Press::Long)));
        }
        let record = trace.take().unwrap();
        assert_eq!((record.at, record.times), (Instant::from_secs(0), 1000));
        assert_eq!((trace.take(), trace.take_lost()), (None, 0));
    }

    #[test]
    fn a_record_says_what_and_why() {
        for (what, wanted) in [
            (
                What::Step {
                    event: Some(Event::Fault(Cause::Tamper)),
                    from: State::Anonymizing,
                    to: State::Fault,
                },
                "fault: the housing was opened: state anonymizing -> fault",
            ),
            (
                step(Event::Ready),
                "every network has passed its check: state stays anonymizing",
            ),
            (
                What::View {
                    from: View::Anonymized,
                    to: View::Covered,
                    pressed: true,
                },
                "button pressed: picture anonymized -> covered",
            ),
        ] {
            assert_eq!(what.to_string(), wanted);
        }
    }
}
