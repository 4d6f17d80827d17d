//! Steps: the pieces of work that take a run further, as data.
//!
//! In: what the driver has decided. Out: for each [`Step`] one [`StepResult`], for the driver to record. Both are
//! serialisable, so a step can run anywhere that an [`Executor`](super::executor::Executor) takes it.
//!
//! Invariants: a step names all that it works on. It is idempotent: cut off by a crash, or done twice, it leaves what
//! doing it once leaves. None of them may create a batch; that call, and all others about batches, are the driver's
//! own.

use serde::{Deserialize, Serialize};

use super::download::{Download, Fetched};
use super::indexing::{Indexing, ShardIndexed};
use super::rounds::RoundPlan;
use crate::ledger::NextRound;
use crate::model::shard::Shard;

/// A piece of work on a shard or a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Upload a shard's requests as a new file.
    Upload(Shard),
    /// Fetch the reply files of a batch.
    Download(Download),
    /// Put a shard's replies into the reply index.
    Index(Indexing),
    /// Collect the requests that a round sends again, and pack them into shards.
    PackRound(RoundPlan),
}

/// What came of a [`Step`], in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StepResult {
    /// The shard's file is at the service.
    Uploaded {
        /// The service's id of it.
        file_id: String,
        /// Whether the service had that content before, so that batches may exist that use it.
        reused: bool,
    },
    /// The reply files are here, as far as they could be fetched.
    Downloaded(Fetched),
    /// The replies are in the index; or there is more of them at the service.
    Indexed(ShardIndexed),
    /// The round's shards, and why their requests are sent again.
    RoundPacked(NextRound),
}
