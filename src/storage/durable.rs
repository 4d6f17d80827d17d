//! The only module that creates, syncs, renames or removes a file.
//!
//! In: paths and bytes. Out: files that are either complete and on disk, or absent.
//!
//! Invariants:
//! - A file published here was synced before its rename, and its directory was synced after it: after a
//!   power cut the name either does not exist or refers to the complete content. One exception: a file of the user that
//!   cannot be replaced, such as a mount point, is overwritten.
//! - A failed sync is final. The kernel may have dropped the pages it could not write, so a second
//!   `fsync` that succeeds proves nothing; the caller must stop and redo the work from what it can read back.
//! - Directories have mode 0700 and files 0600, regardless of the umask: they hold prompts and replies. Files that the
//!   user asked for are created according to the umask ([`PendingFile::create_shared`], [`create_shared_directory`]).
//! - A symbolic link in the last component of a path that is created is never followed.
//!
//! `.clippy.toml` forbids the corresponding functions of `std::fs` and `tokio::fs` everywhere else.
#![expect(clippy::disallowed_methods, reason = "this is the module that the lint points to")]

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

use crate::model::shown::Name;
use crate::storage::fault_hook;
use crate::storage::fault_hook::Change;

/// Permissions of every file: read and write for the owner alone.
const FILE_MODE: u32 = 0o600;

/// Permissions of every directory: the owner alone.
const DIRECTORY_MODE: u32 = 0o700;

/// Permissions of files that the user asked for, restricted by the umask.
const SHARED_FILE_MODE: u32 = 0o666;

/// Permissions of directories that the user asked for, restricted by the umask.
const SHARED_DIRECTORY_MODE: u32 = 0o777;

/// Bytes of a target's name that the name of its temporary file includes, so that it is not too long for the file
/// system.
const TEMPORARY_NAME_BYTES: usize = 200;

/// The suffix of the names of temporary files.
const TEMPORARY_SUFFIX: &str = ".part";

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
    /// Adds to an I/O error what was tried and on which path; for `map_err`.
    pub fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }

    /// Whether the file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Whether the error says that the process, or the whole system, has reached its limit of open files. Waiting does not
/// help: most likely, this process holds them.
#[must_use]
pub fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// What to do when [`is_out_of_files`].
pub const MORE_FILES: &str = "allow more open files (`ulimit -n`): 64 are enough";

/// Whether the error says that there is no room: the disk is full, or a quota or a limit is reached.
#[must_use]
pub fn is_out_of_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The remedy if a system limit caused the error.
#[must_use]
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    if is_out_of_space(error) {
        Some("free some space, then run the same command to resume")
    } else {
        is_out_of_files(error).then_some(MORE_FILES)
    }
}

/// A file that is being written next to its final path and appears there, complete, by [`PendingFile::publish`].
///
/// Dropped before that, it removes what it wrote.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
    /// Whether the user asked for it.
    shared: bool,
}

impl PendingFile {
    /// Starts a file that will appear as `target`. It is written under a temporary name in the same directory, so that
    /// the rename does not cross file systems.
    pub fn create(target: &Path) -> Result<Self, FileError> {
        let temporary = target.with_file_name(temporary_name(target, fastrand::u32(..)));
        let file = create_new(&temporary)?;
        Ok(Self { file, temporary, target: target.to_owned(), published: false, shared: false })
    }

    /// Starts a file that the user asked for. If `target` exists, its mode is kept, and its owner where permitted;
    /// otherwise the umask applies. It is locked: see [`remove_leftovers`].
    pub fn create_shared(target: &Path) -> Result<Self, FileError> {
        let old = fs::metadata(target).ok();
        // The replacement of a file that others may not read is never readable by others.
        let mode = if old.is_some() { FILE_MODE } else { SHARED_FILE_MODE };
        loop {
            let temporary = target.with_file_name(temporary_name(target, fastrand::u32(..)));
            let file = create_new_with(&temporary, mode)?;
            // Where locks are not supported, no process takes it for a leftover either.
            let locked = file.try_lock().is_ok();
            if locked && !is_at(&temporary, &file) {
                // Another process took it for a leftover before it was locked.
                continue;
            }
            if let Some(old) = &old {
                keep_owner_and_mode(&file, old);
            }
            return Ok(Self { file, temporary, target: target.to_owned(), published: false, shared: true });
        }
    }

    /// The path at which the file will appear.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs the file, renames it to its target, and syncs the directory. An older file of that name is replaced.
    pub fn publish(mut self) -> Result<(), FileError> {
        sync(&self.file, &self.temporary)?;
        match rename(&self.temporary, &self.target) {
            Err(error) if self.shared && cannot_be_replaced(&error.source) && self.target.is_file() => {
                self.write_over()?;
            }
            renamed => {
                renamed?;
                self.published = true;
            }
        }
        sync_parent(&self.target)
    }

