//! Fixed-width records, spread over partitions: in memory while they fit a budget, otherwise in one scratch file.
//!
//! In: records, each with the number of its partition. Out: the records of one partition, in insertion order. So data
//! that exceeds memory is processed in parts: ids are compared, and replies are joined with their requests, partition
//! by partition.
//!
//! Invariants: memory is the budget, whatever the number of records. The scratch file has no name: it vanishes with the
//! process.

use std::path::{Path, PathBuf};

use crate::storage::durable::FileError;
use crate::storage::records::{Record, RecordFile};

/// Minimum budget, in records per partition: with less, the writes to the scratch file would be tiny.
const RECORDS_MIN: usize = 4;

/// Records that were written to the scratch file together, partition by partition.
#[derive(Debug)]
struct Spill {
    /// Number of the first in the scratch file.
    first: u64,
    /// For each partition, the number of records before its end. Four bytes, because there may be thousands of spills.
    ends: Vec<u32>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Partitions<T> {
    /// For each partition, its records in memory.
    held: Vec<Vec<T>>,
    in_memory: usize,
    budget_records: usize,
    /// Directory in which the scratch file is created.
    directory: PathBuf,
    scratch: Option<RecordFile<T>>,
    spills: Vec<Spill>,
}

impl<T: Record> Partitions<T> {
    /// `count` empty partitions that use `budget_bytes` of memory together; the scratch file is created in `directory`,
    /// if it is needed.
    #[must_use]
    pub fn new(count: usize, budget_bytes: usize, directory: &Path) -> Self {
        Self {
            held: (0..count).map(|_| Vec::new()).collect(),
            in_memory: 0,
            // A growing vector holds its old and its new allocation at once.
            budget_records: (budget_bytes / size_of::<T>() / 2).clamp(RECORDS_MIN * count, u32::MAX as usize),
            directory: directory.to_owned(),
            scratch: None,
            spills: Vec::new(),
        }
    }

    /// Number of partitions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.len()
    }

    /// Adds a record to a partition. Once [`Partitions::is_full`], the caller must [spill](Partitions::spill).
    pub fn push(&mut self, partition: usize, record: T) {
        self.held[partition].push(record);
        self.in_memory += 1;
    }

    /// Whether the budget is used up.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.in_memory >= self.budget_records
    }

    /// Adds a record to a partition, and spills if that uses up the budget.
    pub fn add(&mut self, partition: usize, record: T) -> Result<(), FileError> {
        self.push(partition, record);
        if self.is_full() { self.spill() } else { Ok(()) }
    }

    /// The records of each partition in memory. The caller may remove some.
    pub fn in_memory(&mut self) -> Vec<&mut Vec<T>> {
        self.held.iter_mut().collect()
    }

    /// Moves all records to the scratch file.
    pub fn spill(&mut self) -> Result<(), FileError> {
        let file = match &mut self.scratch {
            Some(scratch) => scratch,
            none => none.insert(RecordFile::scratch(&self.directory, 0)?),
        };
        let last = self.spills.last();
        let first = last.map_or(0, |last| last.first + u64::from(last.ends[last.ends.len() - 1]));
        let mut end = 0;
        let ends = self.held.iter().map(|partition| {
            end += u32::try_from(partition.len()).expect("the budget is below four thousand million records");
            end
        });
        self.spills.push(Spill { first, ends: ends.collect() });
        file.write(first, self.held.iter_mut().flat_map(|partition| partition.drain(..)).map(Some))?;
        self.in_memory = 0;
        Ok(())
    }

    /// Calls `take` with the records of a partition in insertion order, some at a time.
    pub fn each<E: From<FileError>>(
        &self,
        partition: usize,
        mut take: impl FnMut(&[T]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut records = Vec::new();
        for Spill { first, ends } in &self.spills {
            let before = if partition == 0 { 0 } else { ends[partition - 1] };
            let file = self.scratch.as_ref().expect("spills are in the scratch file");
            file.read_present(first + u64::from(before), u64::from(ends[partition] - before), &mut records)?;
            take(&records)?;
        }
        take(&self.held[partition])
    }

    /// All records of a partition.
    pub fn load(&self, partition: usize) -> Result<Vec<T>, FileError> {
        let mut all = Vec::new();
        self.each(partition, |records| {
            all.extend_from_slice(records);
            Ok::<_, FileError>(())
        })?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_its_order_with_any_memory(
            records in prop::collection::vec((0_usize..7, any::<u128>()), 0..2000),
            budget_bytes in prop_oneof![Just(0_usize), Just(5_000), Just(1 << 20)],
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut partitions = Partitions::new(7, budget_bytes, directory.path());
            for (partition, record) in &records {
                partitions.add(*partition, *record).unwrap();
                prop_assert!(partitions.in_memory < partitions.budget_records);
            }
            for number in 0..partitions.count() {
                let own: Vec<u128> = records.iter().filter(|(own, _)| *own == number).map(|(_, record)| *record).collect();
                prop_assert_eq!(partitions.load(number).unwrap(), own);
            }
            prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
