//! Which lines a shard has.
//!
//! In: a shard. Out: the Seqs of its lines, ascending, with their records.
//!
//! A shard packed from the input owns the records with its number. A shard of a later round is a range of a list of
//! Seqs, a file of records of seven bytes each, because its lines have the number of the shard that they were first
//! uploaded with.

use std::path::{Path, PathBuf};

use crate::input::request_index::{LineState, Record, RequestIndex};
use crate::model::shard::{SeqRange, Shard};
use crate::storage::durable::{FileError, PendingFile};
use crate::storage::records;
use crate::storage::records::{RecordFile, RecordWriter};

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
        list: RecordFile<ListedSeq>,
        /// The next place.
        next: u64,
        /// The place past the last one.
        end: u64,
    },
}

impl Members {
    /// Starts at the first line of a shard; lists are in the directory `lists`.
    pub fn start(shard: &Shard, lists: &Path) -> Result<Self, FileError> {
        Ok(match &shard.seq_range {
            None => Self::Packed { next: shard.first, last: shard.last, number: shard.number },
            Some(SeqRange { list, start }) => {
                let list = RecordFile::open(&list_path(lists, *list))?;
                Self::Listed { list, next: *start, end: start + shard.requests }
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
                Self::Listed { list, next, end } => {
                    let count = READ_RECORDS.min(*end - *next);
                    if count == 0 {
                        return Ok(false);
                    }
                    let mut seqs = Vec::new();
                    list.read_present(*next, count, &mut seqs)?;
                    for ListedSeq(seq) in seqs {
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
    let failed = || FileError::on("write", &path);
    let mut file = RecordWriter::new(PendingFile::create(&path)?).map_err(failed())?;
    for seq in seqs {
        file.push(ListedSeq(seq)).map_err(failed())?;
    }
    file.finish().map_err(failed())?.publish()
}

/// A Seq in a list.
#[derive(Debug, Clone, Copy)]
pub struct ListedSeq(u64);

impl records::Record for ListedSeq {
    const KIND: &'static str = "seqs";
    const BYTES: usize = 7;

    fn write(self, content: &mut [u8]) {
        content.copy_from_slice(&self.0.to_le_bytes()[..Self::BYTES]);
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        let mut seq = [0; 8];
        seq[..Self::BYTES].copy_from_slice(content);
        Ok(Self(u64::from_le_bytes(seq)))
    }
}

fn list_path(lists: &Path, list: u32) -> PathBuf {
    lists.join(format!("again-{list:06}.seqs"))
}
