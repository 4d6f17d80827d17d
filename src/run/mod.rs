//! The run: drives shards through the three phases, and keeps what must survive.
//!
//! In: [`RunOptions`], a place for the output, a [`Monitor`]. Out: a [`Summary`], and one output line for each line of the input.
//!
//! | file | what it knows |
//! | --- | --- |
//! | [`options`] | what a run is asked to do |
//! | [`directory`] | where its state lives, and who may work on it |
//! | `prepare` | from inputs to a run directory, new or found again |
//! | `identity`, `known`, `relocate` | which run is the same one, which there are, and one whose input has moved |
//! | `meta` | what the Ledger says of a run as a whole |
//! | `earlier` | a run that has paid for some of what another one is about to send |
//! | [`ledger`](crate::ledger) | the truth about shards, batches and money |
//! | [`intents`](crate::ledger::intents) | what was sent, once more, in case the Ledger forgets it |
//! | [`shard_state`](crate::model::shard_state) | where a shard stands and what it needs next |
//! | [`incident`](crate::model::incident) | what went wrong |
//! | `step`, `step_error` | what is done, as data |
//! | `executor` | where it is done |
//! | `files` | what it is done to |
//! | `download` | reply files |
//! | `indexing` | what replies say, and where each stands |
//! | `verdict` | whether they are all that the service has answered |
//! | `rounds`, `retry_decision` | what is sent again |
//! | [`held`] | what waits for a decision |
//! | `driver` | when it is done, and what came of it |
//! | `targets` | what is to be written, looked at before anything is read |
//! | `output` | the output as it grows |
//! | `summary` | how it ended |
//! | [`inspect`], [`doctor`] | looking at a run from outside |
//! | [`monitor`] | what is told to whoever runs it |
//!
//! What always holds: starting and resuming are the same thing, because every step begins from what the Ledger says.
//!
//! # At a billion requests
//!
//! What grows with the input are files, by what stands in each for a line, a shard or a reply:
//!
//! | what | for each | at 1,000,000,000 lines in 20,000 shards |
//! | --- | --- | --- |
//! | `requests.idx` | 32 bytes a line | 32 GB |
//! | `replies.idx` | 16 bytes a line | 16 GB |
//! | scratch for comparing ids, gone after the check | 17 bytes a line | 17 GB |
//! | `ledger.sqlite` and `intents.log` | 0.7 kB a shard | 14 MB |
//! | reply files | what the service sent | paid for, kept until `clean` |
//!
//! Memory is `--memory`, and what the driver knows of each shard, and the service's list while it is read: about 8 kB a shard in all. A run
//! of 20,000 shards was seen with a peak of 214 MiB.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::input::recheck::Recheck;
use crate::ledger::Ledger;
use crate::model::custom_id::IdHasher;
use crate::remote::{Address, Api, HttpApi, Notice, Observer, Settings};
use crate::results::reply_index::ReplyIndex;
use crate::run::error::Error;
use crate::serve::{ServeOptions, Server, UpstreamOptions};
use crate::storage::durable;

pub mod directory;
pub mod doctor;
pub(crate) mod download;
mod driver;
mod earlier;
mod earlier_run;
pub mod error;
mod error_kind;
mod executor;
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
#[cfg(test)]
mod simulation;
mod step;
pub(crate) mod step_error;
mod summary;
pub(crate) mod targets;
mod transfer_meter;
pub(crate) mod verdict;

pub use crate::run::open::DefectReport;
pub use directory::RunPlaces;
pub use earlier_run::EarlierRun;
pub use monitor::{Event, Monitor, Silent};
pub use options::{OnAmbiguous, OnEarlier, OutputTarget, RunOptions, ServiceChoice};
pub use output::Outputs;
pub use report::Report;
pub use summary::Summary;

use crate::model::shard_state::ShardState;
use crate::run::open::Prepared;
use directory::layout;
use driver::{Driver, DriverInputs};
use executor::LocalExecutor;
use files::Files;
use output::{Ending, Merger, OpenOutputs};

