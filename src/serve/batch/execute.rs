//! Executes a batch: answers its requests and writes the rows.
//!
//! In: a batch whose input was checked. Out: its result files.
//! Invariants: the rows come in an order that follows from the server's seed and the batch's id alone, so
//! that an execution after a restart writes the same bytes; one row and the table of lines are in memory.
//!
//! Scripted faults change rows on their way into the files; the numbers they know them by are those of the input's
//! lines. A batch that was told to cancel gets a first part of the rows, in that same order: those that counted as done
//! when the cancel came.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::context::BatchContext;
use super::echo;
use super::input::{self, Refusal};
use super::progress::Progress;
use super::request::{Request, request_digest};
use super::results::{Receipt, ResultIds, Results};
use super::row::Kind;
use super::stop::Stop;
use super::unexecuted;
use crate::serve::faults::batch_faults::BatchFault;
use crate::serve::store::batch::Batch;
use crate::serve::surfaces::surface::Surface;
use crate::storage::local_file::LocalFile;

/// Opens the input file of `batch`.
pub(crate) fn open_input(context: &BatchContext, batch: &Batch) -> Result<LocalFile, Refusal> {
    let id = &batch.input_file_id;
    let missing = || Refusal::Unfit(format!("Failed to download input file: file {id}: 404 Not Found"));
    let file = context.store.input_of(batch).filter(|file| file.content.is_some()).ok_or_else(missing)?;
    LocalFile::open(&context.store.content_path(&file.id))
        .map_err(|error| if error.is_not_found() { missing() } else { error.source.into() })
}

/// Answers the requests of `batch` and publishes the rows. Runs for as long as that takes, so not on an async thread.
pub(crate) fn execute(context: &BatchContext, batch: &Batch, progress: &Progress) -> Result<ResultIds, Stop> {
    let input = open_input(context, batch)?;
    let mut places: Vec<_> = (1..).zip(input::places(&input, &context.limits)?).collect();
    let seed = xxh3_64_with_seed(batch.id.as_bytes(), context.seed);
    fastrand::Rng::with_seed(seed).shuffle(&mut places);
    progress.begin_rows(places.len());

    let mut faults = context.faults.on_rows(batch);
    let wanted = share_of(places.len(), context.faults.on_batch(batch).map_or(1.0, BatchFault::share));
    let mut results = Results::create(&context.store, batch, faults.file_format())?;
    let (mut line, mut row) = (Vec::new(), Vec::new());
    let mut executed = places.len();
    for (done, (number, place)) in places.iter().copied().enumerate() {
        if done >= wanted || progress.is_enough(done) {
            executed = done;
            break;
        }
        if context.stopping.is_cancelled() {
            return Err(Stop::ServerStopping);
        }
        place.read(&input, &mut line).map_err(Refusal::from)?;
        row.clear();
        let (kind, receipt) = answer(context.surface, &line, &mut row)?;
        faults.add(&mut results, (number, &line), (kind, &mut row), &receipt)?;
        progress.count_row();
    }
    let rest = places[executed..].iter().map(|(_, place)| *place);
    unexecuted::report(context, batch, &input, rest, &mut results)?;
    let ids = results.publish()?;
    faults.finish()?;
    Ok(ids)
}

/// How many rows a share, 0 to 1, of `rows` are.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no batch has 2^52 rows, and a share is within 0 and 1"
)]
pub(crate) fn share_of(rows: usize, share: f64) -> usize {
    (rows as f64 * share).round() as usize
}

/// The one place where a request gets its answer: here an echo, appended to `row`.
fn answer<'l>(surface: &dyn Surface, line: &'l [u8], row: &mut Vec<u8>) -> Result<(Kind, Receipt<'l>), Refusal> {
    let request = Request::parse(line).map_err(Refusal::Unfit)?;
    let bare = surface.bare(line);
    let digest = request_digest(&bare);
    let kind = echo::answer(surface, &bare, &request, &digest, row);
    Ok((kind, Receipt { custom_id: request.custom_id, digest }))
}
