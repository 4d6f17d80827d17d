//! The driver: takes every shard from where it stands to its end.
//!
//! In: shards as the Ledger has them. Out: shards that are indexed, or held: because nobody knows whether they have a batch, or because
//! their service has answered more than could be fetched. Steps run as tasks and report what came of them; the driver
//! alone owns the Ledger, so what is recorded and what is done next are decided in one place, one after the other.
//!
//! What always holds:
//! - An outcome is recorded, and synced, before anything that follows from it is begun.
//! - At most one POST that may create a batch is under way, and its intent is in the Ledger.
//! - A shard whose submission is in doubt is never submitted again, unless the service's list has been clean for as long as
//!   [`OnAmbiguous::RetryAfter`](crate::run::OnAmbiguous::RetryAfter) says.
//! - Whatever ends the run, the answer to a POST that is under way is waited for and recorded.

mod admission;
mod finish;
mod look;
mod poll;
mod reconcile;
mod room;
mod submit;
mod waits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::model::incident::Incident;
use crate::model::shard_state::{Recorded, ShardState, Step};
use crate::remote::{Api, Progress, RemoteError};
use crate::run::error::Error;
use crate::run::monitor::{Event, Monitor, ShardCounts};
use crate::run::options::Options;
use crate::run::output::{Merger, Notes};
use crate::run::steps::{Files, Outcome};
use admission::Admission;
use finish::Fetching;
use look::Looks;
use waits::Delay;

/// Shards that are indexed at a time. Each uses all threads.
const INDEXINGS: usize = 1;

/// How long a run that is ended waits for the answer to a POST that is under way, so as not to leave a doubt.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(crate) struct Driver<A: Api> {
    api: Arc<A>,
    files: Arc<Files>,
    ledger: Ledger,
    options: Options,
    monitor: Arc<dyn Monitor>,
    merger: Merger,
    notes: Notes,
    stop: CancellationToken,
    /// What the run is called in the tags of its batches.
    run_name: String,

    shards: Vec<Recorded>,
    /// How many of them stand where.
    counts: ShardCounts,
    /// Shards by the step they wait for.
    waiting: BTreeMap<Step, BTreeSet<u32>>,
    /// Steps under way.
    busy: BTreeMap<Step, usize>,
    tasks: JoinSet<Outcome>,
    /// Shards whose next step has failed and is tried again later.
    delayed: HashMap<u32, Delay>,
    /// Doubts: since when, and how many clean lists.
    doubts: HashMap<u32, (Instant, u32)>,
    /// Requests that a shard's batch has done, as far as the service says.
    done_requests: HashMap<u32, u64>,
    /// The sum of those, and of all requests of these shards.
    progress: (u64, u64),
    /// Looks at single batches.
    looks: Looks,
    /// How often a batch was seen ended without naming any file.
    fileless: HashMap<u32, (Instant, u32)>,
    /// Shards whose lines this process has sent, and seen to be what was checked.
    uploaded_here: BTreeSet<u32>,
    /// Shards whose replies are fetched again.
    fetching: HashMap<u32, Fetching>,
    /// Statuses that nobody here knows, as far as they have been told.
    strange: BTreeSet<String>,
    /// Which shards may be submitted.
    admission: Admission,
    /// Batches that have ended before they did anything, whose shards are submitted again.
    deferred: BTreeSet<String>,
    /// Batches that are too many, and whether they are still to be stopped.
    surplus: BTreeMap<String, bool>,
    next_poll: Instant,
    /// When the last list was asked for.
    list_begun: Instant,
    /// Batches that the last look listed.
    listed: u32,
    /// Whether a list is under way.
    polling: bool,
    /// Whether a POST is under way.
    posting: bool,
    /// Whether the list is wanted for shards that an earlier process held.
    look_at_held: bool,
    /// Since when the service has not answered anything about batches.
    unreachable_since: Option<Instant>,
    /// Since when there is no list.
    listless_since: Option<Instant>,
    /// What stops further submissions, and ends the run once all that is at the service has come home.
    failure: Option<Error>,
    /// For each shard with outcomes that may still change, the first of them.
    open: BTreeSet<(u64, u32)>,
    frontier: Option<u64>,
    uploaded: Arc<AtomicU64>,
    downloaded: Arc<AtomicU64>,
}

/// What a driver works with.
pub(crate) struct Parts<A: Api> {
    pub(crate) api: Arc<A>,
    pub(crate) files: Arc<Files>,
    pub(crate) ledger: Ledger,
    pub(crate) options: Options,
    pub(crate) monitor: Arc<dyn Monitor>,
    pub(crate) merger: Merger,
    pub(crate) notes: Notes,
    pub(crate) stop: CancellationToken,
}

