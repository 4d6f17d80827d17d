//! What a run is asked to do.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::directory::RunPlaces;
use crate::dialect::provider::Host;
use crate::dialect::providers::EMBEDDINGS;
use crate::input::check::LineLimits;
use crate::input::envelope::Envelope;
use crate::input::source::Input;
use crate::model::shard::ShardLimits;
#[cfg(feature = "http")]
use crate::remote::Address;
use crate::remote::{Limits, Provider, Redactor};

/// Maximum defects shown, by default.
pub const MAX_DEFECTS: u64 = 100;

/// Memory limit of the process in bytes, by default.
pub const MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// Divisor of the memory limit: the share for ids during the check, and for reply files during the merge.
const MEMORY_SHARE: usize = 4;

/// Concurrent uploads, by default.
pub const UPLOADS: usize = 4;

/// How long the list is watched, by default. How soon Together's list shows a new batch is unknown.
pub const SETTLE: Duration = Duration::from_secs(600);

/// Rounds, by default.
pub const ROUNDS: u32 = 3;

/// Requests of a shard at a service without a Batch API, by default. The replies of a shard appear when all of it is
/// done, and smaller batches cost such a service nothing.
pub const ONLINE_SHARD_REQUESTS: u64 = 5_000;

/// Where runs are kept, by default.
const HOME: &str = ".batchline";

/// Concurrent downloads.
pub const DOWNLOADS: usize = 4;

/// The place of the built-in service, in a [`ServiceIdentity`].
pub const BUILT_IN: &str = "built in";

/// The service's part of a run's fingerprint: the provider, and its base URL.
///
/// Written as the provider's name, a space, and the base URL: `together https://api.together.ai/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceIdentity {
    /// Its limits and dialect.
    pub provider: &'static Provider,
    place: String,
}

impl ServiceIdentity {
    /// The provider at its default base URL. One without a default needs an address: see [`ServiceIdentity::at`].
    #[must_use]
    pub fn of(provider: &'static Provider) -> Self {
        Self { provider, place: provider.base_url.to_owned() }
    }

    /// The provider at this base URL.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn at(provider: &'static Provider, address: &Address) -> Self {
        Self { provider, place: address.to_string() }
    }

    /// The provider, served by a server within the process, whose address changes each time.
    #[must_use]
    pub fn built_in(provider: &'static Provider) -> Self {
        Self { provider, place: BUILT_IN.to_owned() }
    }
}

impl fmt::Display for ServiceIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.provider.identity(), self.place)
    }
}

/// Where the ordered lines go.
pub enum OutputTarget {
    /// To a writer, as they become final.
    Writer(Box<dyn Write + Send>),
    /// To a file, which appears whole when the run is done, or to a pipe or device, which receives lines as they become
    /// final.
    File(PathBuf),
}

impl fmt::Debug for OutputTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writer(_) => out.write_str("Writer"),
            Self::File(path) => out.debug_tuple("File").field(path).finish(),
        }
    }
}

/// What to do with a submission whose outcome is unknown, when the service's list shows no batch of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAmbiguous {
    /// Leave the decision to the user. The only choice that never pays twice, whatever the service does.
    Hold,
    /// Submit again when the list has shown nothing for this long. Correct if the list is reliable by then.
    RetryAfter(Duration),
}

/// What to do when an [earlier run](super::EarlierRun) has paid for some of what a new one would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEarlier {
    /// Ask the [`Monitor`](super::Monitor), and send nothing unless it says so.
    Ask,
    /// Send all.
    SendAll,
}

/// The provider's limits of one batch for this endpoint.
#[must_use]
pub fn shard_limits(provider: &Provider, endpoint: &str) -> ShardLimits {
    let Limits { shard_requests, shard_bytes, embedding_inputs, .. } = provider.limits;
    ShardLimits {
        requests: shard_requests,
        bytes: shard_bytes,
        inputs: embedding_inputs.filter(|_| endpoint == EMBEDDINGS),
    }
}

/// The default limits of a shard for this endpoint: the provider's, or [`ONLINE_SHARD_REQUESTS`].
#[must_use]
pub fn usual_shard(provider: &Provider, endpoint: &str) -> ShardLimits {
    let most = shard_limits(provider, endpoint);
    let requests = if provider.host == Host::Online { most.requests.min(ONLINE_SHARD_REQUESTS) } else { most.requests };
    ShardLimits { requests, ..most }
}

/// The rules for the lines of such a shard: each must fit into it with its line terminator.
#[must_use]
pub fn line_limits(provider: &Provider, endpoint: &'static str, shard: ShardLimits) -> LineLimits {
    LineLimits {
        line_bytes: provider.limits.line_bytes.min(shard.bytes - 1),
        custom_id_characters: provider.limits.custom_id_characters as usize,
        envelope: Envelope::for_provider(provider, endpoint),
        assign_ids: false,
        inputs: shard.inputs,
    }
}

/// What is read, and which of its lines are accepted.
#[derive(Debug, Clone)]
pub struct InputOptions {
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// The rules for lines.
    pub line: LineLimits,
    /// The limits of shards.
    pub shard: ShardLimits,
    /// Whether invalid lines are skipped: each gets an error line in the output.
    pub skip_invalid: bool,
    /// Whether an input without requests is accepted.
    pub allow_empty: bool,
    /// File to which every Defect is written.
    pub report: Option<PathBuf>,
    /// Maximum Defects reported to the monitor.
    pub max_defects: u64,
}

