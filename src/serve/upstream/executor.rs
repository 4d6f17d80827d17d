//! A batch: sends what has no row yet, and writes the result files from the journal.
//!
//! In: a batch whose input was checked, and its journal, if an earlier server began it. Out: its result files, though it was cancelled or its
//! window ended: what has its row by then, and in OpenAI's dialect a row for each request that has none.
//!
//! Invariant: the result files follow from the journal alone; written again after a kill, they are the same.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::journal::{self, JournalError, Lines, Record, Replay};
use super::request::Asker;
use super::sender::{self, Sender};
use super::writer::{Closed, Writer};
use super::{Again, LAST_ANSWERS, Upstream};
use crate::remote::online::{ENDPOINTS, Endpoint};
use crate::serve::batch::context::BatchContext;
use crate::serve::batch::execute;
use crate::serve::batch::input::{self, Place, Refusal};
use crate::serve::batch::progress::Progress;
use crate::serve::batch::request::{Request, request_digest};
use crate::serve::batch::results::{Receipt, ResultIds, Results};
use crate::serve::batch::stop::Stop;
use crate::serve::batch::unexecuted;
use crate::serve::error::ServeError;
use crate::serve::faults::batch_faults::BatchFault;
use crate::serve::store::batch::Batch;
use crate::storage::durable::FileError;

/// A batch that is being answered.
pub(super) struct Work {
    batch: Arc<Batch>,
    input: Arc<File>,
    pub(super) places: Vec<Place>,
    /// How many of them are to be answered: all, but for a scripted fault.
    pub(super) wanted: usize,
    journal: File,
    pub(super) replay: Replay,
}

/// Why a batch does not go on.
pub(super) enum Failure {
    /// Its own fault.
    Batch(Refusal),
    /// The server's.
    Server(ServeError),
    /// The journal's, which says more when it is closed.
    Closed,
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
            Stop::ServerStopping => Self::Closed,
        }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::Server(error.into())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Server(error.into())
    }
}

