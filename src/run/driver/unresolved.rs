//! Submissions with an unknown outcome, and batches that must not be assigned to a shard.
//!
//! In: what the service's lists do not show, and batches that are surplus or deferred. Out: when a submission counts as
//! resolved.
//!
//! Invariant: a batch that is surplus or deferred is never assigned to a shard.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// Minimum lists that must show no batch, regardless of the time between them, before a submission is resolved.
const CLEAN_LISTS: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Unresolved {
    /// Since when lists have shown no batch for a shard's submission, and how many lists.
    clean: HashMap<u32, (Instant, u32)>,
    /// Since when a list has been needed for held shards.
    looks_at_held: Option<Instant>,
    /// Surplus batches, and whether they are still to be cancelled.
    surplus: BTreeMap<String, bool>,
    /// Batches that ended before they executed anything, whose shards are submitted again.
    deferred: BTreeSet<String>,
}

impl Unresolved {
    /// From the Ledger of an earlier process.
    pub(super) fn new(surplus: BTreeMap<String, bool>, deferred: BTreeSet<String>, looks_at_held: bool) -> Self {
        Self { clean: HashMap::new(), looks_at_held: looks_at_held.then(Instant::now), surplus, deferred }
    }

    /// Whether a list is needed for held shards.
    pub(super) fn wants_list(&self) -> bool {
        self.looks_at_held.is_some()
    }

    /// A shard is held, and the next list may show its batch.
    pub(super) fn look_at_held(&mut self) {
        self.looks_at_held = Some(Instant::now());
    }

    /// A list that was requested at that time has arrived or failed.
    pub(super) fn looked(&mut self, begun: Instant) {
        self.looks_at_held = self.looks_at_held.filter(|since| *since > begun);
    }

    /// A list shows no batch for a shard's submission. Returns whether it is now resolved that there is none: after
    /// some lists and `settle`; the shard is then forgotten.
    pub(super) fn not_listed(&mut self, shard: u32, settle: Duration) -> bool {
        let (since, lists) = self.clean.entry(shard).or_insert((Instant::now(), 0));
        *lists += 1;
        let is_settled = since.elapsed() >= settle && *lists >= CLEAN_LISTS;
        if is_settled {
            self.clean.remove(&shard);
        }
        is_settled
    }

    /// A shard's submission is resolved in another way.
    pub(super) fn forget(&mut self, shard: u32) {
        self.clean.remove(&shard);
    }

    /// Whether a batch is surplus.
    pub(super) fn is_surplus(&self, batch_id: &str) -> bool {
        self.surplus.contains_key(batch_id)
    }

    /// A batch is surplus; `stop` says whether it is to be cancelled.
    pub(super) fn add_surplus(&mut self, batch_id: &str, stop: bool) {
        self.surplus.insert(batch_id.to_owned(), stop);
    }

    /// Whether a surplus batch is to be cancelled now: once, unless it is added again.
    pub(super) fn takes_to_stop(&mut self, batch_id: &str) -> bool {
        self.surplus.get_mut(batch_id).is_some_and(std::mem::take)
    }

    /// A batch ended before it executed anything.
    pub(super) fn defer(&mut self, batch_id: &str) {
        self.deferred.insert(batch_id.to_owned());
    }

    /// That batch belongs to a shard after all.
    pub(super) fn undefer(&mut self, batch_id: &str) {
        self.deferred.remove(batch_id);
    }

    /// Whether a batch ended before it executed anything.
    pub(super) fn is_deferred(&self, batch_id: &str) -> bool {
        self.deferred.contains(batch_id)
    }

    /// Batches that must not be assigned to a shard.
    pub(super) fn barred(&self) -> impl Iterator<Item = &String> {
        self.surplus.keys().chain(&self.deferred)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_submission_is_settled_after_lists_and_time_both() {
        let settle = Duration::from_secs(60);
        let mut unresolved = Unresolved::new(BTreeMap::new(), BTreeSet::new(), false);
        assert_eq!([(); 4].map(|()| unresolved.not_listed(7, settle)), [false; 4], "no time has passed");
        tokio::time::advance(settle).await;
        assert!(!unresolved.not_listed(8, settle), "lists of one shard are none of another");
        assert!(unresolved.not_listed(7, settle));
        assert!(!unresolved.not_listed(7, settle), "it begins anew");
        tokio::time::advance(settle).await;
        unresolved.forget(8);
        assert_eq!([(); 3].map(|()| unresolved.not_listed(8, Duration::ZERO)), [false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_was_asked_for_before_a_shard_was_held_says_nothing_of_it() {
        let mut unresolved = Unresolved::new(BTreeMap::new(), BTreeSet::new(), true);
        assert!(unresolved.wants_list());
        unresolved.looked(Instant::now());
        assert!(!unresolved.wants_list());
        let begun = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        unresolved.look_at_held();
        unresolved.looked(begun);
        assert!(unresolved.wants_list());
        unresolved.looked(Instant::now());
        assert!(!unresolved.wants_list());
    }

    #[test]
    fn a_surplus_batch_is_stopped_once_and_never_given_to_a_shard() {
        let mut unresolved = Unresolved::new([("a".to_owned(), false)].into(), ["d".to_owned()].into(), false);
        unresolved.add_surplus("b", true);
        assert!(unresolved.is_surplus("b") && unresolved.takes_to_stop("b"));
        assert!(!unresolved.takes_to_stop("b") && !unresolved.takes_to_stop("a") && !unresolved.takes_to_stop("c"));
        unresolved.add_surplus("b", true);
        assert!(unresolved.takes_to_stop("b"), "it was not heard and is asked again");
        unresolved.defer("e");
        unresolved.undefer("d");
        assert!(unresolved.is_deferred("e") && !unresolved.is_deferred("d"));
        assert_eq!(unresolved.barred().collect::<Vec<_>>(), ["a", "b", "e"]);
    }
}
