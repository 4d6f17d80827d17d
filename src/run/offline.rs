//! Operations without a service: check, plan, split and merge local files.
//!
//! In: inputs, and reply files that the user downloaded. Out: Defects, shards, shard files, ordered replies. Scratch
//! files are in a separate directory and are removed with it.

use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dialect::provider::Provider;
use crate::input::InputError;
use crate::input::request_index::{LineState, RequestIndex};
use crate::input::scan::Scan;
use crate::input::shard_reader::ShardReader;
use crate::input::source::{self, Input, Source};
use crate::model::custom_id::IdHasher;
use crate::model::outcome::Indexed;
use crate::model::reply::ReplyRole;
use crate::results::ResultsError;
use crate::results::index::ReplyFile;
use crate::results::join::{Join, JoinOptions};
use crate::results::merge::{self, MergeInputs, Merged};
use crate::results::reply_cache::ReplyCache;
use crate::results::reply_index::ReplyIndex;
use crate::results::side_files::{Aside, SideFiles};
use crate::run::directory::Incoming;
use crate::run::error::Error;
use crate::run::options::{InputOptions, Resources};
use crate::run::output::{OpenOutputs, Unanswering};
use crate::run::{Event, Monitor, Outputs, checking, targets};
use crate::storage::aligned::BlockWriter;
use crate::storage::directory;
use crate::storage::durable;
use crate::storage::durable::{FileError, PendingFile};
use crate::storage::user_files::{Role, TargetError};

/// The prefix of the names of shard files; digits follow.
const SHARD_PREFIX: &str = "shard-";

/// The suffix of the names of shard files.
const SHARD_SUFFIX: &str = ".jsonl";

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct OfflineOptions {
    /// What is read.
    pub input: InputOptions,
    /// What may be used of this machine.
    pub resources: Resources,
    /// Directory in which the scratch directory is created.
    pub scratch: PathBuf,
}

impl OfflineOptions {
    /// These inputs, read as [`InputOptions::new`] says. Scratch files are created in the system's directory for
    /// temporary files.
    #[must_use]
    pub fn new(inputs: impl IntoIterator<Item = impl Into<PathBuf>>, provider: &'static Provider) -> Self {
        let (input, resources) = (InputOptions::new(inputs, provider), Resources::default());
        Self { input, resources, scratch: std::env::temp_dir() }
    }
}

/// An input that was read, and what was found in it.
#[derive(Debug)]
pub struct Scanned {
    /// What was found.
    pub scan: Scan,
    source: Arc<Source>,
    ids: IdHasher,
    /// Removed when this is dropped.
    scratch: Incoming,
}

/// Checks the inputs: UTF-8, JSON, ids, models, limits. Invalid lines are not an error; the first of them are reported
/// to `monitor`, and [`Scan::defects`] is their number.
///
/// # Errors
/// When an input cannot be read or has no lines, or the report cannot be written or would replace an input.
pub fn check(options: &OfflineOptions, monitor: &dyn Monitor) -> Result<Scanned, Error> {
    targets::keep_out_of_runs(&targets::checking(&options.input)?, None)?;
    scan_inputs(options, false, monitor)
}

/// Checks the inputs and packs them: a run would submit [`Scan::shards`]. Only scratch files and the report are
/// written.
///
/// # Errors
/// As for [`check`], and [`Error::Defects`] if there are invalid lines, unless they are to be skipped.
pub fn plan(options: &OfflineOptions, monitor: &dyn Monitor) -> Result<Scanned, Error> {
    let scanned = check(options, monitor)?;
    checking::refuse_defects(&options.input, &scanned.scan)?;
    Ok(scanned)
}

/// Writes the shards as files into `directory`, named `shard-000000.jsonl` and so on. Returns their paths.
///
/// With `replace`, the shard files of an earlier split are removed first, once the inputs are known to be good.
///
/// # Errors
/// As for [`plan`]; and when a shard file cannot be written, would replace an input, or already exists without
/// `replace`.
pub fn split(
    options: &OfflineOptions,
    directory: &Path,
    replace: bool,
    monitor: &dyn Monitor,
) -> Result<Vec<PathBuf>, Error> {
    let old = earlier_shards(options, directory, replace)?;
    let scanned = index_inputs(options, monitor)?;
    let index = Arc::new(RequestIndex::open(&scanned.index_path())?);
    durable::create_shared_directory(directory)?;
    for path in &old {
        durable::remove_file(path)?;
    }
    durable::remove_leftovers(directory, is_shard_name);
    let mut paths = Vec::new();
    for shard in &scanned.scan.shards {
        let path = shard_path(directory, shard.number);
        let mut file = BlockWriter::new(PendingFile::create_shared(&path)?);
        let mut reader =
            ShardReader::open(scanned.source.clone(), index.clone(), shard.clone(), scanned.scratch.path())?
                .with_envelope(options.input.line.envelope);
        copy(&mut reader, &mut file).map_err(FileError::on("write", &path))?;
        file.into_inner().map_err(FileError::on("write", &path))?.publish()?;
        paths.push(path);
    }
    Ok(paths)
}

