//! Inspecting a run, and cancelling its batches.
//!
//! In: a run directory. Out: its state, read from the Ledger alone; the service is called only to cancel batches.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::directory::{self, RunDirectory, RunPlaces, layout};
use super::meta::RunMeta;
use super::report::{Report, held_requests};
use super::retry_decision::RetryDecision;
use crate::input::shard_lines::Members;
use crate::ledger::Ledger;
use crate::model::shard_state::{ShardRow, ShardState};
use crate::remote::Api;
use crate::results::reply_index::ReplyIndex;
use crate::run::error::Error;
use crate::run::open;

/// The newest run of all, or of those that were started in the directory `begun_in` or read files below it. Unreadable
/// runs come last, so that they are reported if there is no other.
pub fn newest(places: &RunPlaces, begun_in: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    let mut newest = None;
    for run in places.runs()? {
        let meta = RunMeta::peek(&run).ok();
        let is_meant = begun_in.is_none_or(|directory| match &meta {
            Some(meta) => meta.is_of_directory(directory),
            None => std::path::absolute(&run).is_ok_and(|run| run.starts_with(directory)),
        });
        let created_at: Option<jiff::Timestamp> = meta.and_then(|meta| meta.created_at.parse().ok());
        if is_meant {
            newest = newest.max(Some((created_at, run)));
        }
    }
    Ok(newest.map(|(_, run)| run))
}

/// A batch whose cancellation was requested.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Cancelled {
    /// Its shard.
    pub shard: u32,
    /// Its id.
    pub batch_id: String,
    /// Its status, as the service reports it now.
    pub status: String,
}

/// Asks the service to cancel every batch of the run that has not ended. A later `run` fetches their finished results.
///
/// # Errors
/// It stops at the first batch that cannot be cancelled; calling it again is harmless.
pub async fn cancel(api: &impl Api, run: &Path) -> Result<Vec<Cancelled>, Error> {
    let mut ledger = open(run)?;
    let mut cancelled = Vec::new();
    for ShardRow { shard, state, .. } in ledger.shards()? {
        let ShardState::Submitted { batch_id, .. } = state else { continue };
        let batch = api.cancel(&batch_id).await?;
        ledger.seen(&batch_id, &batch.status.to_string())?;
        cancelled.push(Cancelled { shard: shard.number, batch_id, status: batch.status.to_string() });
    }
    Ok(cancelled)
}

/// What [`retry`] has decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Decided {
    /// Requests that will be sent again.
    pub requests: u64,
    /// The shards that they are from.
    pub shards: u64,
    /// Unresolved submissions that will be repeated.
    pub submissions: u64,
    /// Incomplete shards whose replies are accepted as complete.
    pub accepted: u64,
    /// Their requests without a reply, which are no longer held and count as missing.
    pub missing: u64,
    /// Shards that remain held.
    pub held: u64,
}

/// What [`retry`] is to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The next `run` sends all requests without an output again, regardless of the rounds: retryable errors, missing
    /// requests, those of cancelled or failed batches.
    SendUnfinished,
    /// The same, and unresolved submissions are repeated, too.
    SendAmbiguous,
    /// Only accept the fetched replies of incomplete shards as complete. Requests without a reply count as missing, and
    /// are sent again while rounds remain.
    AcceptIncomplete,
}

/// Decides what happens to requests without an output.
pub fn retry(run: &Path, decision: Decision) -> Result<Decided, Error> {
    let mut prepared = open::open_run(RunDirectory::open(run)?, None, true)?;
    let replies = ReplyIndex::open_or_create(&layout::replies_index(run), prepared.requests.len())?;
    let mut decided = Decided::default();
    for ShardRow { shard, state, followed, .. } in prepared.ledger.shards()? {
        match state {
            ShardState::Held { .. } | ShardState::Lost { .. } if decision == Decision::SendAmbiguous => {
                prepared.ledger.submit_again(shard.number)?;
                decided.submissions += 1;
            }
            ShardState::Incomplete { .. } if decision == Decision::AcceptIncomplete => {
                decided.missing += held_requests(&prepared.ledger, &shard, &state)?;
                prepared.ledger.accept(shard.number)?;
                decided.accepted += 1;
            }
            state if state.is_held() => decided.held += 1,
            ShardState::Indexed { batch, .. } if !followed && decision != Decision::AcceptIncomplete => {
                let members = Members::collect(&shard, &prepared.requests, run)?;
                let seqs: Vec<u64> = members.into_iter().map(|(seq, _)| seq).collect();
                let left = RetryDecision::of(&batch, true).unfinished(&seqs, &replies.read_each(&seqs)?);
                if left.count > 0 {
                    prepared.ledger.decide(shard.number, left)?;
                    decided.requests += left.count;
                    decided.shards += 1;
                }
            }
            _ => {}
        }
    }
    Ok(decided)
}

/// Removes a run directory, including the replies, if `fits` still accepts the run. Returns whether it was removed.
pub fn remove(run: &Path, fits: &dyn Fn(&Report) -> bool) -> Result<bool, Error> {
    let directory = RunDirectory::open(run)?;
    if !fits(&Report::of(&open(run)?, run)?) {
        return Ok(false);
    }
    directory.remove()?;
    Ok(true)
}

/// Removes a run directory, whatever its content, even if it is unreadable.
pub fn remove_unread(run: &Path) -> Result<(), Error> {
    Ok(RunDirectory::open(run)?.remove()?)
}

fn open(run: &Path) -> Result<Ledger, Error> {
    directory::require_run(run)?;
    Ok(Ledger::open(&layout::ledger(run))?)
}
