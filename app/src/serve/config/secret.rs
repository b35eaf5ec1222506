//! Passwords: in files of their own, in memory without a text form.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a password cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The file cannot be read.
    #[error("{path}: cannot read the password: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// Others can read the file.
    #[error("{path}: other users of this machine can read this password (mode {mode:o}); chmod 600 {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds no password, or one that is quickly guessed.
    #[error("{path}: the password has {length} characters, wanted {least} or more; openssl rand -base64 18 > {path}", path = path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Characters in it.
        length: usize,
        /// Characters wanted.
        least: usize,
    },
}

impl Secret {
    /// Shortest password for those who come in.
    pub const LEAST: usize = 8;

    /// Reads the first line of a file that nobody but its owner and group can read. `least` is how many characters it
    /// has at least.
    ///
    /// # Errors
    /// [`Unusable`], without a byte of the password.
    pub fn read(path: &Path, least: usize) -> Result<Self, Unusable> {
        let failed = |source| Unusable::Read {
            path: path.into(),
            source,
        };
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(Unusable::Open {
                path: path.into(),
                mode,
            });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let password = text.lines().next().unwrap_or_default().to_owned();
        let length = password.chars().count();
        if length < least {
            return Err(Unusable::Short {
                path: path.into(),
                length,
                least,
            });
        }
        Ok(Self(password))
    }

    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether somebody knows the password, in a time that does not tell how much of it.
    pub fn is(&self, guess: &str) -> bool {
        Sha256::digest(&self.0) == Sha256::digest(guess)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_kept_and_compared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Secret::read(&path, Secret::LEAST)
        };
        let secret = write("correct horse\n", 0o600).unwrap();
        assert!(secret.is("correct horse") && !secret.is("correct hors") && !secret.is(""));
        assert_eq!(format!("{secret:?}"), "Secret");
        assert!(matches!(
            write("correct horse", 0o644),
            Err(Unusable::Open { mode: 0o644, .. })
        ));
        assert!(matches!(
            write("short", 0o640),
            Err(Unusable::Short { length: 5, .. })
        ));
        assert!(matches!(write("", 0o600), Err(Unusable::Short { length: 0, .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Secret::read(&path, 0), Err(Unusable::Read { .. })));
    }
}