/// Why a request was sent again that a service without a Batch API may have answered: said in the [`Summary`].
const CRASHED: &str = "at the service when the process ended";

/// The same, of one whose answer did not get here.
const LOST: &str = "the answer was lost on its way";

/// Runs the inputs through the service and writes the replies in input order; or goes on with the run that began it.
///
/// `stop` interrupts the run: it can be gone on with.
///
/// # Errors
/// Whatever keeps the run from going on. Requests that failed or are held are no errors: the [`Summary`] has them.
pub async fn run(
    options: RunOptions,
    outputs: Outputs,
    monitor: Arc<dyn Monitor>,
    stop: CancellationToken,
) -> Result<Summary, Error> {
    let begun = Instant::now();
    check_targets(&options, &outputs)?;
    let prepared = prepare_beside(&options, &monitor, &stop).await?;
    let run = prepared.directory.path().to_owned();
    let (api, server) = connect(&options, &run, prepared.ids, &monitor).await?;
    let working = work(begun, prepared, Arc::new(api), options, outputs, monitor, stop.child_token());
    let Some(server) = server else { return working.await };
    let worked = Box::pin(unless_failed(&server, working, &stop)).await;
    let again = server.sent_again();
    let stopped = server.stop().await;
    let mut summary = worked?;
    stopped?;
    for (reason, requests) in [(CRASHED, again.crashed), (LOST, again.lost)] {
        if requests > 0 {
            summary.report.sent_again.insert(reason.to_owned(), requests);
        }
    }
    Ok(summary)
}

/// Works until the end, or until the built-in service cannot go on.
async fn unless_failed(
    server: &Server,
    working: impl Future<Output = Result<Summary, Error>>,
    stop: &CancellationToken,
) -> Result<Summary, Error> {
    tokio::pin!(working);
    let error = tokio::select! {
        worked = &mut working => return worked,
        error = server.failed() => error,
    };
    // What is under way with it is brought to an end in good order.
    stop.cancel();
    match working.await {
        Err(Error::Interrupted) => Err(error.into()),
        worked => worked,
    }
}

