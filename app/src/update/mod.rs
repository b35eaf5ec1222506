//! `persona update`: two slots, signed packages, and a way back.
//!
//! ```text
//! install: verify ─► write the other slot ─► state: start that slot, on trial, 3 attempts
//! start:   on trial? count the attempt down; none left: back to the slot before ─► which slot
//! confirm: the program is well ─► the trial is over, the version is the oldest that will ever be accepted
//! ```
//! A package is accepted only with a signature (minisign, Ed25519) by the key of the box, whose trusted comment is
//! `persona MAJOR.MINOR.PATCH` with a version newer than the newest ever confirmed. The slot that runs is never
//! written to, and every step is one atomic rename, so that at each moment a loss of power leaves a slot that can be
//! started: a test loses power at every step, and within it.

mod disk;

use std::fmt;
use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use disk::{Disk, Folder};

/// How often a new version may be started before it must have been confirmed.
const ATTEMPTS: u32 = 3;
const STATE: &str = "state.json";

/// A version: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One of the two places for a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Name of the slot's file.
    pub fn file(self) -> &'static str {
        match self {
            Self::A => "a.deb",
            Self::B => "b.deb",
        }
    }
}

/// A package in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Installed {
    slot: Slot,
    version: Version,
    sha256: String,
}

/// What the box knows, written anew as a whole at each change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct State {
    /// What is to be started.
    active: Option<Installed>,
    /// What to go back to.
    fallback: Option<Installed>,
    /// How many attempts are left while the active one is on trial.
    trial: Option<u32>,
    /// The newest version that was ever confirmed.
    newest: Version,
}

/// Why an update was refused or cannot be done. The slot that runs is untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The box's key is none.
    #[error("the box's key cannot be used: {0}; it is the second line of minisign's public key file")]
    Key(String),
    /// There is no usable signature.
    #[error("the package is not signed: {0}")]
    Unsigned(String),
    /// The signature is not of this package, or not by this key.
    #[error("the signature is not by this box's key, or the package was changed after it was signed: {0}")]
    Tampered(String),
    /// The signature is of something else.
    #[error("the signature is for {0:?}, wanted `persona MAJOR.MINOR.PATCH` as its trusted comment")]
    Foreign(String),
    /// The package is not newer.
    #[error("version {offered} is not newer than {newest}; an older program may have holes that are known")]
    Older {
        /// What was offered.
        offered: Version,
        /// The newest version that was ever confirmed or is running.
        newest: Version,
    },
    /// Another version is on trial.
    #[error("version {0} is still on trial; wait until it is confirmed or has failed")]
    OnTrial(Version),
    /// Nothing can be started.
    #[error("no slot holds a package that can be started; install one")]
    Empty,
    /// The disk.
    #[error("the slots cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    /// The state cannot be read.
    #[error("{STATE}: {0}; it is written as a whole, so the disk has failed")]
    State(#[from] serde_json::Error),
}

/// The two slots of a box.
pub struct Slots<D> {
    disk: D,
    state: State,
}

impl<D: Disk> Slots<D> {
    /// Reads the state.
    ///
    /// # Errors
    /// [`Error::Disk`] and [`Error::State`].
    pub fn open(disk: D) -> Result<Self, Error> {
        let state = match disk.read(STATE)? {
            Some(bytes) => serde_json::from_slice(&bytes)?,
            None => State::default(),
        };
        Ok(Self { disk, state })
    }

    /// Verifies a package and puts it into the slot that does not run, on trial.
    ///
    /// # Errors
    /// [`Error`] says why it is refused.
    pub fn install(&mut self, package: &[u8], signature: &str, key: &str) -> Result<Version, Error> {
        let version = verify(package, signature, key)?;
        let State {
            active,
            trial,
            newest,
            ..
        } = &self.state;
        if let (Some(active), Some(_)) = (active, trial) {
            return Err(Error::OnTrial(active.version));
        }
        let newest = active
            .as_ref()
            .map_or(*newest, |active| active.version.max(*newest));
        if version <= newest {
            return Err(Error::Older {
                offered: version,
                newest,
            });
        }
        let slot = active.as_ref().map_or(Slot::A, |active| active.slot.other());
        let partial = format!("{}.partial", slot.file());
        self.disk.write(&partial, package)?;
        self.disk.rename(&partial, slot.file())?;
        let installed = Installed {
            slot,
            version,
            sha256: digest(package),
        };
        let before = self.state.active.clone();
        self.save(State {
            active: Some(installed),
            fallback: before,
            trial: Some(ATTEMPTS),
            newest,
        })?;
        Ok(version)
    }

