//! The requests of a batch that ended before they were done.
//!
//! What always holds: each has a row in the error file that says why, and is not billed. Together's batches leave no trace of them.

use std::fs::File;

use crate::serve::Shared;
use crate::serve::echo::{self, Kind, Request};
use crate::serve::execute::Stop;
use crate::serve::faults::Ending;
use crate::serve::input::{Place, Refusal};
use crate::serve::results::Results;
use crate::serve::row::{self, Answered};
use crate::serve::store::{Batch, Status};

/// Writes a row for each request in `places`, which nobody has answered, if `batch` ended in a way that leaves such rows.
pub(in crate::serve) fn leave_undone(
    shared: &Shared,
    batch: &Batch,
    input: &File,
    places: impl Iterator<Item = Place>,
    results: &mut Results<'_>,
) -> Result<(), Stop> {
    let Some((code, message)) = reason(shared, batch) else { return Ok(()) };
    let (mut line, mut row) = (Vec::new(), Vec::new());
    for place in places {
        place.read(input, &mut line).map_err(Refusal::from)?;
        let request = Request::parse(&line).map_err(Refusal::Unfit)?;
        let id = echo::row_id(&shared.surface.bare(&line));
        row.clear();
        row::failure(
            shared.surface.row_form(),
            Answered { id: &id, custom_id: request.custom_id },
            code,
            message,
            &mut row,
        );
        results.add_row(Kind::Error, &row)?;
        results.count(Kind::Error);
    }
    Ok(())
}

/// The code and the message of these rows.
fn reason(shared: &Shared, batch: &Batch) -> Option<(&'static str, &'static str)> {
    if !shared.surface.accounts_for_undone() {
        return None;
    }
    // It may have been cancelled, or its time may have run out, since the execution began.
    let now = shared.store.batches.get(&batch.id)?;
    if now.status == Status::Canceling {
        return Some(("batch_cancelled", "This request was not executed before the batch was cancelled."));
    }
    let expires = now.details.is_overdue || matches!(shared.faults.ending(&now), Some(Ending::Expire { .. }));
    expires.then_some(("batch_expired", "This request could not be executed before the completion window expired."))
}
