//! The command line as it is typed. Nothing is decided here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::values::{bytes, completion_window, dialect, duration, on_ambiguous, shape};

/// The most requests that can be allowed at a service at a time.
const CONCURRENCY_MAX: i64 = batchline::remote::online::CONCURRENCY_MAX as i64;

/// Run a JSONL file of LLM requests through a provider's Batch API and get the replies back in input order.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 every request has an output · 1 internal fault · 2 usage · 3 configuration or key ·
4 the input has defects, nothing was sent · 5 the provider refused or could not be reached ·
6 finished, but some requests ended as error or missing · 7 a submission is unresolved ·
8 local state damaged or out of space · 9 another process works on this run ·
130/143 interrupted, resumable

Runs are kept in $BATCHLINE_HOME, else in $XDG_STATE_HOME/batchline, else in ~/.local/state/batchline"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check, upload, submit, wait, download and merge; the same command again goes on or says that all is done
    Run(RunArguments),
    /// Check requests offline: every line that a service would refuse, with file, line and column
    Check(CheckArguments),
    /// Show what `run` would send: shards, bytes, models, estimated tokens
    Plan(PlanArguments),
    /// Write the shards as real files, named in order
    Split(SplitArguments),
    /// Bring reply files that you have downloaded yourself into input order, offline
    Merge(MergeArguments),
    /// Show where a run stands
    Status(StatusArguments),
    /// List the runs
    #[command(visible_alias = "list")]
    Ls(LsArguments),
    /// Cancel a run's batches at the service
    Cancel(CancelArguments),
    /// Decide that what a run left is sent again: requests without an output, or submissions in doubt
    Retry(RetryArguments),
    /// Remove run directories that are done
    Clean(CleanArguments),
    /// Examine a run directory, and have what is damaged made again
    Doctor(DoctorArguments),
    /// List the providers: what they take, and how sure that is
    Providers(ProvidersArguments),
    /// Print the JSON Schema of the records that --json prints
    Schema,
    /// Start the local Batch API server
    Serve(ServeArguments),
    /// Write a realistic set of requests
    Generate(GenerateArguments),
    /// Measure what this machine makes of each stage, beside plain reading and copying
    Bench(BenchArguments),
}

impl Command {
    /// Whether a key may be in its memory.
    pub(crate) fn holds_a_key(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Cancel(_) | Self::Serve(_))
    }

    /// Whether messages are to be JSON, too.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Run(arguments) => arguments.json,
            Self::Check(arguments) => arguments.json,
            Self::Plan(arguments) => arguments.json,
            Self::Merge(arguments) => arguments.json,
            Self::Status(arguments) => arguments.json,
            Self::Ls(arguments) => arguments.json,
            Self::Cancel(arguments) => arguments.json,
            Self::Retry(arguments) => arguments.json,
            Self::Doctor(arguments) => arguments.json,
            Self::Providers(arguments) => arguments.json,
            Self::Bench(arguments) => arguments.json,
            Self::Schema | Self::Split(_) | Self::Clean(_) | Self::Serve(_) | Self::Generate(_) => false,
        }
    }
}

/// What all commands that read requests take.
#[derive(Debug, Args)]
pub(crate) struct InputArguments {
    /// Files of requests, in order; `-` or none is standard input. gzip and zstd are recognised by content
    #[arg(value_name = "INPUT")]
    pub(crate) inputs: Vec<PathBuf>,
    /// The provider, one of those that `batchline providers` lists [default: together]
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// What the provider speaks, together or openai, where it may be either; alone, with --base-url, a service of your own
    #[arg(long, value_name = "NAME", value_parser = dialect)]
    pub(crate) dialect: Option<&'static dyn batchline::dialect::Dialect>,
    /// The endpoint that answers, such as /v1/embeddings [default: /v1/chat/completions]
    #[arg(long, value_name = "PATH")]
    pub(crate) endpoint: Option<String>,
    /// Lines are bodies alone; each goes up with the id line-N, N being its place among all lines that are not blank
    #[arg(long)]
    pub(crate) assign_ids: bool,
    /// Accept an input that is empty or has blank lines only: the output is then empty, too
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Threads that check and merge [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Memory for the whole process, such as 256MiB
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    pub(crate) memory: u64,
}

/// How shards are cut.
#[derive(Debug, Args)]
pub(crate) struct ShardArguments {
    /// Most requests in a shard; no more than the provider takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) shard_requests: Option<u64>,
    /// Most bytes in a shard, such as 20MB; no more than the provider takes
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) shard_bytes: Option<u64>,
    /// Pass over lines that are no requests
    #[arg(long)]
    pub(crate) skip_invalid: bool,
}

