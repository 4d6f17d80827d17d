//! Looking at batches one by one: those that have ended by the list's word, those that it does not show, and from time to time those that
//! it shows at work, because a list can be stale for ever.
//!
//! In: shards whose batches are to be asked for, and what the list shows of the others. Out: what each batch is by its own word; or a shard
//! that is held, because the service does not show its batch to us.
//!
//! Invariants: at most [`LOOKS`] are under way. A batch that nobody shows is never taken for one that was not created.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use super::backoff::UNREACHABLE_MAX;
use super::poll::is_final;
use crate::model::incident::Incident;
use crate::model::shard_state::{NextStep, ShardState};
use crate::remote::{Api, Batch, BatchStatus, RemoteError};
use crate::run::error::Error;
use crate::run::monitor::Note;
use crate::run::steps::Outcome;

/// Looks at single batches at a time.
const LOOKS: usize = 16;

/// Lists that may show a batch at work, one after the other, before it is asked itself.
const LISTS_BELIEVED: u32 = 5;

/// The same of lists that show nothing new of it.
const LISTS_UNCHANGED: u32 = 3;

/// Most batches that are asked after one list for no better reason than that.
const CHECKS: usize = 32;

/// Looks that must not find a batch before its shard is held, however much time has passed.
const UNSEEN_LOOKS: u32 = 3;

/// Longest wait between two of them.
const UNSEEN_WAIT_MAX: Duration = Duration::from_secs(300);

/// What single looks have brought, and are to bring.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Shards whose batches are to be asked for, in this order.
    wanted: VecDeque<u32>,
    under_way: usize,
    /// What the lists have shown of batches since they were asked themselves.
    shown: HashMap<u32, Shown>,
    /// Batches that have ended by their own word since the last list.
    ended: HashSet<String>,
    /// Whether a list has shown one of those at work.
    list_is_stale: bool,
    /// Since when looks at a shard's batch have failed for reasons that pass.
    failing: HashMap<u32, Instant>,
    /// Batches that the service does not show.
    unseen: HashMap<u32, Unseen>,
    /// Whether that has been said.
    is_said: bool,
}

/// What lists have shown of a batch at work.
#[derive(Debug)]
struct Shown {
    status: BatchStatus,
    progress: Option<f64>,
    lists: u32,
    unchanged: u32,
}

/// A batch that the service does not show.
#[derive(Debug, Clone, Copy)]
struct Unseen {
    since: Instant,
    looks: u32,
    /// When it is asked for again.
    until: Instant,
}

impl Looks {
    /// Hears what a list shows of all batches.
    pub(super) fn judge(&mut self, by_id: &HashMap<&str, &Batch>) {
        let works = |id: &String| by_id.get(id.as_str()).is_some_and(|batch| !batch.status.is_terminal());
        self.list_is_stale |= self.ended.iter().any(works);
        self.ended.clear();
    }

    /// Hears what a list shows of a batch at work. Returns for how many lists it was not asked itself, if those are too many.
    fn show(&mut self, shard: u32, batch: &Batch) -> Option<u32> {
        let (status, progress) = (batch.status.clone(), batch.progress);
        let shown = self.shown.entry(shard).or_insert_with(|| Shown {
            status: status.clone(),
            progress,
            lists: 0,
            unchanged: 0,
        });
        shown.lists += 1;
        if (&shown.status, shown.progress) == (&status, progress) {
            shown.unchanged += 1;
        } else {
            (shown.status, shown.progress, shown.unchanged) = (status, progress, 1);
            // Whatever single looks say, somebody works on it.
            self.unseen.remove(&shard);
        }
        let overdue = shown.lists >= LISTS_BELIEVED || shown.unchanged >= LISTS_UNCHANGED || self.list_is_stale;
        overdue.then_some(shown.lists)
    }

    /// Its batch has answered, or is not waited for any more.
    fn forget(&mut self, shard: u32) {
        self.shown.remove(&shard);
        self.failing.remove(&shard);
        self.unseen.remove(&shard);
    }
}

impl<A: Api> Driver<A> {
    /// Takes what a list shows of the batches that are waited for. They are asked themselves where it shows an end or nothing, and where
    /// they have not been for too long.
    pub(super) fn compare_with_list(&mut self, by_id: &HashMap<&str, &Batch>) -> Result<(), Error> {
        self.looks.judge(by_id);
        let polled: Vec<u32> = self.waiting.get(&NextStep::Poll).into_iter().flatten().copied().collect();
        let mut overdue = Vec::new();
        for shard in polled {
            let listed = self.shards[shard as usize].state.batch_id().and_then(|id| by_id.get(id).copied());
            match listed {
                // The list may be stale or abridged; an end is believed only from the batch itself.
                Some(batch) if !batch.status.is_terminal() => {
                    self.seen(shard, batch)?;
                    overdue.extend(self.looks.show(shard, batch).map(|lists| (lists, shard)));
                }
                _ => self.want_look(shard),
            }
        }
        overdue.sort_unstable_by_key(|(lists, shard)| (std::cmp::Reverse(*lists), *shard));
        if !self.looks.list_is_stale {
            overdue.truncate(CHECKS);
        }
        for (_, shard) in overdue {
            self.want_look(shard);
        }
        Ok(())
    }

