//! The command line as it is typed: commands, options and their help. Nothing is decided here.

mod local;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};

use super::candidates;
use super::values::{CONCURRENCY_MAX, bytes, completion_window, dialect, duration, on_ambiguous, shape};
pub(crate) use local::{BenchArguments, GenerateArguments, ServeArguments};

/// The version, with the commit that was built and its date.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BATCHLINE_BUILD"), ")");

/// Run a JSONL file of LLM requests through a provider's Batch API and get the replies back in input order.
#[derive(Debug, Parser)]
#[command(
    version = VERSION,
    about,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 every request has an output · 1 internal fault · 2 usage · 3 configuration or key ·
4 the input has defects, nothing was sent · 5 the provider refused or could not be reached ·
6 finished, but some requests ended as error or missing · 7 a submission is unresolved ·
8 local state damaged or out of space · 9 another process is using this run ·
130/143 interrupted, resumable

Runs are kept in $BATCHLINE_HOME, else in $XDG_STATE_HOME/batchline, else in ~/.local/state/batchline"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check, upload, submit, wait, download and merge; re-run the same command to resume
    Run(RunArguments),
    /// Check requests offline and report every line that a service would reject
    Check(CheckArguments),
    /// Show what `run` would send: shards, bytes, models, estimated tokens
    Plan(PlanArguments),
    /// Write the shards to files, named in order
    Split(SplitArguments),
    /// Merge reply files that you downloaded yourself into input order, offline
    Merge(MergeArguments),
    /// Show the status of a run
    Status(StatusArguments),
    /// List runs
    #[command(visible_alias = "list")]
    Ls(LsArguments),
    /// Cancel a run's batches at the service
    Cancel(CancelArguments),
    /// Schedule failed and missing requests, or unresolved submissions, for resubmission
    Retry(RetryArguments),
    /// Remove the directories of finished runs
    Clean(CleanArguments),
    /// Check a run directory for damage, and repair it
    Doctor(DoctorArguments),
    /// List providers, their limits, and how well each is verified
    Providers(ProvidersArguments),
    /// Print the JSON Schema of the records that --json prints
    Schema,
    /// Start the local Batch API server
    Serve(ServeArguments),
    /// Generate a realistic set of requests
    Generate(GenerateArguments),
    /// Benchmark each stage on this machine against plain reading and copying
    Bench(BenchArguments),
    /// Print the script that makes a shell complete commands, options and their values
    #[command(after_help = "\
Examples: batchline completions bash > ~/.local/share/bash-completion/completions/batchline
          batchline completions fish > ~/.config/fish/completions/batchline.fish
          source <(batchline completions zsh)    # in ~/.zshrc")]
    Completions(CompletionsArguments),
    /// Print the manual page, or write all of them to a directory
    Man(ManArguments),
}

impl Command {
    /// Whether an API key may be in the memory of this process.
    pub(crate) fn holds_a_key(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Cancel(_) | Self::Serve(_))
    }

    /// Whether the bytes of requests or replies pass through the memory of this process from thread to thread.
    pub(crate) fn moves_data(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Merge(_) | Self::Serve(_) | Self::Bench(_))
    }

    /// Whether messages on stderr are JSON, too.
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
            Self::Schema
            | Self::Split(_)
            | Self::Clean(_)
            | Self::Serve(_)
            | Self::Generate(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }
}

/// Options of all commands that read requests.
#[derive(Debug, Args)]
pub(crate) struct InputArguments {
    /// Request files, in order; `-` or none is stdin. gzip and zstd are detected by content
    #[arg(value_name = "INPUT")]
    pub(crate) inputs: Vec<PathBuf>,
    /// Provider, as listed by `batchline providers` [default: together]
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(candidates::providers))]
    pub(crate) provider: Option<String>,
    /// Dialect of a provider that supports both: together or openai; with --base-url alone, that of your own service
    #[arg(long, value_name = "NAME", value_parser = dialect, add = ArgValueCandidates::new(candidates::dialects))]
    pub(crate) dialect: Option<&'static dyn batchline::dialect::Dialect>,
    /// Endpoint of the requests, such as /v1/embeddings [default: /v1/chat/completions]
    #[arg(long, value_name = "PATH", add = ArgValueCandidates::new(candidates::endpoints))]
    pub(crate) endpoint: Option<String>,
    /// Input lines are request bodies; assign each the id line-N, where N counts the non-blank lines from 1
    #[arg(long)]
    pub(crate) assign_ids: bool,
    /// Accept an input without requests (empty or blank lines only) and write an empty output
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Threads for checking and merging [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Memory limit of the process, such as 256MiB
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    pub(crate) memory: u64,
}

/// How requests are split into shards.
#[derive(Debug, Args)]
pub(crate) struct ShardArguments {
    /// Maximum requests per shard, up to the provider's limit [default: that limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) shard_requests: Option<u64>,
    /// Maximum bytes per shard, such as 20MB, up to the provider's limit [default: that limit]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) shard_bytes: Option<u64>,
    /// Skip invalid lines
    #[arg(long)]
    pub(crate) skip_invalid: bool,
}