impl<A: Api> Driver<A> {
    /// Takes up every shard where the Ledger has it.
    pub(crate) fn new(parts: Parts<A>) -> Result<Self, Error> {
        let Parts { api, files, ledger, options, monitor, merger, notes, stop } = parts;
        let (shards, surplus, deferred) = (ledger.shards()?, ledger.surplus()?, ledger.deferred_batches()?);
        let mut admission = Admission::new(options.max_in_flight_batches, ledger.in_flight_caps()?);
        admission.is_stopped = ledger.has_mistaken_batch()?;
        let run_name = submit::run_name(&ledger)?;
        let look_at_held = shards.iter().any(|known| matches!(known.state, ShardState::Held { .. }));
        let mut driver = Self {
            api,
            files,
            ledger,
            options,
            monitor,
            merger,
            notes,
            stop,
            run_name,
            shards,
            counts: ShardCounts::default(),
            waiting: BTreeMap::new(),
            busy: BTreeMap::new(),
            tasks: JoinSet::new(),
            delayed: HashMap::new(),
            doubts: HashMap::new(),
            done_requests: HashMap::new(),
            progress: (0, 0),
            looks: Looks::default(),
            fileless: HashMap::new(),
            uploaded_here: BTreeSet::new(),
            fetching: HashMap::new(),
            strange: BTreeSet::new(),
            admission,
            deferred,
            surplus,
            next_poll: Instant::now(),
            list_begun: Instant::now(),
            listed: 0,
            polling: false,
            posting: false,
            look_at_held,
            unreachable_since: None,
            listless_since: None,
            failure: None,
            open: BTreeSet::new(),
            frontier: None,
            uploaded: Arc::default(),
            downloaded: Arc::default(),
        };
        for index in 0..driver.shards.len() {
            let Recorded { shard, state, .. } = &mut driver.shards[index];
            let number = shard.number;
            if let ShardState::Incomplete { submission, batch } = state {
                // Held until now; what lacks may be there by now.
                let settle = driver.options.settle;
                driver.fetching.insert(number, Fetching::held_before(settle));
                *state = ShardState::Ended { submission: *submission, batch: batch.clone() };
            }
            let state = state.clone();
            if let Some(batch) = state.ended_batch() {
                driver.take_note(number, batch);
            }
            *place(&mut driver.counts, &state) += 1;
            driver.admit_again(number);
            driver.enqueue(number);
        }
        driver.want_lost();
        Ok(driver)
    }

