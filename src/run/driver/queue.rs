//! Which shards wait for which step, how many steps are running, and which are retried later.
//!
//! In: shards and the step that each needs. Out: the next shard whose step may begin, or when one will be due.
//!
//! Invariant: no more steps of a kind are running than its limit, and none begins before its backoff is over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Delay;
use crate::model::shard_state::NextStep;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<NextStep, BTreeSet<u32>>,
    busy: BTreeMap<NextStep, usize>,
    /// Shards whose next step has failed and is retried later.
    delayed: HashMap<u32, Delay>,
}

impl Queue {
    /// Enqueues a shard for a step.
    pub(super) fn add(&mut self, step: NextStep, shard: u32) {
        self.waiting.entry(step).or_default().insert(shard);
    }

    pub(super) fn remove(&mut self, step: NextStep, shard: u32) {
        if let Some(shards) = self.waiting.get_mut(&step) {
            shards.remove(&shard);
        }
    }

    /// The shards that wait for a step, by number.
    pub(super) fn waiting_for(&self, step: NextStep) -> Vec<u32> {
        self.waiting.get(&step).into_iter().flatten().copied().collect()
    }

    /// Whether any shard waits for a step.
    pub(super) fn has(&self, step: NextStep) -> bool {
        self.waiting.get(&step).is_some_and(|shards| !shards.is_empty())
    }

    /// Takes the first shard that waits for a step, is due and may begin; the step then counts as running. `None` once
    /// `limit` steps are running.
    pub(super) fn take(&mut self, step: NextStep, limit: usize, may_begin: impl Fn(u32) -> bool) -> Option<u32> {
        if self.busy(step) >= limit {
            return None;
        }
        let now = Instant::now();
        let is_due = |shard: &u32| self.delayed.get(shard).is_none_or(|delay| delay.is_over(now));
        let shard = self.waiting.get(&step)?.iter().copied().find(|shard| is_due(shard) && may_begin(*shard))?;
        self.remove(step, shard);
        *self.busy.entry(step).or_default() += 1;
        Some(shard)
    }

    /// Whether any step of this kind is running.
    pub(super) fn is_busy(&self, step: NextStep) -> bool {
        self.busy(step) > 0
    }

    fn busy(&self, step: NextStep) -> usize {
        self.busy.get(&step).copied().unwrap_or(0)
    }

    /// A step is no longer running.
    pub(super) fn done(&mut self, step: NextStep) {
        if let Some(busy) = self.busy.get_mut(&step) {
            *busy = busy.saturating_sub(1);
        }
    }

    /// When the first backoff is over, among shards whose step could begin then.
    pub(super) fn next_due(
        &self,
        limit: impl Fn(NextStep) -> usize,
        may_begin: impl Fn(NextStep, u32) -> bool,
    ) -> Option<Instant> {
        // Few are delayed, many may wait.
        let due = self.delayed.iter().filter(|(shard, _)| {
            let step = self.waiting.iter().find(|(_, shards)| shards.contains(*shard)).map(|(step, _)| *step);
            step.is_some_and(|step| self.busy(step) < limit(step) && may_begin(step, **shard))
        });
        due.map(|(_, delay)| delay.until()).min()
    }

    /// A shard's backoff, if it has one.
    pub(super) fn delay(&self, shard: u32) -> Option<&Delay> {
        self.delayed.get(&shard)
    }

    /// A shard's next step has failed, or there was no room for it: it waits for `first`, doubled each time. Returns
    /// since when it has been waiting.
    pub(super) fn delay_longer(&mut self, shard: u32, first: Duration, most: Duration) -> Duration {
        self.delayed.entry(shard).or_default().lengthen(first, most).elapsed()
    }

    /// Delays a shard's next step although nothing has failed.
    pub(super) fn delay_until(&mut self, shard: u32, until: Instant) {
        self.delayed.insert(shard, Delay::until_then(until));
    }

    /// A shard's step has succeeded: the next one is due at once.
    pub(super) fn end_delay(&mut self, shard: u32) {
        self.delayed.remove(&shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn steps_begin_in_order_within_their_limit_and_after_their_backoff() {
        let mut queue = Queue::default();
        for shard in [3, 1, 2] {
            queue.add(NextStep::Upload, shard);
        }
        let delayed = queue.delay_longer(1, FIRST, MOST);
        assert_eq!(delayed, Duration::ZERO);
        assert_eq!(queue.take(NextStep::Upload, 2, |_| true), Some(2), "1 is not due");
        assert_eq!(queue.take(NextStep::Upload, 2, |_| true), Some(3));
        assert_eq!(queue.take(NextStep::Upload, 2, |_| true), None, "two are under way");
        assert_eq!(queue.next_due(|_| 2, |_, _| true), None, "nothing could begin before one of them is done");
        queue.done(NextStep::Upload);
        assert_eq!(queue.take(NextStep::Upload, 2, |_| true), None);
        let due = queue.next_due(|_| 2, |_, _| true).expect("1 is due later");
        assert!(due > Instant::now() && due <= Instant::now() + FIRST);
        tokio::time::advance(FIRST).await;
        assert_eq!(queue.take(NextStep::Upload, 2, |shard| shard != 1), None, "it may not begin");
        assert_eq!(queue.take(NextStep::Upload, 2, |_| true), Some(1));
        assert!(!queue.has(NextStep::Upload) && queue.delay(1).is_some());
        queue.end_delay(1);
        assert!(queue.delay(1).is_none());
    }
}
