//! Faults in how a batch ends: expired, failed, or never.
//!
//! In: a script. Out: how batches end, if not in good order.
//! Invariants: requests that a batch did not come to are not billed; those that it answered are, and their rows
//! are in its output file.

use super::fields::{FaultsError, Fields};
use crate::serve::api::auth::ORGANIZATION_ID;
use crate::serve::store::Store;

/// How a batch ends.
#[derive(Clone, Debug)]
pub(crate) enum BatchFault {
    /// `expire`: EXPIRED after that share of its rows.
    Expire { share: f64 },
    /// `fail`: FAILED after that share of its rows.
    Fail { share: f64, message: String },
    /// `never`: `IN_PROGRESS` until it is cancelled.
    Stuck,
    /// `no_room`: FAILED before anything of it is done while as many `batches` that are older are at work.
    NoRoom { batches: usize },
}

/// The names of these faults, for messages.
pub(super) const NAMES: &[&str] = &["expire", "fail", "never", "no_room"];

impl BatchFault {
    /// Reads the fault called `verb`, if it is one of these.
    pub(super) fn read(verb: &str, fields: &mut Fields<'_>) -> Result<Option<Self>, FaultsError> {
        Ok(Some(match verb {
            "expire" => Self::Expire { share: fields.share("share")?.unwrap_or_default() },
            "fail" => Self::Fail {
                share: fields.share("share")?.unwrap_or_default(),
                message: fields
                    .take("message")?
                    .unwrap_or_else(|| "Internal error: the batch could not be finished (a scripted fault)".to_owned()),
            },
            "never" => Self::Stuck,
            "no_room" => Self::NoRoom { batches: room(fields)? },
            _ => return Ok(None),
        }))
    }

    /// The share of its rows that a batch comes to.
    pub(crate) fn share(&self) -> f64 {
        match self {
            Self::Expire { share } | Self::Fail { share, .. } => *share,
            Self::Stuck | Self::NoRoom { .. } => 1.0,
        }
    }
}

/// How many batches there is room for.
pub(super) fn room(fields: &mut Fields<'_>) -> Result<usize, FaultsError> {
    Ok(fields.count("batches")?.map_or(1, |batches| usize::try_from(batches).unwrap_or(usize::MAX)))
}

/// What the service says when there is no room for one more.
pub(super) fn queue_is_full(batches: usize) -> String {
    format!(
        "Enqueued token limit reached for this model in organization {ORGANIZATION_ID}. Limit: {batches} batches. Please try again once \
         some in_progress batches have been completed."
    )
}

/// How many batches are at work, of those that are older than the one with that number.
pub(super) fn at_work(store: &Store, number: u64) -> usize {
    store.batches.select(|batch| batch.number < number && !batch.status.is_terminal()).len()
}
