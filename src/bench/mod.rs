//! What this machine makes of each stage of a run, beside what it makes of plain reading and copying.
//!
//! In: a local service that is running, and an amount. Out: a [`Measured`] for each stage, in the data's order. From
//! `plan` on they are the stages of one run, with its Ledger and its driver, whose stages are kept apart.
//!
//! | stage | what is measured | floor |
//! | --- | --- | --- |
//! | read | the input is read in blocks, on all threads | |
//! | copy | the input is read and written again, on one thread, not synced | |
//! | check | `batchline check`: framing, JSON, rules, uniqueness | read |
//! | plan | a run is opened: the same, with shards, the request index and the Ledger, synced | read |
//! | upload | every shard to the service over loopback, its checksum verified on the way | copy |
//! | download | every reply file from the service, synced | copy |
//! | index | every reply finds its request | read |
//! | merge | the ordered output, written but not synced | copy |
//!
//! Invariant: everything is in a directory of its own.

mod floors;
mod gauge;
mod stages;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use gauge::Measured;

use crate::generate::{Amount, GenerateOptions, Generated, generate};
use crate::remote::{Address, ErrorKind, HttpApi, Provider, RemoteError, RetryPolicy, Settings, Token};
use crate::results::normalize::Shape;
use crate::run::error::Error;
use crate::run::offline::{self, OfflineOptions};
use crate::run::{Options, OutputTarget, Outputs, Resources, Run, Silent, beside};
use crate::storage::durable;
use crate::storage::durable::{FileError, PendingFile};
use floors::{READ, copy, read, warm};
use gauge::Gauge;
use stages::{Apart, LateReader, Stages};

/// Time between two looks at the service's list.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What to measure, and with what.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// An empty directory for all that is written. The caller removes it, once all threads of the runtime have ended:
    /// one that reads or writes a large file does not end at once.
    pub directory: PathBuf,
    /// What is generated.
    pub amount: Amount,
    /// The models that requests ask for, in turn; none for those that [`GenerateOptions`] has by default.
    pub models: Vec<String>,
    /// What may be used of this machine.
    pub resources: Resources,
    /// The service, and what it takes.
    pub provider: &'static Provider,
    /// Where it is.
    pub service: Address,
    /// The key that it wants.
    pub token: Token,
}

/// Measures each stage and tells what it took as soon as it is done, until `stop`.
///
/// # Errors
/// Whatever keeps a stage from being done, or from being done at once.
pub async fn bench(
    options: BenchOptions,
    stop: CancellationToken,
    tell: Arc<dyn Fn(Measured) + Send + Sync>,
) -> Result<(), Error> {
    let place = options.directory.clone();
    // A call that is made twice is no measure.
    let retry = RetryPolicy { attempts: 1, rate_limited_attempts: 1, ..RetryPolicy::default() };
    let settings = Settings { retry, ..Settings::default() };
    let api = HttpApi::new(options.provider, options.service.clone(), Some(options.token.clone()), settings)
        .map_err(|error| Error::Configuration { what: error.to_string(), hint: None })?;
    let input = place.join("input.jsonl");
    let mut run = Options::new([&input], options.provider);
    run.places.home = place.join("runs");
    run.resources = options.resources;
    // Those that may run at a time are let through by the stages.
    run.batches.uploads = usize::MAX;
    run.batches.poll_interval = LOOK_INTERVAL;
    let (before, run_later, told) = (place.clone(), run.clone(), tell.clone());
    let generated = beside(&stop, move || before_a_run(&options, &run_later, (&input, &before), &*told)).await?;

    let (trouble, mut troubles) = mpsc::unbounded_channel();
    // However this ends, no thread waits for a stage any longer.
    let waiting = stop.child_token();
    let _ended = waiting.clone().drop_guard();
    let stages = Arc::new(Stages::new(&place, generated, tell.clone(), trouble, waiting));
    let gauge = Gauge::start();
    let run = Run::open(run, stages.clone(), stop).await?;
    tell(gauge.stop("plan", Some(READ), (generated.bytes, generated.requests)));
    let output = durable::create_new(&place.join("output"))?;
    let output = OutputTarget::Writer(Box::new(LateReader::new(output, stages.clone())));
    let outputs = Outputs { output, errors: None, shape: Shape::Native };
    let running = run.execute_on(api, outputs, |executor| Apart { executor, stages: stages.clone() });
    let summary = tokio::select! {
        summary = Box::pin(running) => summary?,
        Some(trouble) = troubles.recv() => return Err(RemoteError::new(ErrorKind::GivenUp, trouble).into()),
    };
    if !summary.is_complete() || !stages.are_over() {
        let what = format!("{} of {} requests have an output", summary.report.outcomes.outputs, summary.lines);
        return Err(Error::Internal { what });
    }
    Ok(())
}

/// Makes the input, and measures what needs no run.
fn before_a_run(
    options: &BenchOptions,
    run: &Options,
    (input, place): (&Path, &Path),
    tell: &dyn Fn(Measured),
) -> Result<Generated, Error> {
    let generated = make_input(options, input)?;
    tell(read(input, options.resources.threads)?);
    warm(place, generated.bytes)?;
    tell(copy(input, &place.join("copy"))?);
    let check = OfflineOptions { input: run.input.clone(), resources: run.resources, scratch: place.to_owned() };
    let gauge = Gauge::start();
    offline::check(&check, &Silent)?;
    tell(gauge.stop("check", Some(READ), (generated.bytes, generated.requests)));
    Ok(generated)
}

fn make_input(options: &BenchOptions, path: &Path) -> Result<Generated, Error> {
    let mut file = PendingFile::create(path)?;
    let mut wanted = GenerateOptions { amount: options.amount, ..GenerateOptions::default() };
    if !options.models.is_empty() {
        wanted.models.clone_from(&options.models);
    }
    let generated = generate(&wanted, &mut file).map_err(FileError::on("write", path))?;
    file.publish_unsynced()?;
    Ok(generated)
}
