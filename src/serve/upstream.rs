//! Batches that an upstream answers instead of an echo, so that a service without a Batch API has one: a shell around
//! [`online`], which knows how the upstream is asked.
//!
//! In: a batch whose input was checked, and its journal, if an earlier server began it. Out: its result files, though
//! it was cancelled or its window ended: what has its row by then, and in OpenAI's dialect a row for each request that
//! has none.
//!
//! Invariants:
//! - All that `online` promises: nothing is answered a second time because a server ended. The journal is
//!   `journal/BATCH.journal`, and is removed when the end of the batch is recorded.
//! - The result files follow from the journal alone; written again after a kill, they are the same.
//! - The directory's records and files are synced as they come to be: what a client was told survives a power cut.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::reply::ReplyRole;
use crate::remote::RemoteError;
use crate::remote::online::work::{Terms, Work};
use crate::remote::online::{self, ENDPOINTS, Endpoint};
use crate::remote::service::{Lines, unreadable};
use crate::serve::batch::context::BatchContext;
use crate::serve::batch::execute;
use crate::serve::batch::input::{self, Place, Refusal};
use crate::serve::batch::progress::Progress;
use crate::serve::batch::request::{Request, request_digest};
use crate::serve::batch::results::{Receipt, ResultIds, Results};
use crate::serve::batch::row::Kind;
use crate::serve::batch::stop::Stop;
use crate::serve::batch::unexecuted;
use crate::serve::error::ServeError;
use crate::serve::faults::batch_faults::BatchFault;
use crate::serve::store::Store;
use crate::serve::store::batch::Batch;
use crate::storage::durable::{self, FileError};

pub use crate::remote::online::UpstreamOptions;
pub use crate::remote::service::Again;

/// The directory of journals, in the server's. It stays, and tells that the server has had an upstream.
const JOURNALS: &str = "journal";

/// See the module.
#[derive(Debug)]
pub(super) struct Upstream {
    online: Arc<online::Upstream>,
    journals: PathBuf,
}

impl Upstream {
    /// Makes the client of an upstream, and room for journals in the server's directory.
    pub(super) fn open(options: UpstreamOptions, directory: &Path, store: &Store) -> Result<Self, ServeError> {
        let journals = directory.join(JOURNALS);
        durable::create_directory(&journals)?;
        let online = online::Upstream::new(options)?;
        if !store.batches.select(|batch| batch.details.outputs > 0).is_empty() {
            online.prove();
        }
        let upstream = Self { online: Arc::new(online), journals };
        // A kill came before the journals of batches that ended were removed.
        for batch in store.batches.select(|batch| batch.status.is_terminal()) {
            upstream.forget(&batch.id)?;
        }
        Ok(upstream)
    }

    /// Refuses to answer with an echo what was to be answered by an upstream.
    pub(super) fn refuse_echo(directory: &Path, store: &Store) -> Result<(), ServeError> {
        let unfinished = || !store.batches.select(|batch| !batch.status.is_terminal()).is_empty();
        if directory.join(JOURNALS).exists() && unfinished() {
            return Err(ServeError::WantsUpstream { directory: directory.to_owned() });
        }
        Ok(())
    }

    fn journal_path(&self, batch: &str) -> PathBuf {
        self.journals.join(format!("{batch}.journal"))
    }

    /// Removes the journal of a batch whose end is recorded.
    pub(super) fn forget(&self, batch: &str) -> Result<(), FileError> {
        durable::remove_file(&self.journal_path(batch))
    }

    /// Waits until the server cannot go on, and says why.
    pub(super) async fn failed(&self) -> ServeError {
        ServeError::Upstream(self.online.failed().await)
    }

    /// The server cannot go on. Batches stay where they are.
    pub(super) fn fail(&self, error: RemoteError) {
        self.online.fail(error);
    }
}

/// The lines of a batch's input file.
struct InputLines {
    file: File,
    places: Vec<Place>,
}

impl Lines for InputLines {
    fn count(&self) -> u64 {
        self.places.len() as u64
    }

    fn read(&self, number: u64, line: &mut Vec<u8>) -> std::io::Result<()> {
        let place = usize::try_from(number).ok().and_then(|number| self.places.get(number));
        place.ok_or(std::io::ErrorKind::UnexpectedEof)?.read(&self.file, line)
    }
}

/// Why a batch does not go on.
enum Failure {
    /// Its own fault.
    Batch(Refusal),
    /// The server's.
    Server(RemoteError),
    /// The server stops.
    Stopping,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Batch(refusal)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => refusal.into(),
            Stop::Unwritable(error) => error.into(),
            Stop::ServerStopping => Self::Stopping,
        }
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        Self::Server(error)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Server(error.into())
    }
}

