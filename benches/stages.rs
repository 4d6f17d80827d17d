//! The stages that work on this machine alone, one by one: `cargo bench`, or `cargo bench -- check` for one of them.
//!
//! Bytes per second are of the stage's own input. The whole program beside others is `benches/compare`, and
//! instructions, which do not depend on the machine's mood, are `benches/instructions`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchline::generate::{Amount, GenerateOptions, generate};
use batchline::input::check::LineLimits;
use batchline::input::envelope::Envelope;
use batchline::input::request_index::RequestIndex;
use batchline::input::scan::{Scan, ScanOptions, scan};
use batchline::input::shard_reader::ShardReader;
use batchline::input::source::{Input, Source};
use batchline::model::custom_id::IdHasher;
use batchline::model::reply::ReplyRole;
use batchline::model::shard::ShardLimits;
use batchline::results::ResultsError;
use batchline::results::id_table::IdTable;
use batchline::results::index::{IndexOptions, ReplyFile, index};
use batchline::results::merge::{MergeInputs, Sinks, Unanswered, merge};
use batchline::results::normalize::Shape;
use batchline::results::reply_cache::ReplyCache;
use batchline::results::reply_file::Strays;
use batchline::results::reply_index::ReplyIndex;
use batchline::results::side_files::SideFiles;
use batchline::serve::echo_reply;
use batchline::storage::durable;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of requests: enough to leave the caches.
const REQUEST_BYTES: u64 = 64_000_000;

const IDS: IdHasher = IdHasher { key: 1 };

/// Requests, and the replies to them in another order.
struct Data {
    directory: tempfile::TempDir,
    requests: PathBuf,
    replies: PathBuf,
    ids: Vec<String>,
}

impl Data {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (requests, replies) = (directory.path().join("in.jsonl"), directory.path().join("replies.jsonl"));
        let mut text = Vec::new();
        let amount = Amount::Bytes(REQUEST_BYTES);
        generate(&GenerateOptions { amount, ..GenerateOptions::default() }, &mut text).unwrap();
        let mut lines: Vec<&[u8]> = text.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
        let id = |line: &&[u8]| {
            let request: serde_json::Value = serde_json::from_slice(line).unwrap();
            request["custom_id"].as_str().unwrap().to_owned()
        };
        let ids = lines.iter().map(id).collect();
        fastrand::Rng::with_seed(0).shuffle(&mut lines);
        let answers: Vec<u8> = lines.iter().flat_map(|line| echo_reply(line).into_iter().chain(*b"\n")).collect();
        durable::publish_bytes(&requests, &text).unwrap();
        durable::publish_bytes(&replies, &answers).unwrap();
        Self { directory, requests, replies, ids }
    }

    fn source(&self) -> Source {
        Source::open(&[Input::File(self.requests.clone())], self.directory.path(), &|_| ()).unwrap()
    }

    fn scan(&self, source: &Source, threads: usize, index: Option<&Path>) -> Scan {
        let options = ScanOptions {
            line: LineLimits {
                line_bytes: 10_000_000,
                custom_id_characters: 64,
                envelope: Envelope::MINIMAL,
                assign_ids: false,
                inputs: None,
            },
            shard: ShardLimits { requests: 50_000, bytes: 100_000_000, inputs: None },
            threads,
            memory_bytes: 64 << 20,
            ids: IDS,
            skip_invalid: false,
            scratch: self.directory.path().to_owned(),
        };
        scan(source, &options, index, &mut |_| Ok(true), &|_| ()).unwrap()
    }
}

fn input(criterion: &mut Criterion, data: &Data) {
    let source = data.source();
    let mut group = criterion.benchmark_group("check");
    group.sample_size(10).throughput(Throughput::Bytes(source.bytes()));
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
            bencher.iter(|| data.scan(&source, threads, None));
        });
    }
    group.finish();

    let path = data.directory.path().join("requests.idx");
    let shards = data.scan(&source, 2, Some(&path)).shards;
    let (source, requests) = (Arc::new(source), Arc::new(RequestIndex::open(&path).unwrap()));
    let mut group = criterion.benchmark_group("read shards");
    group.sample_size(10).throughput(Throughput::Bytes(source.bytes()));
    group.bench_function("1", |bencher| {
        bencher.iter(|| {
            for shard in &shards {
                let lists = data.directory.path();
                let mut reader = ShardReader::open(source.clone(), requests.clone(), shard.clone(), lists).unwrap();
                std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
            }
        });
    });
    group.finish();
}

fn results(criterion: &mut Criterion, data: &Data) {
    let file = ReplyFile { number: 0, path: data.replies.clone(), role: ReplyRole::Output };
    let bytes = data.replies.metadata().unwrap().len();
    let mut slots = vec![None; data.ids.len()];
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
            bencher.iter(|| {
                let table = IdTable::new(data.ids.iter().map(|id| IDS.hash(id)));
                let mut aside = SideFiles::new(&data.directory.path().join("aside"));
                slots.fill(None);
                let options = IndexOptions { ids: IDS, threads, strays: Strays::Refuse };
                let each_id = |_: &mut dyn FnMut(u64, &str)| Ok::<_, ResultsError>(());
                index(std::slice::from_ref(&file), &table, options, each_id, &mut slots, &mut aside).unwrap()
            });
        });
    }
    group.finish();

    let lines = data.ids.len() as u64;
    let replies = ReplyIndex::open_or_create(&data.directory.path().join("replies.idx"), lines).unwrap();
    replies.write(0, slots.iter().copied()).unwrap();
    let unanswered = |_, _| Ok(Unanswered { custom_id: None, code: "missing", message: String::new() });
    let mut group = criterion.benchmark_group("merge");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    // The file held in memory, and read where it is.
    for (name, held_bytes) in [("held", 1 << 30), ("read", 0)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let held = ReplyCache::new(held_bytes);
                let path = |_| Ok(data.replies.clone());
                let inputs = MergeInputs {
                    replies: &replies,
                    path: &path,
                    unanswered: &unanswered,
                    held_seqs: None,
                    body: &|_| Ok(None),
                    held: &held,
                    scratch: data.directory.path(),
                    shape: Shape::Native,
                    threads: 2,
                };
                let mut sinks = Sinks { outputs: &mut std::io::sink(), outputs_lead: 0, errors: None };
                merge(0..lines, inputs, &mut sinks, &mut |_| ()).unwrap()
            });
        });
    }
    group.finish();
}

fn stages(criterion: &mut Criterion) {
    let data = Data::make();
    input(criterion, &data);
    results(criterion, &data);
}

criterion_group!(benches, stages);
criterion_main!(benches);
