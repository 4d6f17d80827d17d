//! Which requests of a batch that has ended are sent again.
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
    /// It was cancelled, which was a decision of the user.
    cancelled: bool,
    /// Whether a request without a reply may get one in another attempt.
    unanswered: bool,
}

impl RetryDecision {
    /// For the unfinished requests of this batch. If the user decided so, all requests without an output are retryable.
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

    /// How many requests with these slots are retryable, and the first of them.
    pub(crate) fn unfinished(self, seqs: &[u64], slots: &[Option<Slot>]) -> Unfinished {
        let mut left = seqs.iter().zip(slots).filter(|(_, slot)| self.again(**slot)).map(|(seq, _)| *seq);
        left.next().map_or(Unfinished::default(), |first| Unfinished { count: 1 + left.count() as u64, first })
    }

    /// Whether a request with this slot is retryable.
    pub(crate) fn again(self, slot: Option<Slot>) -> bool {
        !self.cancelled
            && match slot {
                None => self.unanswered,
                Some(slot) => slot.kind == ReplyKind::Retryable,
            }
    }
}
