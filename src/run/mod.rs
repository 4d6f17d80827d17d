//! The run: drives shards through the three phases, and persists their state.
//!
//! In: [`Options`], an [`Api`] that answers, a place for the output, a [`Monitor`]. Out: a [`Summary`], and one output
//! line for each line of the input.
//!
//! | file | contents |
//! | --- | --- |
//! | [`options`] | what a run is asked to do |
//! | [`directory`] | where its state is stored, and the lock on it |
//! | `open` | from inputs to a run directory, new or existing |
//! | `identity`, `known`, `relocate` | when two runs are the same, which runs exist, and runs whose input has moved |
//! | `meta` | the Ledger's metadata of a run |
//! | `earlier` | a run that has paid for some of what another one is about to send |
//! | [`ledger`](crate::ledger) | the authoritative record of shards, batches and money |
//! | [`intents`](crate::ledger::intents) | a second record of what was sent, in case the Ledger loses it |
//! | [`shard_state`](crate::model::shard_state) | the state of a shard and its next step |
//! | [`incident`](crate::model::incident) | what went wrong |
//! | `step`, `step_error` | the work, as data |
//! | `executor` | where it runs |
//! | `files` | what it operates on |
//! | `download` | reply files |
//! | `indexing` | the contents and locations of replies |
//! | `verdict` | whether all answers of the service have been fetched |
//! | `rounds`, `retry_decision` | which requests are sent again |
//! | [`held`] | shards that wait for a decision |
//! | `driver` | when steps run, and their results |
//! | `targets` | output files, verified before anything is read |
//! | `output` | the output as it grows |
//! | `summary` | how it ended |
//! | [`inspect`], [`doctor`] | inspection of a run from outside |
//! | [`monitor`] | events for the caller |
//!
//! Invariants: starting and resuming are the same thing, because every step begins from the state in the Ledger.
//! Nothing here starts a service, reads the environment or prints.
//!
//! # At a billion requests
//!
//! The files that grow with the input, per line, shard or reply:
//!
//! | file | size | at 1,000,000,000 lines in 20,000 shards |
//! | --- | --- | --- |
//! | `requests.idx` | 32 bytes a line | 32 GB |
//! | `replies.idx` | 16 bytes a line | 16 GB |
//! | scratch for comparing ids, removed after the check | 17 bytes a line | 17 GB |
//! | `ledger.sqlite` and `intents.log` | 0.7 kB a shard | 14 MB |
//! | reply files | what the service sent | paid for, kept until `clean` |
//!
//! Memory is `--memory`, plus the driver's state of each shard and the service's list while it is read: about 8 kB a
//! shard in all. A run of 20,000 shards was measured with a peak of 214 MiB.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::input::check::LineLimits;
use crate::input::recheck::Recheck;
use crate::input::request_index::RequestIndex;
use crate::input::source::Source;
use crate::ledger::Ledger;
use crate::model::custom_id::IdHasher;
use crate::model::outcome::Indexed;
use crate::model::phase::Phase;
use crate::remote::{Api, Observer};
use crate::results::normalize::Shape;
use crate::results::reply_index::ReplyIndex;
use crate::run::error::Error;

pub(crate) mod checking;
pub mod directory;
pub mod doctor;
pub(crate) mod download;
mod driver;
mod earlier;
mod earlier_run;
pub mod error;
mod error_kind;
pub mod executor;
pub(crate) mod files;
pub mod held;
mod identity;
pub(crate) mod indexing;
pub mod inspect;
mod known;
mod meta;
pub mod monitor;
pub mod offline;
pub(crate) mod open;
pub mod options;
pub(crate) mod output;
mod relocate;
pub mod report;
mod retry_decision;
mod rounds;
pub mod step;
pub(crate) mod step_error;
mod summary;
pub(crate) mod targets;
mod transfer_meter;
pub(crate) mod verdict;

pub use directory::RunPlaces;
pub use earlier_run::EarlierRun;
pub use monitor::{Event, Monitor, Silent};
pub use options::{
    BatchOptions, InputOptions, OnAmbiguous, OnEarlier, Options, OutputTarget, Resources, ServiceIdentity,
    ServiceOptions,
};
pub use output::Outputs;
pub use report::Report;
pub use summary::Summary;

use crate::model::shard_state::{ShardRow, ShardState};
use crate::run::open::Prepared;
use directory::layout;
use driver::{Driver, DriverInputs};
use executor::{Executor, LocalExecutor};
use files::{Files, ShardPayload};
use held::HeldShard;
use output::{Ending, Merger, OpenOutputs, Written};

