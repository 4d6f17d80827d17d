//! Incidents: what went wrong in a run and was dealt with, or waits for a decision.
//!
//! In: what happened. Out: a stable name of its kind for programs, and a line for people. The Ledger keeps both.

use std::fmt;

use serde::Serialize;

use crate::model::batch::BatchStatus;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Incident {
    /// A create was neither confirmed nor refused.
    UnknownAnswer {
        /// The shard.
        shard: u32,
        /// What came instead.
        error: String,
    },
    /// A batch whose create response was lost was found in the service's list.
    Adopted {
        /// The shard that it works for.
        shard: u32,
        /// The service's id of it.
        batch_id: String,
    },
    /// The list shows no batch for a submission whose outcome is unknown; it is repeated, as the user asked.
    SubmittedAgain {
        /// The shard.
        shard: u32,
    },
    /// The list shows no batch for a submission whose outcome is unknown, and it waits for a decision.
    Held {
        /// The shard.
        shard: u32,
        /// The file that its batch would use.
        file_id: String,
    },
    /// A create was answered with a batch that works for another shard, or for none.
    BatchOfAnother {
        /// The shard that was to be submitted.
        shard: u32,
        /// The service's id of the batch.
        batch_id: String,
        /// The shard that has it; `None` for a surplus batch.
        owner: Option<u32>,
    },
    /// A second batch uses the file of a shard.
    SurplusBatch {
        /// The shard.
        shard: u32,
        /// The service's id of the second batch.
        batch_id: String,
        /// Whether a POST of this run may have created it, so that it is cancelled.
        is_ours: bool,
    },
    /// The service was asked to cancel a surplus batch.
    SurplusCancelled {
        /// The service's id of it.
        batch_id: String,
    },
    /// The service rejected the cancellation of a surplus batch; it is retried.
    CancelFailed {
        /// The service's id of the batch.
        batch_id: String,
        /// What it said.
        error: String,
    },
    /// The service has no room for one more batch.
    QueueFull {
        /// The shard that waits.
        shard: u32,
        /// How many batches of its model the service has room for.
        cap: usize,
        /// Whether none of them is in flight.
        is_alone: bool,
        /// What it said.
        error: String,
    },
    /// The service does not show a batch that it has accepted; the look-up is retried.
    NotShown {
        /// The shard that it works for.
        shard: u32,
        /// The service's id of it.
        batch_id: String,
        /// What came instead.
        error: String,
    },
    /// The service has not shown a batch that it has accepted for so long that its shard waits for a decision.
    Lost {
        /// The shard that it works for.
        shard: u32,
        /// The service's id of it.
        batch_id: String,
        /// What came instead.
        error: String,
    },
    /// A batch has ended without completing.
    BatchEnded {
        /// The service's id of it.
        batch_id: String,
        /// How it ended.
        status: BatchStatus,
        /// Why, where the service says so.
        error: Option<String>,
    },
    /// The service has answered more of a shard's requests than could be fetched.
    RepliesLacking {
        /// The shard.
        shard: u32,
        /// Why that is known.
        why: String,
        /// How many of its requests are held.
        held: u64,
    },
    /// The run cannot continue; it ends once the results of all batches at the service are collected.
    NoMoreSubmissions {
        /// Why.
        error: String,
    },
}

/// An incident as the Ledger has it. Earlier versions recorded only texts, under the kind `note`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct RecordedIncident {
    /// When it was recorded, as in RFC 3339.
    pub at: String,
    /// Its [kind](Incident::kind).
    pub kind: String,
    /// The shard that it concerns; `None` for the run as a whole.
    pub shard: Option<u32>,
    /// What people are told.
    pub text: String,
}

