//! Which requests of a batch that has ended are worth sending again.
//!
//! In: how the batch ended, and the slots of its requests. Out: for each request whether it is retryable.

use crate::dialect::retry_class::failed_batch_worth_retrying;
use crate::model::reply::ReplyKind;
use crate::model::shard_state::{EndedBatch, Unfinished};
use crate::remote::BatchStatus;
use crate::results::reply_index::Slot;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryDecision {
    /// It was cancelled: that was a decision.
    cancelled: bool,
    /// Whether a request without a reply may get one.
    unanswered: bool,
}

impl RetryDecision {
    /// For what this batch left. With a decision of the user, nothing speaks against what has no output.
    pub(crate) fn of(batch: &EndedBatch, decided: bool) -> Self {
        if decided {
            return Self { cancelled: false, unanswered: true };
        }
        let unanswered = match batch.status {
            BatchStatus::Failed => failed_batch_worth_retrying(batch.error.as_deref()),
            _ => true,
        };
        Self { cancelled: batch.status == BatchStatus::Cancelled, unanswered }
    }

    /// How many requests with these slots are worth sending again, and the first.
    pub(crate) fn unfinished(self, seqs: &[u64], slots: &[Option<Slot>]) -> Unfinished {
        let mut left = seqs.iter().zip(slots).filter(|(_, slot)| self.again(**slot)).map(|(seq, _)| *seq);
        left.next().map_or(Unfinished::default(), |first| Unfinished { count: 1 + left.count() as u64, first })
    }

    /// Whether a request with this slot is worth sending again.
    pub(crate) fn again(self, slot: Option<Slot>) -> bool {
        !self.cancelled
            && match slot {
                None => self.unanswered,
                Some(slot) => slot.kind == ReplyKind::Retryable,
            }
    }
}
