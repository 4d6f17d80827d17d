//! Files of fixed-width records, by number: the one format, and the one check, of all indexes, lists and scratch files.
//!
//! In: records, in order or at any position, from any number of threads. Out: the record with any number.
//!
//! ```text
//! byte  0       8      16        20      24     56      64
//!       | magic | kind | version | width | zero | check |      all little-endian; record n at byte 64 + n × width
//!
//! record: | content | check |     the check is one byte; all zero: no record
//! ```
//!
//! Invariants:
//! - A record that was corrupted on disk is an error, never another record: the check is the exclusive or of all bytes
//!   of the content, which detects every change of one bit, and is never 0 if they are, so that a lost page holds no
//!   records.
//! - A file of another kind, or of another version, is refused. A header of zeros was lost in a crash: the file begins
//!   as a hole, and so do its records.
//! - Nothing is guaranteed to be on disk before [`RecordFile::sync`]; the Ledger records what is.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use crate::storage::aligned::AlignedBuffer;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// The magic bytes of every file of records.
const MAGIC: &[u8; 8] = b"BLRECORD";

/// Bytes before the first record: a cache line, so that records lie within lines and pages.
const HEADER_BYTES: usize = 64;

/// Bytes of the header that are covered by its check.
const CHECKED_BYTES: usize = HEADER_BYTES - size_of::<u64>();

/// Records that are read, modified and written back at a time.
const PATCH_RECORDS: u64 = 64 * 1024;

/// Size of the write buffer in bytes.
const WRITE_BYTES: usize = 256 * 1024;

/// The check of content that is all zeros.
const CHECK_OF_ZEROS: u8 = 0x5a;

/// A record that can be stored and read back.
pub trait Record: Copy + Send + Sync {
    /// The kind of their files, in ASCII; the first eight bytes count.
    const KIND: &'static str;

    /// Incremented with each change of the meaning of the bytes.
    const VERSION: u32 = 1;

    /// Bytes of the content. In a file, a record takes one more.
    const BYTES: usize;

    /// Writes it into [`Record::BYTES`] bytes, which are zero.
    fn write(self, content: &mut [u8]);

    /// Reads it back from that many bytes.
    ///
    /// # Errors
    /// When the bytes are not a record although their check matches: what is wrong with them.
    fn read(content: &[u8]) -> Result<Self, String>;
}

impl Record for u128 {
    const KIND: &'static str = "u128";
    const BYTES: usize = size_of::<Self>();

    fn write(self, content: &mut [u8]) {
        content.copy_from_slice(&self.to_le_bytes());
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        Ok(Self::from_le_bytes(content.try_into().expect("a content of its width")))
    }
}

/// Bytes that a record takes in a file.
const fn width<R: Record>() -> usize {
    R::BYTES + 1
}

/// Where a record begins.
fn offset<R: Record>(number: u64) -> u64 {
    HEADER_BYTES as u64 + number * width::<R>() as u64
}

/// The check of a content.
fn check(content: &[u8]) -> u8 {
    // Eight bytes at a time.
    let (words, rest) = content.as_chunks::<8>();
    let word = words.iter().fold(0, |all, word| all ^ u64::from_ne_bytes(*word));
    word.to_ne_bytes().iter().chain(rest).fold(CHECK_OF_ZEROS, |check, byte| check ^ byte)
}

/// Appends the encoding of a record, or of none.
fn encode<R: Record>(record: Option<R>, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.resize(start + width::<R>(), 0);
    if let Some(record) = record {
        let (content, checked) = bytes[start..].split_at_mut(R::BYTES);
        record.write(content);
        checked[0] = check(content);
    }
}

fn decode<R: Record>(bytes: &[u8]) -> io::Result<Option<R>> {
    let (content, checked) = bytes.split_at(R::BYTES);
    if checked[0] == check(content) {
        return R::read(content).map(Some).map_err(|what| damaged(&what));
    }
    if bytes.iter().all(|byte| *byte == 0) { Ok(None) } else { Err(damaged("its check does not fit")) }
}

fn damaged(what: &str) -> io::Error {
    invalid(format!("a record is damaged: {what}"))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The header of files of a kind of record.
fn header<R: Record>() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    let kind = R::KIND.as_bytes();
    let length = kind.len().min(8);
    header[8..8 + length].copy_from_slice(&kind[..length]);
    header[16..20].copy_from_slice(&R::VERSION.to_le_bytes());
    header[20..24].copy_from_slice(&u32::try_from(width::<R>()).expect("a record is small").to_le_bytes());
    let check = xxh3_64(&header[..CHECKED_BYTES]);
    header[CHECKED_BYTES..].copy_from_slice(&check.to_le_bytes());
    header
}