/// Answers the requests of `batch` and publishes the rows.
pub(in crate::serve) async fn execute(
    context: &Arc<BatchContext>,
    upstream: &Arc<Upstream>,
    batch: Arc<Batch>,
    progress: &Arc<Progress>,
) -> Result<ResultIds, Stop> {
    match answer(context, upstream, batch, progress).await {
        Ok(ids) => Ok(ids),
        Err(Failure::Stopping) => Err(Stop::ServerStopping),
        Err(Failure::Batch(refusal)) => Err(refusal.into()),
        Err(Failure::Server(error)) => {
            // The batch has not failed: what it has is on disk, and it can be resumed.
            upstream.fail(error);
            Err(Stop::ServerStopping)
        }
    }
}

async fn answer(
    context: &Arc<BatchContext>,
    upstream: &Arc<Upstream>,
    batch: Arc<Batch>,
    progress: &Arc<Progress>,
) -> Result<ResultIds, Failure> {
    let endpoint = Endpoint::find(&batch.endpoint).ok_or_else(|| Refusal::Unfit(unknown_endpoint(&batch.endpoint)))?;
    let admission = tokio::select! {
        biased;
        () = context.stopping.cancelled() => return Err(Failure::Stopping),
        // It sends nothing more, so it need not wait until it may.
        () = progress.cancelled.cancelled() => None,
        admission = upstream.online.admit() => admission,
    };
    let (opening, path, opened) = (context.clone(), upstream.journal_path(&batch.id), batch.clone());
    let (lines, work) = blocking(move || open(&opening, &opened, &path)).await?;
    progress.begin_rows(lines.places.len());
    (0..work.kept()).for_each(|_| progress.count_row());
    let counted = progress.clone();
    let terms = Terms {
        endpoint,
        form: context.surface.row_form(),
        on_row: Arc::new(move || counted.count_row()),
        stopping: context.stopping.clone(),
        cancelled: progress.cancelled.clone(),
    };
    if !work.answer(&upstream.online, terms, admission).await? {
        return Err(Failure::Stopping);
    }
    let context = context.clone();
    blocking(move || publish(&context, &batch, &lines, &work)).await
}

fn unknown_endpoint(endpoint: &str) -> String {
    format!("Invalid endpoint: {endpoint}; the upstream serves /v1/{}", ENDPOINTS.join(", /v1/"))
}

/// Opens the input and the journal of a batch.
fn open(context: &BatchContext, batch: &Batch, journal: &Path) -> Result<(Arc<InputLines>, Work), Failure> {
    let file = execute::open_input(context, batch)?;
    let places = input::places(&file, &context.limits)?;
    // All of them are answered, but for a scripted fault.
    let share = context.faults.on_batch(batch).map_or(1.0, BatchFault::share);
    let wanted = execute::share_of(places.len(), share) as u64;
    let lines = Arc::new(InputLines { file, places });
    let work = Work::open(lines.clone(), wanted, journal)?;
    Ok((lines, work))
}

/// Writes the result files from the journal.
fn publish(context: &BatchContext, batch: &Batch, lines: &InputLines, work: &Work) -> Result<ResultIds, Failure> {
    let mut faults = context.faults.on_rows(batch);
    let mut results = Results::create(&context.store, batch, faults.file_format())?;
    let (mut line, mut kept, mut done) = (Vec::new(), Vec::new(), vec![false; lines.places.len()]);
    let again = work.each_row(|role, number, row| {
        lines.read(number - 1, &mut line).map_err(unreadable)?;
        let request = Request::parse(&line).map_err(Refusal::Unfit)?;
        let digest = request_digest(&context.surface.bare(&line));
        let receipt = Receipt { custom_id: request.custom_id, digest };
        if let Some(done) = usize::try_from(number - 1).ok().and_then(|index| done.get_mut(index)) {
            *done = true;
        }
        kept.clear();
        kept.extend_from_slice(row);
        let kind = if role == ReplyRole::Output { Kind::Output } else { Kind::Error };
        Ok::<_, Failure>(faults.add(&mut results, (number, &line), (kind, &mut kept), &receipt)?)
    })?;
    let undone = lines.places.iter().zip(&done).filter(|(_, done)| !**done).map(|(place, _)| *place);
    unexecuted::report(context, batch, &lines.file, undone, &mut results)?;
    let ids = results.publish()?;
    faults.finish()?;
    context.store.batches.update(&batch.id, |batch| {
        batch.again = again;
        true
    })?;
    Ok(ids)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