    /// Copies the content into the target: a mount point, as in containers, or a file of another user in a directory
    /// like `/tmp` can be written to, but not replaced.
    fn write_over(&mut self) -> Result<(), FileError> {
        let failed = FileError::on("write", &self.target);
        let copied = self.file.rewind().and_then(|()| {
            fault_hook::before(Change::Write, &self.target)?;
            let mut target = OpenOptions::new().write(true).truncate(true).open(&self.target)?;
            io::copy(&mut self.file, &mut target)?;
            fault_hook::before(Change::Sync, &self.target)?;
            target.sync_all()
        });
        copied.map_err(failed)
    }

    /// Renames the file to its target without waiting for the disk: complete or absent after a kill of the process, but
    /// not after a power cut. For files that can be recreated, such as the state of the test service.
    pub fn publish_unsynced(mut self) -> Result<(), FileError> {
        rename(&self.temporary, &self.target)?;
        self.published = true;
        Ok(())
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        fault_hook::before(Change::Write, &self.temporary)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.published {
            // A failure is ignored: a leftover is harmless, because it has no final name.
            let _ = remove_file(&self.temporary);
        }
    }
}

/// Removes temporary files that killed processes have left of a file that the user asked for.
pub fn remove_leftovers_of(target: &Path) {
    let name = shortened_name(target);
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    remove_leftovers(directory, |of| of == name);
}

/// Removes from a directory the temporary files of targets of certain names that no process has locked. Failures are
/// ignored: leftovers are harmless.
pub fn remove_leftovers(directory: &Path, is_target: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let is_leftover = entry.file_type().is_ok_and(|kind| kind.is_file())
            && entry.file_name().to_str().and_then(name_in_temporary).is_some_and(&is_target);
        let opened = is_leftover.then(|| OpenOptions::new().write(true).open(entry.path()));
        if let Some(Ok(file)) = opened
            && file.try_lock().is_ok()
            && is_at(&entry.path(), &file)
        {
            let _ = remove_file(&entry.path());
        }
    }
}

/// Writes `bytes` as `target`, atomically.
pub fn publish_bytes(target: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut pending = PendingFile::create(target)?;
    pending.write_all(bytes).map_err(FileError::on("write", target))?;
    pending.publish()
}

/// Writes `bytes` as `target`, atomically with respect to a kill of the process.
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

/// As [`publish`], to a path that may be on another file system: then the content is copied, and `from` is kept.
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

/// Makes `to` a hard link to the file at `from`, which is complete and synced; an older file of that name is replaced.
/// Where hard links are not supported, the content is copied.
pub fn link(from: &Path, to: &Path) -> Result<(), FileError> {
    let temporary = to.with_file_name(temporary_name(to, fastrand::u32(..)));
    fault_hook::before(Change::Create, &temporary).map_err(FileError::on("link", &temporary))?;
    if fs::hard_link(from, &temporary).is_ok() {
        let renamed = rename(&temporary, to);
        // Renaming one hard link to another one of the same file does nothing.
        let _ = remove_file(&temporary);
        renamed?;
        return sync_parent(to);
    }
    let mut pending = PendingFile::create(to)?;
    let mut file = File::open(from).map_err(FileError::on("open", from))?;
    io::copy(&mut file, &mut pending).map_err(FileError::on("write", to))?;
    pending.publish()
}

/// Renames a whole directory and makes the new name durable. Fails if `to` exists and is not empty.
pub fn publish_directory(from: &Path, to: &Path) -> Result<(), FileError> {
    sync_directory(from)?;
    rename(from, to)?;
    sync_parent(to)
}

/// Creates a new file for reading and writing. Fails if the name is taken.
pub fn create_new(path: &Path) -> Result<File, FileError> {
    create_new_with(path, FILE_MODE)
}

fn create_new_with(path: &Path, mode: u32) -> Result<File, FileError> {
    fault_hook::before(Change::Create, path).map_err(FileError::on("create", path))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(FileError::on("create", path))
}

/// A new file in `directory` without a name: it vanishes with the process.
pub fn scratch(directory: &Path) -> Result<File, FileError> {
    #[cfg(target_os = "linux")]
    {
        let flags = OFlags::TMPFILE.bits().cast_signed();
        let opened = OpenOptions::new().read(true).write(true).mode(FILE_MODE).custom_flags(flags).open(directory);
        if let Ok(file) = opened {
            return Ok(file);
        }
    }
    // Where that is not supported, it has a name for a moment.
    let path = directory.join(format!(".{:08x}.tmp", fastrand::u32(..)));
    let file = create_new(&path)?;
    remove_file(&path)?;
    Ok(file)
}

