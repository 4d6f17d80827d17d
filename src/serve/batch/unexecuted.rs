//! The requests of a batch that ended before they were executed.
//!
//! Invariant: in a dialect that reports them, each has a row in the error file that says why, and is not billed.
//! Together's batches leave no trace of them.

use super::context::BatchContext;
use super::input::{Place, Refusal};
use super::request::{Request, row_id};
use super::results::Results;
use super::row::{self, Answered, Kind};
use super::stop::Stop;
use crate::serve::faults::batch_faults::BatchFault;
use crate::serve::store::batch::{Batch, Status};
use crate::storage::read_at::ReadAt;

/// Writes a row for each request in `places`, none of which was answered, if `batch` ended in a way that leaves such
/// rows.
pub(crate) fn report(
    context: &BatchContext,
    batch: &Batch,
    input: &dyn ReadAt,
    places: impl Iterator<Item = Place>,
    results: &mut Results<'_>,
) -> Result<(), Stop> {
    let Some((code, message)) = reason(context, batch) else { return Ok(()) };
    let (mut line, mut row) = (Vec::new(), Vec::new());
    for place in places {
        place.read(input, &mut line).map_err(Refusal::from)?;
        let request = Request::parse(&line).map_err(Refusal::Unfit)?;
        let id = row_id(&context.surface.bare(&line));
        let answered = Answered { id: &id, custom_id: request.custom_id };
        row.clear();
        row::failure(context.surface.row_form(), answered, code, message, &mut row);
        results.add_row(Kind::Error, &row)?;
        results.count(Kind::Error);
    }
    Ok(())
}

/// The code and the message of these rows.
fn reason(context: &BatchContext, batch: &Batch) -> Option<(&'static str, &'static str)> {
    if !context.surface.reports_unexecuted() {
        return None;
    }
    // It may have been cancelled, or its window may have ended, since the execution began.
    let now = context.store.batches.get(&batch.id)?;
    if now.status == Status::Canceling {
        return Some(("batch_cancelled", "This request was not executed before the batch was cancelled."));
    }
    let expires = now.details.is_overdue || matches!(context.faults.on_batch(&now), Some(BatchFault::Expire { .. }));
    expires.then_some(("batch_expired", "This request could not be executed before the completion window expired."))
}
