//! Uploading and submitting: the calls that cost money.
//!
//! Intent first, then one POST. Its outcome is created, refused, or unknown; the last is resolved from the service's
//! list, by adopting what the POST created, and otherwise by holding the shard, unless the user has chosen differently.

use std::sync::Arc;

use super::backoff::Delay;
use super::state::{Driver, Finished, StepOf};
use crate::model::incident::Incident;
use crate::model::shard_state::{NextStep, ShardState};
use crate::remote::{Api, Batch, BatchTag, CreateBatch, Listing, RemoteError, Submission};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::files::ShardPayload;
use crate::run::step::Step;

/// How often a create is retried that was refused because the service does not find the file: files can become visible
/// late.
const FILE_LOOKUPS: u32 = 5;

impl<A: Api, E: Executor> Driver<A, E> {
    pub(super) fn begin_upload(&mut self, shard: u32) {
        let packed = self.shards[shard].shard.clone();
        self.begin(StepOf::Upload(shard), Step::Upload(packed));
    }

    /// The shard's file is at the service.
    pub(super) fn uploaded(&mut self, shard: u32, file_id: String, reused: bool) -> Result<(), Error> {
        self.ledger.uploaded(shard, &file_id, reused)?;
        self.fetches.uploaded(shard);
        self.queue.end_delay(shard);
        self.shards.update(shard, |row| {
            row.file_id = Some(file_id.clone());
            row.file_reused = reused;
        });
        self.set_state(shard, ShardState::Uploaded { file_id });
        Ok(())
    }

    /// Begins a submission: waits until the service accepts calls, so that a crash meanwhile leaves no unknown outcome.
    /// A file that the service already had may be in use by batches of other runs: those are listed first, before the
    /// first POST.
    pub(super) fn begin_create(&mut self, shard: u32) {
        let known = &self.shards[shard];
        let wants_list = known.file_reused && known.last_submission.is_none();
        let api = self.api.clone();
        self.tasks.spawn(async move {
            api.ready().await;
            let result = if wants_list { api.batches().await } else { Ok(Listing::default()) };
            Finished::Ready { shard, result }
        });
    }

    /// The service accepts calls. If waiting for that failed, nothing was sent: the next attempt starts over.
    pub(super) fn ready(&mut self, shard: u32, result: Result<Listing, RemoteError>) -> Result<(), Error> {
        match result {
            Ok(listing) if self.failure.is_none() => self.submit(shard, &listing.batches),
            Ok(_) => {
                self.queue.done(NextStep::Create);
                self.enqueue(shard);
                Ok(())
            }
            Err(error) => {
                self.queue.done(NextStep::Create);
                let transient = error.is_transient();
                self.retry_later(shard, error, transient);
                Ok(())
            }
        }
    }

    /// Records the intent, then sends the one POST.
    fn submit(&mut self, shard: u32, batches: &[Batch]) -> Result<(), Error> {
        let known = &self.shards[shard];
        let ShardState::Uploaded { file_id } = known.state.clone() else {
            return Err(Error::Internal { what: format!("shard {shard} was to be submitted before it was uploaded") });
        };
        let uses_file = |batch: &&Batch| batch.input_file_id.as_ref() == Some(&file_id);
        // A batch that did not exist before the first POST may come from it.
        let users = match &known.last_submission {
            Some(last) => last.known.clone(),
            None => batches.iter().filter(uses_file).map(|batch| batch.id.clone()).collect(),
        };
        let last = self.ledger.intend(shard, &file_id, known.file_reused, users)?;
        let submission = last.id;
        self.shards.update(shard, |row| row.last_submission = Some(last));
        // It waits for the response, not for a step.
        self.shards.set_state(shard, ShardState::Intended { submission, file_id: file_id.clone() });
        let known = &self.shards[shard];
        self.admission.begun(&known.shard.model);
        let request = CreateBatch {
            input_file_id: file_id,
            endpoint: self.options.service.endpoint.clone(),
            completion_window: Some(self.options.service.completion_window.clone()),
            model: known.shard.model.clone(),
            tag: Some(BatchTag { run: self.run_name.clone(), shard, submission }),
        };
        let lines = ShardPayload { files: self.files.clone(), shard: known.shard.clone() };
        let api = self.api.clone();
        self.is_posting = true;
        self.tasks.spawn(async move {
            let answer = api.create(&request, Arc::new(lines)).await;
            Finished::Created { shard, submission, answer }
        });
        Ok(())
    }

