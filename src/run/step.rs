//! Steps: the pieces of work that advance a run, as data.
//!
//! In: the driver's decisions. Out: for each [`Step`] one [`StepResult`], for the driver to record. Both are
//! serializable, so an [`Executor`](super::executor::Executor) can run a step anywhere.
//!
//! Invariants: a step is self-contained, and idempotent: repeated, also after a crash, it has the same effect as
//! running once. No step may create a batch; the driver makes that call, and all others about batches, itself.

use serde::{Deserialize, Serialize};

use super::download::{Download, Fetched};
use super::indexing::{Indexing, ShardIndexed};
use super::rounds::RoundPlan;
use crate::ledger::NextRound;
use crate::model::shard::Shard;

/// A piece of work on a shard or a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Upload a shard's requests as a new file.
    Upload(Shard),
    /// Fetch the reply files of a batch.
    Download(Download),
    /// Put a shard's replies into the reply index.
    Index(Indexing),
    /// Collect the requests that a round sends again, and pack them into shards.
    PackRound(RoundPlan),
}

/// The result of a [`Step`], in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepResult {
    /// The shard's file is at the service.
    Uploaded {
        /// The service's id of it.
        file_id: String,
        /// Whether the service already had that content, so that batches may exist that use it.
        reused: bool,
    },
    /// The reply files are on disk, as far as they could be fetched.
    Downloaded(Fetched),
    /// The replies are in the index, or the service has more of them.
    Indexed(ShardIndexed),
    /// The round's shards, and why their requests are sent again.
    RoundPacked(NextRound),
}