/// A run that is ready to be executed: its input is checked and packed, or it is an earlier one to resume. It is locked
/// against other processes.
pub struct Run {
    prepared: Prepared,
    options: Options,
    monitor: Arc<dyn Monitor>,
    stop: CancellationToken,
    begun: Instant,
}

impl fmt::Debug for Run {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Run").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Run {
    /// Checks and packs the inputs, or finds the existing run of them. Nothing is sent. The inputs are read on a
    /// separate thread.
    ///
    /// `stop` interrupts this and [`Run::execute`]: the run can be resumed.
    ///
    /// # Errors
    /// When the run cannot start: an input that cannot be read or has defects, a run directory that is damaged or in
    /// use.
    pub async fn open(options: Options, monitor: Arc<dyn Monitor>, stop: CancellationToken) -> Result<Self, Error> {
        let begun = Instant::now();
        options.check_report()?;
        let (asked, heard) = (options.clone(), monitor.clone());
        let prepared = beside(&stop, move || open::prepare(&asked, &*heard)).await?;
        Ok(Self { prepared, options, monitor, stop, begun })
    }

    /// The run directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.prepared.directory.path()
    }

    /// Forwards the notices of a client to this run's [`Monitor`].
    #[must_use]
    pub fn observer(&self) -> Observer {
        let monitor = self.monitor.clone();
        Observer::new(move |notice| monitor.event(Event::Call(notice)))
    }

    /// Gets every request answered by `api` and writes the replies in input order.
    ///
    /// # Errors
    /// When the run cannot continue. Requests that failed or are held are not errors: the [`Summary`] counts them.
    pub async fn execute(self, api: impl Api, outputs: Outputs) -> Result<Summary, Error> {
        self.execute_on(api, outputs, |here| here).await
    }

    /// As [`Run::execute`], with the steps run by the [`Executor`] that `place` makes of the one that would run them in
    /// this process.
    ///
    /// # Errors
    /// Those of [`Run::execute`].
    #[doc(hidden)]
    pub async fn execute_on<A: Api, E: Executor>(
        self,
        api: A,
        outputs: Outputs,
        place: impl FnOnce(LocalExecutor<A>) -> E,
    ) -> Result<Summary, Error> {
        outputs.check(&self.options)?;
        let (api, stop, lock) = (Arc::new(api), self.stop.child_token(), self.prepared.directory.clone());
        let working = work(Self { stop: stop.clone(), ..self }, api.clone(), outputs, place);
        let worked = unless_failed(&*api, working, &stop).await;
        api.close().await;
        // Kept until here: an `Api` may write into the directory, too.
        drop(lock);
        let mut summary = worked?;
        summary.count_again(api.sent_again());
        Ok(summary)
    }
}

/// Works until the end, or until the service fails.
async fn unless_failed(
    api: &impl Api,
    working: impl Future<Output = Result<Summary, Error>>,
    stop: &CancellationToken,
) -> Result<Summary, Error> {
    let mut working = Box::pin(working);
    let error = tokio::select! {
        worked = &mut working => return worked,
        error = api.failed() => error,
    };
    // Work in progress ends in an orderly way.
    stop.cancel();
    match working.await {
        Err(Error::Interrupted) => Err(error.into()),
        worked => worked,
    }
}

/// Takes a run from its current state to its end, with any service.
async fn work<A: Api, E: Executor>(
    Run { prepared, options, monitor, stop, begun }: Run,
    api: Arc<A>,
    outputs: Outputs,
    place: impl FnOnce(LocalExecutor<A>) -> E,
) -> Result<Summary, Error> {
    let Prepared { directory, ledger, source, requests, ids, line, resumed } = prepared;
    let (run, delete_remote) = (directory.path().to_owned(), options.batches.delete_remote);
    let files = Arc::new(files(&run, (source, requests, ids, line), &ledger, &options)?);
    attach(&*api, &files, &ledger)?;
    tell_start(&ledger, &run, resumed, &*monitor)?;

    let (recorded, outputs) = (ledger.reply_checksums()?, beside(&stop, || OpenOutputs::open(outputs)).await?);
    let merger = Merger::start(files.clone(), recorded, line, outputs, monitor.clone());
    let executor = Arc::new(place(LocalExecutor::new(api.clone(), files.clone(), &monitor)));
    let inputs =
        DriverInputs { api: api.clone(), executor, files: files.clone(), ledger, options, monitor, merger, stop };
    let (held, mut ledger, merger) = Driver::new(inputs)?.drive().await?;

    let lines = files.requests.len();
    let written = finish(files, held, merger, ledger.totals()?).await?;
    ledger.add_phase_times(&BTreeMap::from([(Phase::Merge, written.1.took)]))?;
    let mut summary = Summary::new(Report::of(&ledger, &run)?, written, lines, resumed, begun.elapsed())?;
    if summary.delivered {
        ledger.delivered()?;
        summary.report.delivered_at = ledger.delivered_at()?;
    }
    if delete_remote && summary.is_complete() {
        delete_files(&*api, &ledger).await?;
    }
    drop(directory);
    Ok(summary)
}

