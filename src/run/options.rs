//! What a run is asked to do.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::directory::RunPlaces;
use crate::input::check::LineLimits;
use crate::input::source::Input;
use crate::model::shard::ShardLimits;
use crate::remote::{Address, Provider, Redactor, Token};

/// Defects shown, unless the user says otherwise.
pub const MAX_DEFECTS: u64 = 100;

/// Memory for the whole process, in bytes, unless the user says otherwise.
pub const MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// The part of the memory that holds ids while the input is checked, and reply files while they are merged.
pub const MEMORY_SHARE: usize = 4;

/// Uploads at a time, unless the user says otherwise.
pub const UPLOADS: usize = 4;

/// How long the list is watched, unless the user says otherwise. How fast Together's list shows a new batch is not known.
pub const SETTLE: Duration = Duration::from_secs(600);

/// Rounds, unless the user says otherwise.
pub const ROUNDS: u32 = 3;

/// Downloads at a time.
pub const DOWNLOADS: usize = 4;

/// How long a service without a Batch API may be out of reach, or refuse everything, before the run ends, unless the user says otherwise.
/// It can be resumed later.
pub const ONLINE_PATIENCE: Duration = Duration::from_mins(30);

/// Where the built-in service is, in [`ServiceChoice::identity`].
pub const BUILT_IN: &str = "built in";

/// The service that answers.
#[derive(Debug, Clone)]
pub enum ServiceChoice {
    /// The built-in one, started for this run inside of this process.
    BuiltIn {
        /// Its provider.
        provider: &'static Provider,
    },
    /// One that has no Batch API, behind the built-in one, which is started for this run inside of this process.
    Online {
        /// Its provider.
        provider: &'static Provider,
        /// Where it is.
        address: Address,
        /// The key, if there is one.
        token: Option<Token>,
        /// Most requests that are there at a time.
        concurrency: usize,
        /// See [`ONLINE_PATIENCE`].
        patience: Duration,
    },
    /// One that is somewhere.
    At {
        /// What it takes and how it speaks.
        provider: &'static Provider,
        /// Where it is.
        address: Address,
        /// The key, if there is one.
        token: Option<Token>,
    },
}

impl ServiceChoice {
    /// What tells one service from another in a run's fingerprint: the provider's name, and behind a space its address.
    #[must_use]
    pub fn identity(&self) -> String {
        match self {
            Self::BuiltIn { provider } => format!("{} {BUILT_IN}", provider.identity()),
            Self::At { provider, address, .. } | Self::Online { provider, address, .. } => {
                format!("{} {address}", provider.identity())
            }
        }
    }

    /// What takes its key out of texts.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        match self {
            Self::BuiltIn { .. } => Redactor::default(),
            Self::At { token, .. } | Self::Online { token, .. } => Redactor::of(token.clone()),
        }
    }

    /// What it takes and how it speaks.
    #[must_use]
    pub fn provider(&self) -> &'static Provider {
        match self {
            Self::BuiltIn { provider } | Self::At { provider, .. } | Self::Online { provider, .. } => provider,
        }
    }
}

/// Where the ordered lines go.
pub enum OutputTarget {
    /// To a writer, as they become final.
    Writer(Box<dyn Write + Send>),
    /// To a file, which appears whole when the run is done, or to a pipe or device, which gets lines as they become final.
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

/// What to do with a submission of which nobody knows whether it created a batch, when the service's list shows none.
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

/// The key for the built-in service, which takes any.
pub(super) fn built_in_token() -> Token {
    Token::new("built-in").expect("it is not empty")
}

/// The key for the built-in service of one run, where it takes no other: behind it is a service that may cost money, and others
/// on this machine can reach it. It follows from the run's own key for ids, which stands in the Ledger, for the owner alone.
pub(super) fn own_token(id_key: u64) -> Token {
    let digest = Sha256::new().chain_update(b"batchline online\0").chain_update(id_key.to_le_bytes()).finalize();
    let [half, other] = [0, 16].map(|at| u128::from_le_bytes(digest[at..at + 16].try_into().unwrap_or([0; 16])));
    Token::new(&format!("{half:032x}{other:032x}")).expect("it is made of digits and letters")
}

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// Where runs are kept and looked up.
    pub places: RunPlaces,
    /// This run's directory, if it is not to be named after its fingerprint.
    pub directory: Option<PathBuf>,
    /// The service.
    pub service: ServiceChoice,
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
