//! Polling: one request for the service's list serves all shards.
//!
//! The list may be stale, incomplete or wrong. It is trusted when it shows a batch in progress; that a batch has ended
//! is accepted only from a look-up of the batch itself.

use std::collections::HashMap;

use super::state::{Driver, Finished};
use crate::model::incident::Incident;
use crate::model::shard_state::{EndedBatch, NextStep, ShardState};
use crate::remote::{Api, Batch, BatchStatus, Listing, RemoteError};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::monitor::{Event, Note};

impl<A: Api, E: Executor> Driver<A, E> {
    /// Whether the service's list is needed.
    pub(super) fn wants_list(&self) -> bool {
        let waits = self.queue.has(NextStep::Poll) || self.queue.has(NextStep::Reconcile);
        waits || self.unresolved.wants_list() || self.admission.wants_list()
    }

    /// Requests the service's list when it is due.
    pub(super) fn begin_poll(&mut self) {
        if self.wants_list() && self.poller.begin() {
            let api = self.api.clone();
            self.tasks.spawn(async move { Finished::Listed(api.batches().await) });
        }
    }

    /// Processes the list: batches that are waited for, submissions with an unknown outcome, and surplus batches.
    pub(super) fn listed(&mut self, result: Result<Listing, RemoteError>) -> Result<(), Error> {
        self.unresolved.looked(self.poller.begun());
        self.poller.ended(result.as_ref().ok().map(|listing| listing.batches.len()));
        let listing = match result {
            Ok(listing) => listing,
            Err(error) => return self.without_list(error),
        };
        let by_id: HashMap<&str, &Batch> = listing.batches.iter().map(|batch| (batch.id.as_str(), batch)).collect();
        self.compare_with_list(&by_id)?;
        self.reconcile_all(&listing)
    }

    pub(super) fn seen(&mut self, shard: u32, batch: &Batch) -> Result<(), Error> {
        let ShardState::Submitted { submission, .. } = self.shards[shard].state.clone() else { return Ok(()) };
        if !batch.status.is_terminal() {
            self.tell_unknown(&batch.status);
            self.tell_progress(shard, batch.progress.unwrap_or(0.0));
            return Ok(());
        }
        if batch.queue_full {
            return self.defer(shard, submission, batch);
        }
        let fileless = batch.output_file_id.is_none() && batch.error_file_id.is_none();
        if fileless && batch.status != BatchStatus::Failed {
            let is_sent_again = batch.status != BatchStatus::Cancelled;
            if !self.poller.believes_fileless(shard, is_sent_again, self.options.batches.settle) {
                return Ok(());
            }
        }
        let ended = EndedBatch::of(batch);
        self.ledger.ended(shard, &ended)?;
        self.queue.remove(NextStep::Poll, shard);
        if batch.status != BatchStatus::Completed {
            let (batch_id, status, error) = (batch.id.clone(), batch.status.clone(), batch.error.clone());
            self.warn(&Incident::BatchEnded { batch_id, status, error });
        }
        self.merger.record_failure(shard, &ended);
        self.admission.served(&self.shards[shard].shard.model);
        self.set_state(shard, ShardState::Ended { submission, batch: ended });
        self.tell_progress(shard, 100.0);
        Ok(())
    }

    /// Unknown statuses are non-terminal; each is reported once.
    fn tell_unknown(&mut self, status: &BatchStatus) {
        if let BatchStatus::Other(word) = status
            && self.poller.is_news(word)
        {
            self.note(&Note::UnknownStatus { status: word.clone() });
        }
    }

    /// The list is unavailable: the batches that are waited for are looked up one by one, and the run ends only if all
    /// of them fail for long. A submission with an unknown outcome cannot be resolved without the list, and is held
    /// after the same time.
    fn without_list(&mut self, error: RemoteError) -> Result<(), Error> {
        let without = self.poller.without_list();
        if error.kind().is_final() || without.is_silent {
            return Err(error.into());
        }
        if without.is_new {
            self.note(&Note::ListUnavailable { error: error.to_string() });
        }
        self.want_all_looks();
        if without.is_hopeless { self.hold_all_unresolved() } else { Ok(()) }
    }

    /// Reports the progress of all batches after that of one has changed.
    pub(super) fn tell_progress(&mut self, shard: u32, percent: f64) {
        let (done, total) = self.progress.set(shard, self.shards[shard].shard.requests, percent);
        self.monitor.event(Event::Progress { done, total });
    }
}