/// Takes a run from where it stands to its end, whoever the service is.
async fn work<A: Api>(
    begun: Instant,
    prepared: Prepared,
    api: Arc<A>,
    options: RunOptions,
    outputs: Outputs,
    monitor: Arc<dyn Monitor>,
    stop: CancellationToken,
) -> Result<Summary, Error> {
    let run = prepared.directory.path().to_owned();
    let Prepared { ledger, source, requests, ids, line, resumed, directory } = prepared;
    let replies = ReplyIndex::open_or_create(&layout::replies_index(&run), requests.len())?;
    let (threads, memory_bytes) = (options.threads, options.memory_bytes / options::MEMORY_SHARE);
    let packed = ledger.shards()?.into_iter().map(|known| known.shard).filter(|shard| shard.seq_range.is_none());
    let recheck = Recheck::new(source.clone(), requests.clone(), ids, &run, packed);
    let files = Arc::new(Files {
        run: run.clone(),
        source,
        requests,
        recheck,
        replies,
        ids,
        envelope: line.envelope,
        threads,
        memory_bytes,
        redactor: options.service.redactor(),
    });
    tell_start(&ledger, &run, resumed, &*monitor)?;
    let recorded = ledger.reply_checksums()?;
    let outputs = open_beside(outputs, &stop).await?;
    let merger = Merger::start(files.clone(), recorded, line, outputs, monitor.clone());
    let delete_remote = options.delete_remote;
    let executor = Arc::new(LocalExecutor::new(api.clone(), files.clone(), &monitor));
    let inputs =
        DriverInputs { api: api.clone(), executor, files: files.clone(), ledger, options, monitor, merger, stop };
    let (held, mut ledger, merger) = Driver::new(inputs)?.drive().await?;
    let totals = ledger.totals()?;
    let (lines, looking) = (files.requests.len(), files.clone());
    let writing = tokio::task::spawn_blocking(move || {
        let (held, held_lines) = held::look_up(&looking, &held)?;
        let ending = Ending { lines, held: held_lines, counted: (totals.outputs, totals.errors) };
        Ok::<_, Error>((held, merger.finish(Some(ending))?))
    });
    let written = writing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
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

/// Deletes what the run left at the service. One file that is already gone is no error; asking again is harmless.
async fn delete_files(api: &impl Api, ledger: &Ledger) -> Result<(), Error> {
    for file_id in ledger.remote_files()? {
        api.delete_file(&file_id).await?;
    }
    Ok(())
}

/// Looks at what is to be written, before anything is read or sent.
fn check_targets(options: &RunOptions, outputs: &Outputs) -> Result<(), Error> {
    let mut files = targets::reading(&options.inputs)?;
    targets::write_outputs(&mut files, outputs)?;
    targets::write_report(&mut files, options.report.as_deref())?;
    Ok(targets::keep_out_of_runs(&files, options.directory.as_deref())?)
}

/// Opens the outputs on a thread of its own: a named pipe has to wait for its reader, and an interrupt is heard meanwhile.
async fn open_beside(outputs: Outputs, stop: &CancellationToken) -> Result<OpenOutputs, Error> {
    let opening = tokio::task::spawn_blocking(move || OpenOutputs::open(outputs));
    tokio::select! {
        opened = opening => Ok(opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?),
        () = stop.cancelled() => Err(Error::Interrupted),
    }
}

/// Reads and checks the input on a thread of its own, so that an interrupt is heard meanwhile.
async fn prepare_beside(
    options: &RunOptions,
    monitor: &Arc<dyn Monitor>,
    stop: &CancellationToken,
) -> Result<Prepared, Error> {
    let (options, monitor) = (options.clone(), monitor.clone());
    let preparing = tokio::task::spawn_blocking(move || open::prepare(&options, &*monitor));
    tokio::select! {
        prepared = preparing => prepared.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
        () = stop.cancelled() => Err(Error::Interrupted),
    }
}

/// The client, and the built-in service if that is what it talks to.
async fn connect(
    options: &RunOptions,
    run: &Path,
    ids: IdHasher,
    monitor: &Arc<dyn Monitor>,
) -> Result<(HttpApi, Option<Server>), Error> {
    let monitor = monitor.clone();
    let observer = Observer::new(move |notice: &Notice<'_>| monitor.event(Event::Call(notice)));
    let settings = Settings { observer: observer.clone(), ..Settings::default() };
    match &options.service {
        ServiceChoice::At { provider, address, token } => {
            Ok((HttpApi::new(provider, address.clone(), token.clone(), settings)?, None))
        }
        ServiceChoice::BuiltIn { provider } => {
            let server = start(run, ServeOptions { dialect: provider.dialect, ..ServeOptions::default() }).await?;
            let address = Address::parse(&server.base_url())?;
            Ok((HttpApi::new(provider, address, Some(options::built_in_token()), settings)?, Some(server)))
        }
        ServiceChoice::Online { provider, address, token, concurrency, patience } => {
            let upstream = UpstreamOptions {
                concurrency: *concurrency,
                give_up_after: Some(*patience),
                observer,
                ..UpstreamOptions::new(address.clone(), token.clone())
            };
            let own = options::own_token(ids.key);
            let token = Some(own.clone().into_secret());
            let server =
                start(run, ServeOptions { token, upstream: Some(upstream), ..ServeOptions::default() }).await?;
            let address = Address::parse(&server.base_url())?;
            Ok((HttpApi::new(provider, address, Some(own), settings)?, Some(server)))
        }
    }
}

/// Starts the built-in service in the run directory.
async fn start(run: &Path, options: ServeOptions) -> Result<Server, Error> {
    let directory = layout::local(run);
    durable::create_directory(&directory)?;
    Ok(Server::start(ServeOptions { directory, ..options }).await?)
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
