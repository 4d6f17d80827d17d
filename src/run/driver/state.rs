//! The driver's state, composed of parts, and the transitions of a shard's state.
//!
//! The parts are independent of each other: the files named after actions (`submit`, `poll`, `collect` ...) combine
//! them.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::fetches::Fetches;
use super::phase_clock::PhaseClock;
use super::poller::Poller;
use super::progress::BatchProgress;
use super::queue::Queue;
use super::shard_table::ShardTable;
use super::sightings::Sightings;
use super::unresolved::Unresolved;
use super::watermark::Watermark;
use crate::ledger::Ledger;
use crate::model::incident::Incident;
use crate::model::shard_state::{ShardRow, ShardState};
use crate::remote::{Api, Batch, Listing, RemoteError, Submission};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::files::Files;
use crate::run::monitor::{Event, Monitor, Note};
use crate::run::options::Options;
use crate::run::output::Merger;
use crate::run::step::{Step, StepResult};
use crate::run::step_error::StepError;

/// Takes every shard to its end. See the module above.
pub(crate) struct Driver<A: Api, E: Executor> {
    /// For the driver's own calls: those about batches.
    pub(super) api: Arc<A>,
    /// For everything else.
    pub(super) executor: Arc<E>,
    pub(super) files: Arc<Files>,
    pub(super) ledger: Ledger,
    pub(super) options: Options,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) merger: Merger,
    pub(super) stop: CancellationToken,

    /// Running steps and calls.
    pub(super) tasks: JoinSet<Finished>,
    /// The error that stops further submissions, and ends the run once the results of batches at the service are
    /// collected.
    pub(super) failure: Option<Error>,
    /// The run's name in the tags of its batches.
    pub(super) run_name: String,
    /// Whether a POST is in flight.
    pub(super) is_posting: bool,

    pub(super) shards: ShardTable,
    pub(super) queue: Queue,
    pub(super) admission: Admission,
    pub(super) unresolved: Unresolved,
    pub(super) poller: Poller,
    pub(super) sightings: Sightings,
    pub(super) fetches: Fetches,
    pub(super) progress: BatchProgress,
    pub(super) phase_clock: PhaseClock,
    pub(super) watermark: Watermark,
}

/// The inputs of a driver.
pub(crate) struct DriverInputs<A: Api, E: Executor> {
    pub(crate) api: Arc<A>,
    pub(crate) executor: Arc<E>,
    pub(crate) files: Arc<Files>,
    pub(crate) ledger: Ledger,
    pub(crate) options: Options,
    pub(crate) monitor: Arc<dyn Monitor>,
    pub(crate) merger: Merger,
    pub(crate) stop: CancellationToken,
}

/// A step or call that has ended.
#[derive(Debug)]
pub(super) enum Finished {
    Step { of: StepOf, result: Result<StepResult, StepError> },
    Ready { shard: u32, result: Result<Listing, RemoteError> },
    Created { shard: u32, submission: i64, answer: Submission },
    Listed(Result<Listing, RemoteError>),
    Looked { shard: u32, result: Result<Batch, RemoteError> },
    Cancelled { batch_id: String, result: Result<Batch, RemoteError> },
}

/// What a running step is for; the executor has the step itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepOf {
    Upload(u32),
    Download(u32),
    Index(u32),
    Round,
}

impl<A: Api, E: Executor> Driver<A, E> {
    /// Starts every shard from its state in the Ledger.
    pub(crate) fn new(inputs: DriverInputs<A, E>) -> Result<Self, Error> {
        let DriverInputs { api, executor, files, ledger, options, monitor, merger, stop } = inputs;
        let mut rows = ledger.shards()?;
        let looks_at_held = rows.iter().any(|row| matches!(row.state, ShardState::Held { .. }));
        let mut fetches = Fetches::new(options.batches.settle);
        for row in &mut rows {
            if let ShardState::Incomplete { submission, batch } = &row.state {
                // Held until now; the missing replies may be available by now.
                fetches.held_before(row.shard.number);
                row.state = ShardState::Ended { submission: *submission, batch: batch.clone() };
            }
        }
        let mut admission = Admission::new(options.batches.max_in_flight, ledger.in_flight_caps()?);
        admission.is_stopped = ledger.has_mistaken_batch()?;
        let mut driver = Self {
            run_name: super::run_name::run_name(&ledger)?,
            unresolved: Unresolved::new(ledger.surplus()?, ledger.deferred_batches()?, looks_at_held),
            poller: Poller::new(options.batches.poll_interval),
            watermark: Watermark::new(options.batches.rounds),
            shards: ShardTable::new(rows),
            api,
            executor,
            files,
            ledger,
            options,
            monitor,
            merger,
            stop,
            tasks: JoinSet::new(),
            failure: None,
            is_posting: false,
            queue: Queue::default(),
            admission,
            sightings: Sightings::default(),
            fetches,
            progress: BatchProgress::default(),
            phase_clock: PhaseClock::new(),
        };
        for number in (0..).take(driver.shards.rows().len()) {
            driver.take_up(number);
        }
        Ok(driver)
    }

    /// Restores what an earlier process has recorded of a shard.
    fn take_up(&mut self, number: u32) {
        let ShardRow { shard, state, last_submission, .. } = &self.shards[number];
        if let Some(batch) = state.ended_batch() {
            self.merger.record_failure(number, batch);
        }
        if state.may_be_in_flight() {
            self.admission.begun(&shard.model);
        } else if matches!(state, ShardState::Uploaded { .. }) && last_submission.is_some() {
            self.admission.refused_before(number);
        }
        if matches!(state, ShardState::Lost { .. }) {
            // It is looked up once.
            self.sightings.want(number);
        }
        self.enqueue(number);
    }

    /// Enqueues a shard for its next step.
    pub(super) fn enqueue(&mut self, number: u32) {
        let row = &self.shards[number];
        self.watermark.open(row);
        if let Some(step) = row.state.next() {
            self.queue.add(step, number);
        }
    }

    /// Moves a shard to another state, which is already in the Ledger, and enqueues it for its next step.
    pub(super) fn set_state(&mut self, number: u32, state: ShardState) {
        self.watermark.close(&self.shards[number]);
        let was_in_flight = self.shards.set_state(number, state).may_be_in_flight();
        let row = &self.shards[number];
        match (was_in_flight, row.state.may_be_in_flight()) {
            (false, true) => self.admission.begun(&row.shard.model),
            (true, false) => self.admission.ended(&row.shard.model),
            _ => {}
        }
        self.enqueue(number);
        self.tell();
    }

    /// Begins a step.
    pub(super) fn begin(&mut self, of: StepOf, step: Step) {
        let executor = self.executor.clone();
        self.tasks.spawn(async move { Finished::Step { of, result: executor.execute(step).await } });
    }

    /// Reports how many shards are in which state.
    pub(super) fn tell(&self) {
        self.monitor.event(Event::Shards(self.shards.counts()));
    }

    /// Reports an incident as a warning and records it.
    pub(super) fn incident(&mut self, incident: &Incident) -> Result<(), Error> {
        self.warn(incident);
        Ok(self.ledger.incident(incident)?)
    }

    pub(super) fn warn(&self, incident: &Incident) {
        self.monitor.event(Event::Warning(incident));
    }

    pub(super) fn note(&self, note: &Note) {
        self.monitor.event(Event::Note(note));
    }
}
