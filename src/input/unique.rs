//! Uniqueness of `custom_id` over the whole input: exact, in bounded memory.
//!
//! In: the keyed hash and the offset of every request. Out: every request whose id an earlier one has, with that one.
//!
//! Each id is one `u128`: the upper 84 bits of its hash, then the offset of its line in 44 bits, so that sorting groups equal
//! hashes in input order. The entries are spread over partitions by their first byte. While they fit the budget all stay in
//! memory; when they do not, each partition is sorted, thinned and appended to one scratch file, and at the end the partitions
//! are read back one by one. A hash hit is only a suspicion: the ids are read from the Source and compared.
//!
//! What always holds:
//! - A request is reported exactly once if an earlier one has its id, whatever the hashes do (a test runs with 8-bit hashes).
//! - Memory is the budget plus one partition for each thread. Thinning keeps one entry for each distinct id of a partition, so
//!   an input that repeats one id for ever does not grow a partition.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use super::InputError;
use crate::durable::FileError;

/// Bits of an entry that hold the offset: Sources of up to 16 TiB.
const OFFSET_BITS: u32 = 44;

/// Largest Source whose offsets fit an entry, in bytes.
pub const SOURCE_BYTES_MAX: u64 = 1 << OFFSET_BITS;

/// Number of partitions.
const PARTITIONS: usize = 256;

/// Bytes of an entry.
const ENTRY_BYTES: usize = 16;

/// Most repeated ids that are kept for the report. An input with more has no ids; it is refused as a whole.
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

/// Where the entries of a partition stand in the scratch file.
#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: u64,
    entries: usize,
}

#[derive(Debug, Default)]
struct Partition {
    entries: Vec<u128>,
    spilled: Vec<Extent>,
}

/// Collects the ids of an input. See the [module](self).
pub struct UniqueIds<'s> {
    partitions: Vec<Partition>,
    in_memory: usize,
    budget_entries: usize,
    scratch: Option<(File, u64)>,
    make_scratch: Box<dyn Fn() -> Result<File, FileError> + 's>,
    duplicates: Vec<Duplicate>,
}

impl std::fmt::Debug for UniqueIds<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UniqueIds").field("in_memory", &self.in_memory).finish_non_exhaustive()
    }
}

impl<'s> UniqueIds<'s> {
    /// Collects with `budget_bytes` of memory; beyond it, `make_scratch` gives the file that takes the rest.
    pub fn new(budget_bytes: usize, make_scratch: impl Fn() -> Result<File, FileError> + 's) -> Self {
        Self {
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            in_memory: 0,
            // A growing vector holds its old and its new half at once.
            budget_entries: (budget_bytes / ENTRY_BYTES / 2).max(PARTITIONS),
            scratch: None,
            make_scratch: Box::new(make_scratch),
            duplicates: Vec::new(),
        }
    }

    /// Adds the id of the line at `offset`. `read_id` is [`UniqueIds::finish`]'s.
    pub fn push(&mut self, id_hash: u128, offset: u64, read_id: &ReadId<'_>) -> Result<(), InputError> {
        let entry = (id_hash >> OFFSET_BITS << OFFSET_BITS) | u128::from(offset);
        self.partitions[(id_hash >> 120) as usize].entries.push(entry);
        self.in_memory += 1;
        if self.in_memory >= self.budget_entries { self.spill(read_id) } else { Ok(()) }
    }

    /// All requests that repeat an earlier id, in input order. `read_id` reads the id of the line at an offset.
    pub fn finish(mut self, read_id: &ReadId<'_>) -> Result<Vec<Duplicate>, InputError> {
        let scratch = self.scratch.as_ref().map(|(file, _)| file);
        let found: Vec<Vec<Duplicate>> = self
            .partitions
            .par_iter_mut()
            .map(|partition| {
                let mut entries = std::mem::take(&mut partition.entries);
                for extent in &partition.spilled {
                    let file = scratch.expect("only a scratch file takes spilled entries");
                    read_entries(file, *extent, &mut entries)
                        .map_err(FileError::on("read", "scratch file".as_ref()))?;
                }
                let mut duplicates = Vec::new();
                thin(&mut entries, &mut duplicates, read_id)?;
                Ok(duplicates)
            })
            .collect::<Result<_, InputError>>()?;
        self.hold(found)?;
        self.duplicates.sort_unstable_by_key(|duplicate| duplicate.repeat);
        Ok(self.duplicates)
    }

    fn hold(&mut self, found: Vec<Vec<Duplicate>>) -> Result<(), InputError> {
        self.duplicates.extend(found.into_iter().flatten());
        if self.duplicates.len() > DUPLICATES_MAX { Err(InputError::TooManyDuplicates) } else { Ok(()) }
    }

    fn spill(&mut self, read_id: &ReadId<'_>) -> Result<(), InputError> {
        let thinned: Vec<Vec<Duplicate>> = self
            .partitions
            .par_iter_mut()
            .map(|partition| {
                let mut duplicates = Vec::new();
                thin(&mut partition.entries, &mut duplicates, read_id)?;
                Ok(duplicates)
            })
            .collect::<Result<_, InputError>>()?;
        self.hold(thinned)?;
        let (file, end) = match &mut self.scratch {
            Some(scratch) => scratch,
            none => none.insert(((self.make_scratch)()?, 0)),
        };
        for partition in &mut self.partitions {
            let bytes: Vec<u8> = partition.entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            file.write_all_at(&bytes, *end).map_err(FileError::on("write", "scratch file".as_ref()))?;
            partition.spilled.push(Extent { offset: *end, entries: partition.entries.len() });
            partition.entries.clear();
            *end += bytes.len() as u64;
        }
        self.in_memory = 0;
        Ok(())
    }
}

fn read_entries(file: &File, extent: Extent, entries: &mut Vec<u128>) -> io::Result<()> {
    let mut bytes = vec![0; extent.entries * ENTRY_BYTES];
    file.read_exact_at(&mut bytes, extent.offset)?;
    entries.extend(bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(|entry| u128::from_le_bytes(*entry)));
    Ok(())
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
    use crate::custom_id::IdHasher;

    /// Line n stands at offset 10 n and has the id `ids[n]`.
    fn find(ids: &[u16], budget_bytes: usize, hash_bits: u32) -> Vec<Duplicate> {
        let read_id = |offset: u64| Ok(ids[usize::try_from(offset / 10).unwrap()].to_string());
        let mut unique = UniqueIds::new(budget_bytes, || Ok(tempfile::tempfile().unwrap()));
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