/// Checks the files that a split would write, and returns the shard files of an earlier one.
fn earlier_shards(options: &OfflineOptions, directory: &Path, replace: bool) -> Result<Vec<PathBuf>, Error> {
    let mut files = targets::checking(&options.input)?;
    if !directory.is_dir() {
        files.make_directory(Role::Shard, directory)?;
        return Ok(Vec::new());
    }
    let failed = || FileError::on("read", directory);
    let mut old = Vec::new();
    for path in directory::entries(directory)? {
        if path.file_name().and_then(OsStr::to_str).is_some_and(is_shard_name) {
            old.push(path);
        }
    }
    if let (Some(path), false) = (old.first(), replace) {
        return Err(TargetError::Exists { role: Role::Shard, path: path.clone() }.into());
    }
    // No shard may be an input, or the report, which does not exist yet.
    let directory_itself = directory.canonicalize().map_err(failed())?;
    let is_shard = |path: &Path| {
        path.parent() == Some(&directory_itself) && path.file_name().and_then(OsStr::to_str).is_some_and(is_shard_name)
    };
    if let Some(report) = files.written().find(|written| is_shard(written.resolved)) {
        let (role, path) = (report.role, report.path.to_owned());
        let other_path = directory.join(report.resolved.file_name().unwrap_or_default());
        return Err(TargetError::Clash { role, path, other: Role::Shard, other_path }.into());
    }
    let first = shard_path(directory, 0);
    for path in old.iter().filter(|path| **path != first).chain([&first]) {
        files.write(Role::Shard, path)?;
    }
    targets::keep_out_of_runs(&files, None)?;
    Ok(old)
}

fn shard_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{SHARD_PREFIX}{number:06}{SHARD_SUFFIX}"))
}

