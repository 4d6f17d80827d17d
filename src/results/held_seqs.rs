//! Which requests are held, and by which shard: the merge writes a message about them instead of a reply.
//!
//! In: the Seqs of shards that wait for a decision. Out: for a range of Seqs, the shard that holds each.
//!
//! One record per held Seq, the number of the shard. The file is created when a run has ended, has no name, and
//! vanishes with the process: its content is derived from the Ledger and the reply index.

use std::ops::Range;
use std::path::Path;

use crate::storage::durable::FileError;
use crate::storage::records::{Record, RecordFile};

/// The number of the shard that holds a Seq.
#[derive(Debug, Clone, Copy)]
struct HeldBy(u32);

impl Record for HeldBy {
    const KIND: &'static str = "held";
    const BYTES: usize = size_of::<u32>();

    fn write(self, content: &mut [u8]) {
        content.copy_from_slice(&self.0.to_le_bytes());
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        Ok(Self(u32::from_le_bytes(content.try_into().expect("a content of its width"))))
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct HeldSeqs {
    file: RecordFile<HeldBy>,
}

impl HeldSeqs {
    /// For this many Seqs, none of which is held yet; created in `directory`.
    pub fn create(directory: &Path, seqs: u64) -> Result<Self, FileError> {
        Ok(Self { file: RecordFile::scratch(directory, seqs)? })
    }

    /// Marks these ascending Seqs as held by a shard.
    pub fn hold(&self, shard: u32, seqs: impl IntoIterator<Item = u64>) -> Result<(), FileError> {
        let write = |row: Range<u64>| self.file.write(row.start, row.map(|_| Some(HeldBy(shard))));
        // Those of a shard are mostly next to each other.
        let mut row = 0..0;
        for seq in seqs {
            if row.end != seq {
                write(row)?;
                row = seq..seq;
            }
            row.end += 1;
        }
        write(row)
    }

    /// The shards that hold these Seqs.
    pub fn read(&self, seqs: Range<u64>) -> Result<Vec<Option<u32>>, FileError> {
        let held = self.file.read(seqs.start, seqs.end - seqs.start)?;
        Ok(held.into_iter().map(|held| held.map(|HeldBy(shard)| shard)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seq_is_held_by_its_shard_or_by_none() {
        let directory = tempfile::tempdir().unwrap();
        let held = HeldSeqs::create(directory.path(), 1000).unwrap();
        held.hold(0, [0, 1, 2, 500, 999]).unwrap();
        held.hold(70_000, (10..300).filter(|seq| seq % 3 == 0)).unwrap();
        held.hold(5, []).unwrap();
        let wanted = |seq: u64| match seq {
            0..=2 | 500 | 999 => Some(0),
            10..300 if seq.is_multiple_of(3) => Some(70_000),
            _ => None,
        };
        assert!(held.read(0..1000).unwrap().into_iter().eq((0..1000).map(wanted)));
        assert_eq!(held.read(11..14).unwrap(), [None, Some(70_000), None]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
        assert!(held.read(999..1001).is_err());
    }
}
