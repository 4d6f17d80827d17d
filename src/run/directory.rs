//! The run directory: where a run's state is stored, and the lock on it.
//!
//! ```text
//! ~/.local/state/batchline/         all runs of a user
//!   3f9a2c71d0e4a1b2/               one run, named after its fingerprint
//!     lock                          held while a process is using it; contains its process id
//!     ledger.sqlite                 the Ledger
//!     intents.log                   a second record of what was sent
//!     requests.idx                  the request index
//!     replies.idx                   the reply index
//!     replies/000001-output.jsonl   reply files as the service sent them, by submission
//!     replies/000001-output.again   one that was fetched again, until the better version is known
//!     replies/000001-unknown.jsonl  replies set aside, by submission
//!     spool-0000.jsonl              input that cannot be re-read from its origin
//!     local/                        the state of the built-in service, with `--provider local`
//!     online/                       batches that are answered request by request, with `--provider online`
//!   .incoming-5d1c/                 a run being prepared; without a running process it is a leftover and removed
//! ```
//!
//! Invariants: a directory under its final name has a complete Ledger and a complete request index; until then it is
//! called `.incoming-…`. A lock never outlives its process. A state directory that belongs to another user, or is a
//! symbolic link, is refused: its content would be sent, paid for and delivered as this user's.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::reply::ReplyRole;
use crate::run::error::{CREATE_HOME, Error};
use crate::storage::directory;
use crate::storage::directory::Found;
use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::lock;
use crate::storage::lock::{FileLock, Locking};

const INCOMING_PREFIX: &str = ".incoming-";

/// The directories that hold runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlaces {
    /// New runs are created here.
    pub home: PathBuf,
    /// Existing runs in these are found and resumed, too.
    pub others: Vec<PathBuf>,
}

impl RunPlaces {
    /// The directories of all runs, sorted by name within each place.
    ///
    /// # Errors
    /// When a place cannot be read, or is [not ours](require_own).
    pub fn runs(&self) -> Result<Vec<PathBuf>, Error> {
        let mut found = Vec::new();
        for place in self.each() {
            require_own(place)?;
            found.extend(runs(place)?);
        }
        Ok(found)
    }

    /// The places, without duplicates.
    pub fn each(&self) -> impl Iterator<Item = &Path> {
        let mut seen = Vec::new();
        [&self.home].into_iter().chain(&self.others).map(PathBuf::as_path).filter(move |place| {
            let Some(inode) = directory::inode(place) else { return true };
            let is_new = !seen.contains(&inode);
            seen.push(inode);
            is_new
        })
    }
}

/// Refuses a state directory that belongs to another user or is a symbolic link. A missing one is accepted.
pub fn require_own(path: &Path) -> Result<(), Error> {
    let user = rustix::process::geteuid().as_raw();
    let (what, hint) = match directory::look_at(path)? {
        Found::SymbolicLink => ("is a symbolic link".to_owned(), "name its target instead"),
        Found::NoDirectory => ("is not a directory".to_owned(), "move it away, or name another directory"),
        Found::DirectoryOf(owner) if owner != user => {
            (format!("belongs to user {owner}, and this is user {user}"), "name a directory that belongs to you")
        }
        Found::Nothing | Found::DirectoryOf(_) => return Ok(()),
    };
    let hint = format!("{hint}: BATCHLINE_HOME for all runs, --run-dir for one");
    Err(Error::NotOurs { path: path.to_owned(), what, hint })
}

/// A run directory that this process has locked.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _lock: FileLock,
}

impl RunDirectory {
    /// Locks the run directory at `path`.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process is using it; [`Error::OtherDirectory`] when there is no run in it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        require_run(path)?;
        Ok(Self { path: path.to_owned(), _lock: take_lock(path)? })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with its content. It is renamed first: a crash leaves a leftover instead of a damaged run.
    pub fn remove(self) -> Result<(), FileError> {
        let path = std::path::absolute(&self.path).map_err(FileError::on("resolve", &self.path))?;
        let leftover = leftover_in(path.parent().unwrap_or(&path));
        durable::publish_directory(&path, &leftover)?;
        durable::remove_directory(&leftover)
    }
}

/// A name for a directory that is not a run, or not yet. Without a running process it is a leftover.
fn leftover_in(parent: &Path) -> PathBuf {
    parent.join(format!("{INCOMING_PREFIX}{:08x}", fastrand::u32(..)))
}

/// A run directory being prepared. Dropped before it is published, it is removed.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    lock: Option<FileLock>,
}

