//! Waiting: what is put off, until when, and what is given up.
//!
//! A step that fails for the time being is tried again later, while everything else goes on. One that fails for good ends the run, but
//! not at once: nothing more is sent, and what is at the service is brought home first.

use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use crate::model::incident::Incident;
use crate::model::shard_state::NextStep;
use crate::remote::{Api, ErrorKind, RemoteError};
use crate::run::error::Error;
use crate::run::monitor::Note;
use crate::run::options::DOWNLOADS;

/// First wait before a step is tried again; doubled each time.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Longest of these waits.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long the service may fail at one thing, again and again, before the run gives up on it. It can be gone on with later.
pub(super) const UNREACHABLE_MAX: Duration = Duration::from_secs(3600);

/// A shard's next step that must wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delay {
    /// When it failed first.
    pub(super) since: Instant,
    /// When it is due again.
    until: Instant,
    /// How often it has failed.
    pub(super) times: u32,
}

impl Delay {
    /// A wait that is no failure.
    pub(super) fn until(until: Instant) -> Self {
        Self { since: until, until, times: 0 }
    }

    pub(super) fn beginning(now: Instant) -> Self {
        Self { since: now, until: now, times: 0 }
    }

    /// Waits anew: `first`, doubled with each time, at most `most`; less by chance, so that many do not come in step.
    pub(super) fn lengthen(&mut self, first: Duration, most: Duration) {
        let wait = first.saturating_mul(2_u32.saturating_pow(self.times)).min(most);
        self.until = Instant::now() + wait.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.times += 1;
    }
}

impl<A: Api> Driver<A> {
    /// Whether a shard's next step has failed for longer than any trouble that passes.
    pub(super) fn has_failed_for_long(&self, shard: u32, error: &RemoteError) -> bool {
        // A service that limits us is there, and knows when it has room: only silence counts as failing.
        error.kind() != ErrorKind::RateLimited
            && self.delayed.get(&shard).is_some_and(|delay| delay.since.elapsed() > UNREACHABLE_MAX)
    }

    /// A shard's next step has failed. `transient` says that it may succeed later.
    pub(super) fn retry_later(&mut self, shard: u32, error: RemoteError, transient: bool) {
        let now = Instant::now();
        if !transient || self.has_failed_for_long(shard, &error) {
            self.give_up(error.into());
        } else {
            self.delayed.entry(shard).or_insert(Delay::beginning(now)).lengthen(RETRY_WAIT, RETRY_WAIT_MAX);
            self.note(&Note::Retrying { shard, error: error.to_string() });
            self.enqueue(shard);
        }
    }

    /// Lets the run end with this error, once what is at the service has been brought home.
    pub(super) fn give_up(&mut self, error: Error) {
        if self.failure.is_none() {
            self.warn(&Incident::NoMoreSubmissions { error: error.to_string() });
            self.failure = Some(error);
        }
    }

    /// How many of a step may be under way at a time.
    pub(super) fn limit(&self, step: NextStep) -> usize {
        match step {
            NextStep::Upload | NextStep::Create if self.failure.is_some() || self.admission.is_stopped => 0,
            NextStep::Upload => self.options.uploads,
            NextStep::Create => 1,
            NextStep::Download => DOWNLOADS,
            NextStep::Index => super::INDEXINGS,
            // They wait for the list.
            NextStep::Poll | NextStep::Reconcile => 0,
        }
    }

    /// Takes a shard that is due out of the queue of a step, if there is room for one more.
    pub(super) fn take(&mut self, step: NextStep) -> Option<u32> {
        if self.busy(step) >= self.limit(step) {
            return None;
        }
        let now = Instant::now();
        let due = |shard: &&u32| {
            self.delayed.get(shard).is_none_or(|delay| delay.until <= now) && self.may_begin(step, **shard)
        };
        let shard = self.waiting.get(&step)?.iter().find(due).copied()?;
        self.waiting.get_mut(&step)?.remove(&shard);
        *self.busy.entry(step).or_default() += 1;
        Some(shard)
    }

    /// Whether nothing but time holds a shard back.
    fn may_begin(&self, step: NextStep, shard: u32) -> bool {
        step != NextStep::Create || self.admission.admits(shard, &self.shards[shard as usize].shard.model)
    }

    /// When something has to be looked at although no task ends; `None` when only tasks are waited for, or nothing is.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let list = (self.wants_list() && !self.polling).then_some(self.next_poll);
        // Few are delayed, many may wait.
        let due = self.delayed.iter().filter(|(shard, _)| {
            let step = self.shards[**shard as usize].state.next();
            step.is_some_and(|step| {
                let waits = self.waiting.get(&step).is_some_and(|shards| shards.contains(*shard));
                waits && self.busy(step) < self.limit(step) && self.may_begin(step, **shard)
            })
        });
        due.map(|(_, delay)| delay.until).chain(list).min()
    }
}
