//! How much a server keeps at most: strangers, or a client that never deletes anything, must not fill the disk or the
//! memory.
//!
//! In: what is about to be kept. Out: room for it, or a refusal that clients hear before anything is done.
//!
//! Invariants: what clients send is counted while it comes in, before it is written. A batch is let in only with room
//! for as many bytes as its input has; what it answers is counted when it is there, and never refused: it may be paid
//! for. So beyond the quota there is at most what the batches that were let in answer beyond the size of their inputs,
//! and the log of the calls of clients. Calls that are refused because of their host or their origin are not logged
//! beyond it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::storage::directory;
use crate::storage::durable::FileError;

/// Bytes that a record takes on disk, at least: a block of the file system.
const RECORD_BYTES: u64 = 4096;

/// Most records of files and batches: they are in memory, about a kilobyte each.
const RECORDS: u64 = 1_000_000;

/// The part of what is free when a server starts that it takes at most, in hundredths.
const SHARE_OF_FREE: u64 = 90;

/// How much a server's directory may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaChoice {
    /// As much as there is room for.
    Unlimited,
    /// That many bytes.
    Bytes(u64),
    /// What it holds when the server starts, and nine tenths of what is free then.
    ShareOfFree,
}

/// There is no room.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "The quota of this server, {bytes} bytes and {RECORDS} files and batches, is used up: delete files, or raise its --quota"
)]
pub(crate) struct QuotaExceeded {
    bytes: u64,
}

/// The quota of one server.
#[derive(Debug)]
pub(crate) struct Quota {
    /// Most bytes.
    limit: u64,
    /// Bytes of contents, logs, and what batches at work may yet write; without records.
    used: AtomicU64,
}

impl Quota {
    /// The quota of a server in `directory` that already holds `used` bytes and `records` records.
    pub(crate) fn open(choice: QuotaChoice, directory: &Path, used: u64, records: u64) -> Result<Self, FileError> {
        let limit = match choice {
            QuotaChoice::Unlimited => u64::MAX,
            QuotaChoice::Bytes(bytes) => bytes,
            QuotaChoice::ShareOfFree => {
                let free = directory::free_bytes(directory)?;
                total(used, records).saturating_add(free / 100 * SHARE_OF_FREE)
            }
        };
        Ok(Self { limit, used: AtomicU64::new(used) })
    }

    /// Takes room for `bytes`, and for one more record than there are.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64, records: u64) -> Result<Reservation, QuotaExceeded> {
        let mut taken = Reservation { quota: self.clone(), bytes: 0 };
        if records >= RECORDS {
            return Err(QuotaExceeded { bytes: self.limit });
        }
        taken.grow(bytes, records + 1)?;
        Ok(taken)
    }

    /// Whether there is any room left beside `records` records.
    pub(crate) fn has_room(&self, records: u64) -> bool {
        total(self.used.load(Relaxed), records) < self.limit
    }

    /// Counts what is there, whether there is room for it or not.
    pub(crate) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Relaxed);
    }

    /// Counts what is gone.
    pub(crate) fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // It always succeeds, for there is always a new value.
        let _ = self.used.fetch_update(Relaxed, Relaxed, less);
    }
}

fn total(bytes: u64, records: u64) -> u64 {
    bytes.saturating_add(records.saturating_mul(RECORD_BYTES))
}

/// Room that was taken, and is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    quota: Arc<Quota>,
    bytes: u64,
}

impl Reservation {
    /// Takes room for `bytes` more, beside `records` records.
    pub(crate) fn grow(&mut self, bytes: u64, records: u64) -> Result<(), QuotaExceeded> {
        let limit = self.quota.limit;
        let more = |used: u64| used.checked_add(bytes).filter(|used| total(*used, records) <= limit);
        self.quota.used.fetch_update(Relaxed, Relaxed, more).map_err(|_| QuotaExceeded { bytes: limit })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Keeps the room for good; see [`Quota::give_back`].
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u64) -> Arc<Quota> {
        Arc::new(Quota::open(QuotaChoice::Bytes(limit), Path::new("."), 0, 0).unwrap())
    }

    #[test]
    fn room_is_taken_kept_and_given_back() {
        let quota = quota(10_000);
        let first = quota.take(5_000, 0).unwrap();
        assert!(quota.take(5_000, 0).is_err(), "a record needs room, too");
        assert!(quota.take(0, 2).is_err());
        let mut second = quota.take(500, 0).unwrap();
        assert!(second.grow(1_000, 1).is_err());
        second.grow(404, 1).unwrap();
        drop(second);
        first.keep();
        assert!(quota.take(905, 0).is_err());
        quota.give_back(5_000);
        quota.take(5_904, 0).unwrap().keep();
        quota.add(1 << 40);
        assert!(quota.take(0, 0).is_err());
        quota.give_back(u64::MAX);
        assert!(quota.take(0, 0).is_ok());
    }

    #[test]
    fn records_are_counted_whatever_the_bytes() {
        let quota = Arc::new(Quota::open(QuotaChoice::Unlimited, Path::new("."), 0, 0).unwrap());
        assert!(quota.take(u64::MAX / 2, RECORDS - 1).is_ok());
        assert!(quota.take(0, RECORDS).is_err());
    }

    #[test]
    fn a_share_of_what_is_free_leaves_some() {
        let directory = tempfile::tempdir().unwrap();
        let free = directory::free_bytes(directory.path()).unwrap();
        let quota = Quota::open(QuotaChoice::ShareOfFree, directory.path(), 1_000, 1).unwrap();
        let least = 1_000 + RECORD_BYTES;
        assert!(quota.limit > least + free / 2 && quota.limit < least + free / 100 * 98, "{} of {free}", quota.limit);
        assert!(Quota::open(QuotaChoice::ShareOfFree, &directory.path().join("none"), 0, 0).is_err());
    }
}
