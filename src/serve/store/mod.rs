//! What the server remembers, in its directory.
//!
//! ```text
//! lock                   held by the one server that uses the directory
//! access.jsonl           one line for each API call
//! files/ID.json          what is known about a file
//! files/ID.bytes         its content
//! batches/ID.json        a batch
//! billing/BATCH.jsonl    one line for each request answered, once
//! faults.jsonl           one line for each scripted fault that acted on the rows or the end of a batch
//! journal/BATCH.journal  what an upstream was sent and has answered, as long as the batch has not ended; see `upstream`
//! faults/BATCH.seen      digests of the requests that a scripted fault failed in this batch, to fail them just once
//! ```
//!
//! Invariants: content is published before the record that speaks of it, and a record is removed before its content, so
//! a kill leaves at most content that nothing speaks of, which the next start removes. The input of a batch stays until
//! the batch has ended, though its owner may have deleted it: what was answered may be paid for, and it takes the input
//! to give it back. A **lasting** store is on disk, too, before a client hears of a change: what an upstream answers
//! has its price.

pub(crate) mod batch;
pub(crate) mod file;
pub(crate) mod quota;
mod records;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::batch::Batch;
use self::file::{Content, StoredFile};
use self::quota::{Quota, QuotaChoice, QuotaExceeded, Reservation};
use self::records::RecordStore;
use crate::serve::error::ServeError;
use crate::storage::durable::{FileError, PendingFile};
use crate::storage::lock::{FileLock, Locking};
use crate::storage::{directory, durable};

/// The server's directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    pub(crate) files: RecordStore<StoredFile>,
    pub(crate) batches: RecordStore<Batch>,
    /// How much there may be.
    quota: Arc<Quota>,
    /// The highest number of a batch.
    numbers: AtomicU64,
    lasting: bool,
    /// Held as long as the store is open; the lock ends with the process, however it ends.
    _lock: FileLock,
}

impl Store {
    /// Opens the directory, which is made when it is not there, and reads back what is in it.
    pub(crate) fn open(root: &Path, lasting: bool, quota: QuotaChoice) -> Result<Self, ServeError> {
        durable::create_directory(root)?;
        let Locking::Held(lock) = FileLock::take(&root.join("lock"))? else {
            return Err(ServeError::Locked { directory: root.to_owned() });
        };
        let billing = root.join("billing");
        durable::create_directory(&billing)?;
        remove_matching(&billing, |path| has_extension(path, "part"))?;
        let batches = RecordStore::<Batch>::open(&root.join("batches"), lasting)?;
        let highest = batches.select(|_| true).iter().map(|batch| batch.number).max();
        let files = RecordStore::<StoredFile>::open(&root.join("files"), lasting)?;
        let used = contents(&files) + reserved(&batches) + logs(root)?;
        let quota = Quota::open(quota, root, used, (files.len() + batches.len()) as u64)?;
        let store = Self {
            root: root.to_owned(),
            files,
            batches,
            quota: Arc::new(quota),
            numbers: AtomicU64::new(highest.unwrap_or_default()),
            lasting,
            _lock: lock,
        };
        for file in store.files.select(|file| file.deleted) {
            store.release(&file.id)?;
        }
        remove_matching(&root.join("files"), |path| {
            let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            has_extension(path, "bytes") && store.files.get(id).is_none_or(|file| file.content.is_none())
        })?;
        Ok(store)
    }

    /// What counts how much there is.
    pub(crate) fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Takes room for a new record and `bytes`.
    pub(crate) fn take(&self, bytes: u64) -> Result<Reservation, QuotaExceeded> {
        self.quota.take(bytes, self.records())
    }

    /// Whether there is any room left.
    pub(crate) fn has_room(&self) -> bool {
        self.quota.has_room(self.records())
    }

    /// Records of files and batches.
    pub(crate) fn records(&self) -> u64 {
        (self.files.len() + self.batches.len()) as u64
    }