impl InputOptions {
    /// These inputs, with the limits of `provider` at its first endpoint. Every line must be a request, an input
    /// without lines is refused, and at most [`MAX_DEFECTS`] are shown.
    #[must_use]
    pub fn new(inputs: impl IntoIterator<Item = impl Into<PathBuf>>, provider: &'static Provider) -> Self {
        let endpoint = provider.endpoint();
        let shard = usual_shard(provider, endpoint);
        Self {
            inputs: inputs.into_iter().map(|path| Input::File(path.into())).collect(),
            line: line_limits(provider, endpoint, shard),
            shard,
            skip_invalid: false,
            allow_empty: false,
            report: None,
            max_defects: MAX_DEFECTS,
        }
    }
}

/// What may be used of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Threads that check and merge.
    pub threads: usize,
    /// Memory limit of the process, in bytes.
    pub memory_bytes: usize,
}

impl Resources {
    /// The share of the memory for ids during the check, and for reply files during the merge, in bytes.
    #[must_use]
    pub const fn memory_share(&self) -> usize {
        self.memory_bytes / MEMORY_SHARE
    }
}

impl Default for Resources {
    /// One thread per core, and [`MEMORY_BYTES`].
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, memory_bytes: MEMORY_BYTES }
    }
}

/// The service, and what is asked of it.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Its part of the run's identity. The [`Api`](crate::remote::Api) that reaches it is passed later.
    pub identity: ServiceIdentity,
    /// The endpoint that answers the requests.
    pub endpoint: String,
    /// The completion window of batches, in the service's notation. Existing batches keep theirs.
    pub completion_window: String,
    /// Removes the key from texts of replies that are shown or recorded.
    pub redactor: Redactor,
}

impl ServiceOptions {
    /// `provider` at its default base URL, its first endpoint and its usual completion window.
    #[must_use]
    pub fn new(provider: &'static Provider) -> Self {
        Self {
            identity: ServiceIdentity::of(provider),
            endpoint: provider.endpoint().to_owned(),
            completion_window: provider.completion_window.to_owned(),
            redactor: Redactor::default(),
        }
    }
}

/// How batches are submitted and followed.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Concurrent uploads.
    pub uploads: usize,
    /// Maximum batches in flight; `None` for as many as the service accepts.
    pub max_in_flight: Option<u32>,
    /// Poll interval.
    pub poll_interval: Duration,
    /// See [`OnEarlier`].
    pub on_earlier: OnEarlier,
    /// See [`OnAmbiguous`].
    pub on_ambiguous: OnAmbiguous,
    /// How long the service's list is watched before a submission with an unknown outcome is held.
    pub settle: Duration,
    /// Maximum attempts per request.
    pub rounds: u32,
    /// Whether the run's files at the service are deleted when every request has an output.
    pub delete_remote: bool,
}

impl BatchOptions {
    /// What `provider` takes, [`UPLOADS`] and [`ROUNDS`]. The monitor is asked about an earlier run that has paid for
    /// some of the lines, and a submission with an unknown outcome is held after the service's list was watched for
    /// [`SETTLE`].
    #[must_use]
    pub fn new(provider: &'static Provider) -> Self {
        Self {
            uploads: UPLOADS,
            max_in_flight: provider.limits.batches_in_flight,
            poll_interval: provider.poll_interval,
            on_earlier: OnEarlier::Ask,
            on_ambiguous: OnAmbiguous::Hold,
            settle: SETTLE,
            rounds: ROUNDS,
            delete_remote: false,
        }
    }
}

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is read.
    pub input: InputOptions,
    /// Where runs are kept and looked up.
    pub places: RunPlaces,
    /// This run's directory; by default, one named after its fingerprint.
    pub directory: Option<PathBuf>,
    /// The service.
    pub service: ServiceOptions,
    /// How batches are submitted and followed.
    pub batches: BatchOptions,
    /// What may be used of this machine.
    pub resources: Resources,
}

impl Options {
    /// A run of these inputs at `provider`, kept in `.batchline` below the working directory. For the rest see
    /// [`InputOptions::new`], [`ServiceOptions::new`], [`BatchOptions::new`] and [`Resources::default`].
    #[must_use]
    pub fn new(inputs: impl IntoIterator<Item = impl Into<PathBuf>>, provider: &'static Provider) -> Self {
        Self {
            input: InputOptions::new(inputs, provider),
            places: RunPlaces { home: PathBuf::from(HOME), others: Vec::new() },
            directory: None,
            service: ServiceOptions::new(provider),
            batches: BatchOptions::new(provider),
            resources: Resources::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::providers::{PROVIDERS, provider};

    #[test]
    fn lines_can_name_every_endpoint_of_every_provider() {
        for row in PROVIDERS {
            let shard = shard_limits(row, row.endpoint());
            for endpoint in row.endpoints {
                let envelope = line_limits(row, endpoint, shard).envelope;
                assert_eq!(Envelope::read(&envelope.to_string()), Some(envelope), "{}", row.name);
            }
        }
    }

    #[test]
    fn a_service_is_named_by_its_provider_and_place() {
        let [together, local] = ["together", "local"].map(|name| provider(name).unwrap());
        let address = Address::parse("http://127.0.0.1:9/v1").unwrap();
        for (identity, text) in [
            (ServiceIdentity::of(together), "together https://api.together.ai/v1"),
            (ServiceIdentity::at(together, &address), "together http://127.0.0.1:9/v1"),
            (ServiceIdentity::built_in(local), "local built in"),
        ] {
            assert_eq!(identity.to_string(), text);
        }
        assert_eq!(Options::new(["a"], together).service.identity, ServiceIdentity::of(together));
    }
}
