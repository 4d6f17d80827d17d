//! Full queues: batches that the service has no room for are submitted again when others have ended.
//!
//! In: batches that failed, or creates that were refused, because the queue was full. Out: their shards, ready to be
//! submitted again, and how many batches there is room for.
//!
//! Invariants: a batch is deferred only if it has executed nothing, by its files and by its counts. It is never again
//! taken for its shard's batch, and does not use up a round of its requests.

use std::time::Duration;

use super::state::Driver;
use crate::model::incident::Incident;
use crate::model::shard_state::{EndedBatch, NextStep, ShardState};
use crate::remote::{Api, Batch, ErrorKind, RemoteError};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::monitor::Note;

/// Maximum wait of a shard without room although this run has no other batch of its model in flight.
const ROOM_WAIT_MAX: Duration = Duration::from_mins(15);

/// How long such a shard is retried: batches of other runs may fill the queue for as long as a batch may take.
const ROOM_PATIENCE: Duration = Duration::from_hours(24);

impl<A: Api, E: Executor> Driver<A, E> {
    /// A batch failed before it executed anything, because the queue was full.
    pub(super) fn defer(&mut self, shard: u32, submission: i64, batch: &Batch) -> Result<(), Error> {
        let known = &self.shards[shard];
        let Some(file_id) = known.file_id.clone() else { return Ok(()) };
        // If it was found in the list, an earlier POST may have created it, and the outcome of the last one is unknown.
        let is_unknown = known.abandoned && known.last_submission.as_ref().is_some_and(|last| last.found);
        self.ledger.deferred(shard, submission, &EndedBatch::of(batch), is_unknown)?;
        self.unresolved.defer(&batch.id);
        self.queue.remove(NextStep::Poll, shard);
        self.tell_progress(shard, 0.0);
        let state =
            if is_unknown { ShardState::Intended { submission, file_id } } else { ShardState::Uploaded { file_id } };
        self.set_state(shard, state);
        let said = batch.error.as_deref().unwrap_or("too much is queued");
        self.no_room(shard, RemoteError::new(ErrorKind::RateLimited, format!("batch {}", batch.id)).with_message(said))
    }

    /// There is no room for a shard's batch: the current number in flight becomes the cap, and the shard waits until
    /// one of them has ended. Without any, it waits for batches of other runs, or for the user to make smaller shards.
    pub(super) fn no_room(&mut self, shard: u32, error: RemoteError) -> Result<(), Error> {
        let model = self.shards[shard].shard.model.clone();
        let is_first = !self.admission.has_cap(&model);
        let cap = self.admission.full(&model);
        self.ledger.set_in_flight_caps(&self.admission.learned())?;
        let is_alone = self.admission.in_flight(&model) == 0;
        if is_first || is_alone && self.queue.delay(shard).is_none() {
            self.incident(&Incident::QueueFull { shard, cap, is_alone, error: error.to_string() })?;
        } else {
            self.note(&Note::WaitingForRoom { shard, model: model.clone(), cap, error: error.to_string() });
        }
        if is_alone {
            self.wait_for_room(shard, error);
        } else {
            self.queue.end_delay(shard);
        }
        Ok(())
    }

    fn wait_for_room(&mut self, shard: u32, error: RemoteError) {
        let waits = self.options.batches.poll_interval.saturating_mul(2);
        if self.queue.delay_longer(shard, waits, ROOM_WAIT_MAX) > ROOM_PATIENCE {
            self.give_up(error.into());
        }
    }
}
