//! Lines of the Linux GPIO character device, found by the label of their chip and their name.

use std::{
    path::PathBuf,
    string::{String, ToString},
    vec::Vec,
};

use gpiocdev::{
    Request, chip,
    line::{Bias, EdgeDetection, EdgeKind, Offset, Value},
};

use crate::{
    Board, Error, Input, Instant,
    boards::{Line, Profile, Role},
};

/// Who holds the lines, as `gpioinfo` shows it.
const CONSUMER: &str = "persona";

/// A contact that is read: its changes come from the kernel with their times.
struct Contact {
    role: Role,
    request: Request,
    offset: Offset,
    /// The level that was last reported.
    active: Option<bool>,
}

/// An output.
struct Output {
    role: Role,
    request: Request,
    offset: Offset,
}

/// The front panel on GPIO lines. When it is dropped, lamp and relay go off; the kernel frees the lines of a program
/// that dies but leaves their levels, which is why no lamp pattern stands still.
pub struct Cdev {
    board: String,
    contacts: Vec<Contact>,
    lamp: Option<Output>,
    relay: Option<Output>,
}

/// A line that exists and is free.
struct Free {
    chip: PathBuf,
    offset: Offset,
}

impl Cdev {
    /// Opens the lines of a board.
    ///
    /// # Errors
    /// [`Error::NoChip`], [`Error::LineMissing`], [`Error::LineBusy`] and [`Error::Line`] name the line.
    pub fn open(profile: &Profile) -> Result<Self, Error> {
        let mut board = Self {
            board: profile.name.clone(),
            contacts: Vec::new(),
            lamp: None,
            relay: None,
        };
        for (role, line) in profile.lines() {
            let Free { chip, offset } = board.find(role, line)?;
            let mut builder = Request::builder();
            builder.on_chip(chip).with_consumer(CONSUMER).with_line(offset);
            if line.active_low {
                builder.as_active_low();
            }
            match role {
                Role::Button | Role::Tamper => {
                    builder
                        .as_input()
                        .with_bias(if line.active_low {
                            Bias::PullUp
                        } else {
                            Bias::PullDown
                        })
                        .with_edge_detection(EdgeDetection::BothEdges);
                }
                Role::Lamp | Role::Relay => {
                    builder.as_output(Value::Inactive);
                }
            }
            let request = builder
                .request()
                .map_err(|error| board.failed(role, "opened", &error))?;
            match role {
                Role::Button | Role::Tamper => board.contacts.push(Contact {
                    role,
                    request,
                    offset,
                    active: None,
                }),
                Role::Lamp => {
                    board.lamp = Some(Output {
                        role,
                        request,
                        offset,
                    })
                }
                Role::Relay => {
                    board.relay = Some(Output {
                        role,
                        request,
                        offset,
                    })
                }
            }
        }
        Ok(board)
    }

    fn find(&self, role: Role, line: &Line) -> Result<Free, Error> {
        let chips = chip::chips().map_err(|error| self.failed(role, "opened", &error))?;
        let mut found = Vec::new();
        for path in chips {
            // A chip that may not be opened is listed, so that the message leads to the permission.
            let Ok(chip) = chip::Chip::from_path(&path) else {
                found.push(std::format!("{} (no permission?)", path.display()));
                continue;
            };
            let Ok(info) = chip.info() else { continue };
            if info.label != line.chip {
                found.push(info.label);
                continue;
            }
            let by_name = line.line.as_ref().map(|name| chip.find_line_info(name));
            let by_offset = line.offset.map(|offset| chip.line_info(offset).ok());
            let Some(info) = by_name.or(by_offset).flatten() else {
                return Err(Error::LineMissing {
                    board: self.board.clone(),
                    role,
                    chip: line.chip.clone(),
                    line: line.to_string(),
                });
            };
            if info.used {
                return Err(Error::LineBusy {
                    board: self.board.clone(),
                    role,
                    chip: line.chip.clone(),
                    line: line.to_string(),
                    consumer: if info.consumer.is_empty() {
                        "the kernel".to_string()
                    } else {
                        info.consumer
                    },
                });
            }
            return Ok(Free {
                chip: path,
                offset: info.offset,
            });
        }
        Err(Error::NoChip {
            board: self.board.clone(),
            role,
            chip: line.chip.clone(),
            found: if found.is_empty() {
                "no GPIO chip at all".to_string()
            } else {
                found.join(", ")
            },
        })
    }

    fn failed(&self, role: Role, action: &'static str, error: &gpiocdev::Error) -> Error {
        Error::Line {
            board: self.board.clone(),
            role,
            action,
            reason: error.to_string(),
        }
    }

    fn set(&self, output: Option<&Output>, active: bool) -> Result<(), Error> {
        let Some(output) = output else { return Ok(()) };
        let value = if active { Value::Active } else { Value::Inactive };
        output
            .request
            .set_value(output.offset, value)
            .map(|_| ())
            .map_err(|error| self.failed(output.role, "set", &error))
    }
}

impl Contact {
    fn poll(&mut self, now: Instant) -> Result<Option<(Input, Instant)>, gpiocdev::Error> {
        let (active, at) = if self.request.has_edge_event()? {
            let event = self.request.read_edge_event()?;
            // The kernel's clock for edges is CLOCK_MONOTONIC, as is the program's.
            (
                event.kind == EdgeKind::Rising,
                Instant::from_nanos(event.timestamp_ns),
            )
        } else {
            // The level at the start, and after edges that the kernel's queue had no room for.
            (self.request.value(self.offset)? == Value::Active, now)
        };
        if self.active.replace(active) == Some(active) {
            return Ok(None);
        }
        let input = match self.role {
            Role::Tamper => Input::Tamper { open: active },
            _ => Input::Button { pressed: active },
        };
        // Edges that wait are older than this look, and none of them lies in the future.
        Ok(Some((input, at.min(now))))
    }
}

impl Board for Cdev {
    type Error = Error;

    fn poll(&mut self, now: Instant) -> Result<Option<(Input, Instant)>, Error> {
        for index in 0..self.contacts.len() {
            let contact = &mut self.contacts[index];
            let role = contact.role;
            match contact.poll(now) {
                Ok(None) => (),
                Ok(input) => return Ok(input),
                Err(error) => return Err(self.failed(role, "read", &error)),
            }
        }
        Ok(None)
    }

    fn lamp(&mut self, lit: bool) -> Result<(), Error> {
        self.set(self.lamp.as_ref(), lit)
    }

    fn relay(&mut self, energised: bool) -> Result<(), Error> {
        self.set(self.relay.as_ref(), energised)
    }
}

impl Drop for Cdev {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = self.lamp(false);
        let _ = self.relay(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_that_is_not_there_is_named_with_those_that_are() {
        let mut profile = Profile::named("orin-nano").unwrap();
        for line in [&mut profile.button, &mut profile.lamp].into_iter().flatten() {
            line.chip = "no-such-chip".into();
        }
        let Err(error) = Cdev::open(&profile) else {
            panic!("opened a chip that does not exist");
        };
        let error = error.to_string();
        assert!(
            error.contains("no GPIO chip is labelled no-such-chip, which has the button"),
            "{error}"
        );
    }
}
