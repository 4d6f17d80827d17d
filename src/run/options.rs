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
use crate::remote::{Address, Limits, Provider, Redactor};

/// Defects shown, unless the user says otherwise.
pub const MAX_DEFECTS: u64 = 100;

/// Memory for the whole process, in bytes, unless the user says otherwise.
pub const MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// The part of the memory that holds ids while the input is checked, and reply files while they are merged.
pub const MEMORY_SHARE: usize = 4;

/// Uploads at a time, unless the user says otherwise.
pub const UPLOADS: usize = 4;

/// How long the list is watched, unless the user says otherwise. How fast Together's list shows a new batch is not
/// known.
pub const SETTLE: Duration = Duration::from_secs(600);

/// Rounds, unless the user says otherwise.
pub const ROUNDS: u32 = 3;

/// Requests of a shard at a service that is asked request by request, unless the user says otherwise. The replies of a
/// shard appear when all of it is done, and smaller batches cost such a service nothing.
pub const ONLINE_SHARD_REQUESTS: u64 = 5_000;

/// Where runs are kept, unless the user says otherwise.
const HOME: &str = ".batchline";

/// Downloads at a time.
pub const DOWNLOADS: usize = 4;

/// The place of the built-in service, in a [`ServiceIdentity`].
pub const BUILT_IN: &str = "built in";

/// What tells one service from another in a run's fingerprint: the provider, and where it is.
///
/// Written as the provider's name, a space, and the base URL: `together https://api.together.ai/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceIdentity {
    /// What it takes and how it speaks.
    pub provider: &'static Provider,
    place: String,
}

impl ServiceIdentity {
    /// The provider at its own base URL. One that has none needs an address: see [`ServiceIdentity::at`].
    #[must_use]
    pub fn of(provider: &'static Provider) -> Self {
        Self { provider, place: provider.base_url.to_owned() }
    }

    /// The provider at this base URL.
    #[must_use]
    pub fn at(provider: &'static Provider, address: &Address) -> Self {
        Self { provider, place: address.to_string() }
    }

    /// The provider, answered by a server inside of the process, whose address is another one each time.
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
    /// To a file, which appears whole when the run is done, or to a pipe or device, which gets lines as they become
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
    /// Leave it for somebody to decide. The only choice that never pays twice, whatever the service does.
    Hold,
    /// Submit again when the list has shown nothing for this long. Right where a list that has settled tells the truth.
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

/// What the provider takes in one batch for this endpoint.
#[must_use]
pub fn shard_limits(provider: &Provider, endpoint: &str) -> ShardLimits {
    let Limits { shard_requests, shard_bytes, embedding_inputs, .. } = provider.limits;
    ShardLimits {
        requests: shard_requests,
        bytes: shard_bytes,
        inputs: embedding_inputs.filter(|_| endpoint == EMBEDDINGS),
    }
}

/// What is packed into one shard for this endpoint, unless the user says otherwise: as much as the provider takes, or
/// [`ONLINE_SHARD_REQUESTS`].
#[must_use]
pub fn usual_shard(provider: &Provider, endpoint: &str) -> ShardLimits {
    let most = shard_limits(provider, endpoint);
    let requests = if provider.host == Host::Online { most.requests.min(ONLINE_SHARD_REQUESTS) } else { most.requests };
    ShardLimits { requests, ..most }
}

/// What the provider wants of the lines of such a shard: each must fit it with its line end.
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

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// Where runs are kept and looked up.
    pub places: RunPlaces,
    /// This run's directory, if it is not to be named after its fingerprint.
    pub directory: Option<PathBuf>,
    /// The service, as far as the run is named after it. The [`Api`](crate::remote::Api) that reaches it comes later.
    pub service: ServiceIdentity,
    /// Takes the key out of what replies say, where it is told or recorded.
    pub redactor: Redactor,
    /// The endpoint that answers the requests.
    pub endpoint: String,
    /// How long the service may take over a batch, as the service writes it. Batches that exist already keep theirs.
    pub completion_window: String,
    /// What lines must keep to.
    pub line: LineLimits,
    /// What shards must keep to.
    pub shard: ShardLimits,
    /// See [`OnEarlier`].
    pub on_earlier: OnEarlier,
    /// Lines that are no requests get an error line each; the rest is sent.
    pub skip_invalid: bool,
    /// Whether an input without lines is as good as any.
    pub allow_empty: bool,
    /// File that takes every Defect.
    pub report: Option<PathBuf>,
    /// Most Defects told to the monitor.
    pub max_defects: u64,
    /// Threads that check and merge.
    pub threads: usize,
    /// Memory for the whole process, in bytes.
    pub memory_bytes: usize,
    /// Uploads at a time.
    pub uploads: usize,
    /// Time between two looks at the batches.
    pub poll_interval: Duration,
    /// See [`OnAmbiguous`].
    pub on_ambiguous: OnAmbiguous,
    /// How long the service's list is watched before a submission in doubt is held.
    pub settle: Duration,
    /// Most batches in flight at a time; without a number as many as the service takes.
    pub max_in_flight_batches: Option<u32>,
    /// How often a request is sent at most.
    pub rounds: u32,
    /// Whether the run's files at the service are deleted when every request has an output.
    pub delete_remote: bool,
}

impl Options {
    /// A run of these inputs at `provider`, at its own base URL and with its own limits; everything else as the fields
    /// say:
    ///
    /// - runs are kept in `.batchline` below the working directory;
    /// - every line must be a request, an input without lines is refused, and an earlier run that has paid for some of
    ///   the lines is asked about;
    /// - as many threads as there are cores, [`MEMORY_BYTES`], [`UPLOADS`] at a time, [`ROUNDS`];
    /// - a submission whose outcome is unknown is held, once the service's list was watched for [`SETTLE`].
    #[must_use]
    pub fn new(inputs: impl IntoIterator<Item = impl Into<PathBuf>>, provider: &'static Provider) -> Self {
        let endpoint = provider.endpoint();
        let shard = usual_shard(provider, endpoint);
        Self {
            inputs: inputs.into_iter().map(|path| Input::File(path.into())).collect(),
            places: RunPlaces { home: PathBuf::from(HOME), others: Vec::new() },
            directory: None,
            service: ServiceIdentity::of(provider),
            redactor: Redactor::default(),
            endpoint: endpoint.to_owned(),
            completion_window: provider.completion_window.to_owned(),
            line: line_limits(provider, endpoint, shard),
            shard,
            on_earlier: OnEarlier::Ask,
            skip_invalid: false,
            allow_empty: false,
            report: None,
            max_defects: MAX_DEFECTS,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: MEMORY_BYTES,
            uploads: UPLOADS,
            poll_interval: provider.poll_interval,
            on_ambiguous: OnAmbiguous::Hold,
            settle: SETTLE,
            max_in_flight_batches: provider.limits.batches_in_flight,
            rounds: ROUNDS,
            delete_remote: false,
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
        assert_eq!(Options::new(["a"], together).service, ServiceIdentity::of(together));
    }
}
