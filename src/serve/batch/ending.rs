//! Records how a batch ended.
//!
//! In: the result files, or why there are none. Out: the batch in a terminal status, and what it no longer needs given
//! back.

use super::context::BatchContext;
use super::input::Refusal;
use super::results::ResultIds;
use super::stop::Stop;
use crate::serve::clock;
use crate::serve::faults::batch_faults::BatchFault;
use crate::serve::store::batch::{Batch, LineFault, Status};
use crate::storage::durable::FileError;

/// What a change makes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has not ended.
    Not,
    Regular,
    /// As a scripted fault wants it.
    ByFault,
}

/// Ends a batch: in good order, or as a scripted fault wants it.
pub(super) fn end(context: &BatchContext, id: &str, ids: Result<ResultIds, Stop>) -> Result<(), FileError> {
    settle(context, id, |batch| {
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
                let fault = context.faults.on_batch(batch).filter(|_| !cancelled);
                return fault.map_or(End::Regular, |fault| spoil(batch, fault));
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
        End::Regular
    })
}

/// Lets a batch fail before anything of it is done, because a scripted fault leaves no room for it. One that was
/// cancelled meanwhile is left alone.
pub(super) fn turn_away(context: &BatchContext, id: &str, message: &str) -> Result<(), FileError> {
    settle(context, id, |batch| {
        if batch.status != Status::Validating {
            return End::Not;
        }
        (batch.status, batch.error) = (Status::Failed, Some(message.to_owned()));
        batch.details.fault = Some(LineFault { line: None, code: "token_limit_exceeded".to_owned(), param: None });
        End::ByFault
    })
}

/// Gives a batch another end than the regular one, if the fault wants it.
fn spoil(batch: &mut Batch, fault: &BatchFault) -> End {
    match fault {
        BatchFault::Expire { .. } => batch.status = Status::Expired,
        BatchFault::Fail { message, .. } => (batch.status, batch.error) = (Status::Failed, Some(message.clone())),
        BatchFault::Stuck | BatchFault::NoRoom { .. } => return End::Regular,
    }
    batch.cancelled_at = Some(fault.share());
    End::ByFault
}

/// Records the end that `change` gives a batch, then gives back its room and, if its owner has deleted it, its input.
fn settle(context: &BatchContext, id: &str, change: impl FnOnce(&mut Batch) -> End) -> Result<(), FileError> {
    let (mut end, mut had_room) = (End::Not, false);
    let changed = context.store.batches.update(id, |batch| {
        had_room = !batch.status.is_terminal();
        end = change(batch);
        batch.completed_at = if end == End::Not { batch.completed_at } else { Some(clock::now()) };
        end != End::Not
    })?;
    let Some(batch) = changed.filter(|_| end != End::Not) else { return Ok(()) };
    context.store.quota().give_back(if had_room { batch.file_size_bytes } else { 0 });
    context.store.release(&batch.input_file_id)?;
    if end == End::ByFault { context.faults.record_on_batch(&batch) } else { Ok(()) }
}
