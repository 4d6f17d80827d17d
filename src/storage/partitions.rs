//! Fixed-width records, spread over partitions: in memory while they fit a budget, in one scratch file beyond it.
//!
//! In: records, each with the number of its partition. Out: the records of one partition, in the order in which they came. So what
//! is too large for memory as a whole is worked on in parts: ids are compared, and replies find their requests, partition by partition.
//!
//! What always holds: memory is the budget, whatever the number of records. The scratch file has no name: it is gone with the process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::storage::durable;
use crate::storage::durable::FileError;

/// Smallest budget, in records for each partition: with less, the scratch file would be written in crumbs.
const RECORDS_MIN: usize = 4;

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1024 * 1024;

/// A record that can be written down and read back.
pub trait Fixed: Copy + Send + Sync {
    /// Bytes that it takes in a file.
    const BYTES: usize;

    /// Appends it to `bytes`.
    fn write(self, bytes: &mut Vec<u8>);

    /// Reads it back from [`Fixed::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self;
}

impl Fixed for u128 {
    const BYTES: usize = 16;

    fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("a record of its width"))
    }
}

impl Fixed for u64 {
    const BYTES: usize = 8;

    fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("a record of its width"))
    }
}

/// Records that went to the scratch file together, partition by partition.
#[derive(Debug)]
struct Spill {
    /// Offset of the first in the scratch file.
    offset: u64,
    /// For each partition, how many records stand before its end. Four bytes, because there may be thousands of spills.
    ends: Vec<u32>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Partitions<T> {
    /// For each partition, what of it is in memory.
    held: Vec<Vec<T>>,
    in_memory: usize,
    budget_records: usize,
    /// Directory in which the scratch file is made.
    directory: PathBuf,
    scratch: Option<File>,
    spills: Vec<Spill>,
}

impl<T: Fixed> Partitions<T> {
    /// `count` empty partitions that take `budget_bytes` of memory together; the scratch file is made in `directory`, if it is needed.
    #[must_use]
    pub fn new(count: usize, budget_bytes: usize, directory: &Path) -> Self {
        Self {
            held: (0..count).map(|_| Vec::new()).collect(),
            in_memory: 0,
            // A growing vector holds its old and its new half at once.
            budget_records: (budget_bytes / size_of::<T>() / 2).clamp(RECORDS_MIN * count, u32::MAX as usize),
            directory: directory.to_owned(),
            scratch: None,
            spills: Vec::new(),
        }
    }

    /// How many partitions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.len()
    }

    /// Adds a record to a partition. With [`Partitions::is_full`] it is time to [spill](Partitions::spill).
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

    /// The records of each partition that are in memory. They may become fewer.
    pub fn in_memory(&mut self) -> Vec<&mut Vec<T>> {
        self.held.iter_mut().collect()
    }

    /// Moves all records to the scratch file.
    pub fn spill(&mut self) -> Result<(), FileError> {
        let file = match &mut self.scratch {
            Some(scratch) => scratch,
            none => none.insert(durable::scratch(&self.directory)?),
        };
        let last = self.spills.last();
        let offset = last.map_or(0, |last| last.offset + Self::bytes(last.ends[last.ends.len() - 1]));
        let (mut bytes, mut at, mut records) = (Vec::new(), offset, 0);
        let mut ends = Vec::with_capacity(self.held.len());
        for partition in &mut self.held {
            for record in partition.drain(..) {
                record.write(&mut bytes);
                records += 1;
            }
            ends.push(records);
            if bytes.len() >= WRITE_BYTES || ends.len() == ends.capacity() {
                file.write_all_at(&bytes, at).map_err(FileError::on("write a scratch file in", &self.directory))?;
                at += bytes.len() as u64;
                bytes.clear();
            }
        }
        self.spills.push(Spill { offset, ends });
        self.in_memory = 0;
        Ok(())
    }

    /// What that many records take in the scratch file.
    fn bytes(records: u32) -> u64 {
        u64::from(records) * T::BYTES as u64
    }

    /// Calls `take` with the records of a partition in the order in which they came, some at a time.
    pub fn each<E: From<FileError>>(
        &self,
        partition: usize,
        mut take: impl FnMut(&[T]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        for Spill { offset, ends } in &self.spills {
            let before = if partition == 0 { 0 } else { ends[partition - 1] };
            let count = (ends[partition] - before) as usize;
            bytes.resize(count * T::BYTES, 0);
            let file = self.scratch.as_ref().expect("spills are in the scratch file");
            file.read_exact_at(&mut bytes, offset + Self::bytes(before))
                .map_err(FileError::on("read a scratch file in", &self.directory))?;
            records.clear();
            records.extend(bytes.chunks_exact(T::BYTES).map(T::read));
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