/// Refuses a file whose header is not of this kind.
fn require_header<R: Record>(found: &[u8; HEADER_BYTES]) -> io::Result<()> {
    let wanted = header::<R>();
    if *found == wanted {
        return Ok(());
    }
    if found[..8] != *MAGIC {
        let what = "it does not begin as such a file does: it is damaged, or of another version of the program, \
                    which can finish what it began";
        return Err(invalid(what.to_owned()));
    }
    if found[CHECKED_BYTES..] != xxh3_64(&found[..CHECKED_BYTES]).to_le_bytes() {
        return Err(invalid("its header is damaged".to_owned()));
    }
    let shown = |header: &[u8; HEADER_BYTES]| {
        let version = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
        format!("{} of version {version}", String::from_utf8_lossy(&header[8..16]).trim_end_matches('\0'))
    };
    Err(invalid(format!("it holds {}, and not {}", shown(found), shown(&wanted))))
}

/// Records by number, with random access. See the [module](self).
#[derive(Debug)]
pub struct RecordFile<R> {
    file: LocalFile,
    /// Records of several writers share pages: one writer at a time reads, modifies and writes back.
    patching: Mutex<()>,
    of: PhantomData<fn() -> R>,
}

impl<R: Record> RecordFile<R> {
    /// Opens a complete file for reading.
    ///
    /// # Errors
    /// When it cannot be read, or is of another kind or version.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let this = Self::over(LocalFile::open(path)?);
        require_header::<R>(&this.header().map_err(this.failed("read"))?).map_err(this.failed("read"))?;
        Ok(this)
    }

    /// Opens a file with room for this many records, or creates one without records.
    ///
    /// # Errors
    /// As those of [`RecordFile::open`].
    pub fn open_or_create(path: &Path, records: u64) -> Result<Self, FileError> {
        let this = Self::over(LocalFile::open_or_create(path)?);
        let found = if this.file.size().map_err(this.failed("read"))? == 0 {
            [0; HEADER_BYTES]
        } else {
            this.header().map_err(this.failed("read"))?
        };
        this.begin(found, records)?;
        Ok(this)
    }

    /// Creates a file without a name in `directory`, with room for this many records, and without records; it can grow.
    pub fn scratch(directory: &Path, records: u64) -> Result<Self, FileError> {
        let this = Self::over(LocalFile::scratch(directory)?);
        this.begin([0; HEADER_BYTES], records)?;
        Ok(this)
    }

    fn over(file: LocalFile) -> Self {
        Self { file, patching: Mutex::new(()), of: PhantomData }
    }

    fn begin(&self, found: [u8; HEADER_BYTES], records: u64) -> Result<(), FileError> {
        if found == [0; HEADER_BYTES] {
            self.file.write_all_at(&header::<R>(), 0).map_err(self.failed("write"))?;
        } else {
            require_header::<R>(&found).map_err(self.failed("read"))?;
        }
        if self.file.size().map_err(self.failed("read"))? != offset::<R>(records) {
            self.file.resize(offset::<R>(records)).map_err(self.failed("size"))?;
        }
        Ok(())
    }

    fn header(&self) -> io::Result<[u8; HEADER_BYTES]> {
        let mut found = [0; HEADER_BYTES];
        // A file that is too short is refused like one with another header.
        self.file.read_some_at(&mut found, 0)?;
        Ok(found)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> FileError {
        FileError::on(action, self.file.path())
    }

    /// The number of records that it has room for.
    pub fn count(&self) -> Result<u64, FileError> {
        let bytes = self.file.size().map_err(self.failed("read"))?;
        Ok(bytes.saturating_sub(HEADER_BYTES as u64) / width::<R>() as u64)
    }

    /// Passes on the encoded records from `first` on, `count` of them.
    fn each(&self, first: u64, count: u64, take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), FileError> {
        let bytes = self.read_bytes(first, count)?;
        bytes.chunks_exact(width::<R>()).try_for_each(take).map_err(self.failed("read"))
    }

    fn read_bytes(&self, first: u64, count: u64) -> Result<AlignedBuffer, FileError> {
        let mut bytes = AlignedBuffer::of(position(count * width::<R>() as u64));
        self.file.read_exact_at(&mut bytes, offset::<R>(first)).map_err(self.failed("read"))?;
        Ok(bytes)
    }

    /// The records from `first` on, `count` of them, `None` for absent ones.
    ///
    /// # Errors
    /// When one of them is damaged, or there are fewer.
    pub fn read(&self, first: u64, count: u64) -> Result<Vec<Option<R>>, FileError> {
        let mut records = Vec::with_capacity(position(count));
        self.each(first, count, |bytes| {
            records.push(decode(bytes)?);
            Ok(())
        })?;
        Ok(records)
    }

    /// Replaces the content of `records` with the records from `first` on, `count` of them. All of them must exist.
    ///
    /// # Errors
    /// As those of [`RecordFile::read`], and when one is not there.
    pub fn read_present(&self, first: u64, count: u64, records: &mut Vec<R>) -> Result<(), FileError> {
        records.clear();
        self.each(first, count, |bytes| {
            records.push(decode(bytes)?.ok_or_else(|| damaged("it is empty"))?);
            Ok(())
        })
    }

    /// One record, which must be there.
    ///
    /// # Errors
    /// As those of [`RecordFile::read_present`].
    pub fn read_one(&self, number: u64) -> Result<R, FileError> {
        let bytes = self.read_bytes(number, 1)?;
        let record = decode(&bytes).and_then(|record| record.ok_or_else(|| damaged("it is empty")));
        record.map_err(self.failed("read"))
    }

    /// The records with ascending numbers, whatever is between them.
    ///
    /// # Errors
    /// As those of [`RecordFile::read`].
    pub fn read_each(&self, numbers: &[u64]) -> Result<Vec<Option<R>>, FileError> {
        let mut records = Vec::with_capacity(numbers.len());
        for (group, first, count) in groups(numbers) {
            let bytes = self.read_bytes(first, count)?;
            for number in group {
                let start = position(number - first) * width::<R>();
                records.push(decode(&bytes[start..start + width::<R>()]).map_err(self.failed("read"))?);
            }
        }
        Ok(records)
    }

    /// Writes the records from `first` on, without syncing them.
    pub fn write(&self, first: u64, records: impl IntoIterator<Item = Option<R>>) -> Result<(), FileError> {
        let (mut bytes, mut at) = (Vec::new(), offset::<R>(first));
        for record in records {
            encode(record, &mut bytes);
            if bytes.len() >= WRITE_BYTES {
                self.file.write_all_at(&bytes, at).map_err(self.failed("write"))?;
                at += bytes.len() as u64;
                bytes.clear();
            }
        }
        self.file.write_all_at(&bytes, at).map_err(self.failed("write"))
    }

    /// Writes the records with ascending numbers and syncs them. May be called concurrently for different records.
    pub fn write_each(&self, numbers: &[u64], records: &[Option<R>]) -> Result<(), FileError> {
        let _one_at_a_time = self.patching.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut records, mut one) = (records.iter(), Vec::new());
        for (group, first, count) in groups(numbers) {
            let mut bytes = self.read_bytes(first, count)?;
            for (number, record) in group.iter().zip(&mut records) {
                one.clear();
                encode(*record, &mut one);
                let start = position(number - first) * one.len();
                bytes[start..start + one.len()].copy_from_slice(&one);
            }
            self.file.write_all_at(&bytes, offset::<R>(first)).map_err(self.failed("write"))?;
        }
        self.sync()
    }

    /// The numbers of the corrupted records.
    pub fn damaged(&self) -> Result<BTreeSet<u64>, FileError> {
        let records = self.count()?;
        let mut found = BTreeSet::new();
        for first in (0..records).step_by(position(PATCH_RECORDS)) {
            let mut number = first;
            self.each(first, PATCH_RECORDS.min(records - first), |bytes| {
                if decode::<R>(bytes).is_err() {
                    found.insert(number);
                }
                number += 1;
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Removes the records with these numbers and syncs.
    pub fn clear(&self, numbers: &BTreeSet<u64>) -> Result<(), FileError> {
        numbers.iter().try_for_each(|number| self.write(*number, [None]))?;
        self.sync()
    }

    /// Waits until what was written is on disk.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync()
    }
}

/// Writes a file of records front to back.
#[derive(Debug)]
pub struct RecordWriter<R, W: Write> {
    out: BufWriter<W>,
    /// The encoded record.
    bytes: Vec<u8>,
    of: PhantomData<fn(R)>,
}

impl<R: Record, W: Write> RecordWriter<R, W> {
    /// Writes to `inner`, which is at its beginning.
    pub fn new(inner: W) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(WRITE_BYTES, inner);
        out.write_all(&header::<R>())?;
        Ok(Self { out, bytes: Vec::with_capacity(width::<R>()), of: PhantomData })
    }

    /// Adds the next record.
    pub fn push(&mut self, record: R) -> io::Result<()> {
        self.bytes.clear();
        encode(Some(record), &mut self.bytes);
        self.out.write_all(&self.bytes)
    }

    /// Writes the rest and returns the inner writer.
    pub fn finish(self) -> io::Result<W> {
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Splits ascending numbers into groups that lie within [`PATCH_RECORDS`]: the group, its first number, and the records
/// from that to its last.
fn groups(numbers: &[u64]) -> impl Iterator<Item = (&[u64], u64, u64)> {
    let mut rest = numbers;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let (group, after) = rest.split_at(rest.partition_point(|&number| number < first + PATCH_RECORDS));
        rest = after;
        Some((group, first, group[group.len() - 1] - first + 1))
    })
}

/// An offset within a bounded buffer.
fn position(distance: u64) -> usize {
    usize::try_from(distance).expect("what is read at a time fits the address space")
}

#[cfg(test)]
mod tests;