    /// Which slot to start now; counts the attempt when it is on trial, and goes back when too many have failed or the
    /// slot's file is not what was installed.
    ///
    /// # Errors
    /// [`Error::Empty`] when there is nothing to start.
    pub fn start(&mut self) -> Result<Slot, Error> {
        loop {
            let active = self.state.active.clone().ok_or(Error::Empty)?;
            let bytes = self.disk.read(active.slot.file())?;
            let whole = bytes.is_some_and(|bytes| digest(&bytes) == active.sha256);
            match self.state.trial {
                None if whole => return Ok(active.slot),
                Some(attempts) if whole && attempts > 0 => {
                    self.save(State {
                        trial: Some(attempts - 1),
                        ..self.state.clone()
                    })?;
                    return Ok(active.slot);
                }
                _ => self.save(State {
                    active: self.state.fallback.clone(),
                    fallback: None,
                    trial: None,
                    newest: self.state.newest,
                })?,
            }
        }
    }

    /// The program that was started is well: it stays.
    ///
    /// # Errors
    /// [`Error::Empty`] when nothing was installed.
    pub fn confirm(&mut self) -> Result<Version, Error> {
        let version = self.state.active.as_ref().ok_or(Error::Empty)?.version;
        if self.state.trial.is_some() {
            self.save(State {
                trial: None,
                newest: self.state.newest.max(version),
                ..self.state.clone()
            })?;
        }
        Ok(version)
    }

    fn save(&mut self, state: State) -> Result<(), Error> {
        let partial = format!("{STATE}.partial");
        self.disk.write(&partial, &serde_json::to_vec(&state)?)?;
        self.disk.rename(&partial, STATE)?;
        self.state = state;
        Ok(())
    }
}

