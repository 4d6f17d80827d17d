//! What the engine reports to its caller, as typed events. It never prints: the caller chooses where and how to show an
//! event, and may use its text.

use std::fmt;

use serde::Serialize;

use super::earlier_run::EarlierRun;
use crate::model::defect::PlacedDefect;
use crate::model::incident::Incident;
use crate::remote::Notice;
use crate::results::merge::Merged;

/// Something that happened in a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'e> {
    /// Bytes of an input have been spooled.
    Spooled {
        /// So far.
        bytes: u64,
    },
    /// Bytes of the input have been checked.
    Checked {
        /// So far.
        bytes: u64,
        /// Of how many.
        total: u64,
    },
    /// A line is not a request. Reported for the first few only; see `max_defects`.
    Defect(&'e PlacedDefect),
    /// The run directory exists and the shards are known.
    Started {
        /// The run directory.
        directory: &'e std::path::Path,
        /// Requests in all.
        requests: u64,
        /// Shards in all.
        shards: usize,
        /// Bytes of all batch files.
        bytes: u64,
        /// Bytes of those that are not uploaded yet.
        upload_bytes: u64,
        /// Whether an earlier attempt is resumed.
        resumed: bool,
        /// Whether all replies have already been collected: nothing is sent, the output is written again.
        done: bool,
    },
    /// Bytes of batch files have been uploaded, since the start of this process.
    Uploaded {
        /// So far.
        bytes: u64,
    },
    /// How many shards are in which state.
    Shards(&'e ShardCounts),
    /// Progress of the batches at the service, in requests.
    Progress {
        /// Requests that the service reports as done, by its own percentages.
        done: u64,
        /// Requests in batches.
        total: u64,
    },
    /// Bytes of reply files have been downloaded, since the start of this process.
    Downloaded {
        /// So far.
        bytes: u64,
    },
    /// Lines have been written to the output.
    Merged(&'e Merged),
    /// An event of interest to the user: the run waits, retries or begins another round.
    Note(&'e Note),
    /// The same, about a single call to the service.
    Call(&'e Notice<'e>),
    /// A problem.
    Warning(&'e Incident),
}

/// What a run waits for, retries or begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The service's list of batches is unavailable; it is retried.
    ListUnavailable {
        /// Why.
        error: String,
    },
    /// A shard's batch cannot be looked up; it is retried.
    BatchUnavailable {
        /// The shard.
        shard: u32,
        /// Why.
        error: String,
    },
    /// The service reports an unknown status. Reported once per status.
    UnknownStatus {
        /// The status.
        status: String,
    },
    /// A shard's next step has failed and is retried later.
    Retrying {
        /// The shard.
        shard: u32,
        /// Why it failed.
        error: String,
    },
    /// A shard waits until the service has room for its batch.
    WaitingForRoom {
        /// The shard.
        shard: u32,
        /// Its model.
        model: String,
        /// How many batches of that model there is room for.
        cap: usize,
        /// What the service said.
        error: String,
    },
    /// The fetched replies of a shard are incomplete; they are fetched again.
    FetchingAgain {
        /// The shard.
        shard: u32,
        /// Why that is known.
        why: String,
    },
    /// Another round begins: requests without an output are sent again.
    Round {
        /// Its number, from 2 on.
        number: u32,
        /// How many requests.
        requests: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListUnavailable { error } => write!(out, "cannot list batches, retrying: {error}"),
            Self::BatchUnavailable { shard, error } => {
                write!(out, "cannot look up the batch of shard {shard}, retrying: {error}")
            }
            Self::UnknownStatus { status } => {
                write!(out, "unknown batch status {status:?}: treated as in progress")
            }
            Self::Retrying { shard, error } => write!(out, "shard {shard}: retrying later: {error}"),
            Self::WaitingForRoom { shard, model, cap, error } => {
                write!(out, "shard {shard} waits: the service has room for {cap} of {model:?}: {error}")
            }
            Self::FetchingAgain { shard, why } => write!(out, "shard {shard}: {why}; fetching its replies again"),
            Self::Round { number, requests } => write!(out, "round {number}: {requests} requests are sent again"),
        }
    }
}

/// How many shards are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct ShardCounts {
    /// Not uploaded yet.
    pub waiting: usize,
    /// Uploaded, or about to be submitted.
    pub uploaded: usize,
    /// In batches that are in progress.
    pub submitted: usize,
    /// Ended; replies are being collected.
    pub ended: usize,
    /// Done.
    pub indexed: usize,
    /// On hold.
    pub held: usize,
}

/// Receives events. Called from several threads; must not block for long.
///
/// ```
/// use std::sync::Mutex;
///
/// use batchline::offline::{OfflineOptions, check};
/// use batchline::{Event, Monitor, provider};
///
/// /// Keeps what the user should know.
/// #[derive(Default)]
/// struct Log(Mutex<Vec<String>>);
///
/// impl Monitor for Log {
///     fn event(&self, event: Event<'_>) {
///         let line = match event {
///             Event::Defect(placed) => format!("line {}: {}", placed.line, placed.defect.kind.code()),
///             Event::Note(note) => note.to_string(),
///             Event::Warning(incident) => incident.to_string(),
///             // There are more, and later versions may add some.
///             _ => return,
///         };
///         self.0.lock().unwrap().push(line);
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let input = directory.path().join("input.jsonl");
/// std::fs::write(&input, r#"{"body":{"model":"m","messages":[]}}"#)?;
/// let log = Log::default();
/// // `Run::open` takes one in an `Arc`.
/// check(&OfflineOptions::new([&input], provider("together").expect("it is built in")), &log)?;
/// assert_eq!(log.0.into_inner()?, ["line 1: missing-custom-id"]);
/// # Ok(())
/// # }
/// ```
pub trait Monitor: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);

    /// Whether to send all requests although an earlier run has paid for some of them. May block until the user has
    /// answered.
    fn sends_again(&self, earlier: &EarlierRun) -> bool {
        let _ = earlier;
        false
    }
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: Event<'_>) {}
}
