//! The providers, as data: one [`Provider`] a row of [`PROVIDERS`](super::providers::PROVIDERS).
//!
//! # Adding a provider
//!
//! A provider that speaks a [`Dialect`] that is known is a row, and nothing else:
//!
//! 1. **Facts first.** From the provider's documentation and SDK: the base URL and where the version stands in it, the variable that
//!    holds the key, how the key is sent, the `purpose` of batch files, limits on requests and bytes, the endpoints, the completion
//!    window, whether batches take `metadata`. Where two sources disagree, the smaller limit is the right one: a shard that is too
//!    small costs a request more, one that is too large costs the run.
//! 2. **The row**, in `dialect/providers.rs`. It begins from `OPENAI_LIKE` and says only what differs:
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
//! 3. **How sure we are**: [`Provider::confidence`] is the grade of the weakest fact that a run depends on, [`Provider::source_note`] says in a
//!    few words where the row comes from and what in it is a guess. `batchline providers` shows both, and the table in the README is what
//!    `batchline providers --markdown` prints: a test compares the two.
//! 4. **The test row**, in the table of `every_row_is_as_its_sources_say` below: name, base URL, key variable, limits and window once
//!    more, typed from the source and not copied from the row. The other tests there hold for every row by themselves: an address that
//!    can be used, no key in the clear, limits that one line fits, an endpoint that lines can name.
//! 5. **A smoke test with a key**, by whoever has one: `batchline run data/prompts.jsonl --provider example`, with `--shard-requests 2`
//!    for more than one batch. Then `confidence` may rise.
//!
//! A service of one's own needs no row: `--dialect openai --base-url URL` takes the row `custom`. What no field here can say is a quirk
//! of a dialect and belongs into its file; only a protocol that really differs is a new [`Dialect`].

use std::fmt;
use std::time::Duration;

use super::address::Address;
use super::line::LineFormat;
use super::protocol::Dialect;

/// How the key is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth {
    /// What it is called where providers are listed.
    pub name: &'static str,
    /// The header, in lower case.
    pub header: &'static str,
    /// What stands before the key.
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

/// What is at the address of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A service with a Batch API.
    Remote,
    /// The built-in service: started for a run, unless an address is given.
    BuiltIn,
    /// A service without a Batch API: each request is a call.
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

/// How sure a row is: the grade of the weakest fact that a run depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// Guessed, or told by third parties.
    Unverified,
    /// Reported by somebody who ran real batches, or a server of the same code.
    Reported,
    /// Read in official documentation or the source of an official SDK.
    Documented,
    /// Whole runs, in the tests of this repository.
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

/// What a provider takes in one batch file. A shard must respect all of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most requests in one batch.
    pub shard_requests: u64,
    /// Most bytes in one batch file, line ends included.
    pub shard_bytes: u64,
    /// Most bytes in one line, its end not included.
    pub line_bytes: u64,
    /// Most characters (Unicode scalar values) in a `custom_id`.
    pub custom_id_characters: u32,
    /// Most inputs in one batch for embeddings, where they are counted and not only requests.
    pub embedding_inputs: Option<u64>,
    /// Most batches in flight at a time, where that is known. What is not is learned from what the service refuses.
    pub batches_in_flight: Option<u32>,
}

/// A provider: where it is, what it is called in the environment, what it speaks and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a row of facts, each independent of the others")]
pub struct Provider {
    /// The name that users type.
    pub name: &'static str,
    /// Where the API is, with its version prefix; empty where everybody has an address of their own.
    pub base_url: &'static str,
    /// Other base URLs of the same service: the same accounts, files and batches.
    pub base_url_aliases: &'static [&'static str],
    /// The environment variable that overrides [`Provider::base_url`].
    pub base_url_variable: &'static str,
    /// The environment variable that holds the key.
    pub key_variable: &'static str,
    /// Whether the service can be asked anything without a key.
    pub key_required: bool,
    /// How the key is sent.
    pub auth: Auth,
    /// The protocol.
    pub dialect: &'static dyn Dialect,
    /// What is there.
    pub host: Host,
    /// Whether this row is meant where the user names at most a dialect.
    pub is_default: bool,
    /// The `purpose` that a batch file is uploaded with.
    pub purpose: &'static str,
    /// The endpoints that batches can be created for; the first, unless the user names another.
    pub endpoints: &'static [&'static str],
    /// What lines have around their bodies.
    pub line: &'static LineFormat,
    /// The `url` of a line, where it is not the batch's endpoint.
    pub line_url: Option<&'static str>,
    /// The `completion_window` that batches are created with.
    pub completion_window: &'static str,
    /// Whether a batch can be created with `metadata`.
    pub metadata: bool,
    /// Whether a file must have been processed before a batch can be created from it.
    pub waits_for_file: bool,
    /// What replies have around their answers. Both are read, and written in one [shape](crate::results::normalize) if asked, whatever it
    /// says: it is for people.
    pub replies: ReplyShape,
    /// What fits into one batch.
    pub limits: Limits,
    /// How long to wait between two looks at a batch.
    pub poll_interval: Duration,
    /// How sure all this is.
    pub confidence: Confidence,
    /// Where it comes from, and what in it is a guess.
    pub source_note: &'static str,
}

impl Provider {
    /// Whether the service of this row is at that address.
    #[must_use]
    pub fn is_at(&self, address: &Address) -> bool {
        let one = address.canonical();
        let mut known = self.base_url_aliases.iter().chain([&self.base_url]).filter(|known| !known.is_empty());
        known.any(|known| Address::parse(known).is_ok_and(|known| known.canonical() == one))
    }

    /// The one spelling of that address: the row's own, if it is one of the row's.
    #[must_use]
    pub fn canonical_address(&self, address: &Address) -> Address {
        let own = self.is_at(address).then(|| Address::parse(self.base_url).ok()).flatten();
        own.unwrap_or_else(|| address.canonical())
    }

    /// The endpoint that batches are created for, unless the user names another.
    #[must_use]
    pub fn endpoint(&self) -> &'static str {
        self.endpoints.first().copied().unwrap_or("/v1/chat/completions")
    }

    /// The `url` that a line has in a batch for `endpoint`.
    #[must_use]
    pub fn url_for(&self, endpoint: &'static str) -> &'static str {
        self.line_url.unwrap_or(endpoint)
    }
}
