//! What is held when a run has ended: requests without an outcome, which wait for a decision of the user.
//!
//! In: shards that are held. Out: which of their requests are, and a message about each.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::directory::layout;
use super::files::Files;
use super::indexing::is_held_too;
use crate::input::shard_lines::Members;
use crate::model::shard_state::{ShardRow, ShardState};
use crate::model::shown::Name;
use crate::results::held_seqs::HeldSeqs;
use crate::results::reply_index::Slot;
use crate::run::error::Error;

/// Why a shard waits for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HeldReason {
    /// Whether its batch was created is unknown.
    UnresolvedSubmission,
    /// The service does not show its batch.
    LostBatch,
    /// Its service says that it has answered more than could be fetched.
    IncompleteAnswer,
    /// It was not sent, because the create for another shard was answered with a wrong batch.
    NotSubmitted,
}

impl HeldReason {
    /// Why a shard in this state is held, if it is.
    #[must_use]
    pub fn of(state: &ShardState) -> Option<Self> {
        match state {
            ShardState::Held { .. } => Some(Self::UnresolvedSubmission),
            ShardState::Lost { .. } => Some(Self::LostBatch),
            ShardState::Incomplete { .. } => Some(Self::IncompleteAnswer),
            _ => None,
        }
    }

    /// The reason as text, about several shards.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::UnresolvedSubmission => "outcome of batch creation unknown",
            Self::LostBatch => "the service does not show their batches",
            Self::IncompleteAnswer => "the service has more replies than could be fetched",
            Self::NotSubmitted => "not sent, because the service returned a wrong batch for another shard",
        }
    }

    /// What resolves it: another look, or a decision.
    #[must_use]
    pub fn remedy(self, run: &Path) -> String {
        let run = Name(run);
        match self {
            Self::UnresolvedSubmission => format!(
                "`batchline run` looks for its batch in the service's list again; `batchline retry {run} --ambiguous` submits it again"
            ),
            Self::LostBatch => format!(
                "`batchline run` asks for its batch again; `batchline retry {run} --ambiguous` submits it again"
            ),
            Self::IncompleteAnswer => format!(
                "`batchline run` fetches its replies again; `batchline retry {run} --accept-incomplete` accepts those that were fetched as complete"
            ),
            Self::NotSubmitted => format!("it is submitted once that is resolved: `batchline status {run}` explains"),
        }
    }
}

/// A shard that waits for a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct HeldShard {
    /// Its number.
    pub shard: u32,
    /// Why it is held.
    pub reason: HeldReason,
    /// How many of its requests are held; the others have replies.
    pub requests: u64,
    /// Details.
    pub note: String,
}

/// What the merge writes about requests that are held.
#[derive(Debug)]
pub(crate) struct HeldLines {
    /// Which requests they are.
    pub(crate) seqs: HeldSeqs,
    /// For each shard, the message about its requests.
    pub(crate) messages: BTreeMap<u32, String>,
}

/// Looks up the held requests of these shards, which are held or were not sent; `None` without shards.
pub(crate) fn look_up(files: &Files, held: &[ShardRow]) -> Result<(Vec<HeldShard>, Option<HeldLines>), Error> {
    if held.is_empty() {
        return Ok((Vec::new(), None));
    }
    let lines = HeldLines { seqs: HeldSeqs::create(&files.run, files.requests.len())?, messages: BTreeMap::new() };
    let (mut shards, mut lines) = (Vec::new(), lines);
    for known in held {
        let reason = HeldReason::of(&known.state).unwrap_or(HeldReason::NotSubmitted);
        let seqs = held_seqs(files, known)?;
        let (shard, requests) = (known.shard.number, seqs.len() as u64);
        lines.seqs.hold(shard, seqs)?;
        let note = match (reason, &known.note) {
            (HeldReason::IncompleteAnswer, Some(note)) => note.clone(),
            (HeldReason::IncompleteAnswer, None) => "the service has more replies than could be fetched".to_owned(),
            (HeldReason::LostBatch, _) => "the service does not show its batch".to_owned(),
            (HeldReason::UnresolvedSubmission, _) => "outcome of batch creation unknown".to_owned(),
            (HeldReason::NotSubmitted, _) => {
                "not sent, because the service returned a wrong batch for another shard".to_owned()
            }
        };
        let message = format!("shard {shard}: {note}; {}", reason.remedy(&files.run));
        lines.messages.insert(shard, message);
        shards.push(HeldShard { shard, reason, requests, note });
    }
    Ok((shards, Some(lines)))
}

/// The requests of a shard that are held: all of them; of an incomplete shard, those without a final reply.
fn held_seqs(files: &Files, known: &ShardRow) -> Result<Vec<u64>, Error> {
    let members = Members::collect(&known.shard, &files.requests, &files.run)?;
    let seqs: Vec<u64> = members.into_iter().map(|(seq, _)| seq).collect();
    let ShardState::Incomplete { submission, .. } = &known.state else { return Ok(seqs) };
    let slots = files.replies.read_each(&seqs)?;
    let has_reply = |slot: Slot| layout::is_of(slot.file, *submission) && !is_held_too(&slot, *submission);
    let lacking = seqs.into_iter().zip(slots).filter(|(_, slot)| !slot.is_some_and(has_reply));
    Ok(lacking.map(|(seq, _)| seq).collect())
}
