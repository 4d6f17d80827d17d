//! The life of a batch: VALIDATING, `IN_PROGRESS`, and its end.
//!
//! In: a batch that has not ended. Out: the same batch, ended, with its result files. Invariants: every change of
//! status goes through the store, in one step against all others; the end is recorded after the result files are
//! published. A server that stops leaves the batch where it is, and the next one starts that stage over, with the same
//! results.
//!
//! The simulated time passes first and takes no worker; then the batch waits for one of the workers and is executed. In
//! OpenAI's dialect its completion window may end meanwhile: what is done by then is its result.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::context::BatchContext;
use super::ending;
use super::execute;
use super::progress::Progress;
use super::results::ResultIds;
use super::stop::Stop;
use crate::serve::background::{Background, Stopping};
use crate::serve::clock;
use crate::serve::faults::batch_faults::BatchFault;
use crate::serve::store::batch::{Batch, Status};
use crate::serve::store::quota::Reservation;
use crate::serve::upstream::{self, Upstream};
use crate::storage::durable::FileError;

/// Share of the batch time that VALIDATING takes.
const VALIDATING_SHARE: f64 = 0.2;

/// Share of the batch time that `IN_PROGRESS` takes.
const IN_PROGRESS_SHARE: f64 = 0.8;

/// Share of the batch time for which a batch stays CANCELING, on top of what went before.
const CANCELING_SHARE: f64 = 0.2;

/// Share of the batch time for which a batch is FINALIZING, in OpenAI's dialect.
const FINALIZING_SHARE: f64 = 0.1;

/// Why a batch gets no further in this server, or not the usual way.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error(transparent)]
    ServerStopping(#[from] Stopping),
    #[error("the batch was told to cancel")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] FileError),
    #[error(transparent)]
    Work(#[from] JoinError),
}

/// The batches of a server that have not ended.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    context: Arc<BatchContext>,
    /// How long a batch pretends to take.
    batch_time: Duration,
    /// Batches that may be executed at a time.
    workers: Arc<Semaphore>,
    /// Who answers; `None` for an echo.
    upstream: Option<Arc<Upstream>>,
    background: Background,
    running: Mutex<HashMap<String, Arc<Progress>>>,
}

impl Lifecycle {
    /// Batches that are executed by `workers` at a time, each of which takes `batch_time` at least.
    pub(in crate::serve) fn new(
        context: BatchContext,
        batch_time: Duration,
        workers: usize,
        upstream: Option<Arc<Upstream>>,
        background: Background,
    ) -> Self {
        Self {
            context: Arc::new(context),
            batch_time,
            workers: Arc::new(Semaphore::new(workers.max(1))),
            upstream,
            background,
            running: Mutex::default(),
        }
    }

    /// Resumes the batches that an earlier server left unfinished.
    pub(crate) fn resume(self: &Arc<Self>) {
        for batch in self.context.store.batches.select(|batch| !batch.status.is_terminal()) {
            let progress = self.register(&batch);
            self.begin(batch.id.clone(), progress);
        }
    }

    /// Records a new batch and begins its life. What it may write has its room until it has ended.
    pub(crate) fn create(self: &Arc<Self>, batch: Batch, room: Reservation) -> Result<Arc<Batch>, FileError> {
        // It is registered first: a cancel must find the progress as soon as it can find the record.
        let progress = self.register(&batch);
        let id = batch.id.clone();
        let recorded = self.context.store.batches.put(batch);
        match &recorded {
            Ok(_) => {
                room.keep();
                self.begin(id, progress);
            }
            Err(_) => drop(self.running().remove(&id)),
        }
        recorded
    }

    /// Tells a batch to cancel, if it is at work, and gives it with the status that it had.
    pub(crate) fn cancel(&self, id: &str) -> Result<Option<(Arc<Batch>, Status)>, FileError> {
        self.cut_short(id, |batch| {
            batch.status = Status::Canceling;
            batch.details.cancelling_at = Some(clock::now());
        })
    }

    /// The share of its rows, 0 to 1, that counts as done; 0 for a batch that is not at work.
    pub(crate) fn share(&self, id: &str) -> f64 {
        self.running().get(id).map_or(0.0, |progress| progress.share())
    }

