//! A hook before every durable change, at which a test makes the change fail or ends the life of a process.
//!
//! In: each [`Change`] that is about to be made, from [`durable`](crate::storage::durable), from the files that it
//! opens, and from the Ledger for its commits. Out: leave to make it, or the error that takes its place.
//!
//! Invariants: no file appears, changes or disappears that was not announced here first. `SQLite`'s own writes, between
//! two commits, are the exception. A program that installs no hook pays one relaxed load for a change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A kind of durable change. What survives a kill counts, whether it has been synced or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A file or a directory is created, unless it is there already.
    Create,
    /// The content or the length of a file changes.
    Write,
    /// A file or the entries of a directory are synced.
    Sync,
    /// A file or a directory gets its final name.
    Rename,
    /// A file or a directory is removed.
    Remove,
    /// A transaction of the Ledger is committed.
    Commit,
}

/// Decides about a change of the file or the directory at a path.
type Decide = dyn Fn(Change, &Path) -> io::Result<()> + Send + Sync;

/// How many hooks there are.
static INSTALLED: AtomicUsize = AtomicUsize::new(0);

/// The hooks, each with the directory that it is for.
static HOOKS: RwLock<Vec<(PathBuf, Arc<Decide>)>> = RwLock::new(Vec::new());

/// A hook that is asked about all changes below a directory, from any thread, until it is dropped.
#[must_use = "dropped, it is asked no more"]
pub struct FaultHook {
    decide: Arc<Decide>,
}

impl fmt::Debug for FaultHook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("FaultHook").finish_non_exhaustive()
    }
}

impl FaultHook {
    /// Asks `decide` about each change below `directory`, as its callers spell it. An error takes the place of the
    /// change.
    pub fn below(directory: &Path, decide: impl Fn(Change, &Path) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let decide: Arc<Decide> = Arc::new(decide);
        let mut hooks = HOOKS.write().unwrap_or_else(PoisonError::into_inner);
        hooks.push((directory.to_owned(), decide.clone()));
        INSTALLED.store(hooks.len(), Ordering::Relaxed);
        Self { decide }
    }
}

impl Drop for FaultHook {
    fn drop(&mut self) {
        let mut hooks = HOOKS.write().unwrap_or_else(PoisonError::into_inner);
        hooks.retain(|(_, decide)| !Arc::ptr_eq(decide, &self.decide));
        INSTALLED.store(hooks.len(), Ordering::Relaxed);
    }
}

/// To be called before each durable change.
///
/// # Errors
/// What a hook decides. Without one, never.
#[inline]
pub fn before(change: Change, path: &Path) -> io::Result<()> {
    if INSTALLED.load(Ordering::Relaxed) == 0 { Ok(()) } else { ask(change, path) }
}

#[cold]
fn ask(change: Change, path: &Path) -> io::Result<()> {
    let hooks = HOOKS.read().unwrap_or_else(PoisonError::into_inner);
    let asked: Vec<Arc<Decide>> =
        hooks.iter().filter(|(directory, _)| path.starts_with(directory)).map(|(_, decide)| decide.clone()).collect();
    // A hook may take as long as it likes.
    drop(hooks);
    asked.iter().try_for_each(|decide| decide(change, path))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;
    use crate::storage::durable;
    use crate::storage::durable::PendingFile;
    use crate::storage::local_file::LocalFile;
    use crate::storage::lock::{FileLock, Locking};

    /// The changes that `work` makes below a directory.
    fn changes(work: impl FnOnce(&Path)) -> Vec<Change> {
        let directory = tempfile::tempdir().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heard = seen.clone();
        let _hook = FaultHook::below(directory.path(), move |change, _| {
            heard.lock().unwrap().push(change);
            Ok(())
        });
        work(directory.path());
        // Of another directory nothing is heard.
        durable::publish_bytes(&tempfile::tempdir().unwrap().path().join("other"), b"x").unwrap();
        std::mem::take(&mut *seen.lock().unwrap())
    }

    #[test]
    fn every_change_below_the_directory_is_announced() {
        use Change::{Create, Remove, Rename, Sync, Write};
        let published = changes(|directory| durable::publish_bytes(&directory.join("a"), b"x").unwrap());
        assert_eq!(published, [Create, Write, Sync, Rename, Sync]);
        let dropped = changes(|directory| drop(PendingFile::create(&directory.join("a")).unwrap()));
        assert_eq!(dropped, [Create, Remove]);
        let in_place = changes(|directory| {
            let mut file = LocalFile::append(&directory.join("a")).unwrap();
            file.write_all(b"x").unwrap();
            file.write_all_at(b"y", 0).unwrap();
            file.resize(7).unwrap();
            file.sync().unwrap();
        });
        assert_eq!(in_place, [Create, Write, Write, Write, Sync]);
        // Where files without a name are supported, nothing is there that could survive.
        let scratch = changes(|directory| drop(durable::scratch(directory).unwrap()));
        assert!(scratch.is_empty() || scratch == [Create, Remove], "{scratch:?}");
        let directories = changes(|directory| {
            durable::create_directory(&directory.join("a")).unwrap();
            durable::publish_directory(&directory.join("a"), &directory.join("b")).unwrap();
            durable::remove_directory(&directory.join("b")).unwrap();
        });
        assert_eq!(directories, [Create, Sync, Sync, Rename, Sync, Remove]);
        let locked = changes(|directory| {
            assert!(matches!(FileLock::take(&directory.join("a")).unwrap(), Locking::Held(_)));
        });
        assert_eq!(locked, [Create, Write]);
    }

    #[test]
    fn an_error_takes_the_place_of_the_change() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a");
        for failing in [Change::Create, Change::Write, Change::Sync, Change::Rename] {
            let hook = FaultHook::below(directory.path(), move |change, _| {
                if change == failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            });
            let error = durable::publish_bytes(&target, b"x").unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
            drop(hook);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{failing:?}");
        }
        durable::publish_bytes(&target, b"x").unwrap();
        let hook = FaultHook::below(directory.path(), |_, _| Err(io::ErrorKind::StorageFull.into()));
        durable::remove_file(&target).unwrap_err();
        drop(hook);
        durable::remove_file(&target).unwrap();
    }
}
