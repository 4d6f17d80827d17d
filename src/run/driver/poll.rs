//! Watching batches: one look at the service's list serves all shards.
//!
//! The list may be stale, abridged or wrong. It is believed when it says that a batch is at work; that one has ended is
//! believed from the batch itself.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use super::backoff::UNREACHABLE_MAX;
use crate::model::incident::Incident;
use crate::model::shard_state::{EndedBatch, NextStep, ShardState};
use crate::remote::{Api, Batch, BatchStatus, ErrorKind, Listing, RemoteError};
use crate::run::error::Error;
use crate::run::monitor::{Event, Note};
use crate::run::steps::Outcome;

/// Looks that must find a batch ended and without any file before that is believed: files can show later than the end.
const FILELESS_LOOKS: u32 = 3;

/// And how long they must have found it so, where what it has not answered is sent again.
const FILELESS_TIME: Duration = Duration::from_secs(120);

/// Time between two looks, at least, for each batch that the last one listed: the list of 20,000 has ten megabytes.
const LOOKS_APART: Duration = Duration::from_micros(200);

/// Most unknown statuses that are told.
const STRANGE_MAX: usize = 16;

impl<A: Api> Driver<A> {
    /// Whether something is to be learnt from the service's list.
    pub(super) fn wants_list(&self) -> bool {
        let waiting = |step| self.waiting.get(&step).is_some_and(|shards| !shards.is_empty());
        waiting(NextStep::Poll) || waiting(NextStep::Reconcile) || self.look_at_held || self.admission.wants_list()
    }

    /// Looks at the service's list when it is time; one look serves all shards.
    pub(super) fn begin_poll(&mut self) {
        if self.polling || Instant::now() < self.next_poll || !self.wants_list() {
            return;
        }
        self.polling = true;
        self.list_begun = Instant::now();
        let api = self.api.clone();
        self.tasks.spawn(async move { Outcome::Listed(api.batches().await) });
    }

    pub(super) fn schedule_poll(&mut self) {
        let apart = LOOKS_APART * self.listed;
        // Between 90 and 110 per cent, so that many runs do not ask in step.
        let interval = self.options.poll_interval.max(apart).mul_f64(0.9 + fastrand::f64() / 5.0);
        self.next_poll = Instant::now() + interval;
    }

    /// What the list says about batches that are waited for, about submissions in doubt, and about batches that are too many.
    pub(super) fn listed(&mut self, result: Result<Listing, RemoteError>) -> Result<(), Error> {
        self.polling = false;
        self.look_at_held = false;
        if let Ok(listing) = &result {
            self.listed = u32::try_from(listing.batches.len()).unwrap_or(u32::MAX);
        }
        self.schedule_poll();
        let listing = match result {
            Ok(listing) => listing,
            Err(error) => return self.without_list(error),
        };
        (self.unreachable_since, self.listless_since) = (None, None);
        let by_id: HashMap<&str, &Batch> = listing.batches.iter().map(|batch| (batch.id.as_str(), batch)).collect();
        self.compare_with_list(&by_id)?;
        self.reconcile_all(&listing)
    }

    pub(super) fn seen(&mut self, shard: u32, batch: &Batch) -> Result<(), Error> {
        let ShardState::Submitted { submission, .. } = self.shards[shard as usize].state.clone() else { return Ok(()) };
        if !batch.status.is_terminal() {
            self.tell_strange(&batch.status);
            self.tell_progress(shard, batch.progress.unwrap_or(0.0));
            return Ok(());
        }
        if batch.queue_full {
            return self.defer(shard, submission, batch);
        }
        let fileless = batch.output_file_id.is_none() && batch.error_file_id.is_none();
        if fileless && batch.status != BatchStatus::Failed {
            let time = FILELESS_TIME.min(self.options.settle);
            let (since, looks) = self.fileless.entry(shard).or_insert((Instant::now(), 0));
            *looks += 1;
            let is_repeated = batch.status != BatchStatus::Cancelled;
            if *looks < FILELESS_LOOKS || is_repeated && since.elapsed() < time {
                return Ok(());
            }
        }
        let ended = EndedBatch::of(batch);
        self.ledger.ended(shard, &ended)?;
        self.waiting.entry(NextStep::Poll).or_default().remove(&shard);
        if batch.status != BatchStatus::Completed {
            let (batch_id, status, error) = (batch.id.clone(), batch.status.clone(), batch.error.clone());
            self.warn(&Incident::BatchEnded { batch_id, status, error });
        }
        self.record_failure(shard, &ended);
        self.admission.served(&self.shards[shard as usize].shard.model);
        self.set_state(shard, ShardState::Ended { submission, batch: ended });
        self.tell_progress(shard, 100.0);
        Ok(())
    }

    /// A status that is not known here is no end; it is told once.
    fn tell_strange(&mut self, status: &BatchStatus) {
        let BatchStatus::Other(word) = status else { return };
        if !word.is_empty() && self.strange.len() < STRANGE_MAX && self.strange.insert(word.clone()) {
            self.note(&Note::UnknownStatus { status: word.clone() });
        }
    }

    /// The list cannot be had: the batches that are waited for are asked one by one, and only a long silence of all ends the run. What is in
    /// doubt cannot be settled without it, and is held after as long a time.
    fn without_list(&mut self, error: RemoteError) -> Result<(), Error> {
        let silent_since = *self.unreachable_since.get_or_insert_with(Instant::now);
        if is_final(&error) || silent_since.elapsed() > UNREACHABLE_MAX {
            return Err(error.into());
        }
        if self.listless_since.is_none() {
            self.note(&Note::ListUnavailable { error: error.to_string() });
        }
        let since = *self.listless_since.get_or_insert_with(Instant::now);
        self.want_all_looks();
        if since.elapsed() > UNREACHABLE_MAX { self.hold_all_unresolved() } else { Ok(()) }
    }

    /// Tells how far all batches are, now that one of them is.
    #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a bar")]
    pub(super) fn tell_progress(&mut self, shard: u32, percent: f64) {
        let requests = self.shards[shard as usize].shard.requests;
        let done = (requests as f64 * percent / 100.0) as u64;
        let before = self.done_requests.insert(shard, done);
        if before.is_none() {
            self.progress.1 += requests;
        }
        self.progress.0 = self.progress.0 + done - before.unwrap_or(0);
        let (done, total) = self.progress;
        self.monitor.event(Event::Progress { done, total });
    }

    /// A batch that did not complete explains why its requests have no reply.
    pub(super) fn record_failure(&self, shard: u32, batch: &EndedBatch) {
        if batch.status != BatchStatus::Completed {
            let why = batch.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            let note = format!("its batch {} ended as {}{why}", batch.id, batch.status);
            self.batch_failures.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, note);
        }
    }
}

/// Whether it makes no sense to ask again: nobody will let us in, or we cannot get out.
pub(super) fn is_final(error: &RemoteError) -> bool {
    error.is_local() || matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Insecure)
}
