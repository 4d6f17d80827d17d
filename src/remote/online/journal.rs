//! The journal of a batch: which of its requests went to the upstream, and what came back.
//!
//! ```text
//! group 58 0d2f8a6b1c4e7f90          bytes and XXH3-64 of what follows, up to the next group
//! sent 1                             line 1 of the input goes out now
//! sent 2
//! output 1 {"id":"br_…",…}           its row for the output file
//! group …
//! back 2                             line 2 was turned away, and is not at the upstream any more
//! lost 3                             line 3 may have been answered, but the answer did not get here; it is not there any more
//! error 7 {"id":"br_…",…}            a row for the error file
//! crash 5                            five requests were at the upstream when an earlier process ended: they count as not sent
//! ```
//!
//! In: records. Out: the same records, once they are on disk; and after a kill or a power cut, what they say.
//!
//! Invariants:
//! - A group is written and synced as a whole before its records count as kept, and before the next group. So only the
//!   last group can be torn: it is cut off, and nothing followed from it. A torn group before whole ones is damage, and
//!   refused.
//! - No row has a line end in it.
//! - A reader holds one group in memory, of at most [`GROUP_BYTES`] and one record.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::model::reply::ReplyRole;
use crate::model::shown::Name;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::storage::durable::{self, FileError};
use crate::storage::lines::RangeReader;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Bytes of a group, from which on no further record is added.
pub(super) const GROUP_BYTES: usize = 1 << 20;

/// Bytes of a group that a reader believes in: a full one, and a record that holds an answer of the longest.
const GROUP_BYTES_MAX: u64 = 64 << 20;

/// Bytes of the first line of a group, at most.
const HEAD_BYTES: u64 = 64;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something in the middle of it is not what was written.
    #[error("the journal {} is damaged at byte {offset}", Name(path))]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
    },
}

impl From<JournalError> for RemoteError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::File(error) => error.into(),
            damaged @ JournalError::Damaged { .. } => Self::new(ErrorKind::LocalFile, damaged.to_string()),
        }
    }
}

/// What happened to a request, which is known by its line in the input, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'r> {
    Sent(u64),
    Back(u64),
    Lost(u64),
    Row(ReplyRole, u64, &'r [u8]),
    Crash(u64),
}

impl<'r> Record<'r> {
    /// Appends the record's line.
    pub(super) fn write(&self, text: &mut Vec<u8>) {
        let (name, number) = match self {
            Self::Sent(number) => ("sent", number),
            Self::Back(number) => ("back", number),
            Self::Lost(number) => ("lost", number),
            Self::Row(ReplyRole::Output, number, _) => ("output", number),
            Self::Row(ReplyRole::Error, number, _) => ("error", number),
            Self::Crash(number) => ("crash", number),
        };
        text.extend_from_slice(name.as_bytes());
        text.push(b' ');
        text.extend_from_slice(number.to_string().as_bytes());
        if let Self::Row(_, _, row) = self {
            text.push(b' ');
            text.extend_from_slice(row);
        }
        text.push(b'\n');
    }

    /// Reads a line, which is given without its end.
    fn read(line: &'r [u8]) -> Option<Self> {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let (name, number) = (parts.next()?, std::str::from_utf8(parts.next()?).ok()?.parse().ok()?);
        Some(match (name, parts.next()) {
            (b"sent", None) => Self::Sent(number),
            (b"back", None) => Self::Back(number),
            (b"lost", None) => Self::Lost(number),
            (b"output", Some(row)) => Self::Row(ReplyRole::Output, number, row),
            (b"error", Some(row)) => Self::Row(ReplyRole::Error, number, row),
            (b"crash", None) => Self::Crash(number),
            _ => return None,
        })
    }
}

/// The first line of a group with these records.
pub(super) fn head(records: &[u8]) -> String {
    format!("group {} {:016x}\n", records.len(), xxh3_64(records))
}

/// A set of lines of the input.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    words: Vec<u64>,
    len: u64,
}

