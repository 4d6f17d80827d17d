//! From inputs to a run directory with shards: the part of a run before anything is sent.
//!
//! In: the inputs. Out: a locked run directory, new or found again, with its Source, indexes and Ledger open.
//!
//! What always holds: a run is found again by what its input says, not by what it is called, so the same data through a pipe goes
//! on with the run that a file began. Nothing of a new run has its name before all of the input is known to be good.

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::directory::{self, Incoming, RunDirectory, layout};
use super::ledger::Ledger;
use super::monitor::{Event, Monitor};
use super::options::{MEMORY_SHARE, RunOptions};
use crate::custom_id::IdHasher;
use crate::durable::{FileError, PendingFile};
use crate::error::Error;
use crate::input::InputError;
use crate::input::check::LineLimits;
use crate::input::defect::PlacedDefect;
use crate::input::envelope::Envelope;
use crate::input::request_index::RequestIndex;
use crate::input::scan::{self, Scan, ScanOptions};
use crate::input::source::{FileIdentity, Input, Source};

/// A run directory that is ready to be driven.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) directory: RunDirectory,
    pub(crate) ledger: Ledger,
    pub(crate) source: Arc<Source>,
    pub(crate) requests: Arc<RequestIndex>,
    pub(crate) ids: IdHasher,
    pub(crate) line: LineLimits,
    /// Whether the run was there before.
    pub(crate) resumed: bool,
}

/// A part of the Source as the Ledger records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedPart {
    name: String,
    /// Where it is; for a spool, its name in the run directory.
    path: PathBuf,
    spooled: bool,
    /// What the user's file was like; none for standard input.
    identity: Option<FileIdentity>,
}

/// Finds the run of these inputs, or makes it.
pub(crate) fn prepare(options: &RunOptions, monitor: &dyn Monitor) -> Result<Prepared, Error> {
    if let Some(prepared) = find_unchanged(options)? {
        return Ok(prepared);
    }
    let parent = match &options.directory {
        Some(directory) => directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        None => &options.runs,
    };
    let incoming = Incoming::create(parent)?;
    let ids = IdHasher::random();
    let source = open_source(options, incoming.path(), monitor)?;
    let scan = check(options, &source, ids, incoming.path(), monitor)?;
    let fingerprint = fingerprint(options, &scan);
    let target = options.directory.clone().unwrap_or_else(|| options.runs.join(&fingerprint[..16]));
    if layout::ledger(&target).is_file() {
        return go_on_with(&target, &fingerprint, &source, incoming.path(), options);
    }
    if layout::requests(&target).is_file() {
        let hint = "restore the ledger; remove the directory only if nothing of it was submitted".to_owned();
        return Err(Error::Directory { path: target, what: "has lost its ledger".to_owned(), hint });
    }
    let parts = record_parts(options, &source)?;
    let text = |value: serde_json::Result<String>| value.unwrap_or_default();
    let meta = [
        ("created_at", jiff::Timestamp::now().to_string()),
        ("fingerprint", fingerprint),
        ("service", options.service.identity()),
        ("endpoint", options.endpoint.clone()),
        ("id_key", format!("{:016x}", ids.key)),
        ("line_bytes", options.line.line_bytes.to_string()),
        ("envelope", options.line.envelope.to_string()),
        ("assign_ids", options.line.assign_ids.to_string()),
        ("custom_id_characters", options.line.custom_id_characters.to_string()),
        ("lines", (scan.requests + scan.defects).to_string()),
        ("requests", scan.requests.to_string()),
        ("skip_invalid", options.skip_invalid.to_string()),
        ("parts", text(serde_json::to_string(&parts))),
    ];
    source.sync_spools()?;
    // Made here, it is its owner's alone; SQLite gives its side files the same mode.
    drop(crate::durable::open_or_create(&layout::ledger(incoming.path()))?);
    drop(Ledger::create(&layout::ledger(incoming.path()), &meta, &scan.shards)?);
    crate::durable::create_directory(&layout::replies(incoming.path()))?;
    drop(source);
    let directory = match incoming.publish(&target) {
        Err(Error::File(error)) if error.source.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            // Another process has made the same run meanwhile, and most likely works on it.
            drop(RunDirectory::open(&target)?);
            let (what, hint) = ("was made by another process just now", "run the same command again");
            return Err(Error::Directory { path: target, what: what.to_owned(), hint: hint.to_owned() });
        }
        published => published?,
    };
    open_run(directory, None, false)
}