impl Incident {
    /// The name of its kind. Programs match on it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnknownAnswer { .. } => "unknown-answer",
            Self::Adopted { .. } => "adopted",
            Self::SubmittedAgain { .. } => "submitted-again",
            Self::Held { .. } => "held",
            Self::BatchOfAnother { .. } => "batch-of-another",
            Self::SurplusBatch { .. } => "surplus-batch",
            Self::SurplusCancelled { .. } => "surplus-cancelled",
            Self::CancelFailed { .. } => "cancel-failed",
            Self::QueueFull { .. } => "queue-full",
            Self::NotShown { .. } => "batch-not-shown",
            Self::Lost { .. } => "batch-lost",
            Self::BatchEnded { .. } => "batch-ended",
            Self::RepliesLacking { .. } => "replies-lacking",
            Self::NoMoreSubmissions { .. } => "no-more-submissions",
        }
    }

    /// The shard that it concerns; `None` for the run as a whole, or for a batch that works for no shard.
    #[must_use]
    pub fn shard(&self) -> Option<u32> {
        match self {
            Self::UnknownAnswer { shard, .. }
            | Self::Adopted { shard, .. }
            | Self::SubmittedAgain { shard }
            | Self::Held { shard, .. }
            | Self::BatchOfAnother { shard, .. }
            | Self::SurplusBatch { shard, .. }
            | Self::QueueFull { shard, .. }
            | Self::NotShown { shard, .. }
            | Self::Lost { shard, .. }
            | Self::RepliesLacking { shard, .. } => Some(*shard),
            Self::SurplusCancelled { .. }
            | Self::CancelFailed { .. }
            | Self::BatchEnded { .. }
            | Self::NoMoreSubmissions { .. } => None,
        }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(shard) = self.shard() {
            write!(out, "shard {shard}: ")?;
        }
        match self {
            Self::UnknownAnswer { error, .. } => {
                write!(out, "outcome of batch creation unknown: {error}")
            }
            Self::Adopted { batch_id, .. } => write!(out, "found its batch {batch_id} in the service's list"),
            Self::SubmittedAgain { .. } => out.write_str("the list shows no batch for it; it is submitted again"),
            Self::Held { file_id, .. } => {
                write!(out, "outcome of batch creation from file {file_id} unknown; it is on hold")
            }
            Self::BatchOfAnother { batch_id, owner, .. } => {
                write!(out, "its create was answered with batch {batch_id}, which ")?;
                match owner {
                    Some(owner) => write!(out, "works for shard {owner}")?,
                    None => out.write_str("is already known as a duplicate")?,
                }
                out.write_str("; it is on hold, and nothing more is submitted until you decide")
            }
            Self::SurplusBatch { batch_id, is_ours, .. } => {
                let what = if *is_ours { "it is cancelled" } else { "it may belong to another run and is left alone" };
                write!(out, "the service has a second batch on its file, {batch_id}; {what}")
            }
            Self::SurplusCancelled { batch_id } => {
                write!(out, "asked the service to cancel the surplus batch {batch_id}")
            }
            Self::CancelFailed { batch_id, error } => {
                write!(out, "cannot cancel the surplus batch {batch_id}: {error}")
            }
            Self::QueueFull { cap, is_alone, error, .. } => {
                write!(out, "the service has no room for it: {error}; ")?;
                if *is_alone {
                    out.write_str(
                        "it is retried; if it is too large for the queue, make smaller shards with --shard-requests",
                    )
                } else {
                    write!(out, "it waits until one of the {cap} batches in flight has ended")
                }
            }
            Self::NotShown { batch_id, error, .. } => write!(
                out,
                "the service does not show its batch {batch_id}: {error}; retrying. A batch is visible only with \
                 the key and at the address that created it: check both"
            ),
            Self::Lost { batch_id, error, .. } => {
                write!(out, "the service does not show its batch {batch_id}: {error}; it is on hold")
            }
            Self::BatchEnded { batch_id, status, error } => {
                write!(out, "batch {batch_id} ended as {status}")?;
                error.as_deref().map_or(Ok(()), |error| write!(out, ": {error}"))
            }
            Self::RepliesLacking { why, held, .. } => {
                write!(out, "{why}; {held} of its requests are on hold and not sent again")
            }
            Self::NoMoreSubmissions { error } => write!(out, "nothing more is submitted: {error}"),
        }
    }
}
