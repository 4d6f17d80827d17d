//! Which failures are retried later, and which end the run.
//!
//! After a transient failure, a step is retried later, while everything else continues. A permanent failure ends the
//! run, but not at once: nothing more is sent, and the results of batches at the service are collected first.

use std::time::Duration;

use super::backoff::Delay;
use super::state::Driver;
use crate::model::incident::Incident;
use crate::remote::Api;
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::monitor::Note;
use crate::run::step_error::StepError;

/// First delay before a step is retried; doubled each time.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Maximum of these delays.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

impl<A: Api, E: Executor> Driver<A, E> {
    /// Whether a shard's next step has been failing for longer than transient problems last.
    pub(super) fn has_failed_for_long(&self, shard: u32, error: &StepError) -> bool {
        // A service that throttles is reachable, and knows when it has room: only silence counts as failing.
        !error.is_rate_limited() && self.queue.delay(shard).is_some_and(Delay::is_hopeless)
    }

    /// A shard's next step has failed. `transient` says that it may succeed later.
    pub(super) fn retry_later(&mut self, shard: u32, error: impl Into<StepError>, transient: bool) {
        let error = error.into();
        if !transient || self.has_failed_for_long(shard, &error) {
            self.give_up(error.into());
        } else {
            self.queue.delay_longer(shard, RETRY_WAIT, RETRY_WAIT_MAX);
            self.note(&Note::Retrying { shard, error: error.to_string() });
            self.enqueue(shard);
        }
    }

    /// Makes the run end with this error, once the results of batches at the service are collected.
    pub(super) fn give_up(&mut self, error: Error) {
        if self.failure.is_none() {
            self.warn(&Incident::NoMoreSubmissions { error: error.to_string() });
            self.failure = Some(error);
        }
    }
}
