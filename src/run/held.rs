//! What is held when a run has come to its end: requests that were sent and have no outcome, because only somebody can
//! decide what becomes of them.
//!
//! In: shards that are held. Out: which of their requests are, and what is said of each.

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
    /// Nobody knows whether its batch was created.
    UnresolvedSubmission,
    /// The service does not show its batch.
    LostBatch,
    /// Its service says that it has answered more than could be fetched.
    IncompleteAnswer,
    /// It was not sent, because another shard's submission was answered with a batch that is not its own.
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

    /// It in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::UnresolvedSubmission => "nobody knows whether their batches were created",
            Self::LostBatch => "the service does not show their batches",
            Self::IncompleteAnswer => "their batches have answered more than could be fetched",
            Self::NotSubmitted => "not sent, because the service has mixed up batches",
        }
    }

    /// What settles it: another look, or a decision.
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
                "`batchline run` fetches its replies again; `batchline retry {run} --accept-incomplete` takes what is here as all of them"
            ),
            Self::NotSubmitted => format!("it is submitted once that is settled: `batchline status {run}` explains"),
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
    /// What is known of it.
    pub note: String,
}

/// What the merge says of requests that are held.
#[derive(Debug)]
pub(crate) struct HeldLines {
    /// Which requests they are.
    pub(crate) seqs: HeldSeqs,
    /// For each shard, what is said of its requests.
    pub(crate) messages: BTreeMap<u32, String>,
}

/// Looks up what these shards hold, which are held or were not sent; nothing without any.
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
            (HeldReason::IncompleteAnswer, None) => "there is more at the service than is here".to_owned(),
            (HeldReason::LostBatch, _) => "the service does not show its batch".to_owned(),
            (HeldReason::UnresolvedSubmission, _) => "nobody knows whether its batch was created".to_owned(),
            (HeldReason::NotSubmitted, _) => "it was not sent, because the service has mixed up batches".to_owned(),
        };
        let message = format!("shard {shard}: {note}; {}", reason.remedy(&files.run));
        lines.messages.insert(shard, message);
        shards.push(HeldShard { shard, reason, requests, note });
    }
    Ok((shards, Some(lines)))
}

/// The requests of a shard that are held: all of them, or those to which there is no reply that would not be sent
/// again.
fn held_seqs(files: &Files, known: &ShardRow) -> Result<Vec<u64>, Error> {
    let members = Members::collect(&known.shard, &files.requests, &files.run)?;
    let seqs: Vec<u64> = members.into_iter().map(|(seq, _)| seq).collect();
    let ShardState::Incomplete { submission, .. } = &known.state else { return Ok(seqs) };
    let slots = files.replies.read_each(&seqs)?;
    let has_reply = |slot: Slot| layout::is_of(slot.file, *submission) && !is_held_too(&slot, *submission);
    let lacking = seqs.into_iter().zip(slots).filter(|(_, slot)| !slot.is_some_and(has_reply));
    Ok(lacking.map(|(seq, _)| seq).collect())
}