    /// The progress of the batches that have not ended.
    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, batch: &Batch) -> Arc<Progress> {
        let time = self.batch_time.mul_f64(IN_PROGRESS_SHARE);
        let progress = Arc::new(Progress::new(time, batch.cancelled_at));
        self.running().insert(batch.id.clone(), progress.clone());
        progress
    }

    fn begin(self: &Arc<Self>, id: String, progress: Arc<Progress>) {
        let lifecycle = self.clone();
        self.background.spawn(async move {
            let lived = tokio::select! {
                biased;
                // First, so that nothing more is sent if the window ended while there was no server.
                never = lifecycle.expire(&id) => match never {},
                lived = lifecycle.live(&id, &progress) => lived,
            };
            // A batch that breaks off for want of disk space stays as it is until the next start.
            if let (Err(Break::Store(error)), Some(upstream)) = (lived, &lifecycle.upstream) {
                upstream.fail(error.into());
            }
            lifecycle.running().remove(&id);
        });
    }

    /// Cuts a batch short when its window is over, if it has one.
    async fn expire(&self, id: &str) -> Infallible {
        let Some(expires_at) = self.context.store.batches.get(id).and_then(|batch| batch.details.expires_at) else {
            return std::future::pending().await;
        };
        let left = expires_at.saturating_sub(clock::now());
        sleep(Duration::from_micros(u64::try_from(left).unwrap_or(0))).await;
        // Should it not be recorded, the batch continues as if it had time.
        let _ = self.cut_short(id, |batch| batch.details.is_overdue = true);
        std::future::pending().await
    }

    /// Lets a batch that is at work end with the rows that count as done at this moment, and notes why.
    fn cut_short(&self, id: &str, note: impl FnOnce(&mut Batch)) -> Result<Option<(Arc<Batch>, Status)>, FileError> {
        let progress = self.running().get(id).cloned();
        let mut was = None;
        let updated = self.context.store.batches.update(id, |batch| {
            was = Some(batch.status);
            let open = matches!(batch.status, Status::Validating | Status::InProgress);
            if open {
                let share = progress.as_ref().map_or(0.0, |progress| progress.share());
                batch.cancelled_at.get_or_insert(share);
                note(batch);
            }
            open
        })?;
        if let (Some(progress), Some(share)) = (progress, updated.as_ref().and_then(|batch| batch.cancelled_at)) {
            progress.cancel(share);
        }
        Ok(updated.zip(was))
    }

    async fn live(&self, id: &str, progress: &Arc<Progress>) -> Result<(), Break> {
        match self.validate(id, progress).await {
            // Cancelled, then or later: what remains is the part of the rows that it had at that moment.
            Ok(()) | Err(Break::Cancelled) => {}
            Err(other) => return Err(other),
        }
        let Some(batch) = self.context.store.batches.get(id) else { return Ok(()) };
        if batch.status.is_terminal() {
            return Ok(());
        }
        progress.begin();
        match self.pause(progress, IN_PROGRESS_SHARE).await {
            Ok(()) => {}
            Err(Break::Cancelled) => self.pause_canceling().await?,
            Err(other) => return Err(other),
        }
        let is_stuck = matches!(self.context.faults.on_batch(&batch), Some(BatchFault::Stuck));
        if is_stuck && !progress.cancelled.is_cancelled() {
            self.get_stuck(&batch, progress).await?;
        }
        let ids = match self.execute(batch, progress).await? {
            Err(Stop::ServerStopping) => return Err(Stopping.into()),
            ids => ids,
        };
        if let Ok(ids) = &ids
            && self.context.surface.finalizes()
        {
            self.finalize(id, ids).await?;
        }
        ending::end(&self.context, id, ids)?;
        // Only now is it of no use any more.
        Ok(self.upstream.as_ref().map_or(Ok(()), |upstream| upstream.forget(id))?)
    }

    /// Answers the requests of a batch.
    async fn execute(&self, batch: Arc<Batch>, progress: &Arc<Progress>) -> Result<Result<ResultIds, Stop>, Break> {
        if let Some(upstream) = &self.upstream {
            return Ok(upstream::execute(&self.context, upstream, batch, progress).await);
        }
        let has_nothing = progress.cancelled.is_cancelled() && progress.share() <= 0.0;
        if has_nothing && !self.context.surface.reports_unexecuted() {
            return Ok(Ok(ResultIds::default()));
        }
        self.work(&batch.id, progress, execute::execute).await
    }

    /// Shows for a while that the rows are there and only their files are not.
    async fn finalize(&self, id: &str, ids: &ResultIds) -> Result<(), Break> {
        let mut is_whole = false;
        self.context.store.batches.update(id, |batch| {
            is_whole = batch.status == Status::InProgress && !batch.details.is_overdue;
            if is_whole {
                batch.status = Status::Finalizing;
                batch.details.finalizing_at = Some(clock::now());
                (batch.details.outputs, batch.details.failures) = ids.counted;
            }
            is_whole
        })?;
        if is_whole { self.wait(FINALIZING_SHARE).await } else { Ok(()) }
    }

    /// From VALIDATING to `IN_PROGRESS`, or to FAILED.
    async fn validate(&self, id: &str, progress: &Arc<Progress>) -> Result<(), Break> {
        if self.context.store.batches.get(id).is_none_or(|batch| batch.status != Status::Validating) {
            return Ok(());
        }
        self.pause(progress, VALIDATING_SHARE).await?;
        if let Some(message) = self.context.faults.full_queue(id) {
            return Ok(ending::turn_away(&self.context, id, &message)?);
        }
        let check = |context: &BatchContext, batch: &Batch, _: &Progress| {
            let input = execute::open_input(context, batch)?;
            Ok(context.surface.check(&input, &context.limits, &batch.endpoint)?)
        };
        match self.work(id, progress, check).await? {
            Ok(checked) => {
                self.context.store.batches.update(id, |batch| {
                    let still = batch.status == Status::Validating;
                    if still {
                        (batch.status, batch.model_id) = (Status::InProgress, checked.model);
                        batch.details.in_progress_at = Some(clock::now());
                        batch.details.requests = checked.requests;
                    }
                    still
                })?;
            }
            Err(stop) => ending::end(&self.context, id, Err(stop))?,
        }
        Ok(())
    }

    /// Waits until the batch is cancelled, as a scripted fault wants it.
    async fn get_stuck(&self, batch: &Batch, progress: &Progress) -> Result<(), Break> {
        self.context.faults.record_on_batch(batch)?;
        self.background.unless_stopping(progress.cancelled.cancelled()).await?;
        self.pause_canceling().await
    }

    /// Waits for a worker, and lets it do `job` on the batch.
    async fn work<T: Send + 'static>(
        &self,
        id: &str,
        progress: &Arc<Progress>,
        job: impl FnOnce(&BatchContext, &Batch, &Progress) -> Result<T, Stop> + Send + 'static,
    ) -> Result<Result<T, Stop>, Break> {
        let worker = self.workers.clone().acquire_owned();
        let Ok(worker) = self.background.unless_stopping(worker).await? else { return Err(Stopping.into()) };
        let Some(batch) = self.context.store.batches.get(id) else { return Err(Stopping.into()) };
        let (context, progress) = (self.context.clone(), progress.clone());
        let done = tokio::task::spawn_blocking(move || {
            let done = job(&context, &batch, &progress);
            drop(worker);
            done
        });
        Ok(done.await?)
    }

    /// Lets `share` of the batch time pass, unless the batch is cancelled or the server stopped before.
    async fn pause(&self, progress: &Progress, share: f64) -> Result<(), Break> {
        tokio::select! {
            biased;
            () = self.background.stopping.cancelled() => Err(Stopping.into()),
            () = progress.cancelled.cancelled() => Err(Break::Cancelled),
            waited = self.wait(share) => waited,
        }
    }

    async fn pause_canceling(&self) -> Result<(), Break> {
        self.wait(CANCELING_SHARE).await
    }

    /// Lets `share` of the batch time pass, unless the server is stopped before.
    async fn wait(&self, share: f64) -> Result<(), Break> {
        Ok(self.background.unless_stopping(sleep(self.batch_time.mul_f64(share))).await?)
    }
}

/// A timer has a tick of a millisecond; no time is no tick.
async fn sleep(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
