//! The durable change that a process does not get past.
//!
//! In: how many changes to its files and its Ledger a process makes. Out: the next one, which is not made, and nor is
//! any other: the process dies there, or lives to see that its disk is broken.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use batchline::CancellationToken;
use batchline::storage::fault_hook::{Change, FaultHook};

/// Which changes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// The commits of the Ledger.
    Commits,
    /// Every durable change: files, too.
    All,
}

/// What becomes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It dies there.
    Dies,
    /// It lives, and its disk takes no more changes.
    Fails,
}

/// Where a process is cut off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// The changes before that.
    pub(super) changes: u64,
    pub(super) counted: Counted,
    pub(super) then: Then,
}

/// The first change that was not made.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub(super) change: Change,
    /// Which file or directory it was about.
    pub(super) path: PathBuf,
}

/// A cut that waits for its process.
pub(super) struct Armed {
    state: Arc<Mutex<State>>,
    pub(super) then: Then,
    _hook: FaultHook,
}

struct State {
    left: u64,
    reached: Option<Reached>,
}

impl Cut {
    /// Any change, early as likely as late.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let reach: u64 = 1 << rng.u32(3..10);
        let then = if rng.bool() { Then::Dies } else { Then::Fails };
        Self { changes: rng.u64(..reach), counted: Counted::All, then }
    }

    /// Counts the changes below `directory` from here on. A process that dies there dies by `death`.
    pub(super) fn arm(self, directory: &Path, death: &CancellationToken) -> Armed {
        let Self { changes, counted, then } = self;
        let state = Arc::new(Mutex::new(State { left: changes, reached: None }));
        let (counting, death) = (state.clone(), death.clone());
        let hook = FaultHook::below(directory, move |change, path| {
            let mut state = counting.lock().unwrap_or_else(PoisonError::into_inner);
            if state.reached.is_none() {
                if counted == Counted::Commits && change != Change::Commit {
                    return Ok(());
                }
                if let Some(left) = state.left.checked_sub(1) {
                    state.left = left;
                    return Ok(());
                }
                state.reached = Some(Reached { change, path: path.to_owned() });
                if then == Then::Dies {
                    death.cancel();
                }
            }
            Err(io::Error::other("the simulation is out of changes"))
        });
        Armed { state, then, _hook: hook }
    }
}

impl Armed {
    /// The change that was not made, once it was to be made.
    pub(super) fn reached(&self) -> Option<Reached> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).reached.clone()
    }
}