impl Incoming {
    /// Creates an empty one in `parent`, and removes those that dead processes left there. The caller checks who owns
    /// `parent`: one that was named for a single run may be anywhere.
    pub fn create(parent: &Path) -> Result<Self, Error> {
        durable::create_directory(parent).map_err(|error| FileError { action: CREATE_HOME, ..error })?;
        remove_leftovers(parent)?;
        loop {
            let path = leftover_in(parent);
            durable::create_directory(&path)?;
            match take_lock(&path) {
                Ok(lock) if lock.is_at(&lock_file(&path)) => return Ok(Self { path, lock: Some(lock) }),
                // Another process took it for a leftover before it was locked, which happens only when a run is
                // created.
                Ok(_) | Err(Error::Locked { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name.
    pub fn publish(mut self, target: &Path) -> Result<RunDirectory, Error> {
        durable::publish_directory(&self.path, target)?;
        let lock = self.lock.take().expect("an incoming directory holds its lock until it is published");
        Ok(RunDirectory { path: target.to_owned(), _lock: lock })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // A failure is ignored: the next run removes it.
            let _ = durable::remove_directory(&self.path);
        }
    }
}

/// The paths inside a run directory.
pub mod layout {
    use super::{Path, PathBuf, ReplyRole};

    /// The Ledger.
    #[must_use]
    pub fn ledger(run: &Path) -> PathBuf {
        run.join("ledger.sqlite")
    }

    /// The request index.
    #[must_use]
    pub fn requests(run: &Path) -> PathBuf {
        run.join("requests.idx")
    }

    /// The reply index.
    #[must_use]
    pub fn replies_index(run: &Path) -> PathBuf {
        run.join("replies.idx")
    }

    /// The directory of reply files.
    #[must_use]
    pub fn replies(run: &Path) -> PathBuf {
        run.join("replies")
    }

    /// The batches of a service without a Batch API.
    #[must_use]
    pub fn online(run: &Path) -> PathBuf {
        run.join("online")
    }

    /// The state of the local service.
    #[must_use]
    pub fn local(run: &Path) -> PathBuf {
        run.join("local")
    }

    /// The number by which slots refer to the reply file of a submission.
    ///
    /// # Panics
    /// With more than 2,000,000,000 submissions.
    #[must_use]
    pub fn reply_number(submission: i64, role: ReplyRole) -> u32 {
        let submission = u32::try_from(submission).expect("submissions are counted from one");
        submission * 2 + u32::from(role == ReplyRole::Error)
    }

    /// Whether a number is that of a reply file of a submission.
    #[must_use]
    pub fn is_of(number: u32, submission: i64) -> bool {
        i64::from(number / 2) == submission
    }

    /// The reply file with a number.
    #[must_use]
    pub fn reply_file(run: &Path, number: u32) -> PathBuf {
        let role = if number.is_multiple_of(2) { "output" } else { "errors" };
        replies(run).join(format!("{:06}-{role}.jsonl", number / 2))
    }

    /// The prefix of the names of replies set aside.
    #[must_use]
    pub fn aside(run: &Path, submission: i64) -> PathBuf {
        replies(run).join(format!("{submission:06}"))
    }
}

/// Refuses a directory in which there is no run, or that is [not ours](require_own).
pub fn require_run(path: &Path) -> Result<(), Error> {
    require_own(path)?;
    if layout::ledger(path).is_file() {
        return Ok(());
    }
    let hint = "`batchline ls` lists the runs".to_owned();
    Err(Error::OtherDirectory { path: path.to_owned(), what: "holds no run".to_owned(), hint })
}

/// The run directories in `parent`, by name.
pub fn runs(parent: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    let entries = match directory::entries(parent) {
        Err(error) if error.is_not_found() => return Ok(found),
        entries => entries?,
    };
    for path in entries {
        // An unreadable one counts as a run, so that the error is reported.
        let holds_run = match layout::ledger(&path).metadata() {
            Ok(ledger) => ledger.is_file(),
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        };
        if holds_run && !is_incoming(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a process is using the run at `path`, and which.
pub fn owner(path: &Path) -> Result<Option<String>, FileError> {
    lock::owner(&lock_file(path))
}

fn is_incoming(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(INCOMING_PREFIX))
}

fn remove_leftovers(parent: &Path) -> Result<(), Error> {
    for path in directory::entries(parent)? {
        // Without a lock file it is being created by another process, or that process has died; it is empty.
        if is_incoming(&path)
            && lock_file(&path).exists()
            && let Ok(_lock) = take_lock(&path)
        {
            durable::remove_directory(&path)?;
        }
    }
    Ok(())
}

fn lock_file(run: &Path) -> PathBuf {
    run.join("lock")
}

fn take_lock(run: &Path) -> Result<FileLock, Error> {
    match FileLock::take(&lock_file(run))? {
        Locking::Held(lock) => Ok(lock),
        Locking::HeldBy(owner) => Err(Error::Locked { path: run.to_owned(), owner: owner.parse().ok() }),
    }
}