/// What the steps of a run operate on.
fn files(
    run: &Path,
    (source, requests, ids, line): (Arc<Source>, Arc<RequestIndex>, IdHasher, LineLimits),
    ledger: &Ledger,
    options: &Options,
) -> Result<Files, Error> {
    let packed = ledger.shards()?.into_iter().map(|known| known.shard).filter(|shard| shard.seq_range.is_none());
    Ok(Files {
        run: run.to_owned(),
        recheck: Recheck::new(source.clone(), requests.clone(), ids, run, packed),
        replies: ReplyIndex::open_or_create(&layout::replies_index(run), requests.len())?,
        source,
        requests,
        ids,
        envelope: line.envelope,
        threads: options.resources.threads,
        memory_bytes: options.resources.memory_share(),
        redactor: options.service.redactor.clone(),
    })
}

/// Writes the rest of the output, including lines for held requests, on a thread that may block.
async fn finish(
    files: Arc<Files>,
    held: Vec<ShardRow>,
    merger: Merger,
    totals: Indexed,
) -> Result<(Vec<HeldShard>, Written), Error> {
    let writing = tokio::task::spawn_blocking(move || {
        let (held, held_lines) = held::look_up(&files, &held)?;
        let ending = Ending { lines: files.requests.len(), held: held_lines, counted: (totals.outputs, totals.errors) };
        Ok((held, merger.finish(Some(ending))?))
    });
    writing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Tells `api` the lines of the files that earlier processes uploaded and whose batches have not ended.
fn attach(api: &impl Api, files: &Arc<Files>, ledger: &Ledger) -> Result<(), Error> {
    for ShardRow { shard, state, file_id, .. } in ledger.shards()? {
        if let Some(file_id) = file_id.filter(|_| state.ended_batch().is_none()) {
            api.attach(&file_id, Arc::new(ShardPayload { files: files.clone(), shard }));
        }
    }
    Ok(())
}

/// Deletes the run's files at the service. Idempotent: a missing file is not an error.
async fn delete_files(api: &impl Api, ledger: &Ledger) -> Result<(), Error> {
    for file_id in ledger.remote_files()? {
        api.delete_file(&file_id).await?;
    }
    Ok(())
}

impl Options {
    /// Refuses a report that would replace an input or a file of a run. Called before anything is read.
    fn check_report(&self) -> Result<(), Error> {
        let files = targets::checking(&self.input)?;
        Ok(targets::keep_out_of_runs(&files, self.directory.as_deref())?)
    }
}

impl Outputs {
    /// All lines into this file, which appears once it is complete.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { output: OutputTarget::File(path.into()), errors: None, shape: Shape::Native }
    }

    /// Refuses outputs that cannot be written, or that would replace an input, the report or a file of a run.
    /// [`Run::execute`] does the same; calling this before [`Run::open`] avoids reading gigabytes in vain.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn check(&self, options: &Options) -> Result<(), Error> {
        let mut files = targets::reading(&options.input)?;
        targets::write_outputs(&mut files, self)?;
        targets::write_report(&mut files, &options.input)?;
        Ok(targets::keep_out_of_runs(&files, options.directory.as_deref())?)
    }
}

/// Does what may block on a separate thread, so that an interrupt is handled meanwhile: while a named pipe waits for
/// its reader, or an input is read.
pub(crate) async fn beside<T: Send + 'static, E: Send + 'static>(
    stop: &CancellationToken,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Error>
where
    Error: From<E>,
{
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => {
            Ok(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
        }
        () = stop.cancelled() => Err(Error::Interrupted),
    }
}

fn tell_start(ledger: &Ledger, run: &Path, resumed: bool, monitor: &dyn Monitor) -> Result<(), Error> {
    let shards = ledger.shards()?;
    let bytes = |wanted: fn(&ShardState) -> bool| {
        shards.iter().filter(|known| wanted(&known.state)).map(|known| known.shard.bytes).sum()
    };
    monitor.event(Event::Started {
        directory: run,
        requests: ledger.requests()?,
        shards: shards.len(),
        bytes: bytes(|_| true),
        upload_bytes: bytes(|state| *state == ShardState::Packed),
        resumed,
        done: shards.iter().all(|known| matches!(known.state, ShardState::Indexed { .. })),
    });
    Ok(())
}
