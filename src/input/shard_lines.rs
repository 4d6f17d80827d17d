//! Which lines a shard has.
//!
//! In: a shard. Out: the Seqs of its lines, ascending, with their records.
//!
//! A shard packed from the input owns the records that carry its number. A shard of a later round is a range of a list of Seqs, a
//! file of little-endian `u64`s, because its lines carry the number of the shard that they went up with first. The highest byte of
//! each is a check, the exclusive or of the others: a Seq that the disk has changed is an error, and never another line.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::input::request_index::{LineState, Record, RequestIndex};
use crate::model::shard::{SeqRange, Shard};
use crate::storage::durable::{FileError, PendingFile};

/// Bytes of a Seq in a list.
const SEQ_BYTES: u64 = 8;

/// Records, or Seqs of a list, that are read at a time.
const READ_RECORDS: u64 = 4096;

/// Reads the lines of one shard, some at a time.
#[derive(Debug)]
pub enum Members {
    /// In the index: the next Seq, the last one, and the shard's number.
    Packed {
        /// The next Seq.
        next: u64,
        /// The last Seq.
        last: u64,
        /// The shard's number.
        number: u32,
    },
    /// In a list: the file, and the places that are left in it.
    Listed {
        /// The list.
        file: File,
        /// Its path, for messages.
        path: PathBuf,
        /// The next place.
        next: u64,
        /// Behind the last place.
        end: u64,
    },
}

impl Members {
    /// Starts at the first line of a shard; lists are in the directory `lists`.
    pub fn start(shard: &Shard, lists: &Path) -> Result<Self, FileError> {
        Ok(match &shard.seq_range {
            None => Self::Packed { next: shard.first, last: shard.last, number: shard.number },
            Some(SeqRange { list, start }) => {
                let path = list_path(lists, *list);
                let file = File::open(&path).map_err(FileError::on("open", &path))?;
                Self::Listed { file, path, next: *start, end: start + shard.requests }
            }
        })
    }

    /// Reads the next lines into `lines`, which is cleared; false at the end.
    pub fn read(&mut self, index: &RequestIndex, lines: &mut Vec<(u64, Record)>) -> Result<bool, FileError> {
        lines.clear();
        while lines.is_empty() {
            match self {
                Self::Packed { next, last, number } => {
                    if *next > *last {
                        return Ok(false);
                    }
                    let mut records = Vec::new();
                    index.read(*next, READ_RECORDS.min(*last - *next + 1), &mut records)?;
                    if records.is_empty() {
                        return Ok(false);
                    }
                    let own = |record: &Record| record.state == LineState::Request && record.shard == *number;
                    lines.extend((*next..).zip(records.iter().copied()).filter(|(_, record)| own(record)));
                    *next += records.len() as u64;
                }
                Self::Listed { file, path, next, end } => {
                    let count = READ_RECORDS.min(*end - *next);
                    if count == 0 {
                        return Ok(false);
                    }
                    let mut bytes = vec![0; usize::try_from(count * SEQ_BYTES).unwrap_or(usize::MAX)];
                    file.read_exact_at(&mut bytes, *next * SEQ_BYTES).map_err(FileError::on("read", path))?;
                    for seq in bytes.as_chunks::<8>().0 {
                        let seq = read_seq(*seq).map_err(FileError::on("read", path))?;
                        lines.push((seq, index.record(seq)?));
                    }
                    *next += count;
                }
            }
        }
        Ok(true)
    }

    /// All lines of a shard.
    pub fn collect(shard: &Shard, index: &RequestIndex, lists: &Path) -> Result<Vec<(u64, Record)>, FileError> {
        let mut members = Self::start(shard, lists)?;
        let (mut all, mut some) = (Vec::new(), Vec::new());
        while members.read(index, &mut some)? {
            all.append(&mut some);
        }
        Ok(all)
    }
}

/// Writes a list of Seqs; an older one of that number is replaced.
pub fn write_list(lists: &Path, list: u32, seqs: impl IntoIterator<Item = u64>) -> Result<(), FileError> {
    let path = list_path(lists, list);
    let mut file = BufWriter::new(PendingFile::create(&path)?);
    for seq in seqs {
        let mut bytes = seq.to_le_bytes();
        bytes[7] = check(bytes);
        file.write_all(&bytes).map_err(FileError::on("write", &path))?;
    }
    file.into_inner().map_err(|error| FileError::on("write", &path)(error.into_error()))?.publish()
}

fn read_seq(mut bytes: [u8; 8]) -> io::Result<u64> {
    if bytes[7] != check(bytes) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a Seq is damaged"));
    }
    bytes[7] = 0;
    Ok(u64::from_le_bytes(bytes))
}

/// Of the lower seven bytes, and not 0 where they are.
fn check(bytes: [u8; 8]) -> u8 {
    bytes[..7].iter().fold(0x5a, |check, byte| check ^ byte)
}

fn list_path(lists: &Path, list: u32) -> PathBuf {
    lists.join(format!("again-{list:06}.seqs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seq_that_the_disk_has_changed_is_an_error() {
        for seq in [0, 1, (1 << 47) + 5] {
            let mut bytes = u64::to_le_bytes(seq);
            bytes[7] = check(bytes);
            assert_eq!(read_seq(bytes).unwrap(), seq);
            for bit in 0..64 {
                let mut changed = bytes;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(read_seq(changed).is_err(), "bit {bit}");
            }
        }
        assert!(read_seq([0; 8]).is_err());
    }
}
