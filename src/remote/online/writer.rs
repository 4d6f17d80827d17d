//! Writes a journal in groups: what comes while one is being synced, and a little longer, makes up the next.
//!
//! A sync takes as long for one record as for hundreds. The more requests are in flight, the longer a group waits for
//! others: until one in [`ONE_IN`] of them wants to go out with it, but for [`WAIT_EACH`] for each at most. With few
//! requests in flight nothing waits.
//!
//! In: records, from any number of tasks. Out: to each that waits, that its record is on disk.
//! Invariant: a failed write or sync is final. No later record is kept, and every task that waits learns of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::journal::{GROUP_BYTES, Record, head};
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Records that wait for the next group at most. Beyond, those who have one wait.
const WAITING: usize = 1024;

/// The journal takes no more records; why, [`Writer::close`] says.
#[derive(Debug, thiserror::Error)]
#[error("the journal takes no more records")]
pub(super) struct Closed;

/// The part of the requests in flight that a group waits for.
const ONE_IN: usize = 8;

/// How long a group waits for others, for each request in flight.
const WAIT_EACH: Duration = Duration::from_micros(40);

/// It does not wait at all for less than this, and no longer than [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The longest of these waits.
const WAIT_MAX: Duration = Duration::from_millis(5);

struct Entry {
    line: Vec<u8>,
    /// Whether a request goes out when it is kept.
    goes_out: bool,
    kept: Option<oneshot::Sender<()>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    entries: mpsc::Sender<Entry>,
    writing: JoinHandle<Result<(), FileError>>,
}

/// Takes records for a [`Writer`].
#[derive(Clone, Debug)]
pub(super) struct Journal(mpsc::Sender<Entry>);

impl Writer {
    /// Starts a task that appends to `file`. `crowd` says how many requests are in flight, or about to be.
    pub(super) fn start(file: Arc<LocalFile>, crowd: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        let (entries, queue) = mpsc::channel(WAITING);
        let writing = tokio::spawn(write(file, queue, crowd));
        Self { entries, writing }
    }

    pub(super) fn journal(&self) -> Journal {
        Journal(self.entries.clone())
    }

    /// Waits until all is written, or until nothing can be. No [`Journal`] may be left.
    pub(super) async fn close(self) -> Result<(), FileError> {
        drop(self.entries);
        self.writing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

impl Journal {
    /// Keeps a record: when this returns, it is on disk.
    pub(super) async fn keep(&self, record: Record<'_>) -> Result<(), Closed> {
        let (kept, heard) = oneshot::channel();
        self.enter(record, Some(kept)).await?;
        heard.await.map_err(|_| Closed)
    }

    /// Adds a record to the next group, and does not wait for it.
    pub(super) async fn note(&self, record: Record<'_>) -> Result<(), Closed> {
        self.enter(record, None).await
    }

    async fn enter(&self, record: Record<'_>, kept: Option<oneshot::Sender<()>>) -> Result<(), Closed> {
        let mut line = Vec::new();
        record.write(&mut line);
        let goes_out = matches!(record, Record::Sent(_));
        self.0.send(Entry { line, goes_out, kept }).await.map_err(|_| Closed)
    }
}

/// Writes until no journal is left that takes records.
async fn write(
    file: Arc<LocalFile>,
    mut queue: mpsc::Receiver<Entry>,
    crowd: impl Fn() -> usize,
) -> Result<(), FileError> {
    let mut end = file.size().map_err(FileError::on("read", file.path()))?;
    while let Some(first) = queue.recv().await {
        let Group { records, hearers, .. } = gather(first, &mut queue, &crowd).await;
        let file = file.clone();
        let written = tokio::task::spawn_blocking(move || write_group(&file, end, &records));
        end = written.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        for hearer in hearers {
            // The task that waited may have been told to end.
            let _ = hearer.send(());
        }
    }
    Ok(())
}

/// Records that are synced together.
struct Group {
    records: Vec<u8>,
    hearers: Vec<oneshot::Sender<()>>,
    /// Requests that go out when it is synced.
    going_out: usize,
}

impl Group {
    fn add(&mut self, entry: Entry) {
        self.records.extend_from_slice(&entry.line);
        self.hearers.extend(entry.kept);
        self.going_out += usize::from(entry.goes_out);
    }
}

/// Gathers what comes until it is worth a sync.
async fn gather(first: Entry, queue: &mut mpsc::Receiver<Entry>, crowd: &impl Fn() -> usize) -> Group {
    let mut group = Group { records: Vec::new(), hearers: Vec::new(), going_out: 0 };
    group.add(first);
    let out = crowd();
    let wait = WAIT_EACH.saturating_mul(u32::try_from(out).unwrap_or(u32::MAX)).min(WAIT_MAX);
    // Shorter is nothing that a timer knows.
    let deadline = (wait >= WAIT_MIN).then(|| Instant::now() + wait);
    while group.records.len() < GROUP_BYTES {
        if let Ok(entry) = queue.try_recv() {
            group.add(entry);
            continue;
        }
        let Some(deadline) = deadline.filter(|_| group.going_out * ONE_IN < out) else { break };
        match tokio::time::timeout_at(deadline, queue.recv()).await {
            Ok(Some(entry)) => group.add(entry),
            Ok(None) | Err(_) => break,
        }
    }
    group
}

/// Writes a group at `offset`, syncs it, and gives the offset behind it.
fn write_group(file: &LocalFile, offset: u64, records: &[u8]) -> Result<u64, FileError> {
    let group = [head(records).as_bytes(), records].concat();
    file.write_all_at(&group, offset).map_err(FileError::on("write", file.path()))?;
    file.sync()?;
    Ok(offset + group.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::journal;
    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_in_the_file_and_many_share_a_sync() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (file, _) = journal::open(&path, 1000).unwrap();
        let writer = Writer::start(Arc::new(file), || 64);
        let tasks: Vec<_> = (1..=1000)
            .map(|line| {
                let journal = writer.journal();
                tokio::spawn(async move { journal.keep(Record::Sent(line)).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(journal::open(&path, 1000).unwrap().1.out.len(), 1000);
        writer.close().await.unwrap();
        let groups = std::fs::read_to_string(&path).unwrap().matches("group ").count();
        assert!(groups < 100, "{groups} groups");
    }

    #[tokio::test]
    async fn a_failed_write_is_final_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        drop(LocalFile::append(&path).unwrap());
        // A file that was opened for reading takes nothing.
        let writer = Writer::start(Arc::new(LocalFile::open(&path).unwrap()), || 1);
        let journal = writer.journal();
        assert!(journal.keep(Record::Sent(1)).await.is_err());
        assert!(journal.keep(Record::Sent(2)).await.is_err());
        drop(journal);
        assert_eq!(writer.close().await.unwrap_err().action, "write");
    }
}
