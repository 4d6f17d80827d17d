//! The only module that creates, syncs, renames or removes a file.
//!
//! In: paths and bytes. Out: files that are either whole and on disk, or not there at all.
//!
//! What always holds:
//! - A file published here was synced before its rename, and its directory was synced after it: after a
//!   power cut the name either does not exist or leads to the whole content.
//! - A failed sync is final. The kernel may have dropped the pages it could not write, so a second
//!   `fsync` that succeeds proves nothing; the caller must stop and redo the work from what it can read back.
//! - Directories are made 0700 and files 0600, whatever the umask: they hold prompts and replies.
//! - Nothing follows a symbolic link in the last component of a path that it creates.
//!
//! `.clippy.toml` forbids the corresponding functions of `std::fs` and `tokio::fs` everywhere else.
#![expect(clippy::disallowed_methods, reason = "this is the module that the lint points to")]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::shown::Name;

/// Permissions of every file: read and write for the owner alone.
const FILE_MODE: u32 = 0o600;

/// Permissions of every directory: the owner alone.
const DIRECTORY_MODE: u32 = 0o700;

/// An operation on a local file that failed: what was tried, on which path, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", Name(path))]
pub struct FileError {
    /// What was tried, as a verb phrase: `create`, `sync`, `rename to`.
    pub action: &'static str,
    /// The path that it was tried on.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl FileError {
    /// Ties an I/O error to what was tried and on which path; made for `map_err`.
    pub fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }

    /// Whether the file was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Whether this says that the process, or the whole system, has as many open files as it may have. Waiting does not help: who
/// holds them is, most likely, this process.
#[must_use]
pub fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// What to do when [`is_out_of_files`].
pub const MORE_FILES: &str = "allow more open files (`ulimit -n`): 64 are enough";

/// What helps against a limit of the system that stopped us, if one did.
#[must_use]
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        Some("free some space, then run the same command again: it goes on from here")
    } else {
        is_out_of_files(error).then_some(MORE_FILES)
    }
}

/// A file that is being written beside its final place and appears there, whole, by [`PendingFile::publish`].
///
/// Dropped before that, it removes what it wrote.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl PendingFile {
    /// Starts a file that will appear as `target`. It is written in the same directory under a name of its own,
    /// so that the rename cannot cross a file system.
    pub fn create(target: &Path) -> Result<Self, FileError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.{:08x}.part", fastrand::u32(..)));
        let file = create_new(&temporary)?;
        Ok(Self { file, temporary, target: target.to_owned(), published: false })
    }

    /// The file to write to, and to read back from.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the file will appear.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs the file, gives it its name, and syncs the directory. An older file of that name is replaced.
    pub fn publish(mut self) -> Result<(), FileError> {
        sync(&self.file, &self.temporary)?;
        rename(&self.temporary, &self.target)?;
        self.published = true;
        sync_parent(&self.target)
    }

    /// Gives the file its name without waiting for the disk: whole or absent after a kill of the process, but not
    /// after a power cut. For files that can be made again, such as the state of the test service.
    pub fn publish_unsynced(mut self) -> Result<(), FileError> {
        rename(&self.temporary, &self.target)?;
        self.published = true;
        Ok(())
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.published {
            // Nothing can be done about a failure here, and a leftover is harmless: it has no final name.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `bytes` as `target`, whole or not at all.
pub fn publish_bytes(target: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut pending = PendingFile::create(target)?;
    pending.write_all(bytes).map_err(FileError::on("write", target))?;
    pending.publish()
}

/// Writes `bytes` as `target`, whole or not at all as far as a kill of the process goes.
/// See [`PendingFile::publish_unsynced`].
pub fn publish_bytes_unsynced(target: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut pending = PendingFile::create(target)?;
    pending.write_all(bytes).map_err(FileError::on("write", target))?;
    pending.publish_unsynced()
}

/// Syncs `from`, renames it to `to`, and syncs the directory of `to`.
pub fn publish(from: &Path, to: &Path) -> Result<(), FileError> {
    let file = File::open(from).map_err(FileError::on("open", from))?;
    sync(&file, from)?;
    rename(from, to)?;
    sync_parent(to)
}

/// As [`publish`], to a place that may be on another file system: then the content is copied, and `from` stays.
pub fn transfer(from: &Path, to: &Path) -> Result<(), FileError> {
    match publish(from, to) {
        Err(error) if error.source.kind() == io::ErrorKind::CrossesDevices => {
            let mut pending = PendingFile::create(to)?;
            let mut file = File::open(from).map_err(FileError::on("open", from))?;
            io::copy(&mut file, &mut pending).map_err(FileError::on("write", to))?;
            pending.publish()
        }
        published => published,
    }
}

/// Renames a whole directory and makes the new name durable. Fails if `to` exists and is not empty.
pub fn publish_directory(from: &Path, to: &Path) -> Result<(), FileError> {
    sync_directory(from)?;
    rename(from, to)?;
    sync_parent(to)
}

/// Creates a new file for reading and writing. Fails if the name is taken.
pub fn create_new(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(FileError::on("create", path))
}

/// A new file in `directory` that has no name: it is gone whenever the process is.
pub fn scratch(directory: &Path) -> Result<File, FileError> {
    let path = directory.join(format!(".{:08x}.tmp", fastrand::u32(..)));
    let file = create_new(&path)?;
    remove_file(&path)?;
    Ok(file)
}

/// Opens a file for reading and writing, creating it when it is not there; the content stays.
pub fn open_or_create(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(FileError::on("open", path))
}

/// Opens a file for appending, creating it when it is not there.
pub fn append(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(FileError::on("open", path))
}

/// Creates a directory and those above it that are missing, and makes the names durable.
pub fn create_directory(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        .map_err(FileError::on("create directory", path))?;
    sync_parent(path)
}

/// Waits until the content of `file` is on disk. `path` is for the message. See the module on failures.
pub fn sync(file: &File, path: &Path) -> Result<(), FileError> {
    file.sync_all().map_err(FileError::on("sync", path))
}

/// Waits until the entries of a directory are on disk.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = File::open(path).map_err(FileError::on("open", path))?;
    sync(&directory, path)
}

/// Removes a file; one that is not there is as good as removed.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::on("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory and all that is in it; one that is not there is as good as removed.
pub fn remove_directory(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::on("remove", path)(error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::on("rename to", to))
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}
