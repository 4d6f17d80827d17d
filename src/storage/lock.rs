//! Locks that a process holds by an open file: released with the process, however it ends.
//!
//! In: the path of a lock file. Out: the lock, or the id of the process that holds it.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::fault_hook;
use crate::storage::fault_hook::Change;

/// Maximum attempts to lock. [`owner`] briefly holds a lock.
const ATTEMPTS: u32 = 3;

/// The delay between attempts.
const PAUSE: Duration = Duration::from_millis(30);

/// A lock that this process holds until it is dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

/// The result of an attempt to lock.
#[derive(Debug)]
pub enum Locking {
    /// This process holds it.
    Held(FileLock),
    /// Another process holds it, with the id that it has written.
    HeldBy(String),
}

impl FileLock {
    /// Locks the file at `path`, which is created if need be, and writes the id of this process into it.
    ///
    /// # Errors
    /// When the file cannot be opened, locked or written to. It is not an error if another process holds it.
    pub fn take(path: &Path) -> Result<Locking, FileError> {
        let mut file = durable::open_or_create(path)?;
        for _ in 0..ATTEMPTS {
            match file.try_lock() {
                Ok(()) => {
                    let id = std::process::id();
                    let written = fault_hook::before(Change::Write, path)
                        .and_then(|()| file.set_len(0))
                        .and_then(|()| file.rewind())
                        .and_then(|()| write!(file, "{id}"));
                    written.map_err(FileError::on("write", path))?;
                    return Ok(Locking::Held(Self { file }));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(FileError::on("lock", path)(error)),
            }
        }
        // It is held, even if it cannot be read.
        Ok(Locking::HeldBy(content(&mut file).unwrap_or_else(|_| String::new())))
    }

    /// Whether the file is still the one at `path`.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        durable::is_at(path, &self.file)
    }
}

/// The id of the process that holds the lock at `path`, as it has written it, if one does.
///
/// # Errors
/// When there is no such file, or it cannot be locked or read.
pub fn owner(path: &Path) -> Result<Option<String>, FileError> {
    let mut file = File::open(path).map_err(FileError::on("open", path))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => content(&mut file).map(Some).map_err(FileError::on("read", path)),
        Err(TryLockError::Error(error)) => Err(FileError::on("lock", path)(error)),
    }
}

fn content(file: &mut File) -> io::Result<String> {
    let mut content = String::new();
    file.read_to_string(&mut content)?;
    Ok(content.trim().to_owned())
}
