//! The [`Api`] of a service without a Batch API.
//!
//! In: shards, as payloads. Out: batches that are answered here, request by request, and their reply files.
//!
//! An upload checks that the lines are those that were packed, and keeps none of them: a batch reads its lines where
//! they are. A reply file is given out as another name of the same file, so it is on disk once.
//!
//! Invariants:
//! - Creating a batch is idempotent: a file has one batch, whose record is on disk before the answer.
//! - A batch of an earlier process resumes when its lines are [attached](Api::attach).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{ENDPOINTS, Endpoint};
use super::record::{self, End, Record};
use super::upstream::Upstream;
use super::work::{Terms, Work};
use crate::dialect::row_form::RowForm;
use crate::model::batch::{Batch, BatchStatus, CreateBatch};
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::service::{Again, Api, Downloaded, Listing, Payload, Progress, RemoteFile, Submission, unreadable};
use crate::storage::{directory, durable};

/// See the module. Closed, or dropped, it sends nothing more.
#[derive(Debug)]
pub struct OnlineApi {
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Arc<Upstream>,
    directory: PathBuf,
    batches: Mutex<BTreeMap<String, Entry>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// A batch in memory.
#[derive(Clone, Debug)]
struct Entry {
    record: Record,
    /// Rows that are on disk, and those that there will be.
    rows: Arc<(AtomicU64, AtomicU64)>,
    cancelled: CancellationToken,
    /// Whether a task of this process answers it.
    is_begun: bool,
}

impl OnlineApi {
    /// Opens the batches in `directory`, which is made when it is not there. Those that have not ended resume when
    /// their lines are attached. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be read, or a record in it is damaged.
    pub async fn open(upstream: Upstream, directory: PathBuf) -> Result<Self, RemoteError> {
        let (records, directory) = blocking(move || {
            durable::create_directory(&directory)?;
            durable::remove_leftovers(&directory, |_| true);
            let records = record::read_all(&directory)?;
            // A kill may have come before the journals of batches that ended were removed.
            for (id, _) in records.iter().filter(|(_, record)| record.end.is_some()) {
                durable::remove_file(&journal_path(&directory, id))?;
            }
            Ok((records, directory))
        })
        .await?;
        if records.values().any(|record| record.end.as_ref().is_some_and(|end| end.outputs > 0)) {
            upstream.prove();
        }
        let shared = Shared {
            upstream: Arc::new(upstream),
            directory,
            batches: Mutex::new(records.into_iter().map(|(id, record)| (id, Entry::new(record))).collect()),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The reply file with this id, if it is there.
    fn reply_file(&self, id: &str) -> Result<PathBuf, RemoteError> {
        let batch = id.split('.').next().unwrap_or_default();
        let files = self.shared.batches().get(batch).map(|entry| entry.record.files(batch)).unwrap_or_default();
        // Its name is one of ours, so it leads nowhere else.
        let known = files.into_iter().flatten().find(|known| known == id);
        known.map(|name| self.shared.directory.join(name)).ok_or_else(|| not_found(format!("file {id}")))
    }
}

impl Drop for OnlineApi {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
    }
}

impl Api for OnlineApi {
    async fn ready(&self) {}

    async fn upload(&self, payload: Arc<dyn Payload>, progress: Progress) -> Result<RemoteFile, RemoteError> {
        let bytes = blocking(move || read_through(&*payload, &progress)).await?;
        Ok(RemoteFile { id: format!("file-{:032x}", fastrand::u128(..)), bytes: Some(bytes), reused: false })
    }

    async fn create(&self, request: &CreateBatch, lines: Arc<dyn Payload>) -> Submission {
        let CreateBatch { input_file_id, endpoint, .. } = request;
        if let Err(error) = find_endpoint(endpoint) {
            return Submission::Refused(error);
        }
        let id = record::batch_id(input_file_id);
        if !self.shared.batches().contains_key(&id) {
            let record = Record {
                input_file_id: input_file_id.clone(),
                endpoint: endpoint.clone(),
                created_at: Timestamp::now().as_microsecond(),
                end: None,
            };
            let (path, kept) = (self.shared.record_path(&id), record.clone());
            if let Err(error) = blocking(move || kept.keep(&path)).await {
                return Submission::Unknown(error);
            }
            self.shared.batches().insert(id.clone(), Entry::new(record));
        }
        self.shared.attach(input_file_id, lines);
        match self.batch(&id).await {
            Ok(batch) => Submission::Accepted(batch),
            Err(error) => Submission::Unknown(error),
        }
    }

