//! Which requests are held, and by which shard: what the merge says of them instead of a reply.
//!
//! In: the Seqs of shards that wait for a decision. Out: for a stretch of Seqs, the shard that holds each.
//!
//! A file of one little-endian `u32` for each Seq, the shard's number and one; what is held by none is a hole. It is made when a run has
//! come to its end, has no name, and goes with the process: the Ledger and the reply index know all that is in it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::storage::durable;
use crate::storage::durable::FileError;

/// Bytes of an entry.
const ENTRY_BYTES: u64 = 4;

/// See the [module](self).
#[derive(Debug)]
pub struct HeldSeqs {
    file: File,
    /// Where it is made, for messages.
    directory: PathBuf,
}

impl HeldSeqs {
    /// For so many Seqs, of which none is held yet; made in `directory`.
    pub fn create(directory: &Path, seqs: u64) -> Result<Self, FileError> {
        let file = durable::scratch(directory)?;
        file.set_len(seqs * ENTRY_BYTES).map_err(FileError::on("size a file in", directory))?;
        Ok(Self { file, directory: directory.to_owned() })
    }

    /// Says that a shard holds these Seqs, which ascend.
    pub fn hold(&self, shard: u32, seqs: impl IntoIterator<Item = u64>) -> Result<(), FileError> {
        let entry = (shard + 1).to_le_bytes();
        // Those of a shard mostly stand in rows.
        let mut row = Vec::new();
        let mut first = 0;
        for seq in seqs {
            if first + row.len() as u64 / ENTRY_BYTES != seq {
                self.write(first, &row)?;
                row.clear();
                first = seq;
            }
            row.extend_from_slice(&entry);
        }
        self.write(first, &row)
    }

    fn write(&self, first: u64, row: &[u8]) -> Result<(), FileError> {
        self.file.write_all_at(row, first * ENTRY_BYTES).map_err(FileError::on("write to a file in", &self.directory))
    }

    /// The shards that hold these Seqs.
    pub fn read(&self, seqs: Range<u64>) -> Result<Vec<Option<u32>>, FileError> {
        let mut bytes = vec![0; usize::try_from((seqs.end - seqs.start) * ENTRY_BYTES).unwrap_or(usize::MAX)];
        let read = self.file.read_exact_at(&mut bytes, seqs.start * ENTRY_BYTES);
        read.map_err(FileError::on("read a file in", &self.directory))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry).checked_sub(1)).collect())
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
