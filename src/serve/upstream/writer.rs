//! Writes a journal in groups: what comes while one is being synced makes up the next.
//!
//! In: records, from any number of tasks. Out: to each who waits, that its record is on disk.
//! What always holds: a failed sync is final. No later record is kept, and everybody who waits hears of it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::journal::{GROUP_BYTES, Record, head};
use crate::storage::durable;
use crate::storage::durable::FileError;

/// Records that wait for the next group at most. Beyond, those who have one wait.
const WAITING: usize = 1024;

/// The journal takes no more records; why, [`Writer::close`] says.
#[derive(Debug, thiserror::Error)]
#[error("the journal takes no more records")]
pub(super) struct Closed;

struct Entry {
    line: Vec<u8>,
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
    /// Starts a thread that appends to `file`.
    pub(super) fn start(file: File, path: PathBuf) -> Self {
        let (entries, queue) = mpsc::channel(WAITING);
        let writing = tokio::task::spawn_blocking(move || write(&file, &path, queue));
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
        self.0.send(Entry { line, kept }).await.map_err(|_| Closed)
    }
}

fn write(mut file: &File, path: &Path, mut queue: mpsc::Receiver<Entry>) -> Result<(), FileError> {
    while let Some(first) = queue.blocking_recv() {
        let mut records = first.line;
        let mut hearers = Vec::from_iter(first.kept);
        while records.len() < GROUP_BYTES
            && let Ok(entry) = queue.try_recv()
        {
            records.extend_from_slice(&entry.line);
            hearers.extend(entry.kept);
        }
        let group = [head(&records).as_bytes(), &records].concat();
        file.write_all(&group).map_err(FileError::on("write", path))?;
        durable::sync(file, path)?;
        for hearer in hearers {
            // Whoever waited may have been told to end.
            let _ = hearer.send(());
        }
    }
    Ok(())
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
        let writer = Writer::start(file, path.clone());
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
        assert!(groups < 500, "{groups} groups");
    }

    #[tokio::test]
    async fn a_failed_write_ends_it_for_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        drop(durable::append(&path).unwrap());
        // A file that was opened for reading takes nothing.
        let writer = Writer::start(File::open(&path).unwrap(), path);
        let journal = writer.journal();
        assert!(journal.keep(Record::Sent(1)).await.is_err());
        assert!(journal.keep(Record::Sent(2)).await.is_err());
        drop(journal);
        assert_eq!(writer.close().await.unwrap_err().action, "write");
    }
}
