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
//! What always holds: content is published before the record that speaks of it, and a record is removed before its
//! content, so a kill leaves at most content that nothing speaks of, which the next start removes. The input of a batch stays until the
//! batch has ended, though its owner may have deleted it: what was answered may be paid for, and it takes the input to give it back. A
//! **lasting** store is on disk, too, before anybody hears of a change: what an upstream answers has its price.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::ServeError;
use super::quota::{Full, Quota, QuotaChoice, Taken};
use super::upstream::Again;
use crate::serve::records::{Record, RecordStore};
use crate::storage::durable;
use crate::storage::durable::{FileError, PendingFile};

/// A file as the service holds it, or is about to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredFile {
    pub(super) id: String,
    /// Whose it is; see `auth`.
    pub(super) account: String,
    pub(super) filename: String,
    pub(super) purpose: String,
    pub(super) file_type: String,
    /// Unix seconds.
    pub(super) created_at: i64,
    /// SHA-256 in lowercase hex that the client declared.
    pub(super) declared: Option<String>,
    /// The unguessable part of the URL to which the content is to be PUT.
    pub(super) signature: String,
    /// The content, once it is there.
    pub(super) content: Option<Content>,
    /// Whether a batch made it, as against a client.
    pub(super) generated: bool,
    /// Whether it is kept for the batches that work on it alone: to its owner it is gone.
    #[serde(default)]
    pub(super) deleted: bool,
}

/// What is known about a file's bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) bytes: u64,
    /// Number of `\n`, and one more when the last line has none.
    pub(super) lines: u64,
    /// Lowercase hex, for the `ETag`; the SHA-256 when a client sent the file.
    pub(super) digest: String,
}

impl StoredFile {
    /// A file that `account` announces or sends now.
    pub(super) fn new(account: &str, filename: String, purpose: String, file_type: String) -> Self {
        Self {
            id: format!("file-{}", Uuid::new_v4()),
            account: account.to_owned(),
            filename,
            purpose,
            file_type,
            created_at: Timestamp::now().as_second(),
            declared: None,
            signature: Uuid::new_v4().simple().to_string(),
            content: None,
            generated: false,
            deleted: false,
        }
    }
}

impl StoredFile {
    /// The size of its content, if that is there.
    fn bytes(&self) -> u64 {
        self.content.as_ref().map_or(0, |content| content.bytes)
    }
}

impl Record for StoredFile {
    fn id(&self) -> &str {
        &self.id
    }
}

/// A batch, as much of it as must survive a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) id: String,
    /// Which one it is among all batches of the directory, from 1 in the order of creation. By it, scripted faults
    /// pick batches.
    #[serde(default)]
    pub(super) number: u64,
    /// Whose it is; see `auth`.
    pub(super) account: String,
    pub(super) input_file_id: String,
    pub(super) file_size_bytes: u64,
    pub(super) endpoint: String,
    /// Unix microseconds.
    pub(super) created_at: i64,
    /// Unix microseconds.
    pub(super) completed_at: Option<i64>,
    pub(super) status: Status,
    /// Share of the rows, 0 to 1, that were done when the batch was told to cancel or broke off.
    pub(super) cancelled_at: Option<f64>,
    pub(super) model_id: Option<String>,
    pub(super) output_file_id: Option<String>,
    pub(super) error_file_id: Option<String>,
    /// Why it FAILED.
    pub(super) error: Option<String>,
    /// What an upstream was sent twice, once the batch has ended.
    #[serde(default)]
    pub(super) again: Again,
    #[serde(default)]
    pub(super) details: Details,
}

/// What only OpenAI's dialect shows of a batch. Times are Unix microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    /// As it was given.
    pub(super) completion_window: String,
    /// When the window is over: what is not done by then is not done. Together's batches have no such moment.
    pub(super) expires_at: Option<i64>,
    /// Whether that moment came before the end.
    pub(super) is_overdue: bool,
    pub(super) metadata: Option<Map<String, Value>>,
    pub(super) in_progress_at: Option<i64>,
    pub(super) finalizing_at: Option<i64>,
    pub(super) cancelling_at: Option<i64>,
    pub(super) requests: u64,
    /// Rows of the output file, once it is there.
    pub(super) outputs: u64,
    /// Rows of the error file, once it is there.
    pub(super) failures: u64,
    /// The line for which it failed, and how.
    pub(super) fault: Option<LineFault>,
}

/// What is wrong with a batch, mostly with a line of its input file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LineFault {
    /// Counted from 1; `None` for what is wrong with the file or the batch as a whole.
    pub(super) line: Option<u64>,
    pub(super) code: String,
    pub(super) param: Option<String>,
}

impl Record for Batch {
    fn id(&self) -> &str {
        &self.id
    }
}

/// Where a batch stands, as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Status {
    Validating,
    InProgress,
    /// Only ever in OpenAI's dialect.
    Finalizing,
    Canceling,
    Completed,
    Failed,
    Cancelled,
    /// In Together's dialect only ever by a scripted fault.
    Expired,
}

impl Status {
    /// Whether nothing comes after it.
    pub(super) fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// Its name on the wire, in Together's dialect.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Validating => "VALIDATING",
            Self::InProgress => "IN_PROGRESS",
            Self::Finalizing => "FINALIZING",
            Self::Canceling => "CANCELING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
        }
    }

    /// Its name on the wire, in OpenAI's dialect.
    pub(super) fn openai_name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Canceling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// The server's directory.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    pub(super) files: RecordStore<StoredFile>,
    pub(super) batches: RecordStore<Batch>,
    /// How much there may be.
    quota: Arc<Quota>,
    /// The highest number of a batch.
    numbers: AtomicU64,
    lasting: bool,
    /// Locked as long as the store is open; the lock ends with the process, however it ends.
    _lock: File,
}