/// The run whose files are the same, by name, size and time, as those given: they need not be read again.
fn find_unchanged(options: &RunOptions) -> Result<Option<Prepared>, Error> {
    let mut wanted = Vec::new();
    for input in &options.inputs {
        let Input::File(path) = input else { return Ok(None) };
        match FileIdentity::of(path) {
            Ok(identity) => wanted.push(Some(identity)),
            Err(_) => return Ok(None),
        }
    }
    let candidates = match &options.directory {
        Some(directory) if layout::ledger(directory).is_file() => vec![directory.clone()],
        Some(_) => Vec::new(),
        None => directory::runs(&options.runs)?,
    };
    for path in candidates {
        // A run that cannot be read is somebody else's trouble until it turns out to be this input's.
        let Ok(ledger) = Ledger::open(&layout::ledger(&path)) else { continue };
        let parts: Vec<RecordedPart> = recorded_parts(&ledger)?;
        let same_files = parts.iter().map(|part| part.identity.clone()).eq(wanted.iter().cloned());
        if same_files && same_service(options, &ledger)? {
            drop(ledger);
            return open_run(RunDirectory::open(&path)?, None, true).map(Some);
        }
    }
    Ok(None)
}

fn same_service(options: &RunOptions, ledger: &Ledger) -> Result<bool, Error> {
    Ok(ledger.meta("service")? == options.service.identity()
        && ledger.meta("endpoint")? == options.endpoint
        && ledger.meta("skip_invalid")? == options.skip_invalid.to_string()
        && assigns_ids(ledger) == options.line.assign_ids)
}

/// Runs from before there was a choice say nothing.
fn assigns_ids(ledger: &Ledger) -> bool {
    ledger.meta("assign_ids").is_ok_and(|text| text == "true")
}

/// Opens the run of inputs that were read and found to be the ones of `target`.
fn go_on_with(
    target: &Path,
    fingerprint: &str,
    source: &Source,
    incoming: &Path,
    options: &RunOptions,
) -> Result<Prepared, Error> {
    let directory = RunDirectory::open(target)?;
    let mut ledger = Ledger::open(&layout::ledger(target))?;
    let other = |what: &str, hint: &str| Error::Directory {
        path: target.to_owned(),
        what: what.to_owned(),
        hint: hint.to_owned(),
    };
    if ledger.meta("fingerprint")? != fingerprint {
        return Err(other(
            "holds the run of another input, service or endpoint",
            "name another directory, or leave --run-dir away",
        ));
    }
    if parts_unchanged(&ledger, target)? {
        return open_run(directory, Some(ledger), true);
    }
    // The lines are the same but the file is not where it was: these inputs can stand in for it, if laid out alike.
    if !same_layout(&layout::requests(target), &layout::requests(incoming))? {
        return Err(other(
            "has lost its input: the same lines are now laid out differently",
            "put the original file back where it was",
        ));
    }
    let parts = record_parts(options, source)?;
    for part in parts.iter().filter(|part| part.spooled) {
        crate::durable::publish(&incoming.join(&part.path), &target.join(&part.path))?;
    }
    ledger.set_meta("parts", &serde_json::to_string(&parts).unwrap_or_default())?;
    open_run(directory, Some(ledger), true)
}

