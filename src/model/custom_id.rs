//! `CustomId`: how replies are matched to requests.
//!
//! Ids are compared by a hash with a secret key, so that collisions cannot be crafted.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The `custom_id` that is assigned to the line with this Seq, where lines are bodies: `line-N`, where N counts the
/// non-blank lines of all inputs together, from 1. So it need not be stored, and the same input has the same ids.
#[must_use]
pub fn assigned_id(seq: u64) -> String {
    format!("line-{}", seq + 1)
}

/// The length of [`assigned_id`] in bytes.
#[must_use]
pub fn assigned_id_bytes(seq: u64) -> usize {
    "line-".len() + (seq + 1).ilog10() as usize + 1
}

/// Hashes ids with the key of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdHasher {
    /// The key; kept in the run's Ledger, because the request index holds hashes made with it.
    pub key: u64,
}

impl IdHasher {
    /// A hasher with a random key.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_assigned_id_is_known_before_it_is_written() {
        for seq in [0, 8, 9, 98, 99, 12_345, (1 << 41) - 1, 1 << 41] {
            assert_eq!(assigned_id_bytes(seq), assigned_id(seq).len());
        }
    }
}