    async fn batch(&self, id: &str) -> Result<Batch, RemoteError> {
        let batches = self.shared.batches();
        batches.get(id).map(|entry| entry.show(id)).ok_or_else(|| not_found(format!("batch {id}")))
    }

    async fn batches(&self) -> Result<Listing, RemoteError> {
        let batches = self.shared.batches().iter().map(|(id, entry)| entry.show(id)).collect();
        Ok(Listing { batches, ..Listing::default() })
    }

    async fn cancel(&self, id: &str) -> Result<Batch, RemoteError> {
        if let Some(entry) = self.shared.batches().get(id) {
            entry.cancelled.cancel();
        }
        self.batch(id).await
    }

    async fn download(&self, file_id: &str, target: &Path, progress: Progress) -> Result<Downloaded, RemoteError> {
        let (from, target) = (self.reply_file(file_id)?, target.to_owned());
        blocking(move || {
            durable::link(&from, &target)?;
            let bytes = directory::size_of(&target)?;
            progress.tell(bytes);
            Ok(Downloaded { bytes, announced: true })
        })
        .await
    }

    async fn file_bytes(&self, file_id: &str) -> Result<Option<u64>, RemoteError> {
        let path = self.reply_file(file_id)?;
        blocking(move || Ok(Some(directory::size_of(&path)?))).await
    }

    async fn delete_file(&self, id: &str) -> Result<(), RemoteError> {
        match self.reply_file(id) {
            Ok(path) => blocking(move || Ok(durable::remove_file(&path)?)).await,
            // The lines of a batch were never kept.
            Err(_) => Ok(()),
        }
    }

    fn attach(&self, file_id: &str, lines: Arc<dyn Payload>) {
        self.shared.attach(file_id, lines);
    }

    async fn failed(&self) -> RemoteError {
        self.shared.upstream.failed().await
    }

    async fn close(&self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn sent_again(&self) -> Again {
        let mut again = Again::default();
        for end in self.shared.batches().values().filter_map(|entry| entry.record.end.as_ref()) {
            again += end.again;
        }
        again
    }
}

impl Shared {
    fn batches(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_path(&self, batch: &str) -> PathBuf {
        self.directory.join(format!("{batch}.json"))
    }

    /// Resumes the batch of a file, if it has one that waits for its lines.
    fn attach(self: &Arc<Self>, file_id: &str, lines: Arc<dyn Payload>) {
        let id = record::batch_id(file_id);
        let mut batches = self.batches();
        let Some(entry) = batches.get_mut(&id).filter(|entry| !entry.is_begun && entry.record.end.is_none()) else {
            return;
        };
        entry.is_begun = true;
        let (shared, entry) = (self.clone(), entry.clone());
        self.tasks.spawn(async move {
            if let Err(error) = shared.live(&id, &entry, lines).await {
                // The batch has not failed: what it has is on disk, and it can be resumed.
                shared.upstream.fail(error);
            }
        });
    }

    /// Answers a batch; it ends, unless the process does before.
    async fn live(&self, id: &str, entry: &Entry, payload: Arc<dyn Payload>) -> Result<(), RemoteError> {
        let admission = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return Ok(()),
            () = self.upstream.failed.cancelled() => return Ok(()),
            // It sends nothing more, so it need not wait until it may.
            () = entry.cancelled.cancelled() => None,
            admission = self.upstream.admit() => admission,
        };
        let journal = journal_path(&self.directory, id);
        let work = blocking(move || {
            let lines = payload.lines().map_err(unreadable)?;
            let count = lines.count();
            Ok((Work::open(lines, count, &journal)?, count))
        });
        let (work, count) = work.await?;
        let rows = entry.rows.clone();
        rows.0.store(work.kept(), Relaxed);
        rows.1.store(count, Relaxed);
        let terms = Terms {
            endpoint: find_endpoint(&entry.record.endpoint)?,
            form: RowForm::SPARE,
            on_row: Arc::new(move || {
                rows.0.fetch_add(1, Relaxed);
            }),
            stopping: self.stopping.clone(),
            cancelled: entry.cancelled.clone(),
        };
        if !work.answer(&self.upstream, terms, admission).await? {
            return Ok(());
        }
        self.end(id, entry, work).await
    }

