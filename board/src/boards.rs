//! Boards as data: which GPIO line is the button, the lamp, the relay and the tamper switch.
//!
//! The files lie in `board/boards/` and are built in. A file of one's own has the same form:
//! ```toml
//! name = "my carrier"
//! compatible = ["p3767"]      # any of these in the device tree's `compatible`
//! backend = "gpio"            # or "pi"
//! [button]
//! chip = "tegra234-gpio"      # label of the chip, as `gpiodetect` shows it
//! line = "PQ.05"              # name of the line; or `offset = 105` where lines have no names
//! active_low = true
//! [lamp]
//! chip = "tegra234-gpio"
//! line = "PQ.06"
//! ```

use std::{
    boxed::Box,
    fmt, fs,
    path::Path,
    string::{String, ToString},
    vec::Vec,
};

use serde::Deserialize;

use crate::{Board, Error};

/// What drives the lines of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The GPIO character device of Linux.
    Gpio,
    /// The registers of a Raspberry Pi.
    Pi,
}

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The button.
    Button,
    /// The lamp.
    Lamp,
    /// The relay.
    Relay,
    /// The tamper switch.
    Tamper,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Button => "button",
            Self::Lamp => "lamp",
            Self::Relay => "relay",
            Self::Tamper => "tamper",
        })
    }
}

/// Where a contact is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Label of the GPIO chip; chips are never found by number, because that changes. Empty for a Raspberry Pi.
    #[serde(default)]
    pub chip: String,
    /// Name of the line.
    pub line: Option<String>,
    /// Offset of the line on its chip, where lines have no names.
    pub offset: Option<u32>,
    /// Whether low means pressed, open or lit.
    #[serde(default)]
    pub active_low: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.line, self.offset) {
            (Some(line), _) => f.pad(line),
            (None, Some(offset)) => write!(f, "{offset}"),
            (None, None) => f.pad("?"),
        }
    }
}

/// A board.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What people call it.
    pub name: String,
    /// Parts of the device tree's `compatible`, each of which says that it is this board.
    pub compatible: Vec<String>,
    /// What drives its lines.
    pub backend: Backend,
    /// The button; active means pressed.
    pub button: Option<Line>,
    /// The lamp; active means lit.
    pub lamp: Option<Line>,
    /// The relay, if there is one; active means energised.
    pub relay: Option<Line>,
    /// The tamper switch, if there is one; active means open.
    pub tamper: Option<Line>,
}

/// The boards that are built in: what `--board` takes, and the file.
const BUILT_IN: [(&str, &str); 7] = [
    ("orin-nano", include_str!("../boards/orin-nano.toml")),
    ("orin-nx", include_str!("../boards/orin-nx.toml")),
    ("agx-orin", include_str!("../boards/agx-orin.toml")),
    ("xavier-nx", include_str!("../boards/xavier-nx.toml")),
    ("thor", include_str!("../boards/thor.toml")),
    ("raspberry-pi", include_str!("../boards/raspberry-pi.toml")),
    ("emulated", include_str!("../boards/emulated.toml")),
];

/// What `--board` takes for the boards that are built in.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

fn known() -> String {
    names().collect::<Vec<_>>().join(", ")
}

