//! The hardware watchdog: resets the box unless it is fed.

use std::{
    borrow::ToOwned,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    string::String,
};

use crate::{Duration, Error};

/// A watchdog may bite no sooner: it is fed every second, and a machine under load may be late.
const LEAST: u64 = 5;

/// An open watchdog device (Linux, `Documentation/watchdog/watchdog-api.rst`). It bites unless it is fed; one that is
/// dropped without [`Watchdog::disarm`] goes on biting.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    path: PathBuf,
    timeout: Duration,
}

impl Watchdog {
    /// Opens and thereby starts a watchdog, `/dev/watchdog0` say. Its timeout is the driver's own (an option of the
    /// module, or systemd's `RuntimeWatchdogSec`), read below `sysfs` (`/sys`).
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be opened or does not say its timeout, [`Error::Watchdog`] when that is too
    /// short. The device is then not touched.
    pub fn open(path: &Path, sysfs: &Path) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default();
        let attribute = sysfs.join("class/watchdog").join(name).join("timeout");
        let file = |path: &Path, action, source| Error::File {
            path: path.to_owned(),
            action,
            source,
        };
        let text: String = fs::read_to_string(&attribute)
            .map_err(|source| file(&attribute, "read the watchdog's timeout", source))?;
        let seconds = text.trim().parse().unwrap_or(0);
        if seconds < LEAST {
            return Err(Error::Watchdog {
                path: path.to_owned(),
                seconds,
                least: LEAST,
            });
        }
        let device = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|source| file(path, "open the watchdog", source))?;
        Ok(Self {
            device,
            path: path.to_owned(),
            timeout: Duration::from_secs(seconds),
        })
    }

    /// After how long without food it bites.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Feeds it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn feed(&mut self) -> Result<(), Error> {
        // Any byte but `V` is food.
        self.write(b"\0", "feed the watchdog")
    }

    /// Stops it, for an orderly end of the program; a driver with `nowayout` goes on.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn disarm(mut self) -> Result<(), Error> {
        self.write(b"V", "stop the watchdog")
    }

    fn write(&mut self, byte: &[u8], action: &'static str) -> Result<(), Error> {
        self.device.write_all(byte).map_err(|source| Error::File {
            path: self.path.clone(),
            action,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    /// A file that stands for a watchdog with this timeout.
    fn watchdog(timeout: &str) -> (tempfile::TempDir, Result<Watchdog, Error>) {
        let root = tempfile::tempdir().unwrap();
        let attributes = root.path().join("sys/class/watchdog/watchdog0");
        fs::create_dir_all(&attributes).unwrap();
        fs::write(attributes.join("timeout"), timeout).unwrap();
        let device = root.path().join("watchdog0");
        fs::write(&device, "").unwrap();
        let watchdog = Watchdog::open(&device, &root.path().join("sys"));
        (root, watchdog)
    }

    #[test]
    fn food_is_any_byte_and_the_last_one_is_v_only_when_it_is_disarmed() {
        let (root, opened) = watchdog("60\n");
        let mut opened = opened.unwrap();
        assert_eq!(opened.timeout(), Duration::from_secs(60));
        opened.feed().unwrap();
        opened.feed().unwrap();
        let written = || fs::read(root.path().join("watchdog0")).unwrap();
        assert_eq!(written(), b"\0\0");
        opened.disarm().unwrap();
        assert_eq!(written(), b"\0\0V");
        let (root, opened) = watchdog("60\n");
        drop(opened.unwrap());
        assert_eq!(fs::read(root.path().join("watchdog0")).unwrap(), b"");
    }

    #[test]
    fn one_that_bites_too_soon_is_not_started() {
        for timeout in ["4", "0", "soon"] {
            let (root, opened) = watchdog(timeout);
            let error = opened.unwrap_err().to_string();
            assert!(error.contains("wanted at least 5 s"), "{error}");
            assert_eq!(fs::read(root.path().join("watchdog0")).unwrap(), b"");
        }
    }

    #[test]
    fn a_machine_without_one_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        let error = Watchdog::open("/dev/watchdog9".as_ref(), root.path()).unwrap_err();
        assert!(
            error.to_string().contains("cannot read the watchdog's timeout"),
            "{error}"
        );
    }
}
