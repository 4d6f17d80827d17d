//! Whether lines of the input are still those that were checked.
//!
//! In: a shard, or the number of the one that a line was first uploaded with. Out: nothing, or the location of the
//! change.
//!
//! A file can change without a change of its time and size, so lines are verified by checksum: before the answer to a
//! line is matched in a process other than the one that sent it, and before a line is sent or written again. A shard is
//! verified once per process, which costs one read of its lines at the speed of the disk (2 GB a second from the page
//! cache).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::InputError;
use super::request_index::{Record, RequestIndex};
use super::shard_reader::ShardReader;
use super::source::Source;
use crate::input::shard_lines::Members;
use crate::model::custom_id::IdHasher;
use crate::model::shard::Shard;
use crate::storage::durable::FileError;

/// Bytes read at a time when lines are counted.
const COUNTED_BYTES: u64 = 256 * 1024;

/// Verifies shards. See the [module](self).
#[derive(Debug)]
pub struct Recheck {
    source: Arc<Source>,
    requests: Arc<RequestIndex>,
    ids: IdHasher,
    /// Where lists of Seqs are.
    lists: PathBuf,
    /// The shards that were packed from the input, by number.
    packed: BTreeMap<u32, Shard>,
    /// Those that are verified.
    sound: Mutex<BTreeSet<u32>>,
}

impl Recheck {
    /// With nothing verified yet. `packed` are the shards of the first round.
    pub fn new(
        source: Arc<Source>,
        requests: Arc<RequestIndex>,
        ids: IdHasher,
        lists: &Path,
        packed: impl IntoIterator<Item = Shard>,
    ) -> Self {
        let packed = packed.into_iter().map(|shard| (shard.number, shard)).collect();
        Self { source, requests, ids, lists: lists.to_owned(), packed, sound: Mutex::default() }
    }

    /// Verifies the lines of the shard that a line was first uploaded with.
    ///
    /// # Errors
    /// [`InputError::Altered`] when they are not.
    pub fn line(&self, record: &Record) -> Result<(), InputError> {
        self.packed.get(&record.shard).map_or(Ok(()), |shard| self.shard(shard))
    }

    /// Verifies the lines of a shard.
    ///
    /// # Errors
    /// [`InputError::Altered`] when they are not.
    pub fn shard(&self, shard: &Shard) -> Result<(), InputError> {
        if self.sound.lock().unwrap_or_else(PoisonError::into_inner).contains(&shard.number) {
            return Ok(());
        }
        let mut reader = ShardReader::open(self.source.clone(), self.requests.clone(), shard.clone(), &self.lists)?;
        loop {
            let read = match reader.fill_buf() {
                Ok(bytes) => bytes.len(),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(self.find(shard)?),
                Err(error) => return Err(FileError::on("read", &self.lists)(error).into()),
            };
            if read == 0 {
                break;
            }
            reader.consume(read);
        }
        self.sound.lock().unwrap_or_else(PoisonError::into_inner).insert(shard.number);
        Ok(())
    }

    /// Verifies that a line still has the same id.
    pub fn id(&self, seq: u64, record: &Record, line: &[u8]) -> Result<(), InputError> {
        if self.has_id(seq, record, line) { Ok(()) } else { Err(self.altered(record.offset, record.offset)?) }
    }

    fn has_id(&self, seq: u64, record: &Record, line: &[u8]) -> bool {
        record.custom_id(seq, line).is_some_and(|custom_id| self.ids.hash(&custom_id) == record.id_hash)
    }

    /// What has changed: the line, if it is no longer a request or a different one; otherwise the range that contains
    /// it.
    fn find(&self, shard: &Shard) -> Result<InputError, InputError> {
        let mut members = Members::start(shard, &self.lists)?;
        let (mut lines, mut last) = (Vec::new(), 0);
        let mut first = None;
        while members.read(&self.requests, &mut lines)? {
            for (seq, record) in &lines {
                let mut line = vec![0; record.length as usize];
                let is_there = self.source.read_at(record.offset, &mut line).is_ok();
                if !is_there || !self.has_id(*seq, record, &line) || record.body(&line).is_none() {
                    return self.altered(record.offset, record.offset);
                }
                (first, last) = (first.or(Some(record.offset)), record.offset);
            }
        }
        self.altered(first.unwrap_or(last), last)
    }

    fn altered(&self, first: u64, last: u64) -> Result<InputError, InputError> {
        let file = self.source.part_at(first).name.clone();
        let last = if self.source.part_number(last) == self.source.part_number(first) { last } else { first };
        Ok(InputError::Altered { file, first: self.line_number(first)?, last: self.line_number(last)? })
    }

    /// The number, from 1, of the line that begins at `offset`. If the file is shorter by now, that of its last line.
    fn line_number(&self, offset: u64) -> Result<u64, InputError> {
        let mut at = self.source.part_at(offset).start;
        let mut line = 1;
        while at < offset {
            let mut bytes = vec![0; usize::try_from(COUNTED_BYTES.min(offset - at)).unwrap_or(usize::MAX)];
            match self.source.read_at(at, &mut bytes) {
                Err(InputError::Shrunk { .. }) => break,
                read => read?,
            }
            line += memchr::memchr_iter(b'\n', &bytes).count() as u64;
            at += bytes.len() as u64;
        }
        Ok(line)
    }
}
