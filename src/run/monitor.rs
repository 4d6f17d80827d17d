//! What the engine tells its caller, as typed events. It never prints; whoever shows an event chooses where, and may
//! use its words.

use std::fmt;

use schemars::JsonSchema;
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
    /// A line is no request. Told for the first few only; see `max_defects`.
    Defect(&'e PlacedDefect),
    /// The run directory is there and the shards are known.
    Started {
        /// The run directory.
        directory: &'e std::path::Path,
        /// Requests in all.
        requests: u64,
        /// Shards in all.
        shards: usize,
        /// Bytes of all batch files.
        bytes: u64,
        /// Bytes of those that are not at the service yet.
        upload_bytes: u64,
        /// Whether an earlier attempt is resumed.
        resumed: bool,
        /// Whether every batch has already come back: nothing is sent, the output is written again.
        done: bool,
    },
    /// Bytes of batch files have been uploaded, since the start of this process.
    Uploaded {
        /// So far.
        bytes: u64,
    },
    /// How many shards are in which state.
    Shards(&'e ShardCounts),
    /// How far the batches at the service are, in requests.
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
    /// Something that the user should know: the run waits, retries or begins another round.
    Note(&'e Note),
    /// The same of single calls to the service.
    Call(&'e Notice<'e>),
    /// Something that the user should worry about.
    Warning(&'e Incident),
}

/// What a run waits for, retries or begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The service's list of batches cannot be had; it is asked for again.
    ListUnavailable {
        /// Why.
        error: String,
    },
    /// A shard's batch cannot be looked at; it is asked for again.
    BatchUnavailable {
        /// The shard.
        shard: u32,
        /// Why.
        error: String,
    },
    /// The service uses a status that is not known here. Told once.
    UnknownStatus {
        /// Its word.
        status: String,
    },
    /// A shard's next step has failed and is retried later.
    Retrying {
        /// The shard.
        shard: u32,
        /// Why it has failed.
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
    /// What was fetched of a shard's replies is not all of them; they are fetched again.
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
            Self::ListUnavailable { error } => write!(out, "cannot look at the list of batches now: {error}"),
            Self::BatchUnavailable { shard, error } => {
                write!(out, "cannot look at the batch of shard {shard} now: {error}")
            }
            Self::UnknownStatus { status } => {
                write!(out, "the service calls a batch {status:?}, which is not known here: it is waited for")
            }
            Self::Retrying { shard, error } => write!(out, "shard {shard} has to wait: {error}"),
            Self::WaitingForRoom { shard, model, cap, error } => {
                write!(out, "shard {shard} waits for room, as for {cap} of {model:?}: {error}")
            }
            Self::FetchingAgain { shard, why } => write!(out, "shard {shard}: {why}; fetching its replies again"),
            Self::Round { number, requests } => write!(out, "round {number}: {requests} requests are sent again"),
        }
    }
}

/// How many shards are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShardCounts {
    /// Not at the service yet.
    pub waiting: usize,
    /// Uploaded, or about to be submitted.
    pub uploaded: usize,
    /// In batches that the service works on.
    pub submitted: usize,
    /// Ended; replies on their way.
    pub ended: usize,
    /// Done.
    pub indexed: usize,
    /// Unresolved.
    pub held: usize,
}

/// Is told what happens. Called from several threads; must not block for long.
pub trait Monitor: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);

    /// Whether all is to be sent although an earlier run has paid for some of it. May take as long as a user needs to
    /// answer.
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
