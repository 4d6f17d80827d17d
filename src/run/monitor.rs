//! What the engine tells whoever runs it. It never prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::earlier_run::EarlierRun;
use crate::model::defect::PlacedDefect;
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
        /// Whether the run goes on from an earlier attempt.
        resumed: bool,
        /// Whether every batch has already come back: nothing is sent, the output is written again.
        done: bool,
    },
    /// Bytes of batch files have been uploaded, since the start of this process.
    Uploaded {
        /// So far.
        bytes: u64,
    },
    /// How many shards stand where.
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
    /// Something that the user should know.
    Note(&'e str),
    /// Something that the user should worry about.
    Warning(&'e str),
}

/// How many shards stand where.
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

/// Hears what happens. Called from several threads; must not block for long.
pub trait Monitor: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);

    /// Whether all is to be sent although an earlier run has paid for some of it. May take as long as somebody needs to answer.
    fn sends_again(&self, earlier: &EarlierRun) -> bool {
        let _ = earlier;
        false
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: Event<'_>) {}
}
