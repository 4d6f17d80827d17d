//! Uniqueness of `custom_id` over the whole input: exact, in bounded memory.
//!
//! In: the keyed hash and the offset of every request. Out: every request whose id an earlier one has, with that one.
//!
//! Each id is one `u128`: the upper 84 bits of its hash, then the offset of its line in 44 bits, so that sorting groups
//! equal hashes in input order. The entries are spread over partitions by their first byte. While they fit the budget
//! all stay in memory; when they do not, each partition is sorted, deduplicated and appended to one scratch file, and
//! at the end the partitions are read back one by one. Equal hashes are only candidates: the ids are read from the
//! Source and compared.
//!
//! Invariants:
//! - A request is reported exactly once if an earlier one has its id, even if hashes collide (a test uses 8-bit
//!   hashes).
//! - Memory is the budget plus one partition per thread. Deduplication keeps one entry per distinct id of a partition,
//!   so an input that repeats one id endlessly does not grow a partition.

use std::path::Path;

use rayon::prelude::*;

use super::InputError;
use crate::storage::ordered::Threads;
use crate::storage::partitions::Partitions;

/// Bits of an entry that hold the offset: Sources of up to 16 TiB.
const OFFSET_BITS: u32 = 44;

/// Maximum size of a Source whose offsets fit an entry, in bytes.
pub const SOURCE_BYTES_MAX: u64 = 1 << OFFSET_BITS;

/// Number of partitions.
const PARTITIONS: usize = 256;

/// Maximum duplicate ids that are kept for the report. An input with more is rejected as a whole.
pub const DUPLICATES_MAX: usize = 4 * 1024 * 1024;

/// A request whose id was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Offset of the earlier line.
    pub first: u64,
    /// Offset of the line that repeats it.
    pub repeat: u64,
}

/// Reads the `custom_id` of the line at an offset.
pub type ReadId<'r> = dyn Fn(u64) -> Result<String, InputError> + Sync + 'r;

/// Collects the ids of an input. See the [module](self).
#[derive(Debug)]
pub struct UniqueIds {
    partitions: Partitions<u128>,
    threads: usize,
    duplicates: Vec<Duplicate>,
}

impl UniqueIds {
    /// Collects with `budget_bytes` of memory; beyond it, a scratch file in the directory `scratch` takes the rest.
    #[must_use]
    pub fn new(budget_bytes: usize, scratch: &Path, threads: usize) -> Self {
        Self { partitions: Partitions::new(PARTITIONS, budget_bytes, scratch), threads, duplicates: Vec::new() }
    }

    /// Adds the id of the line at `offset`. `read_id` is [`UniqueIds::finish`]'s.
    pub fn push(&mut self, id_hash: u128, offset: u64, read_id: &ReadId<'_>) -> Result<(), InputError> {
        let entry = (id_hash >> OFFSET_BITS << OFFSET_BITS) | u128::from(offset);
        self.partitions.push((id_hash >> 120) as usize, entry);
        if self.partitions.is_full() { self.spill(read_id) } else { Ok(()) }
    }

    /// All requests that repeat an earlier id, in input order. `read_id` reads the id of the line at an offset.
    ///
    /// # Panics
    /// When no thread can be started.
    pub fn finish(mut self, read_id: &ReadId<'_>) -> Result<Vec<Duplicate>, InputError> {
        let partitions = &self.partitions;
        let find = |partition| {
            let (mut entries, mut duplicates) = (partitions.load(partition)?, Vec::new());
            thin(&mut entries, &mut duplicates, read_id)?;
            Ok(duplicates)
        };
        let all = (0..partitions.count()).into_par_iter();
        let found = self.borrow_threads().install(|| all.map(find).collect::<Result<_, InputError>>())?;
        self.hold(found)?;
        self.duplicates.sort_unstable_by_key(|duplicate| duplicate.repeat);
        Ok(self.duplicates)
    }

    /// Nearly always those that have read the input, and are idle by now.
    fn borrow_threads(&self) -> Threads {
        Threads::borrow(self.threads).expect("threads can be started")
    }

