//! The state of a shard, and the step that it needs next.
//!
//! In: a [`ShardState`]. Out: the [`NextStep`] that advances it. This is data only: the driver performs the steps and
//! records their results, so starting and resuming after a crash are the same thing.
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
//! *Held* (it is unknown whether there is a batch), *lost* (the service does not show the batch) and *incomplete* (the
//! service has more replies than could be fetched) wait for a decision: their requests are not sent again without one.
//! Every run checks once more whether they can be resolved.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::batch::{Batch, BatchStatus, RequestCounts};
use crate::model::reply::ReplyRole;
use crate::model::shard::Shard;

/// A batch that has ended: the part that later steps need.
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
    /// How many requests it has attempted, as the service counts them.
    pub counts: Option<RequestCounts>,
}

impl EndedBatch {
    /// The part of a batch that later steps need.
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

/// The state of a shard, as recorded in the Ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardState {
    /// Nothing of it has been uploaded.
    Packed,
    /// Its file is at the service; there is certainly no batch.
    Uploaded {
        /// The file.
        file_id: String,
    },
    /// A POST was about to be sent, may have been sent, or was neither confirmed nor refused.
    Intended {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The file that the batch would use.
        file_id: String,
    },
    /// As [`ShardState::Intended`], and reconciling has found nothing. Unchanged until the list shows its batch after
    /// all, or the user decides.
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
    /// As [`ShardState::Submitted`], but the service no longer shows that batch, or not with this key. Unchanged until
    /// it does, or the user decides.
    Lost {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The service's id of the batch.
        batch_id: String,
    },
    /// The batch has ended, with any status.
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
    /// The replies that could be fetched are in the index, and there may be more. Fetched again by the next run, or
    /// accepted as complete if the user decides so.
    Incomplete {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The batch.
        batch: EndedBatch,
    },
    /// Its replies are in the index. It needs no further step.
    Indexed {
        /// The submission's row in the Ledger.
        submission: i64,
        /// The batch.
        batch: EndedBatch,
    },
}

/// What advances a shard. Each kind of step has its own queue, because each has its own limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextStep {
    /// Upload its file.
    Upload,
    /// Record the intent and create its batch.
    Create,
    /// Determine from the service's list whether there is a batch.
    Reconcile,
    /// Wait for its batch.
    Poll,
    /// Fetch its reply files.
    Download,
    /// Index its replies.
    Index,
}

impl ShardState {
    /// The next step; `None` where nothing is left to do, or a decision is required first.
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

    /// Whether a batch of it may be in progress at the service.
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

    /// The batch that processes, or processed, the shard.
    #[must_use]
    pub fn batch_id(&self) -> Option<&str> {
        match self {
            Self::Submitted { batch_id, .. } | Self::Lost { batch_id, .. } => Some(batch_id),
            _ => self.ended_batch().map(|batch| batch.id.as_str()),
        }
    }

    /// The batch that processed the shard, once it has ended.
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

/// Retryable requests that a shard's batch left without an output.
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
    /// Whether its batch was found in the service's list, rather than named by a response.
    pub found: bool,
}

/// A shard as recorded in the Ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "columns of the Ledger, each apart from the others")]
pub struct ShardRow {
    /// Its requests and size.
    pub shard: Shard,
    /// Its state.
    pub state: ShardState,
    /// Why it is in that state, where that needs explaining.
    pub note: Option<String>,
    /// Its file at the service.
    pub file_id: Option<String>,
    /// Whether the service already had that content: batches of other runs may use the file.
    pub file_reused: bool,
    /// The last POST, if there was one.
    pub last_submission: Option<LastSubmission>,
    /// Whether a POST that may have been accepted was abandoned and another one sent.
    pub abandoned: bool,
    /// The last known status of its batch.
    pub batch_status: Option<String>,
    /// What its batch left, once it is indexed.
    pub unfinished: Unfinished,
    /// Whether the user decided to accept the fetched replies as complete.
    pub accepted: bool,
    /// Whether a later round has taken up what it left.
    pub followed: bool,
    /// Whether the user decided to send its unfinished requests again regardless of the rules.
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

    /// Whether its unfinished requests are to be sent again, given the number of rounds.
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
