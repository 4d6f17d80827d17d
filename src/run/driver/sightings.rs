//! What lists and look-ups have shown of batches, and which batches to look up next.
//!
//! In: lists, and the results of look-ups. Out: the shards whose batches are looked up next.
//!
//! Invariants: at most [`LOOKS`] are in flight. A batch that is not shown is never taken for one that was not created.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::UNREACHABLE_MAX;
use crate::remote::{Batch, BatchStatus};

/// Maximum concurrent look-ups.
const LOOKS: usize = 16;

/// Consecutive lists that may show a batch in progress before it is looked up.
const LISTS_BELIEVED: u32 = 5;

/// The same, for lists that show no change of it.
const LISTS_UNCHANGED: u32 = 3;

/// Maximum batches that are looked up after a list only for these two reasons.
const CHECKS: usize = 32;

/// Minimum look-ups that do not find a batch before its shard is held, regardless of the time passed.
const UNSEEN_LOOKS: u32 = 3;

/// Maximum delay between them.
const UNSEEN_WAIT_MAX: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Shards whose batches are to be looked up, in this order.
    wanted: VecDeque<u32>,
    under_way: usize,
    /// What the lists have shown of batches since their last look-up.
    shown: HashMap<u32, Shown>,
    /// Batches that a look-up has shown as ended since the last list.
    ended: HashSet<String>,
    /// Whether a list has shown one of those in progress.
    list_is_stale: bool,
    /// Since when look-ups of a shard's batch have failed for transient reasons.
    failing: HashMap<u32, Instant>,
    /// Batches that the service does not show.
    unseen: HashMap<u32, Unseen>,
    /// Whether that has been reported.
    is_said: bool,
}

/// What lists have shown of a batch in progress.
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
    /// When it is looked up again.
    until: Instant,
}

impl Sightings {
    /// Takes what a list shows of all batches.
    pub(super) fn listed(&mut self, by_id: &HashMap<&str, &Batch>) {
        let works = |id: &String| by_id.get(id.as_str()).is_some_and(|batch| !batch.status.is_terminal());
        self.list_is_stale |= self.ended.iter().any(works);
        self.ended.clear();
    }

