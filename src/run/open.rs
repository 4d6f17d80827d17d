//! From inputs to a run directory with shards: the part of a run before anything is sent.
//!
//! In: the inputs. Out: a locked run directory, new or existing, with its Source, indexes and Ledger open.
//!
//! Invariants: a run is found by the content of its input, not by its name, so the same data through a pipe resumes the
//! run that a file started. No part of a new run has its final name before all of the input is known to be valid.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::input::check::LineLimits;
use crate::input::request_index::RequestIndex;
use crate::input::scan::Scan;
use crate::input::source::Source;
use crate::ledger::Ledger;
use crate::model::custom_id::IdHasher;
use crate::model::phase::Phase;
use crate::run::checking;
use crate::run::directory::{Incoming, RunDirectory, layout, require_own};
use crate::run::earlier;
use crate::run::error::Error;
use crate::run::identity::Identity;
use crate::run::known::{KnownRuns, directory_name};
use crate::run::meta::{BegunIn, RunMeta, record_parts};
use crate::run::monitor::Monitor;
use crate::run::options::{OnEarlier, Options};
use crate::run::relocate::relocate;

/// A run directory that is ready for the driver.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its lock is held as long as anything here writes into it.
    pub(crate) directory: Arc<RunDirectory>,
    pub(crate) ledger: Ledger,
    pub(crate) source: Arc<Source>,
    pub(crate) requests: Arc<RequestIndex>,
    pub(crate) ids: IdHasher,
    pub(crate) line: LineLimits,
    /// Whether the run existed before.
    pub(crate) resumed: bool,
}

/// Finds the run of these inputs, or creates it.
pub(crate) fn prepare(options: &Options, monitor: &dyn Monitor) -> Result<Prepared, Error> {
    let identity = Identity::of(options);
    let known = known_runs(options)?;
    if let Some(run) = known.with_unchanged_inputs(options, &identity) {
        let prepared = open_run(RunDirectory::open(run)?, None, true)?;
        if prepared.requests.is_empty() && !options.input.allow_empty {
            return Err(Error::Empty { blank: 0 });
        }
        return Ok(prepared);
    }
    let parent = match &options.directory {
        Some(directory) => directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        None => &options.places.home,
    };
    let incoming = Incoming::create(parent)?;
    let (ids, begun) = (IdHasher::random(), Instant::now());
    let source = checking::open_source(&options.input, incoming.path(), monitor)?;
    let scan = check(options, &source, ids, incoming.path(), monitor)?;
    let checked_in = begun.elapsed();
    let fingerprint = identity.fingerprint(&scan);
    let target = match &options.directory {
        Some(directory) => directory.clone(),
        None => options.places.home.join(directory_name(&fingerprint)),
    };
    // Another process may have created it meanwhile.
    let there = known.with_lines(options, &identity, &scan).unwrap_or(&target);
    if layout::ledger(there).is_file() {
        return go_on_with(there, (&identity, &scan), &source, incoming.path());
    }
    if layout::requests(&target).is_file() {
        let hint = "restore the ledger; remove the directory only if nothing of it was submitted".to_owned();
        return Err(Error::Directory { path: target, what: "has lost its ledger".to_owned(), hint });
    }
    ask_about_earlier(options, &known, (&identity, &scan), &target, monitor)?;
    let meta = RunMeta {
        created_at: jiff::Timestamp::now().to_string(),
        fingerprint,
        service: options.service.identity.to_string(),
        endpoint: options.service.endpoint.clone(),
        skip_invalid: options.input.skip_invalid,
        ids,
        line: options.input.line,
        lines: scan.requests + scan.defects,
        requests: scan.requests,
        begun_in: BegunIn::here(),
        parts: record_parts(&source)?,
    };
    source.sync_spools()?;
    drop(source);
    publish(incoming, &target, &meta, (&scan, checked_in))
}

/// The runs that may be the one to resume.
fn known_runs(options: &Options) -> Result<KnownRuns, Error> {
    match &options.directory {
        Some(directory) => {
            require_own(directory)?;
            Ok(KnownRuns::look_at(directory))
        }
        None => KnownRuns::look(&options.places),
    }
}

