//! What this machine makes of each stage, beside what it makes of plain reading and copying.
//!
//! In: a local service that is running, and an amount. Out: a [`Measured`] for each stage, in the data's order. The
//! stages are those that a run goes through, called one after the other, so that each can be seen alone.
//!
//! | stage | what is measured | floor |
//! | --- | --- | --- |
//! | read | the input is read in blocks, on all threads | |
//! | copy | the input is read and written again, on one thread, not synced | |
//! | check | `batchline check`: framing, JSON, rules, uniqueness | read |
//! | plan | the same, with shards and the request index, synced | read |
//! | upload | every shard to the service over loopback, its checksum verified on the way | copy |
//! | download | every reply file from the service, synced | copy |
//! | index | every reply finds its request | read |
//! | merge | the ordered output, written but not synced | copy |
//!
//! Invariant: everything is in a directory of its own, which is gone afterwards.

mod gauge;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

pub use gauge::Measured;

use crate::generate::{Amount, GenerateOptions, Generated, generate};
use crate::input::check::LineLimits;
use crate::input::envelope::Envelope;
use crate::input::recheck::Recheck;
use crate::input::request_index::RequestIndex;
use crate::input::scan::{self, Scan, ScanOptions};
use crate::input::source::{Input, Source};
use crate::model::custom_id::IdHasher;
use crate::model::shard::{Shard, ShardLimits};
use crate::model::shard_state::EndedBatch;
use crate::remote::{
    Address, Api, BatchStatus, CreateBatch, HttpApi, Progress, Provider, Redactor, RemoteFile, Settings, Submission,
    Token,
};
use crate::results::merge::{self, MergeInputs, Sinks, Unanswered};
use crate::results::normalize::Shape;
use crate::results::reply_cache::ReplyCache;
use crate::results::reply_index::ReplyIndex;
use crate::run::directory::{Incoming, layout};
use crate::run::download::{self, Download};
use crate::run::error::Error;
use crate::run::files::{Files, ShardPayload};
use crate::run::indexing::{self, Indexing, ShardIndexed, WhenShort};
use crate::run::step_error::StepError;
use crate::storage::aligned::{AlignedBuffer, BlockWriter};
use crate::storage::directory;
use crate::storage::durable;
use crate::storage::durable::{FileError, PendingFile};
use crate::storage::lines::BLOCK_BYTES;
use crate::storage::ordered::in_order;
use gauge::Gauge;

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// Time between two looks at a batch.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Names of the floors.
const READ: &str = "read";
const COPY: &str = "copy";

/// What to measure, and with what.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Directory in which the working directory is made.
    pub directory: PathBuf,
    /// What is generated.
    pub amount: Amount,
    /// The models that requests ask for, in turn; none for those that [`GenerateOptions`] has by default.
    pub models: Vec<String>,
    /// Threads that check, index and merge.
    pub threads: usize,
    /// Memory for ids, and then for reply files, in bytes.
    pub memory_bytes: usize,
    /// Uploads, and downloads, at a time.
    pub transfers: usize,
    /// The service, and what it takes.
    pub provider: &'static Provider,
    /// Where it is.
    pub service: Address,
    /// The key that it wants.
    pub token: Token,
}

/// Measures each stage and tells what it took as soon as it is done.
///
/// # Errors
/// Whatever keeps a stage from being done.
pub async fn bench(options: BenchOptions, tell: &mut dyn FnMut(&Measured)) -> Result<(), Error> {
    let place = Incoming::create(&options.directory)?;
    let (input, generated) = make_input(&options, place.path())?;
    tell(&read(&input, options.threads)?);
    warm(place.path(), generated.bytes)?;
    tell(&copy(&input, &place.path().join("copy"))?);
    tell(&check(&options, &input, place.path())?);
    let (files, shards, measured) = plan(&options, &input, place.path())?;
    tell(&measured);
    let files = Arc::new(files);
    let settings = Settings::default();
    let api = HttpApi::new(options.provider, options.service.clone(), Some(options.token.clone()), settings)?;
    let (uploaded, measured) = upload(&options, &api, &files, &shards).await?;
    tell(&measured);
    let batches = run_batches(&options, &api, (&files, &shards), &uploaded).await?;
    warm(place.path(), generated.bytes)?;
    tell(&download(&options, &api, &files, &batches, generated).await?);
    tell(&index(&files, &shards, &batches, generated)?);
    warm(place.path(), generated.bytes)?;
    tell(&merge(&files, &place.path().join("output"))?);
    Ok(())
}

/// Writes a file of that many bytes and removes it again. What the next stage writes then finds memory that this system
/// has already: a virtual machine may have to ask its host for more, which takes several times as long as to write.
fn warm(place: &Path, bytes: u64) -> Result<(), FileError> {
    let path = place.join("warm");
    let mut file = BlockWriter::new(durable::create_new(&path)?);
    let written = io::copy(&mut io::repeat(0).take(bytes), &mut file).and_then(|_| file.flush());
    written.map_err(FileError::on("write", &path))?;
    durable::remove_file(&path)
}

