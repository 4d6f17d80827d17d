//! The phases of a run, as its times are told apart.

use serde::Serialize;

/// A phase of a run. Phases of different shards overlap, so their times add up to more than the run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The input is read, checked and packed.
    Check,
    /// Shards are uploaded.
    Upload,
    /// Batches are at the service.
    Batch,
    /// Reply files are downloaded.
    Download,
    /// Replies find their requests.
    Index,
    /// The output is written.
    Merge,
}

impl Phase {
    /// All of them, in the data's order.
    pub const ALL: [Self; 6] = [Self::Check, Self::Upload, Self::Batch, Self::Download, Self::Index, Self::Merge];

    /// Its name, in the Ledger and in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Upload => "upload",
            Self::Batch => "batch",
            Self::Download => "download",
            Self::Index => "index",
            Self::Merge => "merge",
        }
    }
}
