//! Uploading and submitting: the calls that cost money.
//!
//! Intent first, then one POST. Its answer is yes, no, or nobody knows; the last is settled from the service's list, by adopting
//! what the POST created, and otherwise by holding the shard, unless the user has chosen differently.

use std::collections::BTreeSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Driver;
use crate::ledger::Ledger;
use crate::model::incident::Incident;
use crate::model::shard_state::{NextStep, ShardState};
use crate::remote::{Api, Batch, BatchTag, CreateBatch, Listing, RemoteError, RemoteFile, Submission};
use crate::run::error::Error;
use crate::run::monitor::Event;
use crate::run::steps::{Outcome, ShardPayload};

/// Bytes of a run's name in the tags of its batches.
const NAME_BYTES: usize = 12;

/// How often a service that turned a batch away because it does not find the file is asked again: files become visible late.
const FILE_LOOKUPS: u32 = 5;

impl<A: Api> Driver<A> {
    pub(super) fn begin_upload(&mut self, shard: u32) {
        let payload = ShardPayload { files: self.files.clone(), shard: self.shards[shard as usize].shard.clone() };
        let api = self.api.clone();
        let progress = self.transfer(&self.uploaded, |bytes| Event::Uploaded { bytes });
        self.tasks.spawn(async move {
            let result = api.upload(Arc::new(payload), progress).await;
            Outcome::Uploaded { shard, result }
        });
    }

    /// The shard's file is at the service.
    pub(super) fn uploaded(&mut self, shard: u32, file: RemoteFile) -> Result<(), Error> {
        self.ledger.uploaded(shard, &file.id, file.reused)?;
        self.uploaded_here.insert(shard);
        self.delayed.remove(&shard);
        let known = &mut self.shards[shard as usize];
        known.file_id = Some(file.id.clone());
        known.file_reused = file.reused;
        self.set_state(shard, ShardState::Uploaded { file_id: file.id });
        Ok(())
    }

    /// Begins a submission: waits until the service takes calls, so that a crash meanwhile leaves no doubt. A file that the
    /// service had before may be in use by batches that are not ours: those are listed first, before our first POST.
    pub(super) fn begin_create(&mut self, shard: u32) {
        let known = &self.shards[shard as usize];
        let wants_list = known.file_reused && known.last_submission.is_none();
        let api = self.api.clone();
        self.tasks.spawn(async move {
            api.ready().await;
            let result = if wants_list { api.batches().await } else { Ok(Listing::default()) };
            Outcome::Ready { shard, result }
        });
    }

    /// The service takes calls. Should that have failed, nothing was sent: the next attempt begins anew.
    pub(super) fn ready(&mut self, shard: u32, result: Result<Listing, RemoteError>) -> Result<(), Error> {
        match result {
            Ok(listing) if self.failure.is_none() => self.submit(shard, &listing.batches),
            Ok(_) => {
                self.done(NextStep::Create);
                self.enqueue(shard);
                Ok(())
            }
            Err(error) => {
                self.done(NextStep::Create);
                let transient = error.is_transient();
                self.retry_later(shard, error, transient);
                Ok(())
            }
        }
    }

    /// Records the intent, then sends the one POST.
    fn submit(&mut self, shard: u32, batches: &[Batch]) -> Result<(), Error> {
        let known = &mut self.shards[shard as usize];
        let ShardState::Uploaded { file_id } = known.state.clone() else {
            return Err(Error::Internal { what: format!("shard {shard} was to be submitted before it was uploaded") });
        };
        let uses_file = |batch: &&Batch| batch.input_file_id.as_ref() == Some(&file_id);
        // What was not there before the first POST may come from it.
        let users = match &known.last_submission {
            Some(last) => last.known.clone(),
            None => batches.iter().filter(uses_file).map(|batch| batch.id.clone()).collect(),
        };
        let last = self.ledger.intend(shard, &file_id, known.file_reused, users)?;
        let submission = last.id;
        known.last_submission = Some(last);
        known.state = ShardState::Intended { submission, file_id: file_id.clone() };
        self.admission.begun(&known.shard.model);
        let request = CreateBatch {
            input_file_id: file_id,
            endpoint: self.options.endpoint.clone(),
            completion_window: Some(self.options.completion_window.clone()),
            model: known.shard.model.clone(),
            tag: Some(BatchTag { run: self.run_name.clone(), shard, submission }),
        };
        let lines = ShardPayload { files: self.files.clone(), shard: known.shard.clone() };
        let api = self.api.clone();
        self.posting = true;
        self.tasks.spawn(async move {
            let answer = api.create(&request, Arc::new(lines)).await;
            Outcome::Created { shard, submission, answer }
        });
        Ok(())
    }