fn is_shard_name(name: &str) -> bool {
    let number = name.strip_prefix(SHARD_PREFIX).and_then(|rest| rest.strip_suffix(SHARD_SUFFIX));
    number.is_some_and(|number| number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Copies the rest of `reader`, in pieces as large as it buffers them.
fn copy(reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<()> {
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        writer.write_all(piece)?;
        let taken = piece.len();
        reader.consume(taken);
    }
}

/// What a merge wrote, and the contents of the reply files.
#[derive(Debug)]
pub struct MergedReplies {
    /// What was written.
    pub merged: Merged,
    /// The counts of the reply files.
    pub indexed: Indexed,
    /// The files of unmatched replies, one per kind that occurred.
    pub aside: Vec<PathBuf>,
}

/// Merges `replies` into input order, in bounded memory. Unmatched replies are written to files whose names begin with
/// `aside`.
///
/// Reply files may be compressed, or pipes; `-` is standard input. A file of another kind is an error, and nothing is
/// written.
///
/// ```
/// use batchline::offline::{OfflineOptions, merge};
/// use batchline::{Outputs, Silent, provider};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = |name: &str| directory.path().join(name);
/// let request = |id| format!(r#"{{"custom_id":"{id}","body":{{"model":"m","messages":[]}}}}"#);
/// let reply = |id| format!(r#"{{"custom_id":"{id}","response":{{"status_code":200,"body":{{"answers":"{id}"}}}}}}"#);
/// std::fs::write(path("input.jsonl"), [request("a"), request("b"), request("c")].join("\n"))?;
/// std::fs::write(path("part-1.jsonl"), reply("c"))?;
/// std::fs::write(path("part-2.jsonl"), [reply("b"), reply("a")].join("\n"))?;
///
/// let options = OfflineOptions::new([path("input.jsonl")], provider("together").expect("it is built in"));
/// let replies = [path("part-1.jsonl"), path("part-2.jsonl")];
/// let done = merge(&options, &replies, &path("unmatched"), Outputs::file(path("output.jsonl")), &Silent)?;
/// assert_eq!((done.merged.outputs, done.merged.missing), (3, 0));
/// let output = std::fs::read_to_string(path("output.jsonl"))?;
/// assert_eq!(output.lines().collect::<Vec<_>>(), [reply("a"), reply("b"), reply("c")]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When a file cannot be read, the input has Defects that are not to be skipped, or the output cannot be written or
/// would replace an input.
pub fn merge(
    options: &OfflineOptions,
    replies: &[PathBuf],
    aside: &Path,
    outputs: Outputs,
    monitor: &dyn Monitor,
) -> Result<MergedReplies, Error> {
    check_merge(options, replies, aside, &outputs)?;
    let scanned = index_inputs(options, monitor)?;
    let requests = RequestIndex::open(&scanned.index_path())?;
    let (threads, memory_bytes) = (options.resources.threads, options.resources.memory_share());
    let scratch = scanned.scratch.path().to_owned();
    let mut join = Join::new(JoinOptions { lines: requests.len(), ids: scanned.ids, threads, memory_bytes, scratch });
    requests.scan(0, u64::MAX - 1, |seq, record| match record.state {
        LineState::Request => join.add_request(seq, record.id_hash),
        LineState::Defective | LineState::Duplicate => Ok(()),
    })?;
    let files = reply_files(options, replies, scanned.scratch.path(), monitor)?;
    let slots = ReplyIndex::open_or_create(&scanned.scratch.path().join("replies.idx"), requests.len())?;
    let mut side_files = SideFiles::shared(aside);
    let line = options.input.line;
    let unanswered = Unanswering { source: &scanned.source, requests: &requests, line, recheck: None };
    let progress = |bytes| monitor.event(Event::Downloaded { bytes });
    let indexed = join.index(&files, &slots, &mut side_files, |tell| unanswered.each_id(tell), &progress);
    let indexed = indexed.map_err(|error| by_name(error, &files, replies))?;
    let aside = side_files.finish()?;
    let lines = requests.len();
    let inputs = MergeInputs {
        replies: &slots,
        path: &|number| Ok(files[number as usize].path.clone()),
        unanswered: &|seq, _| unanswered.explain(seq, None, &|_| None),
        held_seqs: None,
        body: &|seq| unanswered.body(seq),
        held: &ReplyCache::new(memory_bytes),
        scratch: scanned.scratch.path(),
        shape: outputs.shape,
        threads,
    };
    let mut outputs = OpenOutputs::open(outputs)?;
    let mut progress = |merged: &Merged| monitor.event(Event::Merged(merged));
    let merged = merge::merge(0..lines, inputs, &mut outputs.sinks(), &mut progress)?;
    if merged.lines() != lines || (merged.outputs, merged.errors) != (indexed.outputs, indexed.errors) {
        return Err(Error::Internal { what: format!("{} of {lines} lines were merged", merged.lines()) });
    }
    outputs.finish()?;
    Ok(MergedReplies { merged, indexed, aside })
}

/// Checks the files that a merge would write.
fn check_merge(
    options: &OfflineOptions,
    replies: &[PathBuf],
    aside: &Path,
    outputs: &Outputs,
) -> Result<(), TargetError> {
    let mut files = targets::reading(&options.input)?;
    for path in replies {
        files.read(Role::Replies, input_at(path).path())?;
    }
    targets::write_outputs(&mut files, outputs)?;
    targets::write_report(&mut files, &options.input)?;
    let aside = SideFiles::shared(aside);
    for kind in Aside::ALL {
        files.write(Role::Aside, &aside.path(kind))?;
    }
    targets::keep_out_of_runs(&files, None)
}

/// The reply files, readable at any offset: those that are not are spooled into `scratch`.
fn reply_files(
    options: &OfflineOptions,
    replies: &[PathBuf],
    scratch: &Path,
    monitor: &dyn Monitor,
) -> Result<Vec<ReplyFile>, Error> {
    let mut named = options.input.inputs.clone();
    let mut files = Vec::new();
    for (number, path) in (0..).zip(replies) {
        let input = input_at(path);
        if input == Input::Stdin && named.contains(&input) {
            return Err(InputError::StdinTwice.into());
        }
        let spool = scratch.join(format!("replies-{number:06}.jsonl"));
        let path = source::at_rest(&input, &spool, &|bytes| monitor.event(Event::Spooled { bytes }))?;
        named.push(input);
        files.push(ReplyFile { number, path, role: ReplyRole::Output });
    }
    Ok(files)
}

/// A reply file, as the user named it.
fn input_at(path: &Path) -> Input {
    if path == Path::new("-") { Input::Stdin } else { Input::File(path.to_owned()) }
}

/// The error, naming the file as the user did rather than its spool.
fn by_name(error: ResultsError, files: &[ReplyFile], names: &[PathBuf]) -> Error {
    match error {
        ResultsError::NotReplies { path, line, form } => {
            let place = files.iter().position(|file| file.path == path);
            let path = place.map_or(path, |place| names[place].clone());
            ResultsError::NotReplies { path, line, form }.into()
        }
        error => error.into(),
    }
}

impl Scanned {
    fn index_path(&self) -> PathBuf {
        self.scratch.path().join("requests.idx")
    }
}

fn scan_inputs(options: &OfflineOptions, with_index: bool, monitor: &dyn Monitor) -> Result<Scanned, Error> {
    let (scratch, ids) = (Incoming::create(&options.scratch)?, IdHasher::random());
    let source = checking::open_source(&options.input, scratch.path(), monitor)?;
    let mut scanned = Scanned { scan: Scan::default(), source: Arc::new(source), ids, scratch };
    let (how, index) = ((&options.input, &options.resources), scanned.index_path());
    let files = (scanned.scratch.path(), with_index.then_some(index.as_path()));
    scanned.scan = checking::check(how, &scanned.source, ids, files, monitor)?;
    Ok(scanned)
}

/// The inputs, with an index of their requests; an error if there are Defects that are not to be skipped.
fn index_inputs(options: &OfflineOptions, monitor: &dyn Monitor) -> Result<Scanned, Error> {
    let scanned = scan_inputs(options, true, monitor)?;
    checking::refuse_defects(&options.input, &scanned.scan)?;
    Ok(scanned)
}
