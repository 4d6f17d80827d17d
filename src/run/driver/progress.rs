//! How far all batches are, by what the service says of each.

use std::collections::HashMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct BatchProgress {
    /// Requests that a shard's batch has done.
    done: HashMap<u32, u64>,
    sum: u64,
    total: u64,
}

impl BatchProgress {
    /// The batch of a shard with so many requests is so far. Returns the requests done in all, and those of all batches
    /// seen so far.
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
