//! The request index: one fixed-width record for each non-blank line of the input, by Seq.
//!
//! In: lines in input order, as they are checked. Out: for any Seq, the location of the line, its shard and the hash of
//! its id.
//!
//! ```text
//! byte  0   6     10    14    15        31 | offset | length | shard | state | id hash | check |      all
//! little-endian, in a file of records (see `storage/records`)
//! ```
//!
//! The fields that are added during the upload are in the upper half of the state.
//!
//! A billion requests take 32 GB here, compared with a terabyte of prompts. The index is written front to back once and
//! never modified.

use std::path::{Path, PathBuf};

use super::check;
use super::envelope::Lacks;
use crate::model::custom_id::assigned_id;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::records;
use crate::storage::records::{RecordFile, RecordWriter};

/// Records read at a time.
const READ_RECORDS: u64 = 4096;

/// Offsets have six bytes.
const OFFSET_BYTES: usize = 6;

/// The half of a byte that holds the state.
const STATE_MASK: u8 = 0x0f;

/// Position in the byte of the missing fields.
const LACKS_SHIFT: u32 = 4;

/// The result of the check of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineState {
    /// It is a request.
    Request,
    /// It has a Defect, which checking the line again finds.
    Defective,
    /// Its `custom_id` was used by an earlier line.
    Duplicate,
}

/// One line of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Offset of the line in the Source.
    pub offset: u64,
    /// Length of the line without its terminator; 0 for a line too long to be held in memory.
    pub length: u32,
    /// Its shard; meaningless unless it is a request.
    pub shard: u32,
    /// Whether it is a request.
    pub state: LineState,
    /// The keyed hash of its `custom_id`; 0 unless it is a request.
    pub id_hash: u128,
    /// The fields that are added during the upload.
    pub lacks: Lacks,
}

impl Record {
    /// The id of the line with this Seq, or the one that is assigned to it; `None` if it has none.
    #[must_use]
    pub fn custom_id(&self, seq: u64, line: &[u8]) -> Option<String> {
        if self.lacks.id { Some(assigned_id(seq)) } else { check::custom_id(line).map(|(custom_id, _)| custom_id) }
    }

    /// The body of the line, verbatim; `None` if it is not a request.
    #[must_use]
    pub fn body<'l>(&self, line: &'l [u8]) -> Option<&'l [u8]> {
        match self.state {
            LineState::Request if self.lacks.id => Some(line),
            LineState::Request => check::body(line),
            LineState::Defective | LineState::Duplicate => None,
        }
    }
}

impl records::Record for Record {
    const KIND: &'static str = "requests";
    const BYTES: usize = 31;

    fn write(self, content: &mut [u8]) {
        content[..6].copy_from_slice(&self.offset.to_le_bytes()[..OFFSET_BYTES]);
        content[6..10].copy_from_slice(&self.length.to_le_bytes());
        content[10..14].copy_from_slice(&self.shard.to_le_bytes());
        content[14] = match self.state {
            LineState::Request => 0,
            LineState::Defective => 1,
            LineState::Duplicate => 2,
        } | self.lacks.to_bits() << LACKS_SHIFT;
        content[15..].copy_from_slice(&self.id_hash.to_le_bytes());
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        let mut offset = [0; 8];
        offset[..OFFSET_BYTES].copy_from_slice(&content[..6]);
        let word = |at: usize| u32::from_le_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
        let mut id_hash = [0; 16];
        id_hash.copy_from_slice(&content[15..]);
        Ok(Self {
            offset: u64::from_le_bytes(offset),
            length: word(6),
            shard: word(10),
            state: match content[14] & STATE_MASK {
                0 => LineState::Request,
                1 => LineState::Defective,
                2 => LineState::Duplicate,
                other => return Err(format!("line state {other} is unknown")),
            },
            id_hash: u128::from_le_bytes(id_hash),
            lacks: Lacks::from_bits(content[14] >> LACKS_SHIFT).ok_or("what its line lacks is unknown")?,
        })
    }
}

/// Writes an index front to back.
#[derive(Debug)]
pub struct IndexWriter {
    records: RecordWriter<Record, LocalFile>,
    path: PathBuf,
}

impl IndexWriter {
    /// Starts a new index at `path`.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let records = RecordWriter::new(LocalFile::create_new(path)?).map_err(FileError::on("write", path))?;
        Ok(Self { records, path: path.to_owned() })
    }

    /// Adds the record of the next Seq.
    pub fn push(&mut self, record: Record) -> Result<(), FileError> {
        self.records.push(record).map_err(FileError::on("write", &self.path))
    }

    /// Syncs the index and opens it for reading.
    pub fn finish(self) -> Result<RequestIndex, FileError> {
        self.records.finish().map_err(FileError::on("write", &self.path))?.sync()?;
        RequestIndex::open(&self.path)
    }
}

/// A finished index.
#[derive(Debug)]
pub struct RequestIndex {
    file: RecordFile<Record>,
    records: u64,
}

impl RequestIndex {
    /// Opens the index at `path`.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = RecordFile::open(path)?;
        Ok(Self { records: file.count()?, file })
    }

    /// How many lines it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.records
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Reads the records from `first` on into `records`, at most `count` of them, fewer at the end.
    pub fn read(&self, first: u64, count: u64, records: &mut Vec<Record>) -> Result<(), FileError> {
        self.file.read_present(first, count.min(self.records.saturating_sub(first)), records)
    }

    /// The record of one Seq.
    pub fn record(&self, seq: u64) -> Result<Record, FileError> {
        self.file.read_one(seq)
    }

    /// Calls `each` with every Seq from `first` to `last` and its record, in order.
    pub fn scan<E: From<FileError>>(
        &self,
        first: u64,
        last: u64,
        mut each: impl FnMut(u64, &Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut records = Vec::new();
        let mut at = first;
        while at <= last && at < self.records {
            self.read(at, READ_RECORDS.min(last - at + 1), &mut records)?;
            for record in &records {
                each(at, record)?;
                at += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("requests.idx");
        let record = |n: u64| Record {
            offset: (1 << 47) + n,
            length: u32::MAX - 7,
            shard: 70_000,
            state: [LineState::Request, LineState::Defective, LineState::Duplicate][usize::try_from(n % 3).unwrap()],
            id_hash: u128::MAX - u128::from(n),
            lacks: Lacks { id: n.is_multiple_of(7), method: n.is_multiple_of(2), url: n.is_multiple_of(5) },
        };
        let mut writer = IndexWriter::create(&path).unwrap();
        (0..10_000).for_each(|n| writer.push(record(n)).unwrap());
        let index = writer.finish().unwrap();
        assert_eq!(index.len(), 10_000);
        assert_eq!(index.record(9_999).unwrap(), record(9_999));
        let mut seen = 0;
        index
            .scan(5, 9_000, |seq, found| {
                assert_eq!((seq, *found), (5 + seen, record(5 + seen)));
                seen += 1;
                Ok::<_, FileError>(())
            })
            .unwrap();
        assert_eq!(seen, 8_996);
    }
}