    /// Writes the reply files of a batch and records how it ended.
    async fn end(&self, id: &str, entry: &Entry, work: Work) -> Result<(), RemoteError> {
        let (directory, batch, mut record) = (self.directory.clone(), id.to_owned(), entry.record.clone());
        let (path, journal) = (self.record_path(id), journal_path(&self.directory, id));
        let is_cancelled = entry.cancelled.is_cancelled();
        let record = blocking(move || {
            let (again, [outputs, errors]) = record::publish(&work, &directory, &batch)?;
            record.end = Some(End { at: Timestamp::now().as_microsecond(), is_cancelled, outputs, errors, again });
            record.keep(&path)?;
            durable::remove_file(&journal)?;
            Ok(record)
        })
        .await?;
        if let Some(entry) = self.batches().get_mut(id) {
            entry.record = record;
        }
        Ok(())
    }
}

impl Entry {
    fn new(record: Record) -> Self {
        Self { record, rows: Arc::default(), cancelled: CancellationToken::new(), is_begun: false }
    }

    /// The batch with this id, as it is now.
    #[expect(clippy::cast_precision_loss, reason = "for progress bars")]
    fn show(&self, id: &str) -> Batch {
        let Record { input_file_id, endpoint, created_at, end } = &self.record;
        let (done, all) = (self.rows.0.load(Relaxed) as f64, self.rows.1.load(Relaxed).max(1) as f64);
        let status = match end {
            Some(End { is_cancelled: true, .. }) => BatchStatus::Cancelled,
            Some(_) => BatchStatus::Completed,
            None if self.cancelled.is_cancelled() => BatchStatus::Cancelling,
            None if self.rows.1.load(Relaxed) == 0 => BatchStatus::Queued,
            None => BatchStatus::InProgress,
        };
        let [output_file_id, error_file_id] = self.record.files(id);
        Batch {
            id: id.to_owned(),
            input_file_id: Some(input_file_id.clone()),
            status,
            progress: Some(if end.is_some() { 100.0 } else { done * 100.0 / all }),
            counts: None,
            output_file_id,
            error_file_id,
            error: None,
            queue_full: false,
            endpoint: Some(endpoint.clone()),
            model: None,
            created_at: Timestamp::from_microsecond(*created_at).ok(),
            completed_at: end.as_ref().and_then(|end| Timestamp::from_microsecond(end.at).ok()),
            deadline: None,
            tag: None,
        }
    }
}

fn journal_path(directory: &Path, batch: &str) -> PathBuf {
    directory.join(format!("{batch}.journal"))
}

/// Reads a payload to its end: only there it is certain that its bytes are those that were promised. Gives how many
/// there are.
fn read_through(payload: &dyn Payload, progress: &Progress) -> Result<u64, RemoteError> {
    let (mut reader, mut bytes) = (payload.open().map_err(unreadable)?, 0);
    loop {
        let read = reader.fill_buf().map_err(unreadable)?.len();
        if read == 0 {
            return Ok(bytes);
        }
        reader.consume(read);
        bytes += read as u64;
        progress.tell(bytes);
    }
}

fn find_endpoint(path: &str) -> Result<Endpoint, RemoteError> {
    Endpoint::find(path).ok_or_else(|| {
        let message = format!("unknown endpoint {path}; known are /v1/{}", ENDPOINTS.join(", /v1/"));
        RemoteError::new(ErrorKind::Refused, "create of a batch").with_message(&message)
    })
}

fn not_found(what: String) -> RemoteError {
    RemoteError::new(ErrorKind::Refused, what).with_status(404).with_message("there is none")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RemoteError> + Send + 'static,
) -> Result<T, RemoteError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