/// How defects are reported.
#[derive(Debug, Args)]
pub(crate) struct DefectArguments {
    /// Defects shown; all are counted
    #[arg(long, value_name = "N", default_value_t = batchline::run::options::MAX_DEFECTS)]
    pub(crate) max_defects: u64,
    /// Write every defect to FILE, as JSONL; `-` is stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// How to reach the service.
#[derive(Debug, Args)]
pub(crate) struct ServiceArguments {
    /// Where the API is, with or without /v1 [default: the provider's, or its environment variable]
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Read the API key from FILE, which only you may read [default: the provider's environment variable]
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
}

/// Where replies go, and what they look like.
#[derive(Debug, Args)]
pub(crate) struct OutputArguments {
    /// Write the replies to FILE, which appears whole; `-` is stdout [default: stdout, of a run as they become final]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write errors and missing requests to FILE instead of between the outputs, each with its body: a later `run` takes FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) errors: Option<PathBuf>,
    /// What replies look like: native, as the service sent them, or common, the same for every service
    #[arg(long, value_name = "NAME", default_value = "native", value_parser = shape)]
    pub(crate) shape: batchline::results::normalize::Shape,
}

/// Where runs are kept, and whether to ask about earlier ones.
#[derive(Debug, Args)]
pub(crate) struct RunsArguments {
    /// Keep this run in DIR, apart from the others
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Send everything without asking, although an earlier run over the same files has answers; without it and without
    /// a terminal nothing is sent
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) input: InputArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    #[command(flatten)]
    pub(crate) shard: ShardArguments,
    #[command(flatten)]
    pub(crate) defects: DefectArguments,
    #[command(flatten)]
    pub(crate) service: ServiceArguments,
    #[command(flatten)]
    pub(crate) runs: RunsArguments,
    /// Uploads at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) uploads: u16,
    /// With online: most requests at the service at a time; fewer when it limits us, is overloaded or slow [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=CONCURRENCY_MAX))]
    pub(crate) concurrency: Option<u16>,
    /// With online: how long the service may be out of reach, or refuse everything, before the run ends, to be resumed later [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) patience: Option<Duration>,
    /// Most batches in flight at a time [default: the provider's limit, where it is known, and fewer when it says that its queue is full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_in_flight_batches: Option<u32>,
    /// How often a request is sent at most: later rounds send what is left without an output and worth it; 1 for no second time
    #[arg(long, value_name = "N", default_value_t = batchline::run::options::ROUNDS, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How long the service may take over a batch, in its own words, such as 1h; the rest expires [default: the provider's, 24h for most]
    #[arg(long, value_name = "WINDOW", value_parser = completion_window)]
    pub(crate) completion_window: Option<String>,
    /// Time between two looks at the batches, such as 45s or 200ms [default: 30s; 200ms for local and online]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) poll_interval: Option<Duration>,
    /// What to do when nobody knows whether a batch was created: hold, or retry-after:TIME
    #[arg(long, value_name = "POLICY", value_parser = on_ambiguous)]
    pub(crate) on_ambiguous: Option<batchline::run::OnAmbiguous>,
    /// When every request has an output, delete the run's files at the service
    #[arg(long)]
    pub(crate) delete_remote: bool,
    /// How long to look for what is not certain before it is held: for a batch whose create was not answered in the service's list, for
    /// replies that the service says it has and that have not come [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) settle: Option<Duration>,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Say everything in JSON, a record a line, on stderr
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(crate) input: InputArguments,
    #[command(flatten)]
    pub(crate) defects: DefectArguments,
    /// Print records, a defect a line, then the totals
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing but defects and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) input: InputArguments,
    #[command(flatten)]
    pub(crate) shard: ShardArguments,
    #[command(flatten)]
    pub(crate) defects: DefectArguments,
    /// Print records, a shard a line, then the totals
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SplitArguments {
    #[command(flatten)]
    pub(crate) input: InputArguments,
    #[command(flatten)]
    pub(crate) shard: ShardArguments,
    #[command(flatten)]
    pub(crate) defects: DefectArguments,
    /// Directory for the shard files; made if it is not there
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Remove the shard files of an earlier split from DIR first
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    #[command(flatten)]
    pub(crate) input: InputArguments,
    /// Files of replies, outputs and errors, from any number of batches in any order
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) replies: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    /// Keep replies that answer nobody in files that begin with PREFIX
    #[arg(long, value_name = "PREFIX", default_value = "merge")]
    pub(crate) aside: PathBuf,
    /// Pass over lines that are no requests
    #[arg(long)]
    pub(crate) skip_invalid: bool,
    #[command(flatten)]
    pub(crate) defects: DefectArguments,
    /// Print the totals as JSON on stderr
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// The run: its directory, or its name [default: the newest that was begun here, else the newest]
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LsArguments {
    /// Print JSON, a run a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArguments {
    /// The run: its directory, or its name [default: the newest that was begun here]
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) service: ServiceArguments,
    /// Print JSON, a batch a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArguments {
    /// The run: its directory, or its name [default: the newest that was begun here]
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Repeat unresolved submissions, too: if the lost answer was a yes, they are paid for twice
    #[arg(long)]
    pub(crate) ambiguous: bool,
    /// Instead, take what could be fetched of incomplete batches as all that they answered: requests that lack their reply are held no
    /// longer but missing, and sent again as long as there are --rounds; if the service did answer them, they are paid for twice
    #[arg(long, conflicts_with = "ambiguous")]
    pub(crate) accept_incomplete: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArguments {
    /// The run: its directory, or its name [default: all]
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Remove runs that are unfinished, have errors or missing requests, or were not delivered, too: their replies are
    /// lost
    #[arg(long)]
    pub(crate) unfinished: bool,
    /// Remove without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Print what would be removed, without removing it
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// The run: its directory, or its name [default: the newest that was begun here, else the newest]
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Have the next run make again what can be made again; nothing is submitted for it
    #[arg(long)]
    pub(crate) mend: bool,
    /// Print JSON, a finding a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProvidersArguments {
    /// Print JSON, a provider a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Print a table in Markdown
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Where to listen; port 0 is any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Whose API to be: together or openai
    #[arg(long, value_name = "NAME", default_value = "together", value_parser = dialect)]
    pub(crate) dialect: &'static dyn batchline::dialect::Dialect,
    /// Directory for files, batches and the billing ledger
    #[arg(short, long, value_name = "DIR", default_value = "batchline-serve")]
    pub(crate) directory: PathBuf,
    /// Answer with this OpenAI-compatible server instead of an echo: each request is POST {URL}{endpoint}
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// Read the upstream's key from FILE, which only you may read [default: what its environment variable says]
    #[arg(long, value_name = "FILE", requires = "upstream")]
    pub(crate) upstream_key_file: Option<PathBuf>,
    /// Most requests at the upstream at a time; fewer when it limits us, is overloaded or slow [default: 64]
    #[arg(long, value_name = "N", requires = "upstream", value_parser = clap::value_parser!(u16).range(1..=CONCURRENCY_MAX))]
    pub(crate) upstream_concurrency: Option<u16>,
    /// Time that a batch pretends to take, when it is answered with an echo
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub(crate) batch_time: Duration,
    /// Batches that execute at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// What the order of the replies, and what faults draw by chance, follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// A name by which clients know the server, as they write it in URLs; may be repeated. The names and addresses of this machine for
    /// itself need none
    #[arg(long, value_name = "NAME", value_parser = batchline::serve::host_name)]
    pub(crate) allow_host: Vec<String>,
    /// Most bytes that the directory may hold, such as 20GB [default: what it holds, and 90% of what is free at the start]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) quota: Option<u64>,
    /// Accept only the key in FILE; required to listen beyond the loopback addresses [default: any key]
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Let go wrong what the script in FILE says: dropped answers, cut downloads, lost rows and the like
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,
    /// End when standard input ends, too: for programs that start a service of their own
    #[arg(long)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    /// How many requests
    #[arg(short = 'n', long, value_name = "N", required_unless_present = "bytes")]
    pub(crate) requests: Option<u64>,
    /// How many bytes, such as 10GB; the request that reaches them is the last
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "requests")]
    pub(crate) bytes: Option<u64>,
    /// What everything follows from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// A model to ask for; several are interleaved
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Vec<String>,
    /// Write to FILE; `-` is stdout [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// How many bytes of requests are generated
    #[arg(long, value_name = "BYTES", default_value = "1GB", value_parser = bytes)]
    pub(crate) bytes: u64,
    /// How many requests are generated, instead
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "bytes")]
    pub(crate) requests: Option<u64>,
    /// A model to ask for; several are interleaved [default: three]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Vec<String>,
    /// How often everything is done; the medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) runs: u16,
    /// Threads that check and merge [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Memory for the whole process, such as 256MiB
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    pub(crate) memory: u64,
    /// Work in DIR, which needs room for six times the bytes [default: the system's directory for temporary files]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Print records, a stage a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
