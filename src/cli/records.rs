//! The records that `--json` prints, one per line, and their JSON Schema.
//!
//! In: the library's results and events. Out: a line of JSON that begins with `schema` and `kind`.
//!
//! Invariants: every record that is printed is a variant of [`Record`], so `batchline schema` describes it. Removing a
//! field or changing its meaning increments [`SCHEMA`]; a new field or kind does not.

use std::path::Path;

use batchline::bench::Measured;
use batchline::model::defect::{DefectRecord, PlacedDefect};
use batchline::model::incident::RecordedIncident;
use batchline::model::shard::Shard;
use batchline::run::Summary;
use batchline::run::doctor::Finding;
use batchline::run::inspect::{Cancelled, Decided};
use batchline::run::monitor::ShardCounts;
use batchline::run::offline::MergedReplies;
use batchline::run::report::{Report, ShardStatus};
use schemars::JsonSchema;
use serde::Serialize;

/// The version of the records.
pub(crate) const SCHEMA: u32 = 2;

/// A record as it is printed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "batchline records", description = "One line that batchline prints with --json.")]
pub(crate) struct Versioned<'r> {
    /// The version of the records: incremented when a field is removed or changes its meaning.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    #[serde(flatten)]
    record: Record<'r>,
}

impl<'r> From<Record<'r>> for Versioned<'r> {
    fn from(record: Record<'r>) -> Self {
        Self { schema: SCHEMA, record }
    }
}

/// All records, by kind.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Record<'r> {
    /// What `check` found. On standard output.
    Check(CheckTotals),
    /// A shard of `plan`. On standard output.
    Shard(PlannedShard<'r>),
    /// All shards of `plan`. On standard output, after them.
    Plan(PlanTotals),
    /// What `merge` wrote. On standard error.
    Merge(MergeTotals<'r>),
    /// A run directory has been opened. On standard error.
    Started(Started),
    /// How far a run or a merge is. On standard error.
    Progress(Progress),
    /// A line that is not a request. On standard error.
    Defect(#[schemars(with = "DefectRecord<'r>")] &'r PlacedDefect),
    /// Something that the user should know. On standard error.
    Note(Message<'r>),
    /// Something that the user should worry about. On standard error.
    Warning(Message<'r>),
    /// How a run ended. On standard error.
    Summary(RunSummary<'r>),
    /// What `status` says of a run. On standard output.
    Status(RunStatus<'r>),
    /// A run that `ls` lists. On standard output.
    Run(ListedRun<'r>),
    /// A batch that `cancel` asked the service to stop. On standard output.
    Cancelled(&'r Cancelled),
    /// What `retry` decided. On standard output.
    Retry(Decided),
    /// What `doctor` found. On standard output.
    Finding(&'r Finding),
    /// A provider. On standard output.
    Provider(ProviderRow),
    /// What a stage of `bench` took. On standard output.
    Stage(Stage<'r>),
    /// Why a command ended early. On standard error.
    Error(Failed<'r>),
}

/// What `check` found.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CheckTotals {
    /// Lines that are not blank.
    pub(crate) lines: u64,
    /// Blank lines.
    pub(crate) blank: u64,
    /// Lines that are requests.
    pub(crate) requests: u64,
    /// Lines that are not.
    pub(crate) defects: u64,
    /// Size of the input in bytes.
    pub(crate) bytes: u64,
}

/// A shard that a run would submit.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlannedShard<'r> {
    number: u32,
    model: &'r str,
    requests: u64,
    /// Size of its batch file in bytes.
    bytes: u64,
    /// Its bytes by an average size of tokens.
    estimated_tokens: u64,
    /// Which limit ended it: `requests`, `bytes`, `inputs`, `models`, or `end` of the input.
    cut: &'static str,
}

impl<'r> PlannedShard<'r> {
    pub(crate) fn of(shard: &'r Shard, estimated_tokens: u64) -> Self {
        let Shard { number, model, requests, bytes, cut, .. } = shard;
        Self { number: *number, model, requests: *requests, bytes: *bytes, estimated_tokens, cut: cut.name() }
    }
}

/// All that a run would submit.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlanTotals {
    pub(crate) shards: u64,
    pub(crate) requests: u64,
    /// Lines that are not requests and would be skipped.
    pub(crate) invalid: u64,
    /// Size of all batch files.
    pub(crate) bytes: u64,
    pub(crate) estimated_tokens: u64,
    /// Most requests of a shard.
    pub(crate) shard_requests_max: u64,
    /// Most bytes of a shard.
    pub(crate) shard_bytes_max: u64,
    /// Most inputs of a shard, where the provider limits them.
    pub(crate) shard_inputs_max: Option<u64>,
}

/// What `merge` wrote.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct MergeTotals<'r> {
    lines: u64,
    outputs: u64,
    errors: u64,
    /// Requests without a reply.
    missing: u64,
    /// Lines of the input that are not requests.
    invalid: u64,
    /// Replies by an id that is nearly that of their request.
    recognised: u64,
    /// Replies that said the same as another one.
    duplicates: u64,
    /// Replies that said something else than the one kept.
    conflicts: u64,
    /// Replies to ids that no request has.
    unknown: u64,
    /// Reply lines that cannot be read.
    unreadable: u64,
    /// Files with the replies that are not in the output.
    #[schemars(with = "Vec<String>")]
    aside: Vec<std::borrow::Cow<'r, str>>,
}

impl<'r> From<&'r MergedReplies> for MergeTotals<'r> {
    fn from(MergedReplies { merged, indexed, aside }: &'r MergedReplies) -> Self {
        Self {
            lines: merged.lines(),
            outputs: merged.outputs,
            errors: merged.errors,
            missing: merged.missing,
            invalid: merged.invalid,
            recognised: indexed.recognised,
            duplicates: indexed.duplicates,
            conflicts: indexed.conflicts,
            unknown: indexed.unknown,
            unreadable: indexed.unreadable,
            aside: aside.iter().map(|path| path.to_string_lossy()).collect(),
        }
    }
}

/// A run directory has been opened.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Started {
    directory: String,
    requests: u64,
    shards: u64,
    /// Bytes of all batch files.
    bytes: u64,
    /// Whether the run was there before.
    resumed: bool,
    /// Whether every batch has come back already.
    done: bool,
}

impl Started {
    pub(crate) fn new(directory: &Path, counts: (u64, u64, u64), (resumed, done): (bool, bool)) -> Self {
        let (requests, shards, bytes) = counts;
        Self { directory: directory.display().to_string(), requests, shards, bytes, resumed, done }
    }
}

/// How far a run or a merge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Progress {
    /// Bytes of batch files that this process has uploaded.
    pub(crate) uploaded_bytes: u64,
    /// Bytes of batch files that it has to upload.
    pub(crate) upload_total_bytes: u64,
    /// Bytes of reply files that it has downloaded.
    pub(crate) downloaded_bytes: u64,
    /// How many shards are in which state.
    pub(crate) shards: ShardCounts,
    /// Lines of the output that have been written.
    pub(crate) merged_lines: u64,
    /// Requests that the service reports as done.
    pub(crate) requests_done_at_service: u64,
}

/// Words for people.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Message<'r> {
    pub(crate) message: &'r str,
}

/// How a run ended.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunSummary<'r> {
    #[serde(flatten)]
    summary: &'r Summary,
    /// What went wrong and was dealt with.
    incidents: &'r [RecordedIncident],
}

impl<'r> From<&'r Summary> for RunSummary<'r> {
    fn from(summary: &'r Summary) -> Self {
        Self { summary, incidents: &summary.report.incidents }
    }
}

/// What `status` says of a run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunStatus<'r> {
    #[serde(flatten)]
    report: &'r Report,
    /// The shards, by number.
    shards: &'r [ShardStatus],
    /// What went wrong and was dealt with.
    incidents: &'r [RecordedIncident],
}

