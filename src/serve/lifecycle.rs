//! The life of a batch: VALIDATING, `IN_PROGRESS`, and its end.
//!
//! In: a batch that has not ended. Out: the same batch, ended, with its result files.
//! What always holds: every change of status goes through the store, in one step against all others; the end is
//! recorded after the result files are published. A server that stops leaves the batch where it is, and the next one
//! starts that stage over, with the same results.
//!
//! The pretended time passes first and takes no worker; then the batch waits for one of the workers and is executed. In OpenAI's dialect its
//! completion window may end meanwhile: what is done by then is its result.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinError;

use crate::serve::Shared;
use crate::serve::execute;
use crate::serve::execute::Stop;
use crate::serve::faults::Ending;
use crate::serve::input::Refusal;
use crate::serve::progress::Progress;
use crate::serve::quota::Taken;
use crate::serve::results::ResultIds;
use crate::serve::store::{Batch, LineFault, Status};
use crate::serve::upstream;
use crate::storage::durable::FileError;

/// Share of the batch time that VALIDATING takes.
const VALIDATING_SHARE: f64 = 0.2;

/// Share of the batch time that `IN_PROGRESS` takes.
const IN_PROGRESS_SHARE: f64 = 0.8;

/// Share of the batch time for which a batch stays CANCELING, on top of what went before.
const CANCELING_SHARE: f64 = 0.2;

/// Share of the batch time for which a batch is FINALIZING, in OpenAI's dialect.
const FINALIZING_SHARE: f64 = 0.1;

/// Why a batch's life goes no further in this server.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("the server is stopping")]
    ServerStopping,
    #[error("the batch was told to cancel")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] FileError),
    #[error(transparent)]
    Work(#[from] JoinError),
}

/// Records a new batch and begins its life. What it may write has its room until it has ended.
pub(super) fn create(shared: &Arc<Shared>, batch: Batch, room: Taken) -> Result<Arc<Batch>, FileError> {
    // It is registered first: a cancel must find the progress as soon as it can find the record.
    let progress = register(shared, &batch);
    let id = batch.id.clone();
    let recorded = shared.store.batches.put(batch);
    match &recorded {
        Ok(_) => {
            room.keep();
            begin(shared, id, progress);
        }
        Err(_) => drop(shared.running().remove(&id)),
    }
    recorded
}

/// Goes on with a batch that an earlier server left unfinished.
pub(super) fn resume(shared: &Arc<Shared>, batch: &Batch) {
    let progress = register(shared, batch);
    begin(shared, batch.id.clone(), progress);
}

fn register(shared: &Shared, batch: &Batch) -> Arc<Progress> {
    let time = shared.batch_time.mul_f64(IN_PROGRESS_SHARE);
    let progress = Arc::new(Progress::new(time, batch.cancelled_at));
    shared.running().insert(batch.id.clone(), progress.clone());
    progress
}

fn begin(shared: &Arc<Shared>, id: String, progress: Arc<Progress>) {
    let tasks = shared.tasks.clone();
    let shared = shared.clone();
    tasks.spawn(async move {
        let lived = tokio::select! {
            biased;
            // First, so that nothing is sent any more where the window ended while there was no server.
            never = run_out_of_time(&shared, &id) => match never {},
            lived = live(&shared, &id, &progress) => lived,
        };
        // A batch whose life breaks off for want of disk space stays as it is until the next start.
        if let (Err(Break::Store(error)), Some(upstream)) = (lived, &shared.upstream) {
            upstream.fail(error.into());
        }
        shared.running().remove(&id);
    });
}

/// Lets a batch end when its window is over, if it has one.
async fn run_out_of_time(shared: &Shared, id: &str) -> Infallible {
    let Some(expires_at) = shared.store.batches.get(id).and_then(|batch| batch.details.expires_at) else {
        return std::future::pending().await;
    };
    let left = expires_at.saturating_sub(Timestamp::now().as_microsecond());
    sleep(Duration::from_micros(u64::try_from(left).unwrap_or(0))).await;
    // Should it not be recorded, the batch goes on as if it had time.
    let _ = break_off_at(shared, id, |batch| batch.details.is_overdue = true);
    std::future::pending().await
}

/// Tells a batch to cancel, if it is at work, and gives it with the status that it had.
pub(super) fn cancel(shared: &Shared, id: &str) -> Result<Option<(Arc<Batch>, Status)>, FileError> {
    break_off_at(shared, id, |batch| {
        batch.status = Status::Canceling;
        batch.details.cancelling_at = Some(Timestamp::now().as_microsecond());
    })
}