    /// Takes what a list shows of a batch in progress. Returns the number of lists since its last look-up, if that is
    /// too large.
    pub(super) fn show(&mut self, shard: u32, batch: &Batch) -> Option<u32> {
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
            // The service is processing it, whatever look-ups say.
            self.unseen.remove(&shard);
        }
        let overdue = shown.lists >= LISTS_BELIEVED || shown.unchanged >= LISTS_UNCHANGED || self.list_is_stale;
        overdue.then_some(shown.lists)
    }

    /// Of shards that were not looked up for this many lists, those that are now: the ones that waited longest, or all
    /// if the list is stale.
    pub(super) fn overdue(&self, mut shards: Vec<(u32, u32)>) -> Vec<u32> {
        shards.sort_unstable_by_key(|(lists, shard)| (Reverse(*lists), *shard));
        if !self.list_is_stale {
            shards.truncate(CHECKS);
        }
        shards.into_iter().map(|(_, shard)| shard).collect()
    }

    /// Requests a look-up of a shard's batch, unless the service has just not shown it. Returns whether it will happen.
    pub(super) fn want(&mut self, shard: u32) -> bool {
        let is_due = self.unseen.get(&shard).is_none_or(|unseen| unseen.until <= Instant::now());
        if is_due {
            self.wanted.push_back(shard);
        }
        is_due
    }

    /// The next shard whose batch is to be looked up, if one more look-up is allowed.
    pub(super) fn next(&mut self) -> Option<u32> {
        if self.under_way < LOOKS { self.wanted.pop_front() } else { None }
    }

    /// A look-up has begun.
    pub(super) fn begun(&mut self) {
        self.under_way += 1;
    }

    /// A look-up has ended.
    pub(super) fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// A look-up has shown a batch.
    pub(super) fn seen(&mut self, shard: u32, batch: &Batch) {
        self.forget(shard);
        if batch.status.is_terminal() {
            self.ended.insert(batch.id.clone());
        }
    }

    /// A look-up has failed for a transient reason. Returns whether that has lasted longer than transient problems do.
    pub(super) fn failed(&mut self, shard: u32) -> bool {
        self.failing.entry(shard).or_insert_with(Instant::now).elapsed() > UNREACHABLE_MAX
    }

    /// The service does not show a shard's batch. Returns whether it is lost now: after some look-ups and `settle`.
    /// Until then it is looked up again with backoff, which begins at `interval`.
    pub(super) fn not_shown(&mut self, shard: u32, settle: Duration, interval: Duration) -> bool {
        let now = Instant::now();
        let unseen = self.unseen.entry(shard).or_insert(Unseen { since: now, looks: 0, until: now });
        unseen.looks += 1;
        let left = settle.saturating_sub(unseen.since.elapsed());
        let doubled = interval.saturating_mul(2_u32.saturating_pow(unseen.looks - 1));
        unseen.until = now + doubled.min(UNSEEN_WAIT_MAX).min(left);
        left.is_zero() && unseen.looks >= UNSEEN_LOOKS
    }

    /// Whether a batch that is not shown is to be reported: the first one is.
    pub(super) fn is_news(&mut self) -> bool {
        !std::mem::replace(&mut self.is_said, true)
    }

    /// A shard's batch was shown, or is no longer waited for.
    pub(super) fn forget(&mut self, shard: u32) {
        self.shown.remove(&shard);
        self.failing.remove(&shard);
        self.unseen.remove(&shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(1000);
    const INTERVAL: Duration = Duration::from_secs(30);

    fn batch(status: BatchStatus, progress: f64) -> Batch {
        Batch { progress: Some(progress), ..Batch::new("b", status) }
    }

    #[test]
    fn a_list_is_believed_for_a_while_and_less_long_when_nothing_changes() {
        let mut sightings = Sightings::default();
        let shown = [10.0, 20.0, 30.0, 40.0, 50.0].map(|at| sightings.show(0, &batch(BatchStatus::InProgress, at)));
        assert_eq!(shown, [None, None, None, None, Some(5)]);
        let shown = [10.0; 4].map(|at| sightings.show(1, &batch(BatchStatus::InProgress, at)));
        assert_eq!(shown, [None, None, Some(3), Some(4)]);
        let overdue = (0..100).map(|shard| (shard % 7, shard)).collect();
        let asked = sightings.overdue(overdue);
        assert_eq!((asked.len(), asked[0]), (CHECKS, 6), "those that have waited longest");
    }

    #[test]
    fn a_list_that_shows_an_ended_batch_at_work_is_stale() {
        let mut sightings = Sightings::default();
        sightings.seen(0, &batch(BatchStatus::Completed, 100.0));
        let at_work = batch(BatchStatus::InProgress, 50.0);
        sightings.listed(&[("b", &at_work)].into());
        assert_eq!(sightings.show(1, &at_work), Some(1), "each is asked after each list from now on");
        assert_eq!(sightings.overdue((0..100).map(|shard| (1, shard)).collect()).len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_not_shown_is_asked_for_later_and_later_and_then_lost() {
        let mut sightings = Sightings::default();
        assert!(sightings.is_news() && !sightings.is_news());
        let mut waits = Vec::new();
        while !sightings.not_shown(0, SETTLE, INTERVAL) {
            let begun = Instant::now();
            while !sightings.want(0) {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            waits.push(begun.elapsed().as_secs());
        }
        assert_eq!(waits, [30, 60, 120, 240, 300, 250], "up to the longest, and no longer than is left");
        assert!(sightings.want(1), "another one is not concerned");
    }

    #[test]
    fn so_many_looks_are_under_way_and_no_more() {
        let mut sightings = Sightings::default();
        (0..100).for_each(|shard| assert!(sightings.want(shard)));
        let mut begun = Vec::new();
        while let Some(shard) = sightings.next() {
            sightings.begun();
            begun.push(shard);
        }
        assert_eq!((begun.len(), begun[0]), (LOOKS, 0));
        sightings.ended();
        assert_eq!(sightings.next(), begun.last().map(|last| last + 1));
    }
}