/// Opens a file for reading and writing, creating it if it does not exist; existing content is kept.
pub fn open_or_create(path: &Path) -> Result<File, FileError> {
    fault_hook::before(Change::Create, path).map_err(FileError::on("open", path))?;
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

/// Opens a file for appending, creating it if it does not exist.
pub fn append(path: &Path) -> Result<File, FileError> {
    fault_hook::before(Change::Create, path).map_err(FileError::on("open", path))?;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(FileError::on("open", path))
}

/// Opens a pipe or a device for writing; existing content is kept. Opening a named pipe waits for a reader.
pub fn open_stream(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().append(true).open(path).map_err(FileError::on("open", path))
}

/// Opens the file of another descriptor of this process for writing. A pipe without a reader is an error rather than
/// waited for.
pub fn open_descriptor(path: &Path) -> Result<File, FileError> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().append(true).custom_flags(flags).open(path).and_then(|file| {
        let waiting = rustix::fs::fcntl_getfl(&file)?.difference(OFlags::NONBLOCK);
        rustix::fs::fcntl_setfl(&file, waiting)?;
        Ok(file)
    });
    opened.map_err(|error| {
        let nobody_reads = rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NXIO);
        let error = if nobody_reads { io::ErrorKind::BrokenPipe.into() } else { error };
        FileError::on("open", path)(error)
    })
}

/// Creates a directory and its missing parents, and makes the names durable.
pub fn create_directory(path: &Path) -> Result<(), FileError> {
    create_directory_with(path, DIRECTORY_MODE)
}

/// The same for a directory that the user asked for: the umask determines its permissions.
pub fn create_shared_directory(path: &Path) -> Result<(), FileError> {
    create_directory_with(path, SHARED_DIRECTORY_MODE)
}

fn create_directory_with(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    fault_hook::before(Change::Create, path).map_err(FileError::on("create directory", path))?;
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(FileError::on("create directory", path))?;
    sync_parent(path)
}

/// Whether the names in a directory are case-insensitive. If that cannot be tested, they may be.
#[must_use]
pub fn ignores_case(directory: &Path) -> bool {
    let name = format!(".batchline-case-{:08x}{TEMPORARY_SUFFIX}", fastrand::u32(..));
    let path = directory.join(&name);
    let Ok(_file) = create_new(&path) else { return true };
    let ignores = directory.join(name.to_uppercase()).exists();
    // A leftover is harmless.
    let _ = remove_file(&path);
    ignores
}

/// Waits until the content of `file` is on disk. `path` is for the message. For failures, see the module.
pub fn sync(file: &File, path: &Path) -> Result<(), FileError> {
    fault_hook::before(Change::Sync, path).map_err(FileError::on("sync", path))?;
    file.sync_all().map_err(FileError::on("sync", path))
}

/// Waits until the entries of a directory are on disk.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = File::open(path).map_err(FileError::on("open", path))?;
    sync(&directory, path)
}

/// Removes a file. Idempotent: a missing file is not an error.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    fault_hook::before(Change::Remove, path).map_err(FileError::on("remove", path))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::on("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory and its content. Idempotent: a missing directory is not an error.
pub fn remove_directory(path: &Path) -> Result<(), FileError> {
    fault_hook::before(Change::Remove, path).map_err(FileError::on("remove", path))?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::on("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The temporary name of the file that becomes `target`.
fn temporary_name(target: &Path, number: u32) -> String {
    format!(".{}.{number:08x}{TEMPORARY_SUFFIX}", shortened_name(target))
}

/// The part of a target's name that its temporary file includes.
fn shortened_name(target: &Path) -> String {
    let mut name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.truncate(name.floor_char_boundary(TEMPORARY_NAME_BYTES));
    name
}

/// The same, from the name of a temporary file.
fn name_in_temporary(temporary: &str) -> Option<&str> {
    let (name, number) = temporary.strip_prefix('.')?.strip_suffix(TEMPORARY_SUFFIX)?.rsplit_once('.')?;
    (number.len() == 8 && number.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
}

/// Whether an open file is still the one at a path.
pub(super) fn is_at(path: &Path, file: &File) -> bool {
    let same =
        |named: Metadata| file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (named.dev(), named.ino()));
    fs::symlink_metadata(path).is_ok_and(same)
}

/// Gives a file the owner and the mode of another one, as far as permitted. If the group cannot be set, its permissions
/// are those of others.
fn keep_owner_and_mode(file: &File, old: &Metadata) {
    let (owner, group) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
    let mut mode = old.mode() & SHARED_DIRECTORY_MODE;
    let is_kept = file.metadata().is_ok_and(|new| (new.uid(), new.gid()) == (old.uid(), old.gid()))
        || rustix::fs::fchown(file, Some(owner), Some(group)).is_ok()
        || rustix::fs::fchown(file, None, Some(group)).is_ok();
    if !is_kept {
        mode = mode & !0o070 | (mode & 0o007) << 3;
    }
    // Not every file system supports modes.
    let _ = rustix::fs::fchmod(file, Mode::from_raw_mode(mode));
}

/// Whether a file of that name may be writable, though not replaceable.
fn cannot_be_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ResourceBusy};
    matches!(error.kind(), CrossesDevices | PermissionDenied | ResourceBusy)
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    let renamed = fault_hook::before(Change::Rename, to).and_then(|()| fs::rename(from, to));
    renamed.map_err(FileError::on("rename to", to))
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}
