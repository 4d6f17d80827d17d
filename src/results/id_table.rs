//! From the hash of an id to its place among a bounded number of requests.
//!
//! In: the hashes of a shard's requests, or of a range of the input. Out: for a hash, the number of the request that
//! has it.

use std::ops::Range;

/// Low bits of an entry, which hold the request's number.
const NUMBER_BITS: u32 = 32;

/// Entries in a bucket, on average.
const BUCKET_ENTRIES: usize = 4;

/// Hashes that are looked up together, so that the processor waits for several of them at once.
const BATCH: usize = 32;

/// A table of `u128`s, 96 bits of hash and 32 bits of number, in buckets by their upper bits; a directory leads to the
/// handful of them in a bucket.
#[derive(Debug)]
pub struct IdTable {
    entries: Vec<u128>,
    /// For each bucket, the index of its first entry; one more at the end.
    starts: Vec<u32>,
    shift: u32,
}

impl IdTable {
    /// A table in which the n-th hash leads to n. At most `u32::MAX` hashes.
    #[must_use]
    pub fn new(hashes: impl IntoIterator<Item = u128>) -> Self {
        let hashes: Vec<u128> = hashes.into_iter().collect();
        let buckets = (hashes.len() / BUCKET_ENTRIES).next_power_of_two().max(2);
        let shift = 128 - buckets.ilog2();
        // A counting sort: first the ends of the buckets, which become their starts as they are filled from behind.
        let mut starts = vec![0_u32; buckets + 1];
        for hash in &hashes {
            starts[bucket_of(*hash, shift)] += 1;
        }
        let mut end = 0;
        for start in &mut starts {
            end += *start;
            *start = end;
        }
        let mut entries = vec![0; hashes.len()];
        for (number, hash) in hashes.iter().enumerate().rev() {
            let start = &mut starts[bucket_of(*hash, shift)];
            *start -= 1;
            entries[*start as usize] = (hash >> NUMBER_BITS << NUMBER_BITS) | number as u128;
        }
        Self { entries, starts, shift }
    }

    /// The number of the request whose id has this hash.
    #[must_use]
    pub fn get(&self, hash: u128) -> Option<u32> {
        self.find(self.bucket(hash), hash)
    }

    /// The numbers of the requests whose ids have these hashes, added to `found` in their order.
    pub fn get_each(&self, hashes: &[u128], found: &mut Vec<Option<u32>>) {
        let mut buckets: [Range<usize>; BATCH] = std::array::from_fn(|_| 0..0);
        for batch in hashes.chunks(BATCH) {
            let mut touched = 0;
            for (hash, bucket) in batch.iter().zip(&mut buckets) {
                *bucket = self.bucket(*hash);
            }
            for bucket in &buckets[..batch.len()] {
                touched ^= self.entries.get(bucket.start).copied().unwrap_or(0);
            }
            // The processor loads the entries now, whatever they are: none of the loads waits for another one.
            std::hint::black_box(touched);
            found.extend(batch.iter().zip(&buckets).map(|(hash, bucket)| self.find(bucket.clone(), *hash)));
        }
    }

    fn bucket(&self, hash: u128) -> Range<usize> {
        let bucket = bucket_of(hash, self.shift);
        self.starts[bucket] as usize..self.starts[bucket + 1] as usize
    }

    fn find(&self, bucket: Range<usize>, hash: u128) -> Option<u32> {
        let wanted = hash >> NUMBER_BITS;
        let entry = self.entries[bucket].iter().find(|&&entry| entry >> NUMBER_BITS == wanted)?;
        u32::try_from(entry & u128::from(u32::MAX)).ok()
    }
}

fn bucket_of(hash: u128, shift: u32) -> usize {
    usize::try_from(hash >> shift).unwrap_or(usize::MAX)
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
            let hashes: Vec<u128> = (0..count + 50).rev().map(hash).collect();
            let mut found = vec![None];
            table.get_each(&hashes, &mut found);
            assert!(found.into_iter().skip(1).eq((0..count + 50).rev().map(|n| (n < count).then_some(n))));
            assert!((count..count + 1000).all(|n| table.get(hash(n)).is_none()));
        }
    }
}
