//! The commands that need no provider: the local server, the requests for it, the speed of this machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::cli::candidates;
use crate::cli::values::{CONCURRENCY_MAX, bytes, dialect, duration};

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Address to listen on; port 0 picks a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Dialect to serve: together or openai
    #[arg(long, value_name = "NAME", default_value = "together", value_parser = dialect, add = ArgValueCandidates::new(candidates::dialects))]
    pub(crate) dialect: &'static dyn batchline::dialect::Dialect,
    /// Directory for files, batches and the billing ledger
    #[arg(short, long, value_name = "DIR", default_value = "batchline-serve")]
    pub(crate) directory: PathBuf,
    /// Forward each request to this OpenAI-compatible server, as POST {URL}{endpoint}, instead of echoing it
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// Read the upstream's API key from FILE, which only you may have access to [default: its environment variable]
    #[arg(long, value_name = "FILE", requires = "upstream")]
    pub(crate) upstream_key_file: Option<PathBuf>,
    /// Maximum requests in flight at the upstream; reduced when it throttles, is overloaded or slow [default: 64]
    #[arg(long, value_name = "N", requires = "upstream", value_parser = clap::value_parser!(u16).range(1..=CONCURRENCY_MAX))]
    pub(crate) upstream_concurrency: Option<u16>,
    /// Simulated duration of a batch whose requests are echoed
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub(crate) batch_time: Duration,
    /// Maximum batches executed concurrently
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// Random seed for the order of replies and for faults
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Accept requests for this host name; may be repeated. localhost, loopback addresses and the address that a client
    /// connected to are always accepted
    #[arg(long, value_name = "NAME", value_parser = batchline::serve::host_name)]
    pub(crate) allow_host: Vec<String>,
    /// Disk quota of the directory, such as 20GB [default: its size plus 90% of the free space at startup]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) quota: Option<u64>,
    /// Accept only the key in FILE; required to listen on other than loopback addresses [default: any key]
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Inject the faults scripted in FILE: dropped responses, truncated downloads, lost rows and the like
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,
    /// Exit when stdin is closed: for programs that start the server as a child process
    #[arg(long)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    /// Number of requests
    #[arg(short = 'n', long, value_name = "N", required_unless_present = "bytes")]
    pub(crate) requests: Option<u64>,
    /// Number of bytes, such as 10GB; the request that reaches it is the last
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "requests")]
    pub(crate) bytes: Option<u64>,
    /// Random seed; the same seed gives the same requests
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Model of the requests; may be repeated, and models are then interleaved
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
    /// Bytes of requests to generate
    #[arg(long, value_name = "BYTES", default_value = "1GB", value_parser = bytes)]
    pub(crate) bytes: u64,
    /// Number of requests to generate, instead of bytes
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "bytes")]
    pub(crate) requests: Option<u64>,
    /// Model of the requests; may be repeated, and models are then interleaved [default: three]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Vec<String>,
    /// Number of repetitions; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) runs: u16,
    /// Threads for checking and merging [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Memory limit of the process, such as 256MiB
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    pub(crate) memory: u64,
    /// Working directory; needs free space for six times the bytes [default: the system's temporary directory]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Print JSON Lines: one record per stage
    #[arg(long)]
    pub(crate) json: bool,
}