impl Numbers {
    pub(super) fn has(&self, line: u64) -> bool {
        let (word, bit) = place(line);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn add(&mut self, line: u64) {
        let (word, bit) = place(line);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.len += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    fn take(&mut self, line: u64) {
        let (word, bit) = place(line);
        if self.has(line) {
            self.words[word] &= !bit;
            self.len -= 1;
        }
    }
}

fn place(line: u64) -> (usize, u64) {
    (usize::try_from(line / 64).expect("a batch's lines are counted in memory"), 1 << (line % 64))
}

/// What a journal says.
#[derive(Clone, Debug, Default)]
pub(super) struct Replay {
    /// Requests that have their row.
    pub(super) done: Numbers,
    /// Whether one of them is a row for the output file.
    pub(super) has_output: bool,
    /// Requests that were at the upstream when the last process ended.
    pub(super) out: Numbers,
    /// How many were, in all earlier ends, and so were or will be sent again.
    pub(super) crashed: u64,
    /// Times that an answer was lost on its way, and the request sent again.
    pub(super) lost: u64,
}

impl Replay {
    /// Takes in a record about one of `lines` lines. Gives whether it makes sense.
    fn add(&mut self, record: Record<'_>, lines: u64) -> bool {
        let (Record::Sent(number) | Record::Back(number) | Record::Lost(number) | Record::Row(_, number, _)) = record
        else {
            let Record::Crash(number) = record else { return false };
            self.crashed += number;
            self.out = Numbers::default();
            return true;
        };
        if number == 0 || number > lines {
            return false;
        }
        match record {
            Record::Sent(_) => self.out.add(number),
            Record::Row(kind, ..) => {
                self.has_output |= kind == ReplyRole::Output;
                self.done.add(number);
            }
            Record::Lost(_) => self.lost += 1,
            Record::Back(_) | Record::Crash(_) => {}
        }
        if !matches!(record, Record::Sent(_)) {
            self.out.take(number);
        }
        true
    }
}

/// Opens the journal of a batch of `lines` lines for appending, made when it is not there, and says what it says. A
/// torn end is cut off.
pub(super) fn open(path: &Path, lines: u64) -> Result<(LocalFile, Replay), JournalError> {
    let existed = path.exists();
    let file = LocalFile::open_or_create(path)?;
    if !existed {
        durable::sync_directory(path.parent().unwrap_or(Path::new(".")))?;
    }
    let mut replay = Replay::default();
    let whole = each_record(&file, |offset, record| {
        if replay.add(record, lines) { Ok(()) } else { Err(JournalError::Damaged { path: path.to_owned(), offset }) }
    })?;
    file.resize(whole).map_err(FileError::on("cut", path))?;
    Ok((file, replay))
}

/// Shows `visit` each record, with the offset of its group. Gives the bytes of the journal without a torn end.
pub(super) fn each_record<E: From<JournalError>>(
    file: &LocalFile,
    mut visit: impl FnMut(u64, Record<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let unreadable = |error| JournalError::File(FileError::on("read", file.path())(error));
    let end = file.size().map_err(unreadable)?;
    let mut reader = RangeReader::new(file, 0..end);
    let (mut offset, mut records) = (0, Vec::new());
    loop {
        let damaged = || JournalError::Damaged { path: file.path().to_owned(), offset };
        let Some(bytes) = read_group(&mut reader, &mut records).map_err(unreadable)? else {
            let torn = !has_group_behind(file, offset..end).map_err(unreadable)?;
            return if torn { Ok(offset) } else { Err(damaged().into()) };
        };
        for line in records.strip_suffix(b"\n").ok_or_else(damaged)?.split(|byte| *byte == b'\n') {
            visit(offset, Record::read(line).ok_or_else(damaged)?)?;
        }
        offset += bytes;
    }
}

/// Reads the records of the next group into `records`, and gives the bytes of all of it; `None` when it is not whole,
/// or there is none.
fn read_group(reader: &mut impl BufRead, records: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let mut first = Vec::new();
    reader.by_ref().take(HEAD_BYTES).read_until(b'\n', &mut first)?;
    let Some((bytes, _)) = read_head(&first) else { return Ok(None) };
    records.clear();
    let read = reader.by_ref().take(bytes).read_to_end(records)? as u64;
    Ok((read == bytes && head(records).as_bytes() == first).then_some(first.len() as u64 + bytes))
}

/// The bytes and the checksum that the first line of a group gives.
fn read_head(line: &[u8]) -> Option<(u64, u64)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (bytes, sum) = line.strip_prefix("group ")?.split_once(' ')?;
    let bytes = bytes.parse().ok().filter(|bytes| *bytes <= GROUP_BYTES_MAX)?;
    Some((bytes, u64::from_str_radix(sum, 16).ok()?))
}

/// Whether a whole group begins behind the first byte of `range`. Its first line may have become the end of another
/// one.
fn has_group_behind(file: &dyn ReadAt, range: Range<u64>) -> io::Result<bool> {
    let (mut at, mut line, mut records) = (range.start, Vec::new(), Vec::new());
    let reader_at = |at| RangeReader::new(file, at..range.end);
    let mut reader = reader_at(at);
    loop {
        line.clear();
        if reader.by_ref().take(GROUP_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(false);
        }
        let end = at + line.len() as u64;
        let head = memchr::memmem::rfind(&line, b"group ");
        if let Some(head) = head.filter(|head| at + *head as u64 > range.start && read_head(&line[*head..]).is_some()) {
            if read_group(&mut reader_at(at + head as u64), &mut records)?.is_some() {
                return Ok(true);
            }
            reader = reader_at(end);
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ROW: &[u8] = br#"{"id":"br_1"}"#;

    fn group(records: &[Record<'_>]) -> Vec<u8> {
        let mut text = Vec::new();
        for record in records {
            record.write(&mut text);
        }
        [head(&text).as_bytes(), &text].concat()
    }

    fn journal(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("batch.journal");
        durable::append(&path).unwrap().write_all(content).unwrap();
        (directory, path)
    }

    fn groups() -> [Vec<u8>; 3] {
        [
            group(&[Record::Sent(1), Record::Sent(2), Record::Sent(3)]),
            group(&[Record::Row(ReplyRole::Output, 1, ROW), Record::Back(2), Record::Sent(2), Record::Lost(3)]),
            group(&[Record::Sent(3), Record::Row(ReplyRole::Error, 2, b"row with spaces\xff"), Record::Sent(70)]),
        ]
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (_directory, path) = journal(&groups().concat());
        let (file, replay) = open(&path, 70).unwrap();
        assert!(replay.done.has(1) && replay.done.has(2) && !replay.done.has(3));
        assert!(replay.out.has(3) && replay.out.has(70) && !replay.out.has(2));
        assert_eq!((replay.done.len(), replay.out.len(), replay.lost, replay.crashed), (2, 2, 1, 0));
        file.write_all_at(&group(&[Record::Crash(2)]), file.size().unwrap()).unwrap();
        let (file, replay) = open(&path, 70).unwrap();
        assert_eq!((replay.out.len(), replay.crashed), (0, 2));
        let mut rows = Vec::new();
        each_record(&file, |_, record| {
            if let Record::Row(kind, number, row) = record {
                rows.push((kind, number, row.to_vec()));
            }
            Ok::<_, JournalError>(())
        })
        .unwrap();
        assert_eq!(
            rows,
            [(ReplyRole::Output, 1, ROW.to_vec()), (ReplyRole::Error, 2, b"row with spaces\xff".to_vec())]
        );
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_is_torn() {
        let [first, second, third] = groups();
        let whole = [&first[..], &second].concat();
        for kept in 0..third.len() {
            let (_directory, path) = journal(&[&whole, &third[..kept]].concat());
            let (file, replay) = open(&path, 70).unwrap();
            assert_eq!(file.size().unwrap(), whole.len() as u64, "{kept}");
            assert_eq!((replay.done.len(), replay.out.len()), (1, 1), "{kept}");
        }
        // Blocks of zeros, as a file system may leave them.
        let mut zeroed = third.clone();
        let middle = third.len() / 2;
        zeroed[middle..].fill(0);
        let (_directory, path) = journal(&[whole, zeroed].concat());
        assert_eq!(open(&path, 70).unwrap().1.done.len(), 1);
    }

    #[test]
    fn damage_in_the_middle_is_refused() {
        let [first, second, third] = groups();
        let content = [&first[..], &second, &third].concat();
        let mut refused = 0;
        for at in 0..first.len() + second.len() {
            let mut content = content.clone();
            content[at] ^= 0x20;
            let (_directory, path) = journal(&content);
            match open(&path, 70) {
                Err(JournalError::Damaged { offset, .. }) => {
                    assert_eq!(offset, if at < first.len() { 0 } else { first.len() as u64 });
                    refused += 1;
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
        assert_eq!(refused, first.len() + second.len());
        let (_directory, path) = journal(&content);
        assert!(matches!(open(&path, 69), Err(JournalError::Damaged { .. })), "a line that the input does not have");
    }
}