fn make_input(options: &BenchOptions, place: &Path) -> Result<(PathBuf, Generated), Error> {
    let path = place.join("input.jsonl");
    let mut file = PendingFile::create(&path)?;
    let mut wanted = GenerateOptions { amount: options.amount, ..GenerateOptions::default() };
    if !options.models.is_empty() {
        wanted.models.clone_from(&options.models);
    }
    let generated = generate(&wanted, &mut file).map_err(FileError::on("write", &path))?;
    file.publish_unsynced()?;
    Ok((path, generated))
}

fn open(input: &Path, place: &Path) -> Result<Source, Error> {
    Ok(Source::open(&[Input::File(input.to_owned())], place, &|_| ())?)
}

/// The floor of reading: all blocks, on all threads.
fn read(input: &Path, threads: usize) -> Result<Measured, Error> {
    let source = open(input, Path::new("."))?;
    let extent = source.parts()[0].extent();
    let gauge = Gauge::start();
    in_order(
        threads,
        extent.blocks(),
        || AlignedBuffer::of(usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX)),
        |buffer, number| extent.file.read_at(buffer, number * BLOCK_BYTES).map_err(FileError::on("read", input)),
        |_| Ok(()),
    )?;
    Ok(gauge.stop(READ, None, (source.bytes(), 0)))
}

/// The floor of reading and writing.
fn copy(input: &Path, target: &Path) -> Result<Measured, Error> {
    let source = open(input, Path::new("."))?;
    let from = source.parts()[0].extent().file;
    let mut to = durable::create_new(target)?;
    let mut buffer = AlignedBuffer::of(COPY_BYTES);
    let gauge = Gauge::start();
    let mut at = 0;
    loop {
        let read = from.read_at(&mut buffer, at).map_err(FileError::on("read", input))?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read]).map_err(FileError::on("write", target))?;
        at += read as u64;
    }
    let measured = gauge.stop(COPY, None, (at, 0));
    durable::remove_file(target)?;
    Ok(measured)
}

fn scan_options(options: &BenchOptions, place: &Path) -> ScanOptions {
    let limits = &options.provider.limits;
    ScanOptions {
        line: LineLimits {
            line_bytes: limits.line_bytes,
            custom_id_characters: limits.custom_id_characters as usize,
            envelope: Envelope::MINIMAL,
            assign_ids: false,
            inputs: None,
        },
        shard: ShardLimits { requests: limits.shard_requests, bytes: limits.shard_bytes, inputs: None },
        threads: options.threads,
        memory_bytes: options.memory_bytes,
        ids: IdHasher::random(),
        skip_invalid: false,
        scratch: place.to_owned(),
    }
}

fn check(options: &BenchOptions, input: &Path, place: &Path) -> Result<Measured, Error> {
    let source = open(input, place)?;
    let gauge = Gauge::start();
    let scanned = scan::scan(&source, &scan_options(options, place), None, &mut |_| Ok(true), &|_| ())?;
    let measured = gauge.stop("check", Some(READ), (scanned.bytes, scanned.requests));
    if scanned.defects > 0 {
        return Err(Error::Defects { defects: scanned.defects, lines: scanned.lines });
    }
    Ok(measured)
}

fn plan(options: &BenchOptions, input: &Path, place: &Path) -> Result<(Files, Vec<Shard>, Measured), Error> {
    let source = open(input, place)?;
    let (scan_options, path) = (scan_options(options, place), layout::requests(place));
    let gauge = Gauge::start();
    let scanned = scan::scan(&source, &scan_options, Some(&path), &mut |_| Ok(true), &|_| ())?;
    let Scan { shards, bytes, requests, .. } = scanned;
    let measured = gauge.stop("plan", Some(READ), (bytes, requests));
    durable::create_directory(&layout::replies(place))?;
    let (source, index) = (Arc::new(source), Arc::new(RequestIndex::open(&path)?));
    let files = Files {
        run: place.to_owned(),
        recheck: Recheck::new(source.clone(), index.clone(), scan_options.ids, place, shards.clone()),
        source,
        requests: index,
        replies: ReplyIndex::open_or_create(&layout::replies_index(place), requests)?,
        ids: scan_options.ids,
        envelope: scan_options.line.envelope,
        threads: options.threads,
        memory_bytes: options.memory_bytes,
        redactor: Redactor::default(),
    };
    Ok((files, shards, measured))
}

async fn upload(
    options: &BenchOptions,
    api: &HttpApi,
    files: &Arc<Files>,
    shards: &[Shard],
) -> Result<(Vec<RemoteFile>, Measured), Error> {
    let bytes = shards.iter().map(|shard| shard.bytes).sum();
    let requests = shards.iter().map(|shard| shard.requests).sum();
    let gauge = Gauge::start();
    let uploads = futures::stream::iter(shards).map(|shard| {
        let payload = ShardPayload { files: files.clone(), shard: shard.clone() };
        api.upload(Arc::new(payload), Progress::default())
    });
    let uploaded = uploads.buffered(options.transfers).try_collect().await?;
    Ok((uploaded, gauge.stop("upload", Some(COPY), (bytes, requests))))
}