/// Opens what is in a run directory.
pub(crate) fn open_run(directory: RunDirectory, ledger: Option<Ledger>, resumed: bool) -> Result<Prepared, Error> {
    let path = directory.path();
    let ledger = match ledger {
        Some(ledger) => ledger,
        None => Ledger::open(&layout::ledger(path))?,
    };
    if let Some(what) = ledger.damage()?.into_iter().next() {
        return Err(ledger.damaged(what).into());
    }
    let number = |key: &str| -> Result<u64, Error> {
        let text = ledger.meta(key)?;
        Ok(text.parse().map_err(|_| ledger.damaged(format!("{key} is {text:?}")))?)
    };
    let key = ledger.meta("id_key")?;
    let key = u64::from_str_radix(&key, 16).map_err(|_| ledger.damaged(format!("the id key is {key:?}")))?;
    let line = LineLimits {
        line_bytes: number("line_bytes")?,
        custom_id_characters: usize::try_from(number("custom_id_characters")?).unwrap_or(usize::MAX),
        // Runs from before there was a choice say nothing.
        envelope: ledger.meta("envelope").ok().and_then(|text| Envelope::read(&text)).unwrap_or_default(),
        assign_ids: assigns_ids(&ledger),
    };
    let requests = RequestIndex::open(&layout::requests(path))?;
    if requests.len() != number("lines")? {
        let what = format!("has a request index of {} lines, {} were checked", requests.len(), number("lines")?);
        let hint = "remove the directory if nothing of it was submitted; `batchline status` tells".to_owned();
        return Err(Error::Directory { path: path.to_owned(), what, hint });
    }
    let parts = recorded_parts(&ledger)?;
    let places = parts.into_iter().map(|part| (part.name, path.join(part.path), part.spooled));
    let source = Source::reopen(places)?;
    let ids = IdHasher { key };
    Ok(Prepared { source: Arc::new(source), requests: Arc::new(requests), ids, line, resumed, ledger, directory })
}

/// Spools and opens the inputs.
fn open_source(options: &RunOptions, spool: &Path, monitor: &dyn Monitor) -> Result<Source, Error> {
    Ok(Source::open(&options.inputs, spool, &|bytes| monitor.event(Event::Spooled { bytes }))?)
}

/// Checks and packs the input; an error if it has defects that are not to be skipped, or no requests.
fn check(
    options: &RunOptions,
    source: &Source,
    ids: IdHasher,
    incoming: &Path,
    monitor: &dyn Monitor,
) -> Result<Scan, Error> {
    let scan_options = ScanOptions {
        line: options.line,
        shard: options.shard,
        threads: options.threads,
        memory_bytes: options.memory_bytes / MEMORY_SHARE,
        ids,
        skip_invalid: options.skip_invalid,
        scratch: incoming.to_owned(),
    };
    let total = source.bytes();
    let mut defects = DefectReport::create(options.report.as_deref(), options.max_defects)?;
    let mut hear = |placed: PlacedDefect| defects.hear(&placed, monitor);
    let progress = |bytes| monitor.event(Event::Checked { bytes, total });
    let scan = scan::scan(source, &scan_options, Some(&layout::requests(incoming)), &mut hear, &progress)?;
    defects.finish()?;
    if scan.defects > 0 && !options.skip_invalid {
        return Err(Error::Defects { defects: scan.defects, lines: scan.lines - scan.blank });
    }
    Ok(scan)
}

/// Where Defects go: the first few to the monitor, all of them to the report.
#[derive(Debug)]
pub struct DefectReport {
    report: Option<std::io::BufWriter<PendingFile>>,
    left: Cell<u64>,
}

impl DefectReport {
    /// A report at `path`, if there is one; `shown_max` Defects go to the monitor.
    pub fn create(path: Option<&Path>, shown_max: u64) -> Result<Self, FileError> {
        let report = path.map(PendingFile::create).transpose()?.map(std::io::BufWriter::new);
        Ok(Self { report, left: Cell::new(shown_max) })
    }