    /// The answer to the one POST: yes, no, or nobody knows.
    pub(super) fn created(&mut self, shard: u32, submission: i64, answer: Submission) -> Result<(), Error> {
        let ShardState::Intended { file_id, .. } = self.shards[shard as usize].state.clone() else {
            return Err(Error::Internal { what: format!("shard {shard} was submitted without an intent") });
        };
        match answer {
            Submission::Accepted(batch) => {
                self.delayed.remove(&shard);
                self.adopt(shard, submission, &batch, false)
            }
            Submission::Refused(error) => {
                self.ledger.refused(shard, submission, &error.to_string())?;
                self.admission.refused(shard, &error, self.options.poll_interval);
                self.shards[shard as usize].abandoned |= error.status().is_some();
                self.set_state(shard, ShardState::Uploaded { file_id });
                if error.is_queue_full() {
                    return self.no_room(shard, error);
                }
                let lookups = self.delayed.get(&shard).map_or(0, |delay| delay.times);
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

    /// Takes a batch for a shard's: the one that an answer has named, or one that was `found` in the list.
    pub(super) fn adopt(&mut self, shard: u32, submission: i64, batch: &Batch, found: bool) -> Result<(), Error> {
        let is_surplus = self.surplus.contains_key(&batch.id);
        let owner = self.ledger.batch_owner(&batch.id)?.filter(|owner| *owner != shard);
        if is_surplus || owner.is_some() {
            return self.hold_mistaken(shard, submission, &batch.id, owner);
        }
        self.ledger.accepted(shard, submission, (&batch.id, &batch.status.to_string()), found)?;
        if let Some(last) = &mut self.shards[shard as usize].last_submission {
            last.found = found;
        }
        self.deferred.remove(&batch.id);
        self.admission.forget(shard);
        if self.admission.is_stopped {
            self.admission.is_stopped = self.ledger.has_mistaken_batch()?;
        }
        if self.waiting.get(&NextStep::Poll).is_none_or(BTreeSet::is_empty) {
            self.schedule_poll();
        }
        self.set_state(shard, ShardState::Submitted { submission, batch_id: batch.id.clone() });
        Ok(())
    }

    /// The service answered with a batch that is not this shard's: nobody knows what it did with the shard, and it would do the same with
    /// the next one.
    fn hold_mistaken(&mut self, shard: u32, submission: i64, batch_id: &str, owner: Option<u32>) -> Result<(), Error> {
        let Some(file_id) = self.shards[shard as usize].file_id.clone() else { return Ok(()) };
        let incident = Incident::BatchOfAnother { shard, batch_id: batch_id.to_owned(), owner };
        self.ledger.mistaken(shard, submission, &incident.to_string())?;
        self.admission.is_stopped = true;
        self.incident(&incident)?;
        self.set_state(shard, ShardState::Held { submission, file_id });
        Ok(())
    }
}

/// What a run is called in the tags of its batches: a name that follows from what its Ledger began with. The key for the hashes of ids is
/// in it, so two runs of the same input have two names; the key itself cannot be told from it.
pub(super) fn run_name(ledger: &Ledger) -> Result<String, Error> {
    let mut digest = Sha256::new();
    for key in ["fingerprint", "created_at", "id_key"] {
        digest.update(ledger.meta(key)?);
        digest.update("\n");
    }
    let digest = digest.finalize();
    Ok(digest.iter().take(NAME_BYTES).fold(String::new(), |name, byte| name + &format!("{byte:02x}")))
}