/// The version of a package whose signature is good.
fn verify(package: &[u8], signature: &str, key: &str) -> Result<Version, Error> {
    let key = PublicKey::from_base64(key.trim()).map_err(|error| Error::Key(error.to_string()))?;
    let signature = Signature::decode(signature).map_err(|error| Error::Unsigned(error.to_string()))?;
    key.verify(package, &signature, false)
        .map_err(|error| Error::Tampered(error.to_string()))?;
    let comment = signature.trusted_comment();
    let version = comment.strip_prefix("persona ").and_then(Version::parse);
    version.ok_or_else(|| Error::Foreign(comment.to_owned()))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What `persona update` is told.
#[derive(Debug, Clone, Args)]
#[group(id = "slot-options")]
pub struct Options {
    /// Folder of the two slots; what lies in it is installed as root, so only root may write to it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/persona-update")]
    slots: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Verify a package and its signature (PACKAGE.minisig), and put it into the slot that does not run
    Install {
        /// The package
        package: PathBuf,
        /// minisign's public key file of this box
        #[arg(long, value_name = "FILE", default_value = "/etc/persona/update.pub")]
        key: PathBuf,
    },
    /// Print the package to start now; counts an attempt of one that is on trial
    Start,
    /// Say that what was started is well
    Confirm,
}

/// Does it, and prints what there is to say.
///
/// # Errors
/// In one sentence.
pub fn run(options: &Options) -> anyhow::Result<()> {
    use anyhow::Context;
    let folder = Folder::open(options.slots.clone()).with_context(|| {
        format!(
            "{}: cannot be used as the folder of the slots",
            options.slots.display()
        )
    })?;
    let place = |slot: Slot| options.slots.join(slot.file());
    let mut slots = Slots::open(folder)?;
    match &options.command {
        Command::Install { package, key } => {
            let read = |path: &PathBuf| {
                std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
            };
            let mut signature = package.clone().into_os_string();
            signature.push(".minisig");
            let signature = String::from_utf8(read(&signature.into())?)?;
            let key = String::from_utf8(read(key)?)?;
            // A comment, and the key.
            let key = key.lines().nth(1).unwrap_or_default();
            let version = slots.install(&read(package)?, &signature, key)?;
            println!("{version} will be started next");
        }
        Command::Start => println!("{}", place(slots.start()?).display()),
        Command::Confirm => println!("{} stays", slots.confirm()?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use super::*;

    // Made with minisign for this test; the secret key was thrown away.
    const KEY: &str = "RWSMYrBApTzwP76U9idQ+D802wRhsWMzWAVqGarBBHOB9OD11PZcS3Ew";
    const ONE: &str = "\
untrusted comment: signature from minisign secret key
RUSMYrBApTzwP1U79rVYN3aU+sanSGo4x+0Id8YsfTXKmTHxk9oxoUYc+AXOrakMjdigKJmlr+1JJhcTAYveftKr1pPAMnyTgQA=
trusted comment: persona 0.2.0
pxK/GkLzbKuMV8TNfjC9eW4sXjyc+LaCND91rtKd5IkDYEV+IAS6wUn//Hko+uRYuf+ZCh94dFWpBrPYuW/DBA==
";
    const TWO: &str = "\
untrusted comment: signature from minisign secret key
RUSMYrBApTzwP7565cIj+Kj9AAFfi8kdL7OIPSZq8byGvf6D0XZevUgByy8kU6jsmeaScVoLtXLEiLEDqEOv+qT6sR97WUAzyQ8=
trusted comment: persona 0.3.0
7QrNQ2VD/HEBZq6MMrcbcDgs6DSsX5UPKSxLM6TazpAnH2F9g2ni37/LO4/dUFyzzlzk0kSb5uv/Utu3R9BPAA==
";
    const THREE: &str = "\
untrusted comment: signature from minisign secret key
RUSMYrBApTzwP1ImIuwMsfD2+Vx8NHwrPr3FcwroWO2PxY8mPUoN42PZW8t++txl/THquzwvxfJBGbJXQD4IDbzm8XcBCQFRUwE=
trusted comment: persona 0.4.0
6SKxgLvkJEqOh2we3jo3sLIl7wD/V5xUWqtTi/0V9CcH7lBiOOmLfGOby7rX8EN4wNbBfyyJW6Jtf5FCcgshCg==
";
    const BY_ANOTHER_KEY: &str = "\
untrusted comment: signature from minisign secret key
RUQ6nwOaDKzblvpSqBxWpIqOlercplx431qbfkCRtNAC7ff6Jd5z9vHX7TLFjKFNyzw2RoThZjG7f1sLUH16XMbnMP9GS+mhWAE=
trusted comment: persona 0.3.0
rwfGRuLOrXW7NRDEh4C05tbTLSXnEb57Aw6P5rWjwwDHYBeVlGma5ncD5PZJWcRHZdaW5TVBp0nCbmgM/zjgDQ==
";
    const OF_ANOTHER_PROGRAM: &str = "\
untrusted comment: signature from minisign secret key
RUSMYrBApTzwP7565cIj+Kj9AAFfi8kdL7OIPSZq8byGvf6D0XZevUgByy8kU6jsmeaScVoLtXLEiLEDqEOv+qT6sR97WUAzyQ8=
trusted comment: something 0.3.0
JAyFyMSXDnkrBKmuW4v1aJisCZNZK3L6N0Au8FFsx+Fyd7zHNt2z4koWW50pKIsIINs5OUkIYsyFl+VG79gVBA==
";

    const PACKAGES: [(&[u8], &str); 3] = [
        (b"package one", ONE),
        (b"package two", TWO),
        (b"package three", THREE),
    ];

    /// What a loss of power leaves of the write in progress.
    #[derive(Debug, Clone, Copy)]
    enum Remains {
        Nothing,
        Half,
        All,
    }

    /// A disk that loses power at a step.
    #[derive(Clone)]
    struct Cut {
        files: Rc<RefCell<BTreeMap<String, Vec<u8>>>>,
        /// Steps until power is lost; `None` for never.
        left: Rc<RefCell<Option<usize>>>,
        remains: Remains,
    }

    impl Cut {
        fn new(remains: Remains) -> Self {
            Self {
                files: Rc::default(),
                left: Rc::default(),
                remains,
            }
        }

        /// The same disk, with power for so many more steps.
        fn powered(&self, steps: Option<usize>) -> Self {
            *self.left.borrow_mut() = steps;
            self.clone()
        }

        /// Whether power is lost in this step.
        fn lost(&self) -> bool {
            match &mut *self.left.borrow_mut() {
                None => false,
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
            }
        }
    }

    impl Disk for Cut {
        fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.files.borrow().get(name).cloned())
        }

        fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
            let lost = self.lost();
            let kept = match self.remains {
                _ if !lost => bytes.len(),
                Remains::Nothing => 0,
                Remains::Half => bytes.len() / 2,
                Remains::All => bytes.len(),
            };
            self.files.borrow_mut().insert(name.into(), bytes[..kept].into());
            if lost {
                Err(io::ErrorKind::Interrupted.into())
            } else {
                Ok(())
            }
        }

        fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
            let lost = self.lost();
            // In one step: it has happened or it has not.
            if !lost || matches!(self.remains, Remains::All) {
                let mut files = self.files.borrow_mut();
                let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
                files.insert(to.into(), file);
            }
            if lost {
                Err(io::ErrorKind::Interrupted.into())
            } else {
                Ok(())
            }
        }
    }

    /// A box on which the first package runs and is confirmed.
    fn running(remains: Remains) -> Cut {
        let disk = Cut::new(remains);
        let mut slots = Slots::open(disk.clone()).unwrap();
        let (package, signature) = PACKAGES[0];
        slots.install(package, signature, KEY).unwrap();
        slots.start().unwrap();
        slots.confirm().unwrap();
        disk
    }

    /// The package that a box starts when it is switched on.
    fn started(disk: &Cut) -> Vec<u8> {
        let mut slots = Slots::open(disk.powered(None)).unwrap();
        let slot = slots.start().unwrap();
        disk.read(slot.file()).unwrap().unwrap()
    }

    #[test]
    fn a_package_without_the_right_signature_is_refused() {
        let (package, signature) = PACKAGES[1];
        let disk = running(Remains::All);
        let before = disk.files.borrow().clone();
        let refused = |package: &[u8], signature: &str, words: &str| {
            let mut slots = Slots::open(disk.clone()).unwrap();
            let error = slots.install(package, signature, KEY).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(*disk.files.borrow(), before, "something was written");
        };
        refused(package, "", "is not signed");
        refused(package, "no signature at all", "is not signed");
        refused(b"package tw0", signature, "was changed after it was signed");
        refused(package, ONE, "was changed after it was signed");
        refused(
            package,
            &signature.replace("0.3.0", "0.9.0"),
            "was changed after it was signed",
        );
        refused(package, BY_ANOTHER_KEY, "not by this box's key");
        refused(package, OF_ANOTHER_PROGRAM, "for \"something 0.3.0\"");
        refused(PACKAGES[0].0, ONE, "0.2.0 is not newer than 0.2.0");
    }

    #[test]
    fn an_older_package_is_refused_even_after_its_successor_failed() {
        let disk = running(Remains::All);
        let mut slots = Slots::open(disk.clone()).unwrap();
        slots.install(PACKAGES[2].0, THREE, KEY).unwrap();
        assert!(matches!(
            slots.install(PACKAGES[1].0, TWO, KEY),
            Err(Error::OnTrial(_))
        ));
        slots.start().unwrap();
        slots.confirm().unwrap();
        let error = slots.install(PACKAGES[1].0, TWO, KEY).unwrap_err();
        assert!(matches!(error, Error::Older { .. }), "{error}");
    }

    #[test]
    fn a_new_version_that_is_never_confirmed_is_left() {
        let disk = running(Remains::All);
        let (package, signature) = PACKAGES[1];
        Slots::open(disk.clone())
            .unwrap()
            .install(package, signature, KEY)
            .unwrap();
        for attempt in 0..ATTEMPTS {
            assert_eq!(started(&disk), package, "attempt {attempt}");
        }
        for _ in 0..2 {
            assert_eq!(started(&disk), PACKAGES[0].0, "the way back");
        }
        // It may be tried again, and stay.
        let mut slots = Slots::open(disk.clone()).unwrap();
        slots.install(package, signature, KEY).unwrap();
        slots.start().unwrap();
        assert_eq!(slots.confirm().unwrap(), Version(0, 3, 0));
        for _ in 0..2 * ATTEMPTS {
            assert_eq!(started(&disk), package);
        }
    }

    #[test]
    fn a_slot_that_rots_is_left() {
        let disk = running(Remains::All);
        Slots::open(disk.clone())
            .unwrap()
            .install(PACKAGES[1].0, TWO, KEY)
            .unwrap();
        disk.files
            .borrow_mut()
            .insert(Slot::B.file().into(), b"package twq".into());
        assert_eq!(started(&disk), PACKAGES[0].0);
        disk.files.borrow_mut().remove(Slot::A.file());
        let error = Slots::open(disk).unwrap().start().unwrap_err();
        assert!(matches!(error, Error::Empty));
    }

    /// Installs, starts and confirms the second package, as far as power lasts. Gives whether it did.
    fn update(disk: &Cut) -> Result<(), Error> {
        let mut slots = Slots::open(disk.clone())?;
        slots.install(PACKAGES[1].0, TWO, KEY)?;
        slots.start()?;
        slots.confirm()?;
        Ok(())
    }

    #[test]
    fn a_loss_of_power_at_any_step_leaves_a_box_that_starts() {
        for remains in [Remains::Nothing, Remains::Half, Remains::All] {
            let mut steps = 0;
            loop {
                let disk = running(remains);
                let done = update(&disk.powered(Some(steps))).is_ok();
                let first = started(&disk);
                assert!(
                    [PACKAGES[0].0, PACKAGES[1].0].contains(&first.as_slice()),
                    "after {steps} steps, {remains:?}: {first:?}"
                );
                // Whatever was lost, the update can be done again, or is under way, and then stays.
                let mut slots = Slots::open(disk.powered(None)).unwrap();
                match slots.install(PACKAGES[1].0, TWO, KEY) {
                    Ok(_) => {
                        slots.start().unwrap();
                    }
                    Err(Error::OnTrial(version)) => assert_eq!(version, Version(0, 3, 0)),
                    Err(Error::Older { newest, .. }) => assert_eq!(newest, Version(0, 3, 0)),
                    Err(error) => panic!("after {steps} steps, {remains:?}: {error}"),
                }
                slots.confirm().unwrap();
                for _ in 0..2 * ATTEMPTS {
                    assert_eq!(started(&disk), PACKAGES[1].0, "after {steps} steps, {remains:?}");
                }
                if done {
                    break;
                }
                steps += 1;
            }
            assert_eq!(steps, 8, "two renames and two writes to install, and two saves");
        }
    }

    #[test]
    fn a_loss_of_power_while_going_back_leaves_a_box_that_starts() {
        for remains in [Remains::Nothing, Remains::Half, Remains::All] {
            for steps in 0..2 {
                let disk = running(remains);
                Slots::open(disk.clone())
                    .unwrap()
                    .install(PACKAGES[1].0, TWO, KEY)
                    .unwrap();
                for _ in 0..ATTEMPTS {
                    started(&disk);
                }
                let lost = Slots::open(disk.powered(Some(steps))).unwrap().start();
                assert!(lost.is_err());
                assert_eq!(started(&disk), PACKAGES[0].0, "after {steps} steps, {remains:?}");
            }
        }
    }

    #[test]
    fn a_folder_keeps_what_was_written() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(root.path().join("slots")).unwrap();
        assert_eq!(folder.read("a").unwrap(), None);
        folder.write("a", b"old").unwrap();
        folder.write("b", b"new").unwrap();
        folder.rename("b", "a").unwrap();
        assert_eq!(folder.read("a").unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(folder.read("b").unwrap(), None);
    }
}
