//! Incidents: what went wrong in a run and was dealt with, or waits for a decision.
//!
//! In: what happened. Out: a stable name of its kind for programs, and a line for people. The Ledger keeps both.

use std::fmt;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incident {
    /// Anything that has no name of its own.
    Note(String),
    /// A create was answered with neither yes nor no; how.
    UnknownAnswer {
        /// The shard.
        shard: u32,
        /// What came instead.
        error: String,
    },
    /// A batch that nobody had told us of was found in the service's list.
    Adopted {
        /// The shard that it works for.
        shard: u32,
        /// The service's id of it.
        batch_id: String,
    },
    /// A create was answered with a batch that works for somebody else.
    BatchOfAnother {
        /// The shard that was to be submitted.
        shard: u32,
        /// The service's id of the batch.
        batch_id: String,
        /// The shard that has it; `None` for a batch that is too many.
        owner: Option<u32>,
    },
    /// The service has no room for one more batch.
    QueueFull {
        /// The shard that waits.
        shard: u32,
        /// How many batches of its model it has room for.
        cap: usize,
        /// Whether none of them is in flight.
        is_alone: bool,
        /// What it said.
        error: String,
    },
    /// The service does not show a batch that it has accepted.
    NotShown {
        /// The shard that it works for.
        shard: u32,
        /// The service's id of it.
        batch_id: String,
        /// What came instead.
        error: String,
    },
}

impl Incident {
    /// The name of its kind. Programs match on it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Note(_) => "note",
            Self::UnknownAnswer { .. } => "unknown-answer",
            Self::Adopted { .. } => "adopted",
            Self::BatchOfAnother { .. } => "batch-of-another",
            Self::QueueFull { .. } => "queue-full",
            Self::NotShown { .. } => "batch-not-shown",
        }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(text) => out.write_str(text),
            Self::UnknownAnswer { shard, error } => {
                write!(out, "shard {shard}: it is not known whether its batch was created: {error}")
            }
            Self::Adopted { shard, batch_id } => {
                write!(out, "shard {shard}: found its batch {batch_id} in the service's list")
            }
            Self::BatchOfAnother { shard, batch_id, owner } => {
                write!(out, "shard {shard}: its create was answered with batch {batch_id}, which ")?;
                match owner {
                    Some(owner) => write!(out, "works for shard {owner}")?,
                    None => out.write_str("is one too many already")?,
                }
                out.write_str("; it is held, and nothing more is submitted until somebody decides")
            }
            Self::QueueFull { shard, cap, is_alone, error } => {
                write!(out, "shard {shard}: the service has no room for it: {error}; ")?;
                if *is_alone {
                    out.write_str(
                        "it is tried again; if it is too large for the queue, make smaller ones with --shard-requests",
                    )
                } else {
                    write!(out, "it waits until one of the {cap} batches in flight has ended")
                }
            }
            Self::NotShown { shard, batch_id, error } => write!(
                out,
                "shard {shard}: the service does not show its batch {batch_id}: {error}; it is asked for again; a batch belongs to the \
                 key and the address that it was created with: look at both"
            ),
        }
    }
}

impl From<&String> for Incident {
    fn from(text: &String) -> Self {
        Self::Note(text.clone())
    }
}
