//! Reconciling with the service's list: which batch a POST with an unknown outcome created, and which batches are
//! surplus.
//!
//! Invariants: a batch is adopted only if it is tagged as this run's or, without a tag, uses this run's file, if it
//! belongs to no other shard, and if it cannot have existed before the POST. One with the tag of another run is never
//! adopted. A surplus batch is recorded once, and cancelled if only this run can have created it.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::state::{Driver, Finished};
use crate::model::incident::Incident;
use crate::model::shard_state::{LastSubmission, NextStep, ShardRow, ShardState};
use crate::remote::{Api, Batch, BatchStatus, Listing, RemoteError};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::options::OnAmbiguous;

/// Maximum assumed clock difference to the service. A batch that is older than the POST by more than that existed
/// before.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(300);

impl<A: Api, E: Executor> Driver<A, E> {
    /// Resolves submissions that are unresolved or held, and finds surplus batches, from a list.
    pub(super) fn reconcile_all(&mut self, listing: &Listing) -> Result<(), Error> {
        let mut by_file: HashMap<String, Vec<&Batch>> = HashMap::new();
        for batch in &listing.batches {
            if let Some(file_id) = self.file_of(batch) {
                by_file.entry(file_id).or_default().push(batch);
            }
        }
        let rows = self.shards.rows();
        let held = rows.iter().filter(|row| matches!(row.state, ShardState::Held { .. })).map(|row| row.shard.number);
        let mut without_batch = self.queue.waiting_for(NextStep::Reconcile);
        without_batch.extend(self.queue.waiting_for(NextStep::Create));
        without_batch.extend(held);
        let unnamed: BTreeSet<&str> = listing.unnamed.iter().map(String::as_str).collect();
        let mut taken: HashSet<String> =
            rows.iter().filter_map(|row| row.state.batch_id().map(str::to_owned)).collect();
        taken.extend(self.unresolved.barred().cloned());
        for shard in without_batch {
            self.reconcile(shard, &by_file, &unnamed, &mut taken)?;
        }
        self.find_surplus(&by_file)
    }

    /// The file by which a batch is identified: that of the shard in its tag, or else the one that it uses. `None` for
    /// a batch of another run.
    fn file_of(&self, batch: &Batch) -> Option<String> {
        let Some(tag) = &batch.tag else { return batch.input_file_id.clone() };
        if tag.run != self.run_name {
            return None;
        }
        let tagged = self.shards.get(tag.shard).and_then(|known| known.file_id.clone());
        tagged.or_else(|| batch.input_file_id.clone())
    }

    /// Reconciles a shard without a batch: adopts the batch that its POST created, or waits, or holds. A list with a
    /// batch on one of the `unnamed` files is not clean; `taken` batches belong to other shards, or to none.
    fn reconcile(
        &mut self,
        shard: u32,
        by_file: &HashMap<String, Vec<&Batch>>,
        unnamed: &BTreeSet<&str>,
        taken: &mut HashSet<String>,
    ) -> Result<(), Error> {
        let known = &self.shards[shard];
        let (Some(file_id), Some(last)) = (known.file_id.clone(), known.last_submission.clone()) else { return Ok(()) };
        let listed = by_file.get(file_id.as_str()).into_iter().flatten().copied();
        let ours = listed.filter(|batch| may_be_ours(known, &last, batch) && !taken.contains(&batch.id));
        let mut ours: Vec<&Batch> = ours.collect();
        ours.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        ours.dedup_by(|a, b| a.id == b.id);
        let Some((oldest, others)) = ours.split_first() else {
            if unnamed.contains(file_id.as_str()) {
                return Ok(());
            }
            self.admission.not_listed(shard, self.poller.begun());
            let is_unknown = matches!(known.state, ShardState::Intended { .. });
            return if is_unknown { self.not_found(shard, last.id, &file_id) } else { Ok(()) };
        };
        taken.extend(ours.iter().map(|batch| batch.id.clone()));
        for step in [NextStep::Reconcile, NextStep::Create] {
            self.queue.remove(step, shard);
        }
        self.unresolved.forget(shard);
        self.queue.end_delay(shard);
        let stop = !known.file_reused;
        for other in others {
            self.report_surplus(shard, &other.id, stop)?;
        }
        self.incident(&Incident::Adopted { shard, batch_id: oldest.id.clone() })?;
        self.adopt(shard, last.id, oldest, true)
    }

    /// The list does not show a batch for a submission with an unknown outcome.
    fn not_found(&mut self, shard: u32, submission: i64, file_id: &str) -> Result<(), Error> {
        let (settle, submit_again) = match self.options.batches.on_ambiguous {
            OnAmbiguous::Hold => (self.options.batches.settle, false),
            OnAmbiguous::RetryAfter(wait) => (wait, true),
        };
        if !self.unresolved.not_listed(shard, settle) {
            return Ok(());
        }
        self.queue.remove(NextStep::Reconcile, shard);
        if submit_again {
            let file_id = file_id.to_owned();
            self.ledger.abandoned(shard, submission, "the service's list shows no batch for it")?;
            self.shards.update(shard, |row| row.abandoned = true);
            self.incident(&Incident::SubmittedAgain { shard })?;
            self.set_state(shard, ShardState::Uploaded { file_id });
            Ok(())
        } else {
            self.hold(shard, submission, file_id)
        }
    }

