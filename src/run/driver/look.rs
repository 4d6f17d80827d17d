//! Looking up batches one by one: those that the list shows as ended, those that it does not show, and periodically
//! those that it shows in progress, because a list can be stale forever.
//!
//! In: shards whose batches are to be looked up, and what the list shows of the others. Out: the state of each batch;
//! or a shard that is held, because the service does not show its batch.

use std::collections::HashMap;

use super::state::{Driver, Finished};
use crate::model::incident::Incident;
use crate::model::shard_state::{NextStep, ShardState};
use crate::remote::{Api, Batch, RemoteError};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::monitor::Note;

impl<A: Api, E: Executor> Driver<A, E> {
    /// Takes what a list shows of the batches that are waited for. They are looked up where it shows an end or nothing,
    /// and where the last look-up is too long ago.
    pub(super) fn compare_with_list(&mut self, by_id: &HashMap<&str, &Batch>) -> Result<(), Error> {
        self.sightings.listed(by_id);
        let mut overdue = Vec::new();
        for shard in self.queue.waiting_for(NextStep::Poll) {
            let listed = self.shards[shard].state.batch_id().and_then(|id| by_id.get(id).copied());
            match listed {
                // The list may be stale or incomplete; only a look-up of the batch itself proves that it has ended.
                Some(batch) if !batch.status.is_terminal() => {
                    self.seen(shard, batch)?;
                    overdue.extend(self.sightings.show(shard, batch).map(|lists| (lists, shard)));
                }
                _ => self.want_look(shard),
            }
        }
        for shard in self.sightings.overdue(overdue) {
            self.want_look(shard);
        }
        Ok(())
    }

    /// Looks up every batch that is waited for.
    pub(super) fn want_all_looks(&mut self) {
        for shard in self.queue.waiting_for(NextStep::Poll) {
            self.want_look(shard);
        }
    }

    /// Looks up a batch, unless the service has just not shown it.
    fn want_look(&mut self, shard: u32) {
        if self.sightings.want(shard) {
            self.queue.remove(NextStep::Poll, shard);
        }
    }

    /// Begins as many look-ups as allowed.
    pub(super) fn begin_looks(&mut self) {
        while let Some(shard) = self.sightings.next() {
            let Some(id) = self.shards[shard].state.batch_id().map(str::to_owned) else { continue };
            self.sightings.begun();
            let api = self.api.clone();
            self.tasks.spawn(async move {
                let result = api.batch(&id).await;
                Finished::Looked { shard, result }
            });
        }
    }

    /// A batch was looked up.
    pub(super) fn looked(&mut self, shard: u32, result: Result<Batch, RemoteError>) -> Result<(), Error> {
        self.sightings.ended();
        let state = self.shards[shard].state.clone();
        if matches!(state, ShardState::Submitted { .. }) {
            self.queue.add(NextStep::Poll, shard);
        }
        match result {
            Ok(batch) => {
                self.poller.heard();
                self.sightings.seen(shard, &batch);
                if let ShardState::Lost { submission, batch_id } = state {
                    self.ledger.found(shard)?;
                    self.set_state(shard, ShardState::Submitted { submission, batch_id });
                }
                self.seen(shard, &batch)
            }
            Err(error) if error.kind().is_final() => Err(error.into()),
            Err(error) if error.is_transient() => {
                // The service cannot answer now.
                if self.sightings.failed(shard) {
                    self.give_up(error.into());
                } else {
                    self.note(&Note::BatchUnavailable { shard, error: error.to_string() });
                }
                Ok(())
            }
            Err(error) => self.not_seen(shard, &error),
        }
    }

    /// The service does not show a batch that it has accepted: it may not be visible everywhere yet, may belong to
    /// another key, or be lost. The look-up is retried with backoff, and when `settle` has passed, its shard is held.
    fn not_seen(&mut self, shard: u32, error: &RemoteError) -> Result<(), Error> {
        let Some(batch_id) = self.shards[shard].state.batch_id().map(str::to_owned) else { return Ok(()) };
        let (settle, interval) = (self.options.batches.settle, self.options.batches.poll_interval);
        let is_lost = matches!(self.shards[shard].state, ShardState::Lost { .. });
        if self.sightings.not_shown(shard, settle, interval) || is_lost {
            return self.hold_unseen(shard, error.to_string());
        }
        if self.sightings.is_news() {
            self.incident(&Incident::NotShown { shard, batch_id, error: error.to_string() })?;
        }
        Ok(())
    }

    /// Holds a shard whose batch is not shown: it was accepted, and may have been paid for.
    fn hold_unseen(&mut self, shard: u32, error: String) -> Result<(), Error> {
        self.sightings.forget(shard);
        let known = &self.shards[shard];
        let (ShardState::Submitted { submission, batch_id } | ShardState::Lost { submission, batch_id }) =
            known.state.clone()
        else {
            return Ok(());
        };
        let incident = Incident::Lost { shard, batch_id: batch_id.clone(), error };
        self.ledger.lost(shard, &incident.to_string())?;
        self.warn(&incident);
        self.queue.remove(NextStep::Poll, shard);
        self.set_state(shard, ShardState::Lost { submission, batch_id });
        Ok(())
    }
}
