use std::{io, path::PathBuf, string::String};

use thiserror::Error;

use crate::boards::Role;

/// Why a board cannot be used. Every message is one sentence: what, where, what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A board file that cannot be used.
    #[error("{place}: {reason}")]
    Profile {
        /// The file or the name of the board.
        place: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The device tree names no board that is known.
    #[error(
        "{path}: no board is known for {compatible}; give --board one of {known}, or a board file of your own",
        path = path.display()
    )]
    NotDetected {
        /// The device tree's `compatible`.
        path: PathBuf,
        /// What it says.
        compatible: String,
        /// The boards that are known.
        known: String,
    },

    /// A board file does not say where the button or the lamp is.
    #[error(
        "{board}: no line is known for the {role}; copy its board file, add [{role}] and give it as --board FILE"
    )]
    NoLine {
        /// The board.
        board: String,
        /// Which contact.
        role: Role,
    },

    /// No GPIO chip has the label.
    #[error(
        "{board}: no GPIO chip is labelled {chip}, which has the {role}; this machine has {found}. Is it the right board?"
    )]
    NoChip {
        /// The board.
        board: String,
        /// Which contact.
        role: Role,
        /// The label.
        chip: String,
        /// The labels that there are.
        found: String,
    },

    /// The chip has no such line.
    #[error("{board}: the GPIO chip {chip} has no line {line} for the {role}; `gpioinfo` lists its lines")]
    LineMissing {
        /// The board.
        board: String,
        /// Which contact.
        role: Role,
        /// Label of the chip.
        chip: String,
        /// Name or offset of the line.
        line: String,
    },

    /// Somebody else holds the line.
    #[error(
        "{board}: the line {line} of {chip} for the {role} is in use by {consumer}; stop that, or use another line"
    )]
    LineBusy {
        /// The board.
        board: String,
        /// Which contact.
        role: Role,
        /// Label of the chip.
        chip: String,
        /// Name or offset of the line.
        line: String,
        /// Who holds it.
        consumer: String,
    },

    /// A line cannot be read or set.
    #[error("{board}: the {role} cannot be {action}: {reason}")]
    Line {
        /// The board.
        board: String,
        /// Which contact.
        role: Role,
        /// Opened, read or set.
        action: &'static str,
        /// The system's own words.
        reason: String,
    },

    /// This program was built without what drives the board.
    #[error("{board}: this program was built without GPIO; build it with --features {feature}")]
    NotBuilt {
        /// The board.
        board: String,
        /// The feature that is missing.
        feature: &'static str,
    },

    /// A file cannot be read or written.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },

    /// The watchdog would bite before it is fed.
    #[error("{path}: the watchdog bites after {seconds} s, wanted at least {least} s; set it with its driver's option", path = path.display())]
    Watchdog {
        /// The device.
        path: PathBuf,
        /// Its timeout.
        seconds: u64,
        /// The least that can be kept.
        least: u64,
    },
}