    /// Takes a Defect, and says whether more are wanted.
    pub fn hear(&mut self, placed: &PlacedDefect, monitor: &dyn Monitor) -> Result<bool, InputError> {
        if self.left.get() > 0 {
            self.left.set(self.left.get() - 1);
            monitor.event(Event::Defect(placed));
        }
        if let Some(report) = &mut self.report {
            let target = report.get_ref().target().to_owned();
            let line = serde_json::to_vec(placed).map_err(std::io::Error::from);
            let written = line.and_then(|line| report.write_all(&line).and_then(|()| report.write_all(b"\n")));
            written.map_err(FileError::on("write", &target))?;
        }
        Ok(self.left.get() > 0 || self.report.is_some())
    }

    /// Makes the report appear.
    pub fn finish(self) -> Result<(), FileError> {
        let Some(report) = self.report else { return Ok(()) };
        let target = report.get_ref().target().to_owned();
        report.into_inner().map_err(|error| FileError::on("write", &target)(error.into_error()))?.publish()
    }
}

/// What the run is named after: the same lines for the same service.
fn fingerprint(options: &RunOptions, scan: &Scan) -> String {
    let identity = format!(
        "{:032x}\n{}\n{}\n{}{}",
        scan.fingerprint,
        options.service.identity(),
        options.endpoint,
        options.skip_invalid,
        // Said only where it is so: runs from before there was a choice are found again.
        if options.line.assign_ids { "\nassign_ids" } else { "" }
    );
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(identity.as_bytes()))
}

fn record_parts(options: &RunOptions, source: &Source) -> Result<Vec<RecordedPart>, Error> {
    let mut recorded = Vec::new();
    for (part, input) in source.parts().iter().zip(&options.inputs) {
        let identity = match input {
            Input::File(path) => Some(FileIdentity::of(path)?),
            Input::Stdin => None,
        };
        let path = if part.spooled {
            PathBuf::from(part.path.file_name().unwrap_or_default())
        } else {
            std::path::absolute(&part.path).map_err(FileError::on("resolve", &part.path))?
        };
        recorded.push(RecordedPart { name: part.name.clone(), path, spooled: part.spooled, identity });
    }
    Ok(recorded)
}

fn recorded_parts(ledger: &Ledger) -> Result<Vec<RecordedPart>, Error> {
    let text = ledger.meta("parts")?;
    Ok(serde_json::from_str(&text).map_err(|error| ledger.damaged(format!("its parts: {error}")))?)
}

/// The inputs of a run, as they were named.
pub(super) fn input_names(ledger: &Ledger) -> Result<Vec<String>, Error> {
    Ok(recorded_parts(ledger)?.into_iter().map(|part| part.name).collect())
}

/// Whether the files that the run reads from are as they were: the user's untouched, the spools there.
fn parts_unchanged(ledger: &Ledger, run: &Path) -> Result<bool, Error> {
    Ok(recorded_parts(ledger)?.iter().all(|part| {
        if part.spooled {
            run.join(&part.path).is_file()
        } else {
            part.identity.is_some() && FileIdentity::of(&part.path).ok() == part.identity
        }
    }))
}

/// Whether two indexes give every line the same place and the same shard.
fn same_layout(one: &Path, other: &Path) -> Result<bool, Error> {
    let (one, other) = (RequestIndex::open(one)?, RequestIndex::open(other)?);
    let mut same = one.len() == other.len();
    let mut records = Vec::new();
    let mut first = 0;
    one.scan(0, u64::MAX - 1, |seq, record| {
        if seq >= first {
            other.read(seq, 4096, &mut records)?;
            first = seq + records.len() as u64;
        }
        let behind = usize::try_from(first - seq).unwrap_or(usize::MAX);
        let twin = records.len().checked_sub(behind).and_then(|at| records.get(at));
        let place =
            |record: &crate::input::request_index::Record| (record.offset, record.length, record.shard, record.state);
        same &= twin.map(place) == Some(place(record));
        Ok::<_, FileError>(())
    })?;
    Ok(same)
}