impl From<Closed> for Failure {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// Answers the requests of `batch` and publishes the rows.
pub(in crate::serve) async fn execute(
    shared: &Arc<BatchContext>,
    upstream: &Arc<Upstream>,
    batch: Arc<Batch>,
    progress: &Arc<Progress>,
) -> Result<ResultIds, Stop> {
    let endpoint = Endpoint::find(&batch.endpoint).ok_or_else(|| Refusal::Unfit(unknown_endpoint(&batch.endpoint)))?;
    let wait = async {
        let open = upstream.open_batches.acquire().await.ok();
        (open, upstream.batches.clone().acquire_owned().await.ok())
    };
    let (_open, turn) = tokio::select! {
        biased;
        () = shared.stopping.cancelled() => return Err(Stop::ServerStopping),
        // It sends nothing more, so it need not wait until it may.
        () = progress.cancelled.cancelled() => (None, None),
        turn = wait => turn,
    };
    let done = match open(shared, upstream, batch).await {
        Ok(work) => answer(shared, upstream, work, (endpoint, turn), progress).await,
        Err(failure) => Err(failure),
    };
    match done {
        Ok(Some(ids)) => Ok(ids),
        Ok(None) | Err(Failure::Closed) => Err(Stop::ServerStopping),
        Err(Failure::Batch(refusal)) => Err(refusal.into()),
        Err(Failure::Server(error)) => {
            // The batch has not failed: what it has is on disk, and it can be gone on with.
            upstream.fail(error);
            Err(Stop::ServerStopping)
        }
    }
}

fn unknown_endpoint(endpoint: &str) -> String {
    format!("Invalid endpoint: {endpoint}; the upstream serves /v1/{}", ENDPOINTS.join(", /v1/"))
}

/// Opens the input and the journal of a batch.
async fn open(shared: &Arc<BatchContext>, upstream: &Arc<Upstream>, batch: Arc<Batch>) -> Result<Work, Failure> {
    let (shared, path) = (shared.clone(), upstream.journal_path(&batch.id));
    blocking(move || {
        let input = Arc::new(execute::open_input(&shared, &batch)?);
        let places = input::places(&input, &shared.limits)?;
        let share = shared.faults.on_batch(&batch).map_or(1.0, BatchFault::share);
        let wanted = execute::share_of(places.len(), share);
        let (journal, replay) = journal::open(&path, places.len() as u64)?;
        Ok(Work { batch, input, places, wanted, journal, replay })
    })
    .await
}

/// Sends what has no row, then writes the result files; `None` when the server stops before.
async fn answer(
    shared: &Arc<BatchContext>,
    upstream: &Arc<Upstream>,
    work: Work,
    (endpoint, turn): (Endpoint, Option<OwnedSemaphorePermit>),
    progress: &Arc<Progress>,
) -> Result<Option<ResultIds>, Failure> {
    if work.replay.has_output {
        upstream.first.prove();
    }
    progress.begin_rows(work.places.len());
    (0..work.replay.done.len()).for_each(|_| progress.count_row());
    let path = upstream.journal_path(&work.batch.id);
    let file = work.journal.try_clone().map_err(FileError::on("open", &path))?;
    let writer = Writer::start(file, path.clone());
    let asker = Asker {
        upstream: upstream.clone(),
        endpoint,
        surface: shared.surface,
        journal: writer.journal(),
        quit: CancellationToken::new(),
    };
    let sent = send_unless(shared, &work, asker, turn, progress).await;
    writer.close().await?;
    if !sent? && !progress.cancelled.is_cancelled() {
        return Ok(None);
    }
    let (shared, upstream) = (shared.clone(), upstream.clone());
    blocking(move || publish(&shared, &work, &upstream.journal_path(&work.batch.id))).await.map(Some)
}

/// Sends until every request has its row, or something speaks against sending more; then waits for what is out. Gives whether
/// every request has its row.
async fn send_unless(
    shared: &BatchContext,
    work: &Work,
    asker: Asker,
    turn: Option<OwnedSemaphorePermit>,
    progress: &Arc<Progress>,
) -> Result<bool, Failure> {
    let (upstream, quit) = (asker.upstream.clone(), asker.quit.clone());
    let ends = async {
        tokio::select! {
            () = shared.stopping.cancelled() => {}
            () = upstream.failed.cancelled() => {}
        }
    };
    let sending = send(work, asker, turn, progress);
    tokio::pin!(ends, sending);
    tokio::select! {
        biased;
        () = &mut ends => {}
        () = progress.cancelled.cancelled() => {
            quit.cancel();
            tokio::select! {
                biased;
                () = &mut ends => {}
                sent = &mut sending => return sent,
            }
        }
        sent = &mut sending => return sent,
    }
    quit.cancel();
    tokio::time::timeout(LAST_ANSWERS, sending).await.unwrap_or(Ok(false))
}

/// Sends every request that has no row. Gives whether all have one in the end.
async fn send(
    work: &Work,
    asker: Asker,
    turn: Option<OwnedSemaphorePermit>,
    progress: &Arc<Progress>,
) -> Result<bool, Failure> {
    let crashed = work.replay.out.len();
    if crashed > 0 && !progress.cancelled.is_cancelled() {
        asker.journal.keep(Record::Crash(crashed)).await?;
    }
    Sender::new(work, sender::left(work), asker, progress, turn).send().await
}

impl Work {
    /// Reads the line at `place`.
    pub(super) async fn read(&self, place: Place) -> Result<Vec<u8>, Failure> {
        let input = self.input.clone();
        blocking(move || {
            let mut line = Vec::new();
            place.read(&input, &mut line).map_err(unreadable)?;
            Ok(line)
        })
        .await
    }
}

/// The input was read before: that it cannot be now is no fault of the batch.
fn unreadable(error: std::io::Error) -> Failure {
    FileError::on("read", Path::new("the input of a batch"))(error).into()
}

/// Writes the result files from the journal.
fn publish(shared: &BatchContext, work: &Work, path: &Path) -> Result<ResultIds, Failure> {
    let batch = &*work.batch;
    let mut faults = shared.faults.on_rows(batch);
    let mut results = Results::create(&shared.store, batch, faults.file_format())?;
    let (mut line, mut kept, mut again, mut done) = (Vec::new(), Vec::new(), Again::default(), Lines::default());
    journal::each_record(&work.journal, path, |offset, record| {
        match record {
            Record::Crash(number) => again.crashed += number,
            Record::Lost(_) => again.lost += 1,
            Record::Sent(_) | Record::Back(_) => {}
            Record::Row(kind, number, row) => {
                let damaged = || JournalError::Damaged { path: path.to_owned(), offset };
                let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
                let place = index.and_then(|index| work.places.get(index)).ok_or_else(damaged)?;
                place.read(&work.input, &mut line).map_err(unreadable)?;
                let request = Request::parse(&line).map_err(Refusal::Unfit)?;
                let digest = request_digest(&shared.surface.bare(&line));
                let receipt = Receipt { custom_id: request.custom_id, digest };
                done.add(number);
                kept.clear();
                kept.extend_from_slice(row);
                faults.add(&mut results, (number, &line), (kind, &mut kept), &receipt)?;
            }
        }
        Ok::<_, Failure>(())
    })?;
    let undone = (1..).zip(&work.places).filter(|(number, _)| !done.has(*number)).map(|(_, place)| *place);
    unexecuted::report(shared, batch, &work.input, undone, &mut results)?;
    let ids = results.publish()?;
    faults.finish()?;
    shared.store.batches.update(&batch.id, |batch| {
        batch.again = again;
        true
    })?;
    Ok(ids)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