    /// The number of a new batch.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed) + 1
    }

    /// Where the content of a file is.
    pub(crate) fn content_path(&self, id: &str) -> PathBuf {
        self.root.join("files").join(format!("{id}.bytes"))
    }

    /// Where the billing records of a batch are.
    pub(crate) fn billing_path(&self, batch: &str) -> PathBuf {
        self.root.join("billing").join(format!("{batch}.jsonl"))
    }

    /// The file of that id, if it belongs to `account`, which has not deleted it.
    pub(crate) fn file_of(&self, account: &str, id: &str) -> Option<Arc<StoredFile>> {
        self.files.get(id).filter(|file| file.account == account && !file.deleted)
    }

    /// The files of `account`, in no order.
    pub(crate) fn files_of(&self, account: &str) -> Vec<Arc<StoredFile>> {
        self.files.select(|file| file.account == account && !file.deleted)
    }

    /// The input of a batch, which its owner may have deleted meanwhile.
    pub(crate) fn input_of(&self, batch: &Batch) -> Option<Arc<StoredFile>> {
        self.files.get(&batch.input_file_id).filter(|file| file.account == batch.account)
    }

    /// The batch of that id, if it belongs to `account`.
    pub(crate) fn batch_of(&self, account: &str, id: &str) -> Option<Arc<Batch>> {
        self.batches.get(id).filter(|batch| batch.account == account)
    }

    /// The file that `account` sent earlier with just that content, by its SHA-256 in lowercase hex.
    pub(crate) fn same_content(&self, account: &str, sha256: &str) -> Option<String> {
        let same = self.files.select(|file| {
            let content = file.content.as_ref();
            !file.generated
                && !file.deleted
                && file.account == account
                && content.is_some_and(|content| content.digest == sha256)
        });
        same.into_iter().min_by_key(|file| (file.created_at, file.id.clone())).map(|file| file.id.clone())
    }

    /// Publishes the content of a file, then its record.
    pub(crate) fn keep(
        &self,
        mut file: StoredFile,
        bytes: PendingFile,
        content: Content,
    ) -> Result<Arc<StoredFile>, FileError> {
        self.publish(bytes)?;
        let (before, now) = (self.files.get(&file.id), content.bytes);
        file.content = Some(content);
        let kept = self.files.put(file)?;
        self.quota.add(now);
        self.quota.give_back(before.map_or(0, |before| before.bytes()));
        Ok(kept)
    }

    /// Gives a file of the store its name.
    pub(crate) fn publish(&self, bytes: PendingFile) -> Result<(), FileError> {
        if self.lasting { bytes.publish() } else { bytes.publish_unsynced() }
    }

    /// Takes a file from its owner. It is forgotten when no batch works on it any more.
    pub(crate) fn delete(&self, id: &str) -> Result<(), FileError> {
        self.files.update(id, |file| {
            file.deleted = true;
            true
        })?;
        self.release(id)
    }

    /// Forgets a file that was deleted, unless a batch that has not ended works on it.
    pub(crate) fn release(&self, id: &str) -> Result<(), FileError> {
        let is_deleted = self.files.get(id).is_some_and(|file| file.deleted);
        let is_needed = |batch: &Batch| batch.input_file_id == id && !batch.status.is_terminal();
        if is_deleted && self.batches.select(is_needed).is_empty() {
            self.discard(id)?;
        }
        Ok(())
    }

    /// Forgets a file and its content. Gives whether there was one.
    pub(crate) fn discard(&self, id: &str) -> Result<bool, FileError> {
        let Some(removed) = self.files.remove(id)? else { return Ok(false) };
        durable::remove_file(&self.content_path(id))?;
        self.quota.give_back(removed.bytes());
        Ok(true)
    }
}

/// Bytes of all contents.
fn contents(files: &RecordStore<StoredFile>) -> u64 {
    files.select(|_| true).iter().map(|file| file.bytes()).sum()
}

/// Bytes that batches at work may yet write.
fn reserved(batches: &RecordStore<Batch>) -> u64 {
    batches.select(|batch| !batch.status.is_terminal()).iter().map(|batch| batch.file_size_bytes).sum()
}

/// Bytes of the logs, and of the billing records.
fn logs(root: &Path) -> Result<u64, FileError> {
    let mut bytes = 0;
    for directory in [root, &root.join("billing")] {
        for path in directory::entries(directory)? {
            if has_extension(&path, "jsonl") {
                bytes += directory::size_of(&path)?;
            }
        }
    }
    Ok(bytes)
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

fn remove_matching(directory: &Path, unwanted: impl Fn(&Path) -> bool) -> Result<(), FileError> {
    for path in directory::entries(directory)? {
        if unwanted(&path) {
            durable::remove_file(&path)?;
        }
    }
    Ok(())
}