impl<'r> From<&'r Report> for RunStatus<'r> {
    fn from(report: &'r Report) -> Self {
        Self { report, shards: &report.shards, incidents: &report.incidents }
    }
}

/// A run that `ls` lists.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ListedRun<'r> {
    #[serde(flatten)]
    report: &'r Report,
    /// How many shards it has.
    shards: u64,
}

impl<'r> From<&'r Report> for ListedRun<'r> {
    fn from(report: &'r Report) -> Self {
        Self { report, shards: report.shards.len() as u64 }
    }
}

/// A provider.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ProviderRow {
    pub(crate) name: &'static str,
    pub(crate) dialect: &'static str,
    /// Empty where `--base-url` must name it.
    pub(crate) base_url: &'static str,
    /// The environment variable that names another one.
    pub(crate) base_url_variable: &'static str,
    /// The environment variable with the key.
    pub(crate) key_variable: &'static str,
    pub(crate) key_required: bool,
    /// How the key is sent.
    pub(crate) auth: String,
    /// What batch files are uploaded as.
    pub(crate) purpose: &'static str,
    pub(crate) endpoints: &'static [&'static str],
    pub(crate) completion_window: &'static str,
    /// Whether batches carry metadata.
    pub(crate) metadata: bool,
    /// Whether replies have no envelope around the response.
    pub(crate) flat_replies: bool,
    /// Most requests of a batch.
    pub(crate) shard_requests: u64,
    /// Most bytes of a batch file.
    pub(crate) shard_bytes: u64,
    /// Most bytes of a request.
    pub(crate) line_bytes: u64,
    /// Most characters of an id.
    pub(crate) custom_id_characters: u32,
    /// Most inputs for embeddings in a batch, where they are limited.
    pub(crate) embedding_inputs: Option<u64>,
    /// Most batches in flight, where they are limited.
    pub(crate) batches_in_flight: Option<u32>,
    /// How sure these facts are.
    pub(crate) proven: String,
    /// Where they come from.
    pub(crate) evidence: &'static str,
}

/// What a stage of `bench` took.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Stage<'r> {
    #[serde(flatten)]
    pub(crate) measured: &'r Measured,
    pub(crate) gigabytes_per_second: f64,
    pub(crate) cpu_seconds_per_gigabyte: f64,
    /// Its time as a multiple of its floor's.
    pub(crate) times_floor: Option<f64>,
}

/// Why a command ended early.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Failed<'r> {
    /// The exit code.
    pub(crate) exit: u8,
    pub(crate) message: String,
    /// What caused it, the nearest cause first.
    pub(crate) causes: &'r [String],
    /// What to do about it.
    pub(crate) hint: Option<String>,
}
