//! What an update needs of a disk, and the real one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

/// A folder whose files survive a loss of power only as far as they were synced.
pub trait Disk {
    /// The whole file; `None` when there is none.
    ///
    /// # Errors
    /// The disk's own.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Writes a file anew and waits until it is on the disk.
    ///
    /// # Errors
    /// The disk's own.
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Gives a file another name, in place of whatever has it, in one step; waits until that is on the disk.
    ///
    /// # Errors
    /// The disk's own.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where a file lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Disk for Folder {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(self.path(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        // The name is in the folder, which is a file of its own.
        File::open(&self.0)?.sync_all()
    }
}