    /// Works until nothing is left to do. The merger has been told everything that became final. Out: shards that are held, and those that are
    /// not submitted because of one of them.
    pub(crate) async fn drive(mut self) -> Result<(Vec<Recorded>, Ledger, Merger), Error> {
        let worked = self.work().await;
        if worked.is_err() || self.merger.has_failed() {
            self.await_last_answer().await;
        }
        worked?;
        if self.merger.has_failed() {
            return Err(self.merger.finish(None).err().unwrap_or(Error::Interrupted));
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        // What is not submitted until somebody decides is held, too: it gets no outcome here.
        let is_stopped = self.admission.is_stopped;
        let is_held = |state: &ShardState| state.is_held() || is_stopped && state.next().is_some();
        let held = self.shards.into_iter().filter(|known| is_held(&known.state)).collect();
        Ok((held, self.ledger, self.merger))
    }

    async fn work(&mut self) -> Result<(), Error> {
        self.tell();
        if self.waiting.contains_key(&Step::Upload) {
            // A wrong key or address shows here, before gigabytes are sent.
            let api = self.api.clone();
            tokio::select! {
                listed = api.batches() => self.begun_with_list(listed.map(drop))?,
                () = self.stop.cancelled() => return Err(Error::Interrupted),
            }
        }
        while !self.merger.has_failed() {
            self.move_frontier();
            self.begin_steps();
            let look = self.next_look();
            if self.tasks.is_empty() && look.is_none() {
                if self.begin_round()? {
                    continue;
                }
                break;
            }
            tokio::select! {
                outcome = self.tasks.join_next(), if !self.tasks.is_empty() => match outcome {
                    Some(Ok(outcome)) => self.record(outcome)?,
                    Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Some(Err(_)) | None => {}
                },
                () = tokio::time::sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {}
                () = self.stop.cancelled() => return Err(Error::Interrupted),
            }
        }
        Ok(())
    }

    /// The first list. While nothing is at the service, one that cannot be had ends the run: what came into doubt could not be settled.
    fn begun_with_list(&self, listed: Result<(), RemoteError>) -> Result<(), Error> {
        let Err(error) = listed else { return Ok(()) };
        let has_batches = self.shards.iter().any(|known| known.state.batch_id().is_some());
        if poll::is_final(&error) || !has_batches {
            return Err(error.into());
        }
        self.monitor.event(Event::Note(&format!("cannot look at the list of batches now: {error}")));
        Ok(())
    }

    /// Takes up what an earlier process has left of a shard's submission.
    fn admit_again(&mut self, number: u32) {
        let known = &self.shards[number as usize];
        if known.state.may_be_in_flight() {
            self.admission.begun(&known.shard.model);
        } else if matches!(known.state, ShardState::Uploaded { .. }) && known.last_submission.is_some() {
            self.admission.refused_before(number);
        }
    }

    /// Puts a shard into the queue of the step it needs.
    fn enqueue(&mut self, number: u32) {
        if let Some(open) = self.shards[number as usize].open_from(self.options.rounds) {
            self.open.insert((open, number));
        }
        if let Some(step) = self.shards[number as usize].state.next() {
            self.waiting.entry(step).or_default().insert(number);
        }
    }

    fn set_state(&mut self, number: u32, state: ShardState) {
        self.close(number);
        let known = &mut self.shards[number as usize];
        *place(&mut self.counts, &known.state) -= 1;
        *place(&mut self.counts, &state) += 1;
        match (known.state.may_be_in_flight(), state.may_be_in_flight()) {
            (false, true) => self.admission.begun(&known.shard.model),
            (true, false) => self.admission.ended(&known.shard.model),
            _ => {}
        }
        known.state = state;
        self.enqueue(number);
        self.tell();
    }

    /// Takes a shard's outcomes out of those that may change, before that is judged anew.
    fn close(&mut self, number: u32) {
        if let Some(open) = self.shards[number as usize].open_from(self.options.rounds) {
            self.open.remove(&(open, number));
        }
    }

    /// Begins as many steps as their limits allow.
    fn begin_steps(&mut self) {
        while let Some(shard) = self.take(Step::Upload) {
            self.begin_upload(shard);
        }
        while let Some(shard) = self.take(Step::Create) {
            self.begin_create(shard);
        }
        while let Some(shard) = self.take(Step::Download) {
            self.begin_download(shard);
        }
        while let Some(shard) = self.take(Step::Index) {
            self.begin_index(shard);
        }
        self.begin_poll();
        self.begin_looks();
    }

    fn busy(&self, step: Step) -> usize {
        self.busy.get(&step).copied().unwrap_or(0)
    }

    fn done(&mut self, step: Step) {
        if let Some(busy) = self.busy.get_mut(&step) {
            *busy = busy.saturating_sub(1);
        }
    }

    /// A progress that adds up all transfers of a direction.
    fn transfer(&self, total: &Arc<AtomicU64>, event: fn(u64) -> Event<'static>) -> Progress {
        let (total, monitor, before) = (total.clone(), self.monitor.clone(), AtomicU64::new(0));
        Progress::new(move |bytes| {
            // The count of a transfer falls back when an attempt starts over; the sum falls back with it.
            let last = before.swap(bytes, Ordering::Relaxed);
            let sum =
                total.fetch_add(bytes.wrapping_sub(last), Ordering::Relaxed).wrapping_add(bytes.wrapping_sub(last));
            monitor.event(event(sum));
        })
    }

    /// Records what came of a step.
    fn record(&mut self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Uploaded { shard, result } => {
                self.done(Step::Upload);
                match result {
                    Ok(file) => self.uploaded(shard, file)?,
                    Err(error) => {
                        let passing = error.is_transient();
                        self.put_off(shard, error, passing);
                    }
                }
            }
            Outcome::Ready { shard, result } => self.ready(shard, result)?,
            Outcome::Created { shard, submission, answer } => {
                self.posting = false;
                self.done(Step::Create);
                self.created(shard, submission, answer)?;
            }
            Outcome::Listed(result) => self.listed(result)?,
            Outcome::Looked { shard, result } => self.looked(shard, result)?,
            Outcome::Cancelled { batch_id, result } => self.cancelled(batch_id, result)?,
            Outcome::Downloaded { shard, result } => {
                self.done(Step::Download);
                self.downloaded(shard, result?)?;
            }
            Outcome::Indexed { shard, result } => {
                self.done(Step::Index);
                match result {
                    // What is at the service comes home all the same.
                    Err(error @ Error::Input(_)) => self.give_up(error),
                    result => self.indexed(shard, result?)?,
                }
            }
        }
        Ok(())
    }

    fn incident(&mut self, shard: Option<u32>, incident: impl Into<Incident>) -> Result<(), Error> {
        let incident = incident.into();
        self.monitor.event(Event::Warning(&incident.to_string()));
        Ok(self.ledger.incident(shard, &incident)?)
    }

    /// Waits a little for the answer to a POST that is under way; what it says is recorded. Without it the next process has a doubt.
    async fn await_last_answer(&mut self) {
        let deadline = Instant::now() + LAST_ANSWER;
        while self.posting {
            match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(Ok(outcome @ Outcome::Created { .. }))) => {
                    // The run ends with an error already, which says more than this one would.
                    let _ = self.record(outcome);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    fn tell(&self) {
        self.monitor.event(Event::Shards(&self.counts));
    }
}

/// Where a shard in this state is counted.
fn place<'c>(counts: &'c mut ShardCounts, state: &ShardState) -> &'c mut usize {
    match state {
        ShardState::Packed => &mut counts.waiting,
        ShardState::Uploaded { .. } | ShardState::Intended { .. } => &mut counts.uploaded,
        ShardState::Submitted { .. } => &mut counts.submitted,
        ShardState::Ended { .. } | ShardState::Downloaded { .. } => &mut counts.ended,
        ShardState::Indexed { .. } => &mut counts.indexed,
        ShardState::Held { .. } | ShardState::Lost { .. } | ShardState::Incomplete { .. } => &mut counts.held,
    }
}