/// Lets a batch that is at work end with the rows that count as done at this moment, and notes why.
fn break_off_at(
    shared: &Shared,
    id: &str,
    note: impl FnOnce(&mut Batch),
) -> Result<Option<(Arc<Batch>, Status)>, FileError> {
    let progress = shared.running().get(id).cloned();
    let mut was = None;
    let updated = shared.store.batches.update(id, |batch| {
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

async fn live(shared: &Arc<Shared>, id: &str, progress: &Arc<Progress>) -> Result<(), Break> {
    match validate(shared, id, progress).await {
        // Cancelled, then or later: what remains is the part of the rows that it had at that moment.
        Ok(()) | Err(Break::Cancelled) => {}
        Err(other) => return Err(other),
    }
    let Some(batch) = shared.store.batches.get(id) else { return Ok(()) };
    if batch.status.is_terminal() {
        return Ok(());
    }
    progress.begin();
    match pause(shared, progress, IN_PROGRESS_SHARE).await {
        Ok(()) => {}
        Err(Break::Cancelled) => pause_canceling(shared).await?,
        Err(other) => return Err(other),
    }
    if matches!(shared.faults.ending(&batch), Some(Ending::Never)) && !progress.cancelled.is_cancelled() {
        get_stuck(shared, &batch, progress).await?;
    }
    let ids = if let Some(upstream) = &shared.upstream {
        upstream::execute(shared, upstream, batch, progress).await
    } else if progress.cancelled.is_cancelled() && progress.share() <= 0.0 && !shared.surface.accounts_for_undone() {
        // Nothing is left of it; in OpenAI's dialect each request has a row that says so.
        Ok(ResultIds::default())
    } else {
        work(shared, id, progress, execute::execute).await?
    };
    match ids {
        Err(Stop::ServerStopping) => Err(Break::ServerStopping),
        ids => {
            if let Ok(ids) = &ids
                && shared.surface.finalizes()
            {
                finalize(shared, id, ids).await?;
            }
            end(shared, id, ids)?;
            // Only now is it of no use any more.
            Ok(shared.upstream.as_ref().map_or(Ok(()), |upstream| upstream.forget(id))?)
        }
    }
}

/// Shows for a while that the rows are there and only their files are not.
async fn finalize(shared: &Shared, id: &str, ids: &ResultIds) -> Result<(), Break> {
    let mut is_whole = false;
    shared.store.batches.update(id, |batch| {
        is_whole = batch.status == Status::InProgress && !batch.details.is_overdue;
        if is_whole {
            batch.status = Status::Finalizing;
            batch.details.finalizing_at = Some(Timestamp::now().as_microsecond());
            (batch.details.outputs, batch.details.failures) = ids.counted;
        }
        is_whole
    })?;
    if is_whole { unless_stopping(shared, sleep(shared.batch_time.mul_f64(FINALIZING_SHARE))).await } else { Ok(()) }
}

/// From VALIDATING to `IN_PROGRESS`, or to FAILED.
async fn validate(shared: &Arc<Shared>, id: &str, progress: &Arc<Progress>) -> Result<(), Break> {
    if shared.store.batches.get(id).is_none_or(|batch| batch.status != Status::Validating) {
        return Ok(());
    }
    pause(shared, progress, VALIDATING_SHARE).await?;
    if let Some(message) = shared.faults.lacks_room(&shared.store, id) {
        return Ok(turn_away(shared, id, &message)?);
    }
    let checked = work(shared, id, progress, |shared, batch, _| {
        let input = execute::open_input(shared, batch)?;
        Ok(shared.surface.check(&input, &shared.limits, &batch.endpoint)?)
    })
    .await?;
    match checked {
        Ok(checked) => {
            shared.store.batches.update(id, |batch| {
                let still = batch.status == Status::Validating;
                if still {
                    (batch.status, batch.model_id) = (Status::InProgress, checked.model);
                    batch.details.in_progress_at = Some(Timestamp::now().as_microsecond());
                    batch.details.requests = checked.requests;
                }
                still
            })?;
        }
        Err(stop) => end(shared, id, Err(stop))?,
    }
    Ok(())
}

/// Lets a batch fail before anything of it is done, because a scripted fault leaves no room for it.
fn turn_away(shared: &Shared, id: &str, message: &str) -> Result<(), FileError> {
    let ended = shared.store.batches.update(id, |batch| {
        let still = batch.status == Status::Validating;
        if still {
            (batch.status, batch.error) = (Status::Failed, Some(message.to_owned()));
            batch.details.fault = Some(LineFault { line: None, code: "token_limit_exceeded".to_owned(), param: None });
            batch.completed_at = Some(Timestamp::now().as_microsecond());
        }
        still
    })?;
    match ended {
        Some(batch) => {
            shared.store.release(&batch.input_file_id)?;
            shared.faults.record_ending(&batch)
        }
        None => Ok(()),
    }
}

/// Goes on until somebody cancels the batch, as a scripted fault wants it.
async fn get_stuck(shared: &Shared, batch: &Batch, progress: &Progress) -> Result<(), Break> {
    shared.faults.record_ending(batch)?;
    unless_stopping(shared, progress.cancelled.cancelled()).await?;
    pause_canceling(shared).await
}

/// Records how a batch ended: in good order, or as a scripted fault wants it.
fn end(shared: &Shared, id: &str, ids: Result<ResultIds, Stop>) -> Result<(), FileError> {
    let (mut broke_off, mut ends_now) = (false, false);
    let ended = shared.store.batches.update(id, |batch| {
        ends_now = !batch.status.is_terminal();
        let cancelled = batch.status == Status::Canceling;
        match ids {
            Ok(ids) => {
                batch.status = match batch.status {
                    Status::Canceling => Status::Cancelled,
                    _ if batch.details.is_overdue => Status::Expired,
                    _ => Status::Completed,
                };
                (batch.output_file_id, batch.error_file_id) = (ids.output, ids.error);
                (batch.details.outputs, batch.details.failures) = ids.counted;
                // One that was never checked: all of its requests have a row.
                batch.details.requests = batch.details.requests.max(ids.counted.0 + ids.counted.1);
                if let Some(ending) = shared.faults.ending(batch).filter(|_| !cancelled) {
                    broke_off = break_off(batch, ending);
                }
            }
            Err(_) if cancelled => batch.status = Status::Cancelled,
            Err(stop) => {
                (batch.status, batch.error) = (Status::Failed, Some(stop.to_string()));
                if let Stop::Refused(Refusal::Line { line, code, param, .. }) = stop {
                    let (code, param) = (code.to_owned(), param.map(str::to_owned));
                    batch.details.fault = Some(LineFault { line: Some(line), code, param });
                }
            }
        }
        batch.completed_at = Some(Timestamp::now().as_microsecond());
        true
    })?;
    if let Some(batch) = &ended {
        shared.store.quota().give_back(if ends_now { batch.file_size_bytes } else { 0 });
        shared.store.release(&batch.input_file_id)?;
    }
    match ended.filter(|_| broke_off) {
        Some(batch) => shared.faults.record_ending(&batch),
        None => Ok(()),
    }
}

/// Ends a batch as a scripted fault wants it. Gives whether it wants another end than the usual.
fn break_off(batch: &mut Batch, ending: &Ending) -> bool {
    match ending {
        Ending::Expire { .. } => batch.status = Status::Expired,
        Ending::Fail { message, .. } => (batch.status, batch.error) = (Status::Failed, Some(message.clone())),
        Ending::Never | Ending::NoRoom { .. } => return false,
    }
    batch.cancelled_at = Some(ending.share());
    true
}

/// Waits for a worker, and lets it do `job` on the batch.
async fn work<T: Send + 'static>(
    shared: &Arc<Shared>,
    id: &str,
    progress: &Arc<Progress>,
    job: impl FnOnce(&Shared, &Batch, &Progress) -> Result<T, Stop> + Send + 'static,
) -> Result<Result<T, Stop>, Break> {
    let worker = shared.workers.clone().acquire_owned();
    let Ok(worker) = unless_stopping(shared, worker).await? else { return Err(Break::ServerStopping) };
    let Some(batch) = shared.store.batches.get(id) else { return Err(Break::ServerStopping) };
    let (shared, progress) = (shared.clone(), progress.clone());
    let done = tokio::task::spawn_blocking(move || {
        let done = job(&shared, &batch, &progress);
        drop(worker);
        done
    });
    Ok(done.await?)
}

/// Lets `share` of the batch time pass, unless the batch is cancelled or the server stopped before.
async fn pause(shared: &Shared, progress: &Progress, share: f64) -> Result<(), Break> {
    let time = shared.batch_time.mul_f64(share);
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => Err(Break::ServerStopping),
        () = progress.cancelled.cancelled() => Err(Break::Cancelled),
        () = sleep(time) => Ok(()),
    }
}

async fn pause_canceling(shared: &Shared) -> Result<(), Break> {
    unless_stopping(shared, sleep(shared.batch_time.mul_f64(CANCELING_SHARE))).await
}

/// A timer has a tick of a millisecond; no time is no tick.
async fn sleep(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

async fn unless_stopping<T>(shared: &Shared, work: impl Future<Output = T>) -> Result<T, Break> {
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => Err(Break::ServerStopping),
        done = work => Ok(done),
    }
}