impl Store {
    /// Opens the directory, which is made when it is not there, and reads back what is in it.
    pub(super) fn open(root: &Path, lasting: bool, quota: QuotaChoice) -> Result<Self, ServeError> {
        durable::create_directory(root)?;
        let lock_path = root.join("lock");
        let lock = durable::open_or_create(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServeError::Locked { directory: root.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(FileError::on("lock", &lock_path)(source).into()),
        }
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
    pub(super) fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Takes room for a new record and `bytes`.
    pub(super) fn take(&self, bytes: u64) -> Result<Taken, Full> {
        self.quota.take(bytes, self.records())
    }

    /// Whether there is any room left.
    pub(super) fn has_room(&self) -> bool {
        self.quota.has_room(self.records())
    }

    /// Records of files and batches.
    pub(super) fn records(&self) -> u64 {
        (self.files.len() + self.batches.len()) as u64
    }

    /// The number of a new batch.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed) + 1
    }

    /// Where the content of a file is.
    pub(super) fn content_path(&self, id: &str) -> PathBuf {
        self.root.join("files").join(format!("{id}.bytes"))
    }

    /// Where the billing records of a batch are.
    pub(super) fn billing_path(&self, batch: &str) -> PathBuf {
        self.root.join("billing").join(format!("{batch}.jsonl"))
    }

    /// The file of that id, if it belongs to `account`, which has not deleted it.
    pub(super) fn file_of(&self, account: &str, id: &str) -> Option<Arc<StoredFile>> {
        self.files.get(id).filter(|file| file.account == account && !file.deleted)
    }

    /// The files of `account`, in no order.
    pub(super) fn files_of(&self, account: &str) -> Vec<Arc<StoredFile>> {
        self.files.select(|file| file.account == account && !file.deleted)
    }

    /// The input of a batch, which its owner may have deleted meanwhile.
    pub(super) fn input_of(&self, batch: &Batch) -> Option<Arc<StoredFile>> {
        self.files.get(&batch.input_file_id).filter(|file| file.account == batch.account)
    }

    /// The batch of that id, if it belongs to `account`.
    pub(super) fn batch_of(&self, account: &str, id: &str) -> Option<Arc<Batch>> {
        self.batches.get(id).filter(|batch| batch.account == account)
    }

    /// The file that `account` sent earlier with just that content, by its SHA-256 in lowercase hex.
    pub(super) fn same_content(&self, account: &str, sha256: &str) -> Option<String> {
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
    pub(super) fn keep(
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
    pub(super) fn publish(&self, bytes: PendingFile) -> Result<(), FileError> {
        if self.lasting { bytes.publish() } else { bytes.publish_unsynced() }
    }

    /// Takes a file from its owner. It is forgotten when no batch works on it any more.
    pub(super) fn delete(&self, id: &str) -> Result<(), FileError> {
        self.files.update(id, |file| {
            file.deleted = true;
            true
        })?;
        self.release(id)
    }

    /// Forgets a file that was deleted, unless a batch that has not ended works on it.
    pub(super) fn release(&self, id: &str) -> Result<(), FileError> {
        let is_deleted = self.files.get(id).is_some_and(|file| file.deleted);
        let is_needed = |batch: &Batch| batch.input_file_id == id && !batch.status.is_terminal();
        if is_deleted && self.batches.select(is_needed).is_empty() {
            self.discard(id)?;
        }
        Ok(())
    }

    /// Forgets a file and its content. Gives whether there was one.
    pub(super) fn discard(&self, id: &str) -> Result<bool, FileError> {
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
        for entry in fs::read_dir(directory).map_err(FileError::on("list", directory))? {
            let entry = entry.map_err(FileError::on("list", directory))?;
            if has_extension(&entry.path(), "jsonl") {
                bytes += entry.metadata().map_err(FileError::on("read", &entry.path()))?.len();
            }
        }
    }
    Ok(bytes)
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

fn remove_matching(directory: &Path, unwanted: impl Fn(&Path) -> bool) -> Result<(), FileError> {
    for entry in fs::read_dir(directory).map_err(FileError::on("list", directory))? {
        let path = entry.map_err(FileError::on("list", directory))?.path();
        if unwanted(&path) {
            durable::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_kept_out() {
        let directory = tempfile::tempdir().unwrap();
        let first = Store::open(directory.path(), false, QuotaChoice::Unlimited).unwrap();
        assert!(matches!(Store::open(directory.path(), false, QuotaChoice::Unlimited), Err(ServeError::Locked { .. })));
        drop(first);
        Store::open(directory.path(), false, QuotaChoice::Unlimited).unwrap();
    }

    #[test]
    fn content_without_a_record_is_removed_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), false, QuotaChoice::Unlimited).unwrap();
        let file = StoredFile::new("a", "in.jsonl".into(), "batch-api".into(), "jsonl".into());
        let (kept, orphan) = (store.content_path(&file.id), store.content_path("file-orphan"));
        let content = Content { bytes: 1, lines: 1, digest: "d".into() };
        store.keep(file, PendingFile::create(&kept).unwrap(), content).unwrap();
        durable::publish_bytes_unsynced(&orphan, b"x").unwrap();
        drop(store);
        Store::open(directory.path(), false, QuotaChoice::Unlimited).unwrap();
        assert!(kept.exists() && !orphan.exists());
    }
}