/// How defects are reported.
#[derive(Debug, Args)]
pub(crate) struct DefectArguments {
    /// Maximum number of defects to show; all are counted
    #[arg(long, value_name = "N", default_value_t = batchline::run::options::MAX_DEFECTS)]
    pub(crate) max_defects: u64,
    /// Write every defect to FILE, as JSONL; `-` is stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// How to reach the service.
#[derive(Debug, Args)]
pub(crate) struct ServiceArguments {
    /// Base URL of the API, with or without /v1 [default: the provider's, or its environment variable]
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Read the API key from FILE, which only you may have access to [default: the provider's environment variable]
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
}

/// Where replies go, and what they look like.
#[derive(Debug, Args)]
pub(crate) struct OutputArguments {
    /// Write replies to FILE, which appears once complete; `-` is stdout [default: stdout, streamed by `run`]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write failed and missing requests to FILE instead of the output, each with its body; `run FILE` sends them again
    #[arg(long, value_name = "FILE")]
    pub(crate) errors: Option<PathBuf>,
    /// Format of the replies: native, as the service sent them, or common, the same for every service
    #[arg(long, value_name = "NAME", default_value = "native", value_parser = shape, add = ArgValueCandidates::new(candidates::shapes))]
    pub(crate) shape: batchline::results::normalize::Shape,
}

/// Where runs are kept, and whether to ask about earlier ones.
#[derive(Debug, Args)]
pub(crate) struct RunsArguments {
    /// Keep this run in DIR instead of the runs directory
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Do not ask before sending all requests when an earlier run of the same files has answers; required without a
    /// terminal
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
    /// Maximum concurrent uploads
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) uploads: u16,
    /// With online: maximum requests in flight; reduced when the service throttles, is overloaded or slow [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=CONCURRENCY_MAX))]
    pub(crate) concurrency: Option<u16>,
    /// With online: give up when the service is unreachable or refuses everything for this long; resumable [default:
    /// 30m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) patience: Option<Duration>,
    /// Maximum batches in flight [default: the provider's limit if known, reduced when its queue is full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_in_flight_batches: Option<u32>,
    /// Maximum attempts per request, counting the first; only retryable failures are sent again
    #[arg(long, value_name = "N", default_value_t = batchline::run::options::ROUNDS, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Completion window of batches, in the provider's notation, such as 1h [default: the provider's, 24h for most]
    #[arg(long, value_name = "WINDOW", value_parser = completion_window)]
    pub(crate) completion_window: Option<String>,
    /// Poll interval, such as 45s or 200ms [default: 30s; 200ms for local and online]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) poll_interval: Option<Duration>,
    /// What to do when a submission's outcome is unknown: hold, or retry-after:TIME
    #[arg(long, value_name = "POLICY", value_parser = on_ambiguous, add = ArgValueCandidates::new(candidates::on_ambiguous))]
    pub(crate) on_ambiguous: Option<batchline::run::OnAmbiguous>,
    /// Delete the run's files at the service when every request has an output
    #[arg(long)]
    pub(crate) delete_remote: bool,
    /// How long to look for a lost batch, or for replies that the service counts but has not returned, before the shard
    /// is put on hold [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) settle: Option<Duration>,
    /// Print only errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Emit JSON Lines on stderr
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(crate) input: InputArguments,
    #[command(flatten)]
    pub(crate) defects: DefectArguments,
    /// Print JSON Lines: one record per defect, then the totals
    #[arg(long)]
    pub(crate) json: bool,
    /// Print only defects and errors
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
    /// Print JSON Lines: one record per shard, then the totals
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
    /// Directory for the shard files; created if missing
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Remove the shard files of an earlier split from DIR
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    #[command(flatten)]
    pub(crate) input: InputArguments,
    /// Reply files (outputs and errors) of any number of batches, in any order
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) replies: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    /// Write unmatched replies to files whose names start with PREFIX
    #[arg(long, value_name = "PREFIX", default_value = "merge")]
    pub(crate) aside: PathBuf,
    /// Skip invalid lines
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
    /// Directory or name of the run [default: the newest started here, else the newest]
    #[arg(value_name = "RUN_DIR", add = ArgValueCompleter::new(candidates::runs))]
    pub(crate) run: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LsArguments {
    /// Print JSON Lines: one record per run
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArguments {
    /// Directory or name of the run [default: the newest started here]
    #[arg(value_name = "RUN_DIR", add = ArgValueCompleter::new(candidates::runs))]
    pub(crate) run: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) service: ServiceArguments,
    /// Print JSON Lines: one record per batch
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArguments {
    /// Directory or name of the run [default: the newest started here]
    #[arg(value_name = "RUN_DIR", add = ArgValueCompleter::new(candidates::runs))]
    pub(crate) run: Option<PathBuf>,
    /// Also repeat unresolved submissions; if the service did accept them, they are paid for twice
    #[arg(long)]
    pub(crate) ambiguous: bool,
    /// Instead, accept what could be fetched of incomplete batches as complete: the requests on hold become missing,
    /// and are sent again while --rounds allows; if the service did answer them, they are paid for twice
    #[arg(long, conflicts_with = "ambiguous")]
    pub(crate) accept_incomplete: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArguments {
    /// Directory or name of the run [default: all]
    #[arg(value_name = "RUN_DIR", add = ArgValueCompleter::new(candidates::runs))]
    pub(crate) run: Option<PathBuf>,
    /// Also remove runs that are unfinished, have errors or missing requests, or were not delivered; their replies are
    /// lost
    #[arg(long)]
    pub(crate) unfinished: bool,
    /// Remove without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Dry run: print what would be removed
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Directory or name of the run [default: the newest started here, else the newest]
    #[arg(value_name = "RUN_DIR", add = ArgValueCompleter::new(candidates::runs))]
    pub(crate) run: Option<PathBuf>,
    /// Mark damaged parts for the next run to rebuild or download again; nothing is resubmitted
    // `--mend` is the name of earlier versions.
    #[arg(long, alias = "mend")]
    pub(crate) repair: bool,
    /// Print JSON Lines: one record per finding
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProvidersArguments {
    /// Print JSON Lines: one record per provider
    #[arg(long)]
    pub(crate) json: bool,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

/// The shells that commands can be completed in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Fish,
    Zsh,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Write the pages of the program and of each command to DIR, which is created if missing
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
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
