//! From the hash of an id to its place among a bounded number of requests.
//!
//! In: the hashes of a shard's requests, or of a range of the input. Out: for a hash, the number of the request that
//! has it.

/// Low bits of an entry, which hold the request's number.
const NUMBER_BITS: u32 = 32;

/// Entries in a bucket, on average.
const BUCKET_ENTRIES: usize = 4;

/// A table of `u128`s: 96 bits of hash, 32 bits of number, sorted; a directory by the upper bits leads to a handful of
/// them.
#[derive(Debug)]
pub struct IdTable {
    entries: Vec<u128>,
    /// For each value of the upper bits, the index of the first entry that has it; one more at the end.
    starts: Vec<u32>,
    shift: u32,
}

impl IdTable {
    /// A table in which the n-th hash leads to n. At most `u32::MAX` hashes.
    #[must_use]
    pub fn new(hashes: impl IntoIterator<Item = u128>) -> Self {
        let numbered = hashes.into_iter().zip(0_u32..);
        let mut entries: Vec<u128> =
            numbered.map(|(hash, number)| (hash >> NUMBER_BITS << NUMBER_BITS) | u128::from(number)).collect();
        entries.sort_unstable();
        let buckets = (entries.len() / BUCKET_ENTRIES).next_power_of_two().max(2);
        let shift = 128 - buckets.ilog2();
        let mut starts = Vec::with_capacity(buckets + 1);
        let mut at = 0;
        for bucket in 0..=buckets as u128 {
            while at < entries.len() && (entries[at] >> shift) < bucket {
                at += 1;
            }
            starts.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        Self { entries, starts, shift }
    }

    /// The number of the request whose id has this hash.
    #[must_use]
    pub fn get(&self, hash: u128) -> Option<u32> {
        let bucket = usize::try_from(hash >> self.shift).unwrap_or(usize::MAX);
        let range = self.starts[bucket] as usize..self.starts[bucket + 1] as usize;
        let wanted = hash >> NUMBER_BITS;
        let entry = self.entries[range].iter().find(|&&entry| entry >> NUMBER_BITS == wanted)?;
        u32::try_from(entry & u128::from(u32::MAX)).ok()
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;

    #[test]
    fn every_hash_leads_to_its_number_and_others_nowhere() {
        for count in [0_u32, 1, 2, 9, 10_000] {
            let hash = |n: u32| xxh3_128(&n.to_le_bytes());
            let table = IdTable::new((0..count).map(hash));
            assert!((0..count).all(|n| table.get(hash(n)) == Some(n)));
            assert!((count..count + 1000).all(|n| table.get(hash(n)).is_none()));
        }
    }
}