    /// Asks for every batch that is waited for.
    pub(super) fn want_all_looks(&mut self) {
        let polled: Vec<u32> = self.waiting.get(&NextStep::Poll).into_iter().flatten().copied().collect();
        for shard in polled {
            self.want_look(shard);
        }
    }

    /// Asks for a batch, unless it has not been there just now.
    fn want_look(&mut self, shard: u32) {
        if self.looks.unseen.get(&shard).is_none_or(|unseen| unseen.until <= Instant::now()) {
            self.waiting.entry(NextStep::Poll).or_default().remove(&shard);
            self.looks.wanted.push_back(shard);
        }
    }

    /// Asks once for the batches that an earlier process could not see any more.
    pub(super) fn want_lost(&mut self) {
        let lost = self.shards.iter().filter(|known| matches!(known.state, ShardState::Lost { .. }));
        self.looks.wanted.extend(lost.map(|known| known.shard.number));
    }

    /// Begins as many looks as there may be.
    pub(super) fn begin_looks(&mut self) {
        while self.looks.under_way < LOOKS {
            let Some(shard) = self.looks.wanted.pop_front() else { return };
            let Some(id) = self.shards[shard as usize].state.batch_id().map(str::to_owned) else { continue };
            self.looks.under_way += 1;
            let api = self.api.clone();
            self.tasks.spawn(async move {
                let result = api.batch(&id).await;
                Outcome::Looked { shard, result }
            });
        }
    }

    /// A batch was looked at by itself.
    pub(super) fn looked(&mut self, shard: u32, result: Result<Batch, RemoteError>) -> Result<(), Error> {
        self.looks.under_way = self.looks.under_way.saturating_sub(1);
        let state = self.shards[shard as usize].state.clone();
        if matches!(state, ShardState::Submitted { .. }) {
            self.waiting.entry(NextStep::Poll).or_default().insert(shard);
        }
        match result {
            Ok(batch) => {
                self.unreachable_since = None;
                self.looks.forget(shard);
                if let ShardState::Lost { submission, batch_id } = state {
                    self.ledger.found(shard)?;
                    self.set_state(shard, ShardState::Submitted { submission, batch_id });
                }
                if batch.status.is_terminal() {
                    self.looks.ended.insert(batch.id.clone());
                }
                self.seen(shard, &batch)
            }
            Err(error) if is_final(&error) => Err(error.into()),
            Err(error) if error.is_transient() => {
                // The service cannot answer now.
                let since = *self.looks.failing.entry(shard).or_insert_with(Instant::now);
                if since.elapsed() > UNREACHABLE_MAX {
                    self.give_up(error.into());
                } else {
                    self.note(&Note::BatchUnavailable { shard, error: error.to_string() });
                }
                Ok(())
            }
            Err(error) => self.not_seen(shard, &error),
        }
    }

    /// The service does not show a batch that it has accepted: it may not be visible everywhere yet, may belong to another key, or be gone.
    /// It is asked for again, ever later, and for as long as a list is watched its shard is held.
    fn not_seen(&mut self, shard: u32, error: &RemoteError) -> Result<(), Error> {
        let now = Instant::now();
        let Some(batch_id) = self.shards[shard as usize].state.batch_id().map(str::to_owned) else { return Ok(()) };
        let unseen = self.looks.unseen.entry(shard).or_insert(Unseen { since: now, looks: 0, until: now });
        unseen.looks += 1;
        let left = self.options.settle.saturating_sub(unseen.since.elapsed());
        let is_lost = matches!(self.shards[shard as usize].state, ShardState::Lost { .. });
        if is_lost || left.is_zero() && unseen.looks >= UNSEEN_LOOKS {
            return self.hold_unseen(shard, error.to_string());
        }
        let doubled = self.options.poll_interval.saturating_mul(2_u32.saturating_pow(unseen.looks - 1));
        unseen.until = now + doubled.min(UNSEEN_WAIT_MAX).min(left);
        if !std::mem::replace(&mut self.looks.is_said, true) {
            self.incident(&Incident::NotShown { shard, batch_id, error: error.to_string() })?;
        }
        Ok(())
    }

    /// Leaves a shard whose batch nobody shows to a decision: it was accepted, and may be paid for.
    fn hold_unseen(&mut self, shard: u32, error: String) -> Result<(), Error> {
        self.looks.forget(shard);
        let known = &self.shards[shard as usize];
        let (ShardState::Submitted { submission, batch_id } | ShardState::Lost { submission, batch_id }) =
            known.state.clone()
        else {
            return Ok(());
        };
        let incident = Incident::Lost { shard, batch_id: batch_id.clone(), error };
        self.ledger.lost(shard, &incident.to_string())?;
        self.warn(&incident);
        self.waiting.entry(NextStep::Poll).or_default().remove(&shard);
        self.set_state(shard, ShardState::Lost { submission, batch_id });
        Ok(())
    }
}
