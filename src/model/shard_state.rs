//! Where a shard stands, and what it needs next.
//!
//! In: a [`ShardState`]. Out: the [`NextStep`] that takes it further. Nothing here does anything: the driver does the
//! steps and records what came of them, so starting anew and going on after a crash are the same thing.
//!
//! ```text
//! packed ─upload─► uploaded ─intend, create─► intended ─► submitted ─poll─► ended ─download─► downloaded ─index─► indexed
//!                     ▲                           │  ▲           │ ▲      ▲                          │
//!                     └──── refused: nothing ─────┤  └ unknown:  │ │      └── there is more than ─────┤
//!                           was created           │    reconcile ▼ │ seen     is here: fetch again    ▼
//!                                                 ▼             lost                            incomplete
//!                                                held
//! ```
//!
//! *Held* (nobody knows whether there is a batch) and *incomplete* (its service says that it has answered more than
//! could be fetched) wait for a decision: what they ask for is not sent again without one. Every run looks once more
//! whether they can be settled.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::batch::{Batch, BatchStatus, RequestCounts};
use crate::model::reply::ReplyRole;
use crate::model::shard::Shard;

/// A batch that has ended, as far as it matters from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedBatch {
    /// The service's id of it.
    pub id: String,
    /// The status with which it ended.
    pub status: BatchStatus,
    /// The file with its outputs.
    pub output_file_id: Option<String>,
    /// The file with its errors.
    pub error_file_id: Option<String>,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// How many requests it has tried, as the service counts them.
    pub counts: Option<RequestCounts>,
}

impl EndedBatch {
    /// What matters of a batch that has ended.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        Self {
            id: batch.id.clone(),
            status: batch.status.clone(),
            output_file_id: batch.output_file_id.clone(),
            error_file_id: batch.error_file_id.clone(),
            error: batch.error.clone(),
            counts: batch.counts,
        }
    }

    /// Its reply files, with the service's ids of them.
    pub fn reply_files(&self) -> impl Iterator<Item = (ReplyRole, &str)> {
        let output = self.output_file_id.as_deref().map(|id| (ReplyRole::Output, id));
        let errors = self.error_file_id.as_deref().map(|id| (ReplyRole::Error, id));
        output.into_iter().chain(errors)
    }
}

/// Where a shard stands, as the Ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardState {
    /// Nothing of it is at the service.
    Packed,
    /// Its file is at the service; there is no batch, for certain.
    Uploaded {
        /// The file.
        file_id: String,
    },
    /// A POST was about to be sent, may have been sent, or was answered with neither yes nor no.
    Intended {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The file that the batch would use.
        file_id: String,
    },
    /// As [`ShardState::Intended`], and reconciling has found nothing. Left as it is until the list shows its batch
    /// after all, or somebody decides.
    Held {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The file that the batch would use.
        file_id: String,
    },
    /// The service has one batch for it.
    Submitted {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The service's id of the batch.
        batch_id: String,
    },
    /// As [`ShardState::Submitted`], and the service does not show that batch any more, or not to us. Left as it is
    /// until it does, or somebody decides.
    Lost {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The service's id of the batch.
        batch_id: String,
    },
    /// The batch has ended, in whatever way.
    Ended {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The batch.
        batch: EndedBatch,
    },
    /// Its reply files are on disk.
    Downloaded {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The batch.
        batch: EndedBatch,
    },
    /// What could be fetched of its replies is in the index, and there is more, as far as anybody knows. Fetched again
    /// by the next run, or taken as it is if somebody decides so.
    Incomplete {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The batch.
        batch: EndedBatch,
    },
    /// Its replies are in the index. Nothing more is to be done.
    Indexed {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The batch.
        batch: EndedBatch,
    },
}

/// What takes a shard further. Steps are queued apart, because each has a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextStep {
    /// Upload its file.
    Upload,
    /// Record the intent and create its batch.
    Create,
    /// Find out from the service's list whether there is a batch.
    Reconcile,
    /// Wait for its batch.
    Poll,
    /// Fetch its reply files.
    Download,
    /// Put its replies into the index.
    Index,
}

impl ShardState {
    /// The step that comes next; `None` where nothing is left to do, or nothing may be done.
    #[must_use]
    pub fn next(&self) -> Option<NextStep> {
        Some(match self {
            Self::Packed => NextStep::Upload,
            Self::Uploaded { .. } => NextStep::Create,
            Self::Intended { .. } => NextStep::Reconcile,
            Self::Submitted { .. } => NextStep::Poll,
            Self::Ended { .. } => NextStep::Download,
            Self::Downloaded { .. } => NextStep::Index,
            Self::Held { .. } | Self::Lost { .. } | Self::Incomplete { .. } | Self::Indexed { .. } => return None,
        })
    }

