//! The driver: takes every shard from the state that it is in to its end.
//!
//! In: shards as recorded in the Ledger. Out: shards that are indexed, or held: because it is unknown whether they have
//! a batch, or because the service has more replies than could be fetched. Steps run in the [`Executor`]; calls about
//! batches are made by the driver itself, the only submitter. It alone owns the Ledger, so recording results and
//! choosing the next step happen in one place, sequentially; nothing here blocks.
//!
//! Invariants:
//! - The result of a step is recorded, and synced, before anything that follows from it is begun.
//! - At most one POST that may create a batch is in flight, and its intent is in the Ledger.
//! - A shard whose submission has an unknown outcome is never submitted again, unless the service's list has been clean
//!   for as long as [`OnAmbiguous::RetryAfter`](crate::run::OnAmbiguous::RetryAfter) says.
//! - Whatever ends the run, the response to a POST in flight is awaited and recorded.
//!
//! | files | contents |
//! | --- | --- |
//! | `state` | the driver's state, composed of parts |
//! | `shard_table`, `queue`, `backoff`, `admission`, `unresolved` | parts, independent of each other |
//! | `poller`, `sightings`, `fetches`, `progress`, `phase_clock`, `watermark` | more parts |
//! | `submit`, `defer`, `reconcile`, `poll`, `look`, `collect`, `retry` | actions that involve several parts |

mod admission;
mod backoff;
mod collect;
mod defer;
mod fetches;
mod look;
mod phase_clock;
mod poll;
mod poller;
mod progress;
mod queue;
mod reconcile;
mod retry;
mod run_name;
mod shard_table;
mod sightings;
mod state;
mod submit;
mod unresolved;
mod watermark;

use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::model::phase::Phase;
use crate::model::shard_state::{NextStep, ShardRow, ShardState};
use crate::remote::{Api, RemoteError};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::monitor::Note;
use crate::run::options::DOWNLOADS;
use crate::run::output::Merger;
use crate::run::step::StepResult;
use crate::run::step_error::StepError;
pub(crate) use state::{Driver, DriverInputs};
use state::{Finished, StepOf};

/// Maximum shards that are indexed concurrently. Each uses all threads.
const INDEXINGS: usize = 1;

/// How long a run that ends waits for the response to a POST in flight, so that its outcome is known.
const LAST_ANSWER: Duration = Duration::from_secs(5);