/// Has the service answer all of it. What that takes is the service's affair, and not measured.
async fn run_batches(
    options: &BenchOptions,
    api: &HttpApi,
    (files, shards): (&Arc<Files>, &[Shard]),
    uploaded: &[RemoteFile],
) -> Result<Vec<EndedBatch>, Error> {
    let mut ids = Vec::new();
    for (file, shard) in uploaded.iter().zip(shards) {
        let lines = Arc::new(ShardPayload { files: files.clone(), shard: shard.clone() });
        let request = CreateBatch {
            input_file_id: file.id.clone(),
            endpoint: options.provider.endpoint().to_owned(),
            completion_window: Some(options.provider.completion_window.to_owned()),
            model: shard.model.clone(),
            tag: None,
        };
        match api.create(&request, lines).await {
            Submission::Accepted(batch) => ids.push(batch.id),
            Submission::Refused(error) | Submission::Unknown(error) => return Err(error.into()),
        }
    }
    let mut ended = Vec::new();
    for id in ids {
        let batch = loop {
            let batch = api.batch(&id).await?;
            if batch.status.is_terminal() {
                break batch;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        if batch.status != BatchStatus::Completed {
            return Err(Error::Internal { what: format!("batch {id} of the local service ended as {}", batch.status) });
        }
        ended.push(EndedBatch::of(&batch));
    }
    Ok(ended)
}

/// The number under which the reply files of a shard's batch are kept.
fn submission(shard: usize) -> i64 {
    i64::try_from(shard).unwrap_or(i64::MAX) + 1
}

async fn download(
    options: &BenchOptions,
    api: &HttpApi,
    files: &Files,
    batches: &[EndedBatch],
    generated: Generated,
) -> Result<Measured, Error> {
    let gauge = Gauge::start();
    let downloads = futures::stream::iter(batches.iter().enumerate()).map(|(shard, batch)| {
        let task = Download { submission: submission(shard), batch: batch.clone(), again: None };
        let fetching = download::download(api, &files.run, task, Progress::default);
        async { fetching.await?.trouble.map_or(Ok::<_, StepError>(()), |(_, error)| Err(error)) }
    });
    let () = downloads.buffered(options.transfers).try_collect().await?;
    Ok(gauge.stop("download", Some(COPY), (reply_bytes(files)?, generated.requests)))
}

/// Size of all reply files.
fn reply_bytes(files: &Files) -> Result<u64, Error> {
    let replies = layout::replies(&files.run);
    let sizes = directory::entries(&replies)?.into_iter().map(|path| Ok(path.metadata()?.len()));
    let sizes: io::Result<Vec<u64>> = sizes.collect();
    Ok(sizes.map_err(FileError::on("read", &replies))?.into_iter().sum())
}

fn index(files: &Files, shards: &[Shard], batches: &[EndedBatch], generated: Generated) -> Result<Measured, Error> {
    let bytes = reply_bytes(files)?;
    let gauge = Gauge::start();
    for (number, (shard, batch)) in shards.iter().zip(batches).enumerate() {
        let task = Indexing {
            shard: shard.clone(),
            submission: submission(number),
            batch: batch.clone(),
            said: Vec::new(),
            when_short: WhenShort::FetchAgain,
            followed: false,
            recheck: false,
        };
        let ShardIndexed::Whole(..) = indexing::index(files, &task)? else {
            return Err(Error::Internal { what: format!("the replies of shard {number} are not complete") });
        };
    }
    Ok(gauge.stop("index", Some(READ), (bytes, generated.requests)))
}

fn merge(files: &Files, target: &Path) -> Result<Measured, Error> {
    let unanswered = |seq, _| Ok(Unanswered { custom_id: None, code: merge::MISSING, message: format!("line {seq}") });
    let inputs = MergeInputs {
        replies: &files.replies,
        path: &|number| Ok(layout::reply_file(&files.run, number)),
        unanswered: &unanswered,
        held_seqs: None,
        body: &|_| Ok(None),
        held: &ReplyCache::new(files.memory_bytes),
        scratch: &files.run,
        shape: Shape::Native,
        threads: files.threads,
    };
    let mut output = BlockWriter::new(durable::create_new(target)?);
    let gauge = Gauge::start();
    let mut sinks = Sinks { outputs: &mut output, outputs_lead: 0, errors: None };
    let merged = merge::merge(0..files.requests.len(), inputs, &mut sinks, &mut |_| ())?;
    output.flush().map_err(FileError::on("write", target))?;
    let measured = gauge.stop("merge", Some(COPY), (merged.bytes, merged.lines()));
    if merged.missing > 0 {
        return Err(Error::Internal { what: format!("{} replies are missing in the output", merged.missing) });
    }
    Ok(measured)
}