    /// Whether the service may be at work on a batch of it.
    #[must_use]
    pub fn may_be_in_flight(&self) -> bool {
        matches!(self, Self::Intended { .. } | Self::Submitted { .. })
    }

    /// Whether it waits for a decision.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. } | Self::Lost { .. } | Self::Incomplete { .. })
    }

    /// The name that the Ledger and `status` use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Packed => "packed",
            Self::Uploaded { .. } => "uploaded",
            Self::Intended { .. } => "intended",
            Self::Held { .. } => "held",
            Self::Submitted { .. } => "submitted",
            Self::Lost { .. } => "lost",
            Self::Ended { .. } => "ended",
            Self::Downloaded { .. } => "downloaded",
            Self::Incomplete { .. } => "incomplete",
            Self::Indexed { .. } => "indexed",
        }
    }

    /// The batch that works, or worked, on the shard.
    #[must_use]
    pub fn batch_id(&self) -> Option<&str> {
        match self {
            Self::Submitted { batch_id, .. } | Self::Lost { batch_id, .. } => Some(batch_id),
            _ => self.ended_batch().map(|batch| batch.id.as_str()),
        }
    }

    /// The batch that worked on the shard, once it has ended.
    #[must_use]
    pub fn ended_batch(&self) -> Option<&EndedBatch> {
        match self {
            Self::Ended { batch, .. }
            | Self::Downloaded { batch, .. }
            | Self::Incomplete { batch, .. }
            | Self::Indexed { batch, .. } => Some(batch),
            _ => None,
        }
    }
}

/// Requests that a shard's batch left without an output and that are worth sending again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// How many.
    pub count: u64,
    /// Seq of the first; meaningless without one.
    pub first: u64,
}

/// The last POST for a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSubmission {
    /// Its row in the Ledger.
    pub id: i64,
    /// Batches that used the shard's file before.
    pub known: Vec<String>,
    /// When it was about to be sent, by this machine's clock.
    pub intended_at: Timestamp,
    /// Whether its batch was found in the service's list, and not named by an answer.
    pub found: bool,
}

/// A shard as the Ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "columns of the Ledger, each apart from the others")]
pub struct ShardRow {
    /// What it consists of.
    pub shard: Shard,
    /// Where it stands.
    pub state: ShardState,
    /// Why it stands there, where that needs saying.
    pub note: Option<String>,
    /// Its file at the service.
    pub file_id: Option<String>,
    /// Whether the service had that content before: batches that are not ours may use the file.
    pub file_reused: bool,
    /// The last POST, if there was one.
    pub last_submission: Option<LastSubmission>,
    /// Whether a POST of it that may have been accepted was given up and another one sent.
    pub abandoned: bool,
    /// What its batch was last seen as.
    pub batch_status: Option<String>,
    /// What its batch left, once it is indexed.
    pub unfinished: Unfinished,
    /// Whether somebody decided that what could be fetched of its replies is all of them.
    pub accepted: bool,
    /// Whether a later round has taken up what it left.
    pub followed: bool,
    /// Whether somebody decided that what it left is to be sent again, whatever speaks against it.
    pub decided: bool,
}

impl ShardRow {
    /// A shard that has just been packed.
    #[must_use]
    pub fn packed(shard: Shard) -> Self {
        Self {
            shard,
            state: ShardState::Packed,
            note: None,
            file_id: None,
            file_reused: false,
            last_submission: None,
            abandoned: false,
            batch_status: None,
            unfinished: Unfinished::default(),
            accepted: false,
            followed: false,
            decided: false,
        }
    }

    /// Whether its requests are to be sent again in a run of that many rounds.
    #[must_use]
    pub fn wants_another_round(&self, rounds: u32) -> bool {
        let indexed = matches!(self.state, ShardState::Indexed { .. });
        indexed && !self.followed && self.unfinished.count > 0 && (self.decided || self.shard.round < rounds)
    }

    /// The first Seq whose outcome may still change; `None` when none may.
    #[must_use]
    pub fn open_from(&self, rounds: u32) -> Option<u64> {
        if !matches!(self.state, ShardState::Indexed { .. }) {
            return Some(self.shard.first);
        }
        self.wants_another_round(rounds).then_some(self.unfinished.first)
    }
}