impl Profile {
    /// The board with one of [`names`], or that of a file whose path ends in `.toml`.
    ///
    /// # Errors
    /// [`Error::Profile`] for a name that is not known and a file that cannot be used; [`Error::File`].
    pub fn named(board: &str) -> Result<Self, Error> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == board) {
            return Self::parse(name, text);
        }
        if !board.ends_with(".toml") {
            return Err(Error::Profile {
                place: board.to_string(),
                reason: std::format!("no such board; there are {}, or give a file NAME.toml", known()),
            });
        }
        let text = fs::read_to_string(board).map_err(|source| Error::File {
            path: board.into(),
            action: "read the board file",
            source,
        })?;
        Self::parse(board, &text)
    }

    /// The board on which this runs, from the device tree below `root` (`/proc/device-tree`).
    ///
    /// # Errors
    /// [`Error::NotDetected`] when the device tree names none that is known, [`Error::File`] when there is none.
    pub fn detect(root: &Path) -> Result<Self, Error> {
        let path = root.join("compatible");
        let compatible = fs::read(&path).map_err(|source| Error::File {
            path: path.clone(),
            action: "tell the board from the device tree",
            source,
        })?;
        let compatible = String::from_utf8_lossy(&compatible)
            .trim_end_matches('\0')
            .replace('\0', " ");
        for (name, text) in BUILT_IN {
            let profile = Self::parse(name, text)?;
            if profile
                .compatible
                .iter()
                .any(|part| compatible.contains(part.as_str()))
            {
                return Ok(profile);
            }
        }
        Err(Error::NotDetected {
            path,
            compatible,
            known: known(),
        })
    }

    /// The board that a file describes. `place` is its name, for errors.
    ///
    /// # Errors
    /// [`Error::Profile`].
    pub fn parse(place: &str, text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Profile {
            place: place.to_string(),
            reason,
        };
        let profile: Self =
            toml::from_str(text).map_err(|error| refuse(error.to_string().trim().replace('\n', " ")))?;
        for (role, line) in profile.lines() {
            let (named, numbered, on_chip) =
                (line.line.is_some(), line.offset.is_some(), !line.chip.is_empty());
            let (complete, wanted) = match profile.backend {
                Backend::Gpio => (
                    on_chip && named != numbered,
                    "`chip` and one of `line` and `offset`",
                ),
                Backend::Pi => (
                    numbered && !on_chip && !named,
                    "`offset`, the Broadcom number, and neither `chip` nor `line`",
                ),
            };
            if !complete {
                return Err(refuse(std::format!("[{role}] wants {wanted}")));
            }
        }
        Ok(profile)
    }

    /// The lines that are known.
    pub fn lines(&self) -> impl Iterator<Item = (Role, &Line)> {
        [
            (Role::Button, &self.button),
            (Role::Lamp, &self.lamp),
            (Role::Relay, &self.relay),
            (Role::Tamper, &self.tamper),
        ]
        .into_iter()
        .filter_map(|(role, line)| Some((role, line.as_ref()?)))
    }

    /// Opens the board's lines.
    ///
    /// # Errors
    /// [`Error`] names the line that is not there or not free, and the feature that this program was built without.
    pub fn open(&self) -> Result<Box<dyn Board<Error = Error> + Send>, Error> {
        for (role, line) in [(Role::Button, &self.button), (Role::Lamp, &self.lamp)] {
            if line.is_none() {
                return Err(Error::NoLine {
                    board: self.name.clone(),
                    role,
                });
            }
        }
        match self.backend {
            #[cfg(feature = "gpio")]
            Backend::Gpio => Ok(Box::new(crate::cdev::Cdev::open(self)?)),
            #[cfg(not(feature = "gpio"))]
            Backend::Gpio => Err(self.not_built("gpio")),
            #[cfg(feature = "pi")]
            Backend::Pi => Ok(Box::new(crate::pi::Pi::open(self)?)),
            #[cfg(not(feature = "pi"))]
            Backend::Pi => Err(self.not_built("pi")),
        }
    }

    #[cfg(not(all(feature = "gpio", feature = "pi")))]
    fn not_built(&self, feature: &'static str) -> Error {
        Error::NotBuilt {
            board: self.name.clone(),
            feature,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn every_board_is_well_formed_and_its_lines_are_different() {
        for name in names() {
            let profile = Profile::named(name).unwrap();
            let lines: Vec<_> = profile
                .lines()
                .map(|(_, line)| format!("{} {line}", line.chip))
                .collect();
            for (index, line) in lines.iter().enumerate() {
                assert!(!lines[index + 1..].contains(line), "{name}: {line} twice");
            }
            let complete = profile.button.is_some() && profile.lamp.is_some();
            assert_eq!(complete, name != "thor", "{name}");
        }
    }

    #[test]
    fn the_board_is_told_from_the_device_tree() {
        let root = tempfile::tempdir().unwrap();
        for (compatible, name) in [
            (
                "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
                "Jetson Orin Nano",
            ),
            (
                "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0",
                "Jetson Orin Nano",
            ),
            (
                "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0",
                "Jetson Orin NX",
            ),
            (
                "nvidia,p3737-0000+p3701-0004\0nvidia,p3701-0004\0",
                "Jetson AGX Orin",
            ),
            (
                "nvidia,p3509-0000+p3668-0000\0nvidia,tegra194\0",
                "Jetson Xavier NX",
            ),
            (
                "nvidia,p4071-0000+p3834-0008\0nvidia,tegra264\0",
                "Jetson AGX Thor",
            ),
            ("raspberrypi,4-model-b\0brcm,bcm2711\0", "Raspberry Pi"),
            ("linux,dummy-virt\0", "emulated board"),
        ] {
            fs::write(root.path().join("compatible"), compatible).unwrap();
            assert_eq!(Profile::detect(root.path()).unwrap().name, name);
        }
    }

    #[test]
    fn a_board_that_is_not_known_is_named() {
        let root = tempfile::tempdir().unwrap();
        let missing = Profile::detect(root.path()).unwrap_err().to_string();
        assert!(missing.contains("compatible: cannot tell the board"), "{missing}");
        fs::write(root.path().join("compatible"), "acme,anvil\0acme,iron\0").unwrap();
        let unknown = Profile::detect(root.path()).unwrap_err().to_string();
        assert!(
            unknown.contains("acme,anvil acme,iron") && unknown.contains("orin-nano"),
            "{unknown}"
        );
        let unknown = Profile::named("orin").unwrap_err().to_string();
        assert!(
            unknown.starts_with("orin: no such board; there are orin-nano,"),
            "{unknown}"
        );
    }

    #[test]
    fn a_board_file_with_a_mistake_is_refused_with_the_place() {
        const HEAD: &str = "name = \"x\"\ncompatible = []\nbackend = \"gpio\"\n";
        for (rest, wanted) in [
            ("[buton]\nchip = \"c\"\nline = \"l\"\n", "buton"),
            ("[button]\nline = \"l\"\n", "[button] wants `chip`"),
            ("[lamp]\nchip = \"c\"\n", "[lamp] wants `chip`"),
            (
                "[lamp]\nchip = \"c\"\nline = \"l\"\noffset = 1\n",
                "[lamp] wants `chip`",
            ),
            ("[lamp]\nchip = \"c\"\nline = 7\n", "line 6"),
        ] {
            let error = Profile::parse("my.toml", &format!("{HEAD}{rest}"))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("my.toml: ") && error.contains(wanted),
                "{error}"
            );
        }
    }

    #[test]
    fn a_board_without_known_lines_says_so() {
        let Err(error) = Profile::named("thor").unwrap().open() else {
            panic!("Thor has lines now: say so in its file");
        };
        assert!(
            error.to_string().contains("no line is known for the button"),
            "{error}"
        );
    }

    #[test]
    #[cfg(not(feature = "gpio"))]
    fn a_program_without_gpio_says_with_what_to_build_it() {
        let Err(error) = Profile::named("orin-nano").unwrap().open() else {
            panic!("opened without GPIO");
        };
        assert!(error.to_string().contains("--features gpio"), "{error}");
    }
}
