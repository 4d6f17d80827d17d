//! `CustomId`: how requests and replies find each other.
//!
//! Ids are compared by a hash with a secret key, so that nobody outside can prepare two that collide.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The `custom_id` that is assigned to the line with this Seq, where lines are bodies alone: `line-N`, N being its place among those that
/// are not blank, from 1, over all inputs together. So it need not be kept anywhere, and the same input has the same ids.
#[must_use]
pub fn assigned_id(seq: u64) -> String {
    format!("line-{}", seq + 1)
}

/// Hashes ids with the key of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdHasher {
    /// The key; kept in the run's Ledger, because the request index holds hashes made with it.
    pub key: u64,
}

impl IdHasher {
    /// A hasher with a key that nobody knows.
    #[must_use]
    pub fn random() -> Self {
        Self { key: fastrand::u64(..) }
    }

    /// The hash of an id: XXH3-128 with the key as its seed.
    #[must_use]
    pub fn hash(self, custom_id: &str) -> u128 {
        xxh3_128_with_seed(custom_id.as_bytes(), self.key)
    }
}