    /// The outcome of the one POST: created, refused, or unknown.
    pub(super) fn created(&mut self, shard: u32, submission: i64, answer: Submission) -> Result<(), Error> {
        let ShardState::Intended { file_id, .. } = self.shards[shard].state.clone() else {
            return Err(Error::Internal { what: format!("shard {shard} was submitted without an intent") });
        };
        match answer {
            Submission::Accepted(batch) => {
                self.queue.end_delay(shard);
                self.adopt(shard, submission, &batch, false)
            }
            Submission::Refused(error) => {
                self.ledger.refused(shard, submission, &error.to_string())?;
                self.admission.refused(shard, &error, self.options.batches.poll_interval);
                let abandoned = error.status().is_some();
                self.shards.update(shard, |row| row.abandoned |= abandoned);
                self.set_state(shard, ShardState::Uploaded { file_id });
                if error.is_queue_full() {
                    return self.no_room(shard, error);
                }
                let lookups = self.queue.delay(shard).map_or(0, Delay::times);
                let not_found = matches!(error.status(), Some(400 | 404)) && lookups < FILE_LOOKUPS;
                let transient = error.is_transient() || not_found;
                self.retry_later(shard, error, transient);
                Ok(())
            }
            Submission::Unknown(error) => {
                self.ledger.unknown(shard, submission, &error.to_string())?;
                self.incident(&Incident::UnknownAnswer { shard, error: error.to_string() })?;
                self.enqueue(shard);
                Ok(())
            }
        }
    }

    /// Assigns a batch to a shard: the one that a response has named, or one that was `found` in the list.
    pub(super) fn adopt(&mut self, shard: u32, submission: i64, batch: &Batch, found: bool) -> Result<(), Error> {
        let is_surplus = self.unresolved.is_surplus(&batch.id);
        let owner = self.ledger.batch_owner(&batch.id)?.filter(|owner| *owner != shard);
        if is_surplus || owner.is_some() {
            return self.hold_mistaken(shard, submission, &batch.id, owner);
        }
        self.ledger.accepted(shard, submission, (&batch.id, &batch.status.to_string()), found)?;
        self.shards.update(shard, |row| {
            if let Some(last) = &mut row.last_submission {
                last.found = found;
            }
        });
        self.unresolved.undefer(&batch.id);
        self.admission.forget(shard);
        if self.admission.is_stopped {
            self.admission.is_stopped = self.ledger.has_mistaken_batch()?;
        }
        if !self.queue.has(NextStep::Poll) {
            self.poller.schedule();
        }
        self.set_state(shard, ShardState::Submitted { submission, batch_id: batch.id.clone() });
        Ok(())
    }

    /// The service answered with a batch that is not this shard's: what it did with the shard is unknown, and further
    /// creates would be at the same risk.
    fn hold_mistaken(&mut self, shard: u32, submission: i64, batch_id: &str, owner: Option<u32>) -> Result<(), Error> {
        let Some(file_id) = self.shards[shard].file_id.clone() else { return Ok(()) };
        let incident = Incident::BatchOfAnother { shard, batch_id: batch_id.to_owned(), owner };
        self.ledger.mistaken(shard, submission, &incident.to_string())?;
        self.admission.is_stopped = true;
        self.incident(&incident)?;
        // The list may show the batch that was actually created.
        self.unresolved.look_at_held();
        self.set_state(shard, ShardState::Held { submission, file_id });
        Ok(())
    }
}