impl<A: Api, E: Executor> Driver<A, E> {
    /// Works until nothing is left to do. The merger has then been notified of everything that became final. Returns
    /// the shards that are held, and those that are not submitted because of one of them.
    pub(crate) async fn drive(mut self) -> Result<(Vec<ShardRow>, Ledger, Merger), Error> {
        let worked = self.work().await;
        let recorded = self.ledger.add_phase_times(&self.phase_clock.take());
        if worked.is_err() || self.merger.has_failed() {
            self.await_last_answer().await;
        }
        worked?;
        recorded?;
        if self.merger.has_failed() {
            return Err(self.merger.finish(None).err().unwrap_or(Error::Interrupted));
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        // Shards that are not submitted until the user decides are held, too: they get no outcome in this process.
        let is_stopped = self.admission.is_stopped;
        let is_held = |state: &ShardState| state.is_held() || is_stopped && state.next().is_some();
        let held = self.shards.into_rows().into_iter().filter(|row| is_held(&row.state)).collect();
        Ok((held, self.ledger, self.merger))
    }

    async fn work(&mut self) -> Result<(), Error> {
        self.tell();
        if self.queue.has(NextStep::Upload) {
            // A wrong key or address is detected here, before gigabytes are sent.
            let api = self.api.clone();
            tokio::select! {
                listed = api.batches() => self.begun_with_list(listed.map(drop))?,
                () = self.stop.cancelled() => return Err(Error::Interrupted),
            }
        }
        while !self.merger.has_failed() {
            if let Some(seq) = self.watermark.moved(self.files.requests.len()) {
                self.merger.advance(seq);
            }
            self.begin_steps();
            self.clock_phases()?;
            let look = self.next_look();
            if self.tasks.is_empty() && look.is_none() {
                if self.begin_round()? {
                    continue;
                }
                break;
            }
            tokio::select! {
                finished = self.tasks.join_next(), if !self.tasks.is_empty() => match finished {
                    Some(Ok(finished)) => self.record(finished)?,
                    Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Some(Err(_)) | None => {}
                },
                () = tokio::time::sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {}
                () = self.stop.cancelled() => return Err(Error::Interrupted),
            }
        }
        Ok(())
    }

    /// The first list. While nothing is at the service, a failure to get it ends the run: an unknown outcome could not
    /// be resolved.
    fn begun_with_list(&self, listed: Result<(), RemoteError>) -> Result<(), Error> {
        let Err(error) = listed else { return Ok(()) };
        let has_batches = self.shards.rows().iter().any(|row| row.state.batch_id().is_some());
        if error.kind().is_final() || !has_batches {
            return Err(error.into());
        }
        self.note(&Note::ListUnavailable { error: error.to_string() });
        Ok(())
    }

    /// Begins as many steps as their limits allow.
    fn begin_steps(&mut self) {
        while let Some(shard) = self.take(NextStep::Upload) {
            self.begin_upload(shard);
        }
        while let Some(shard) = self.take(NextStep::Create) {
            self.begin_create(shard);
        }
        while let Some(shard) = self.take(NextStep::Download) {
            self.begin_download(shard);
        }
        while let Some(shard) = self.take(NextStep::Index) {
            self.begin_index(shard);
        }
        self.begin_poll();
        self.begin_looks();
    }

    /// Updates which phases are active, and periodically records their durations.
    fn clock_phases(&mut self) -> Result<(), Error> {
        for (phase, step) in
            [(Phase::Upload, NextStep::Upload), (Phase::Download, NextStep::Download), (Phase::Index, NextStep::Index)]
        {
            self.phase_clock.set(phase, self.queue.is_busy(step));
        }
        self.phase_clock.set(Phase::Batch, self.shards.counts().submitted > 0);
        if self.phase_clock.is_due() {
            self.ledger.add_phase_times(&self.phase_clock.take())?;
        }
        Ok(())
    }

    /// Takes a shard whose step may begin.
    fn take(&mut self, step: NextStep) -> Option<u32> {
        let limit = self.limit(step);
        self.queue.take(step, limit, |shard| may_begin(&self.shards[shard], step, &self.admission))
    }

    /// The maximum number of concurrent steps of a kind.
    fn limit(&self, step: NextStep) -> usize {
        match step {
            NextStep::Upload | NextStep::Create if self.failure.is_some() || self.admission.is_stopped => 0,
            NextStep::Upload => self.options.batches.uploads,
            NextStep::Create => 1,
            NextStep::Download => DOWNLOADS,
            NextStep::Index => INDEXINGS,
            // They wait for the list.
            NextStep::Poll | NextStep::Reconcile => 0,
        }
    }

    /// When to wake up even if no task ends; `None` when only tasks are waited for, or nothing is.
    fn next_look(&self) -> Option<Instant> {
        let list = self.poller.next().filter(|_| self.wants_list());
        let may_begin = |step, shard| may_begin(&self.shards[shard], step, &self.admission);
        self.queue.next_due(|step| self.limit(step), may_begin).into_iter().chain(list).min()
    }

    /// Records the result of a step or a call.
    fn record(&mut self, finished: Finished) -> Result<(), Error> {
        match finished {
            Finished::Step { of, result } => self.record_step(of, result),
            Finished::Ready { shard, result } => self.ready(shard, result),
            Finished::Created { shard, submission, answer } => {
                self.is_posting = false;
                self.queue.done(NextStep::Create);
                self.created(shard, submission, answer)
            }
            Finished::Listed(result) => self.listed(result),
            Finished::Looked { shard, result } => self.looked(shard, result),
            Finished::Cancelled { batch_id, result } => self.cancelled(batch_id, result),
        }
    }

    fn record_step(&mut self, of: StepOf, result: Result<StepResult, StepError>) -> Result<(), Error> {
        match of {
            StepOf::Upload(_) => self.queue.done(NextStep::Upload),
            StepOf::Download(_) => self.queue.done(NextStep::Download),
            StepOf::Index(_) => self.queue.done(NextStep::Index),
            StepOf::Round => {}
        }
        match (of, result) {
            (StepOf::Upload(shard), Ok(StepResult::Uploaded { file_id, reused })) => {
                self.uploaded(shard, file_id, reused)
            }
            (StepOf::Upload(shard), Err(error)) => {
                let transient = error.is_transient();
                self.retry_later(shard, error, transient);
                Ok(())
            }
            (StepOf::Download(shard), Ok(StepResult::Downloaded(fetched))) => self.downloaded(shard, fetched),
            (StepOf::Index(shard), Ok(StepResult::Indexed(indexed))) => self.indexed(shard, indexed),
            // The results of batches at the service are collected nevertheless.
            (StepOf::Index(_), Err(error)) if error.is_of_input() => {
                self.give_up(error.into());
                Ok(())
            }
            (StepOf::Round, Ok(StepResult::RoundPacked(round))) => self.round_packed(round),
            (_, Err(error)) => Err(error.into()),
            (of, Ok(result)) => Err(Error::Internal { what: format!("{of:?} was answered with {result:?}") }),
        }
    }

    /// Waits briefly for the response to a POST in flight, and records it. Without a response, its outcome is unknown.
    async fn await_last_answer(&mut self) {
        let deadline = Instant::now() + LAST_ANSWER;
        while self.is_posting {
            match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(Ok(finished @ Finished::Created { .. }))) => {
                    // The run already ends with an error, which is more informative than this one.
                    let _ = self.record(finished);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
}

/// Whether a shard only waits for time to pass.
fn may_begin(row: &ShardRow, step: NextStep, admission: &admission::Admission) -> bool {
    step != NextStep::Create || admission.admits(row.shard.number, &row.shard.model)
}
