//! The progress of all batches, as reported by the service.

use std::collections::HashMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct BatchProgress {
    /// Completed requests of each shard's batch.
    done: HashMap<u32, u64>,
    sum: u64,
    total: u64,
}

impl BatchProgress {
    /// Sets the progress of the batch of a shard with this many requests. Returns the completed requests and the total
    /// of all batches seen so far.
    #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a bar")]
    pub(super) fn set(&mut self, shard: u32, requests: u64, percent: f64) -> (u64, u64) {
        let done = (requests as f64 * percent / 100.0) as u64;
        let before = self.done.insert(shard, done);
        if before.is_none() {
            self.total += requests;
        }
        self.sum = self.sum + done - before.unwrap_or(0);
        (self.sum, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_counts_once_and_may_fall_back() {
        let mut progress = BatchProgress::default();
        assert_eq!(progress.set(0, 10, 50.0), (5, 10));
        assert_eq!(progress.set(1, 20, 100.0), (25, 30));
        assert_eq!(progress.set(0, 10, 0.0), (20, 30));
    }
}
