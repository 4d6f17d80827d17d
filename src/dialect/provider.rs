//! The providers, as data: each [`Provider`] is a row of [`PROVIDERS`](super::providers::PROVIDERS).
//!
//! # Adding a provider
//!
//! A provider that speaks a known [`Dialect`] is a row, and nothing else:
//!
//! 1. **Facts first.** From the provider's documentation and SDK: the base URL and the position of the version in it,
//!    the variable that holds the key, how the key is sent, the `purpose` of batch files, limits on requests and bytes,
//!    the endpoints, the completion window, whether batches take `metadata`. Where two sources disagree, use the
//!    smaller limit: a shard that is too small costs another request, one that is too large costs the run.
//! 2. **The row**, in `dialect/providers.rs`. It starts from `OPENAI_LIKE` and sets only what differs:
//!
//!    ```text
//!    Provider {
//!        name: "example",
//!        base_url: "https://api.example.com/v1",
//!        base_url_variable: "EXAMPLE_BASE_URL",
//!        key_variable: "EXAMPLE_API_KEY",
//!        limits: Limits { shard_requests: 10_000, ..COMMON_LIMITS },
//!        confidence: Confidence::Documented,
//!        source_note: "official docs; window and metadata as OpenAI's, unverified",
//!        ..OPENAI_LIKE
//!    },
//!    ```
//! 3. **The confidence**: [`Provider::confidence`] is the grade of the weakest fact that a run depends on;
//!    [`Provider::source_note`] says briefly where the row comes from and which parts are guesses. `batchline
//!    providers` shows both, and the table in the README is the output of `batchline providers --markdown`: a test
//!    compares the two.
//! 4. **The test row**, in the table of `every_row_matches_its_sources` in `dialect/providers.rs`: name, base URL, key
//!    variable, limits and window again, typed from the source and not copied from the row. The other tests there cover
//!    every row automatically: a usable address, no key sent in cleartext, limits that one line fits, an endpoint that
//!    lines can name.
//! 5. **A smoke test with a key**, if you have one: `batchline run data/prompts.jsonl --provider example`, with
//!    `--shard-requests 2` for more than one batch. Then `confidence` may be raised.
//!
//! A user's own service needs no row: `--dialect openai --base-url URL` uses the row `custom`. What no field here can
//! express is a quirk of a dialect and belongs in its file; only a different protocol is a new [`Dialect`].

use std::fmt;
use std::time::Duration;

#[cfg(feature = "http")]
use super::address::Address;
use super::line::LineFormat;
use super::protocol::Dialect;

/// How the key is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The name in the list of providers.
    pub name: &'static str,
    /// The header, in lower case.
    pub header: &'static str,
    /// What precedes the key in the header's value.
    pub prefix: &'static str,
}

impl Auth {
    /// `Authorization: Bearer KEY`
    pub const BEARER: Self = Self { name: "bearer", header: "authorization", prefix: "Bearer " };

    /// `api-key: KEY`
    pub const API_KEY: Self = Self { name: "api-key", header: "api-key", prefix: "" };
}

impl fmt::Display for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// The kind of service at the address of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A service with a Batch API.
    Remote,
    /// The built-in service: started for a run, unless an address is given.
    BuiltIn,
    /// A service without a Batch API: requests are sent one by one.
    Online,
}

/// What a reply has around the model's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyShape {
    /// `response` has a `status_code` and the answer as its `body`.
    Wrapped,
    /// `response` is the answer.
    Flat,
}

/// How well a row is verified: the grade of the weakest fact that a run depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// Guessed, or from third parties.
    Unverified,
    /// Reported by users who ran real batches, or a server with the same code.
    Reported,
    /// From official documentation or the source of an official SDK.
    Documented,
    /// Complete runs, in the tests of this repository.
    Tested,
}

impl fmt::Display for Confidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unverified => "unverified",
            Self::Reported => "reported",
            Self::Documented => "documented",
            Self::Tested => "tested",
        })
    }
}

/// A provider's limits. A shard must satisfy all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum requests per batch.
    pub shard_requests: u64,
    /// Maximum bytes per batch file, line terminators included.
    pub shard_bytes: u64,
    /// Maximum bytes per line, without its terminator.
    pub line_bytes: u64,
    /// Maximum characters (Unicode scalar values) in a `custom_id`.
    pub custom_id_characters: u32,
    /// Maximum inputs per batch of embeddings, where the provider limits inputs and not only requests.
    pub embedding_inputs: Option<u64>,
    /// Maximum batches in flight, where it is known. Otherwise it is learned from the service's refusals.
    pub batches_in_flight: Option<u32>,
}

/// A provider: its address, environment variables, protocol and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a row of facts, each independent of the others")]
pub struct Provider {
    /// The name that users type.
    pub name: &'static str,
    /// The base URL with its version prefix; empty where every user has a different one.
    pub base_url: &'static str,
    /// Other base URLs of the same service: the same accounts, files and batches.
    pub base_url_aliases: &'static [&'static str],
    /// The environment variable that overrides [`Provider::base_url`].
    pub base_url_variable: &'static str,
    /// The environment variable that holds the key.
    pub key_variable: &'static str,
    /// Whether every request needs a key.
    pub key_required: bool,
    /// How the key is sent.
    pub auth: Auth,
    /// The protocol.
    pub dialect: &'static dyn Dialect,
    /// The kind of service.
    pub host: Host,
    /// Whether this row is the default if the user names no provider, for its dialect.
    pub is_default: bool,
    /// The `purpose` that a batch file is uploaded with.
    pub purpose: &'static str,
    /// The endpoints that batches can be created for; the first is the default.
    pub endpoints: &'static [&'static str],
    /// What lines have around their bodies.
    pub line: &'static LineFormat,
    /// The `url` of a line, if it differs from the batch's endpoint.
    pub line_url: Option<&'static str>,
    /// The `completion_window` that batches are created with.
    pub completion_window: &'static str,
    /// Whether a batch can be created with `metadata`.
    pub metadata: bool,
    /// Whether a file must have been processed before a batch can be created from it.
    pub waits_for_file: bool,
    /// What replies have around their answers. Informational: both are read, and
    /// [normalized](crate::results::normalize) if requested, whatever this field is.
    pub replies: ReplyShape,
    /// The provider's limits.
    pub limits: Limits,
    /// The default poll interval.
    pub poll_interval: Duration,
    /// How well the row is verified.
    pub confidence: Confidence,
    /// The sources of the row, and what in it is a guess.
    pub source_note: &'static str,
}

impl Provider {
    /// Whether this row's service is at `address`.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn is_at(&self, address: &Address) -> bool {
        let one = address.canonical();
        let mut known = self.base_url_aliases.iter().chain([&self.base_url]).filter(|known| !known.is_empty());
        known.any(|known| Address::parse(known).is_ok_and(|known| known.canonical() == one))
    }

    /// The canonical form of `address`: the row's own base URL, if it is one of the row's addresses.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn canonical_address(&self, address: &Address) -> Address {
        let own = self.is_at(address).then(|| Address::parse(self.base_url).ok()).flatten();
        own.unwrap_or_else(|| address.canonical())
    }

    /// The default endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &'static str {
        self.endpoints.first().copied().unwrap_or("/v1/chat/completions")
    }

    /// The `url` of the lines of a batch for `endpoint`.
    #[must_use]
    pub fn url_for(&self, endpoint: &'static str) -> &'static str {
        self.line_url.unwrap_or(endpoint)
    }
}