/// Asks for confirmation if an earlier run has paid for some of the input.
fn ask_about_earlier(
    options: &Options,
    known: &KnownRuns,
    new: (&Identity, &Scan),
    target: &Path,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    if options.batches.on_earlier == OnEarlier::SendAll {
        return Ok(());
    }
    // With --run-dir nothing else has been read yet. The home may be unusable, which may be the reason for --run-dir.
    let home =
        options.directory.as_ref().map(|_| KnownRuns::look(&options.places).unwrap_or_else(|_| KnownRuns::default()));
    let others = home.as_ref().unwrap_or(known);
    match earlier::find(others.readable(), options, new, target) {
        Some(earlier) if !monitor.sends_again(&earlier) => Err(Error::PaidBefore(Box::new(earlier))),
        _ => Ok(()),
    }
}

/// Creates a new run's Ledger, and gives its directory its final name.
fn publish(
    incoming: Incoming,
    target: &Path,
    meta: &RunMeta,
    (scan, checked_in): (&Scan, Duration),
) -> Result<Prepared, Error> {
    // Created here, it is private to its owner; SQLite gives its side files the same mode.
    drop(crate::storage::durable::open_or_create(&layout::ledger(incoming.path()))?);
    let mut ledger = Ledger::create(&layout::ledger(incoming.path()), &meta.rows()?, &scan.shards)?;
    ledger.add_phase_times(&BTreeMap::from([(Phase::Check, checked_in)]))?;
    drop(ledger);
    crate::storage::durable::create_directory(&layout::replies(incoming.path()))?;
    let directory = match incoming.publish(target) {
        Err(Error::File(error)) if error.source.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            // Another process has created the same run meanwhile, and is most likely using it.
            drop(RunDirectory::open(target)?);
            return Err(Error::Raced { path: target.to_owned() });
        }
        published => published?,
    };
    open_run(directory, None, false)
}

/// Opens the run at `target`, whose lines the inputs were found to have.
fn go_on_with(
    target: &Path,
    (identity, scan): (&Identity, &Scan),
    source: &Source,
    incoming: &Path,
) -> Result<Prepared, Error> {
    let directory = RunDirectory::open(target)?;
    let mut ledger = Ledger::open(&layout::ledger(target))?;
    let meta = RunMeta::read(&ledger)?;
    if !identity.is_of(&meta, scan) {
        return Err(Error::OtherDirectory {
            path: target.to_owned(),
            what: "holds the run of another input, service or endpoint".to_owned(),
            hint: "name another directory, or omit --run-dir".to_owned(),
        });
    }
    if !meta.parts_unchanged(target) {
        // The lines are the same but the file has moved: these inputs replace it.
        relocate(&mut ledger, target, incoming, &record_parts(source)?)?;
    }
    open_run(directory, Some(ledger), true)
}

/// Opens the files of a run directory.
pub(crate) fn open_run(directory: RunDirectory, ledger: Option<Ledger>, resumed: bool) -> Result<Prepared, Error> {
    let path = directory.path();
    let ledger = match ledger {
        Some(ledger) => ledger,
        None => Ledger::open(&layout::ledger(path))?,
    };
    if let Some(what) = ledger.damage()?.into_iter().next() {
        return Err(ledger.damaged(what).into());
    }
    let RunMeta { lines, ids, line, parts, .. } = RunMeta::read(&ledger)?;
    let requests = RequestIndex::open(&layout::requests(path))?;
    if requests.len() != lines {
        let what = format!("has a request index of {} lines, {lines} were checked", requests.len());
        let hint = "remove the directory if nothing of it was submitted, as shown by `batchline status`".to_owned();
        return Err(Error::Directory { path: path.to_owned(), what, hint });
    }
    if parts.is_empty() && lines > 0 {
        // A crash during relocation, or a version that lost paths that are not UTF-8.
        let (what, hint) = ("has no input", "run its own command again: it finds the input by its lines");
        return Err(Error::Directory { path: path.to_owned(), what: what.to_owned(), hint: hint.to_owned() });
    }
    let places = parts.into_iter().map(|part| (part.name, path.join(part.path)));
    let source = Source::reopen(places)?;
    Ok(Prepared {
        source: Arc::new(source),
        requests: Arc::new(requests),
        ids,
        line,
        resumed,
        ledger,
        directory: Arc::new(directory),
    })
}

/// Checks and packs the input; an error if it has Defects that are not to be skipped, or no requests.
fn check(
    options: &Options,
    source: &Source,
    ids: IdHasher,
    incoming: &Path,
    monitor: &dyn Monitor,
) -> Result<Scan, Error> {
    let (how, index) = ((&options.input, &options.resources), layout::requests(incoming));
    let scan = checking::check(how, source, ids, (incoming, Some(&index)), monitor)?;
    checking::refuse_defects(&options.input, &scan)?;
    Ok(scan)
}
