//! Pins of a Raspberry Pi.

use std::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use rppal::gpio::{Gpio, InputPin, Level, OutputPin};

use crate::{
    Board, Error, Input, Instant,
    boards::{Line, Profile, Role},
};

struct Contact {
    role: Role,
    pin: InputPin,
    active: Level,
    /// The level that was last reported.
    last: Option<Level>,
}

struct Output {
    pin: OutputPin,
    active_low: bool,
}

impl Output {
    fn set(&mut self, active: bool) {
        self.pin.write(Level::from(active != self.active_low));
    }
}

/// The front panel on the pins of a Raspberry Pi. When it is dropped, lamp and relay go off.
pub struct Pi {
    contacts: Vec<Contact>,
    lamp: Option<Output>,
    relay: Option<Output>,
}

impl Pi {
    /// Opens the pins of a board.
    ///
    /// # Errors
    /// [`Error::Line`] on any machine but a Raspberry Pi, and for a pin that is not there or not free.
    pub fn open(profile: &Profile) -> Result<Self, Error> {
        let failed = |role, reason: String| Error::Line {
            board: profile.name.clone(),
            role,
            action: "opened",
            reason,
        };
        let gpio = Gpio::new().map_err(|error| failed(Role::Button, error.to_string()))?;
        let mut board = Self {
            contacts: Vec::new(),
            lamp: None,
            relay: None,
        };
        for (role, line) in profile.lines() {
            let &Line {
                offset, active_low, ..
            } = line;
            let number = offset
                .and_then(|offset| u8::try_from(offset).ok())
                .ok_or_else(|| failed(role, format!("{line} is no Broadcom number")))?;
            let pin = gpio
                .get(number)
                .map_err(|error| failed(role, format!("GPIO{number}: {error}")))?;
            match role {
                Role::Button | Role::Tamper => board.contacts.push(Contact {
                    role,
                    pin: if active_low {
                        pin.into_input_pullup()
                    } else {
                        pin.into_input_pulldown()
                    },
                    active: Level::from(!active_low),
                    last: None,
                }),
                Role::Lamp | Role::Relay => {
                    let off = Level::from(active_low);
                    let pin = match off {
                        Level::Low => pin.into_output_low(),
                        Level::High => pin.into_output_high(),
                    };
                    let output = Some(Output { pin, active_low });
                    if role == Role::Lamp {
                        board.lamp = output;
                    } else {
                        board.relay = output;
                    }
                }
            }
        }
        Ok(board)
    }
}

impl Board for Pi {
    type Error = Error;

    fn poll(&mut self, now: Instant) -> Result<Option<(Input, Instant)>, Error> {
        for contact in &mut self.contacts {
            let level = contact.pin.read();
            if contact.last.replace(level) == Some(level) {
                continue;
            }
            let active = level == contact.active;
            let input = match contact.role {
                Role::Tamper => Input::Tamper { open: active },
                _ => Input::Button { pressed: active },
            };
            return Ok(Some((input, now)));
        }
        Ok(None)
    }

    fn lamp(&mut self, lit: bool) -> Result<(), Error> {
        if let Some(lamp) = &mut self.lamp {
            lamp.set(lit);
        }
        Ok(())
    }

    fn relay(&mut self, energised: bool) -> Result<(), Error> {
        if let Some(relay) = &mut self.relay {
            relay.set(energised);
        }
        Ok(())
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        for output in [&mut self.lamp, &mut self.relay].into_iter().flatten() {
            output.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_is_refused_with_the_reason() {
        // On a Raspberry Pi this would take the pins.
        if rppal::system::DeviceInfo::new().is_ok() {
            return;
        }
        let Err(error) = Pi::open(&Profile::named("raspberry-pi").unwrap()) else {
            panic!("opened pins that do not exist");
        };
        assert!(
            error
                .to_string()
                .contains("Raspberry Pi: the button cannot be opened"),
            "{error}"
        );
    }
}