    fn hold(&mut self, found: Vec<Vec<Duplicate>>) -> Result<(), InputError> {
        self.duplicates.extend(found.into_iter().flatten());
        if self.duplicates.len() > DUPLICATES_MAX { Err(InputError::TooManyDuplicates) } else { Ok(()) }
    }

    fn spill(&mut self, read_id: &ReadId<'_>) -> Result<(), InputError> {
        let find = |entries| {
            let mut duplicates = Vec::new();
            thin(entries, &mut duplicates, read_id)?;
            Ok(duplicates)
        };
        let threads = self.borrow_threads();
        let all = self.partitions.in_memory().into_par_iter();
        let thinned = threads.install(|| all.map(find).collect::<Result<_, InputError>>())?;
        self.hold(thinned)?;
        Ok(self.partitions.spill()?)
    }
}

/// Sorts the entries and keeps the first of each distinct id; the others are duplicates.
fn thin(entries: &mut Vec<u128>, duplicates: &mut Vec<Duplicate>, read_id: &ReadId<'_>) -> Result<(), InputError> {
    entries.sort_unstable();
    let same = |a: &u128, b: &u128| a >> OFFSET_BITS == b >> OFFSET_BITS;
    if !entries.windows(2).any(|pair| same(&pair[0], &pair[1])) {
        return Ok(());
    }
    let mut kept = Vec::new();
    for group in entries.chunk_by(same) {
        let [only] = group else {
            thin_group(group, &mut kept, duplicates, read_id)?;
            continue;
        };
        kept.push(*only);
    }
    *entries = kept;
    Ok(())
}

/// Compares lines whose hashes are equal by their ids. Normally all have the same one.
fn thin_group(
    group: &[u128],
    kept: &mut Vec<u128>,
    duplicates: &mut Vec<Duplicate>,
    read_id: &ReadId<'_>,
) -> Result<(), InputError> {
    let mut distinct: Vec<(String, u64)> = Vec::new();
    for entry in group {
        let offset = (entry & ((1 << OFFSET_BITS) - 1)) as u64;
        let custom_id = read_id(offset)?;
        if let Some((_, first)) = distinct.iter().find(|(id, _)| *id == custom_id) {
            duplicates.push(Duplicate { first: *first, repeat: offset });
        } else {
            distinct.push((custom_id, offset));
            kept.push(*entry);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::custom_id::IdHasher;

    /// Line n is at offset 10 n and has the id `ids[n]`.
    fn find(ids: &[u16], budget_bytes: usize, hash_bits: u32) -> Vec<Duplicate> {
        let read_id = |offset: u64| Ok(ids[usize::try_from(offset / 10).unwrap()].to_string());
        let scratch = tempfile::tempdir().unwrap();
        let mut unique = UniqueIds::new(budget_bytes, scratch.path(), 2);
        for (number, id) in ids.iter().enumerate() {
            let hash = IdHasher { key: 7 }.hash(&id.to_string()) >> (128 - hash_bits) << (128 - hash_bits);
            unique.push(hash, number as u64 * 10, &read_id).unwrap();
        }
        unique.finish(&read_id).unwrap()
    }

    proptest! {
        #[test]
        fn every_repeat_is_reported_once_with_any_memory_and_any_hash(
            ids in prop::collection::vec(0_u16..400, 0..1500),
            budget_bytes in prop_oneof![Just(0_usize), Just(10_000), Just(1 << 20)],
            hash_bits in prop_oneof![Just(8_u32), Just(12), Just(128)],
        ) {
            let mut first = HashMap::new();
            let mut repeats = Vec::new();
            for (number, id) in ids.iter().enumerate() {
                if first.insert(*id, number).is_some() {
                    repeats.push(number as u64 * 10);
                }
            }
            let found = find(&ids, budget_bytes, hash_bits);
            prop_assert_eq!(found.iter().map(|duplicate| duplicate.repeat).collect::<Vec<_>>(), repeats);
            for duplicate in found {
                let id = |offset: u64| ids[usize::try_from(offset / 10).unwrap()];
                prop_assert!(duplicate.first < duplicate.repeat);
                prop_assert_eq!(id(duplicate.first), id(duplicate.repeat));
            }
        }
    }
}