    fn hold(&mut self, shard: u32, submission: i64, file_id: &str) -> Result<(), Error> {
        let incident = Incident::Held { shard, file_id: file_id.to_owned() };
        self.ledger.held(shard, submission, &incident.to_string())?;
        self.warn(&incident);
        self.set_state(shard, ShardState::Held { submission, file_id: file_id.to_owned() });
        Ok(())
    }

    /// Holds all submissions with an unknown outcome, because the list that could resolve them is unavailable.
    pub(super) fn hold_all_unresolved(&mut self) -> Result<(), Error> {
        for shard in self.admission.uncertain() {
            self.admission.forget(shard);
            let known = &self.shards[shard];
            let (ShardState::Uploaded { file_id }, Some(last)) = (known.state.clone(), &known.last_submission) else {
                continue;
            };
            let submission = last.id;
            self.queue.remove(NextStep::Create, shard);
            self.hold(shard, submission, &file_id)?;
        }
        for shard in self.queue.waiting_for(NextStep::Reconcile) {
            self.queue.remove(NextStep::Reconcile, shard);
            self.unresolved.forget(shard);
            if let ShardState::Intended { submission, file_id } = self.shards[shard].state.clone() {
                self.hold(shard, submission, &file_id)?;
            }
        }
        Ok(())
    }

    /// Batches that use the file of a shard that has its batch: paid for twice, unless they are cancelled or belong to
    /// another run.
    fn find_surplus(&mut self, by_file: &HashMap<String, Vec<&Batch>>) -> Result<(), Error> {
        let owned: BTreeSet<&str> = self.shards.rows().iter().filter_map(|known| known.state.batch_id()).collect();
        // Shards of two rounds can have the same content and, where the service deduplicates, the same file.
        let open = self.shards.rows().iter().filter(|known| known.state.batch_id().is_none());
        let open: BTreeSet<&str> = open.filter_map(|known| known.file_id.as_deref()).collect();
        let mut found = Vec::new();
        for known in self.shards.rows().iter().filter(|known| known.state.batch_id().is_some()) {
            let (Some(file_id), Some(last)) = (&known.file_id, &known.last_submission) else { continue };
            for batch in by_file.get(file_id.as_str()).into_iter().flatten() {
                let id = batch.id.as_str();
                let is_taken = owned.contains(id) || self.unresolved.is_deferred(id) || open.contains(file_id.as_str());
                if may_be_ours(known, last, batch) && !is_taken {
                    found.push((known.shard.number, known.abandoned && !known.file_reused, batch.id.clone()));
                }
            }
        }
        for (shard, stop, batch_id) in found {
            self.report_surplus(shard, &batch_id, stop)?;
        }
        self.stop_surplus(by_file);
        Ok(())
    }

    /// Records a surplus batch. It is to be cancelled if a POST of this run may have created it; a service that
    /// deduplicates files gives other runs the same file, and their batches must not be cancelled.
    fn report_surplus(&mut self, shard: u32, batch_id: &str, stop: bool) -> Result<(), Error> {
        if self.unresolved.is_surplus(batch_id) {
            return Ok(());
        }
        let incident = Incident::SurplusBatch { shard, batch_id: batch_id.to_owned(), is_ours: stop };
        self.ledger.found_surplus(shard, batch_id, stop, &incident)?;
        self.warn(&incident);
        self.unresolved.add_surplus(batch_id, stop);
        Ok(())
    }

    /// Asks the service to cancel the surplus batches in progress, unless it has been asked already.
    fn stop_surplus(&mut self, by_file: &HashMap<String, Vec<&Batch>>) {
        for batch in by_file.values().flatten() {
            let works = !batch.status.is_terminal() && batch.status != BatchStatus::Cancelling;
            if works && self.unresolved.takes_to_stop(&batch.id) {
                let (api, batch_id) = (self.api.clone(), batch.id.clone());
                self.tasks.spawn(async move {
                    let result = api.cancel(&batch_id).await;
                    Finished::Cancelled { batch_id, result }
                });
            }
        }
    }

    /// A cancellation has ended; a failed one is retried after the next list.
    pub(super) fn cancelled(&mut self, batch_id: String, result: Result<Batch, RemoteError>) -> Result<(), Error> {
        let incident = match result {
            Ok(_) => Incident::SurplusCancelled { batch_id },
            Err(error) => {
                self.unresolved.add_surplus(&batch_id, true);
                Incident::CancelFailed { batch_id, error: error.to_string() }
            }
        };
        self.incident(&incident)
    }
}

/// Whether a batch on a shard's file may come from a POST of this run.
fn may_be_ours(known: &ShardRow, last: &LastSubmission, batch: &Batch) -> bool {
    // A new file is known to this run only.
    !known.file_reused || !last.known.contains(&batch.id) && !was_there_before(last.intended_at, batch.created_at)
}

/// Whether a batch was created before a POST was intended. The list from which [`LastSubmission::known`] was taken may
/// have omitted it.
fn was_there_before(intended: Timestamp, created: Option<Timestamp>) -> bool {
    created.is_some_and(|created| intended.duration_since(created) > CLOCK_SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_is_older_than_the_post_was_there_before() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(was_there_before(at(10_000), Some(at(9_000))));
        assert!(!was_there_before(at(10_000), Some(at(9_900))), "clocks differ");
        assert!(!was_there_before(at(10_000), Some(at(10_001))));
        assert!(!was_there_before(at(10_000), None));
    }
}
