//! The bytes of a reply within its file, whatever their number.
//!
//! In: a file, a position in it, and a length if it is known. Out: the content of the reply, and its bytes in pieces.
//!
//! Invariants: no more than [`HELD_BYTES_MAX`] of a reply is in memory. A longer one is read in place, and compared and
//! copied in pieces.

use std::io::{self, BufRead};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::stored_value::{StoredText, StoredValue};
use crate::dialect::reply_parts::ReplyNames;
use crate::dialect::reply_reader::{ReplyReader, id_of};
use crate::json::brackets::{Brackets, Broken};
use crate::model::reply::{Reply, ReplyRole};
use crate::storage::durable::FileError;
use crate::storage::lines::RangeReader;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Maximum length of a line of a reply file that is held in memory, in bytes; each thread that reads replies holds one.
pub const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A reply, or another part of a reply file. See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct ReplyText {
    file: Arc<dyn ReadAt>,
    path: PathBuf,
    range: Range<u64>,
}

impl ReplyText {
    /// Opens the file for the text at `offset`: of this length, or up to the closing bracket of an object.
    pub(super) fn open(path: &Path, offset: u64, length: Option<u64>) -> Result<Self, FileError> {
        let text = Self::at(Arc::new(LocalFile::open(path)?), path, offset, length)?;
        let cut = || FileError::on("read", path)(io::ErrorKind::UnexpectedEof.into());
        text.ok_or_else(cut)
    }

    /// The text at `offset` of an open file: of this length, or up to the closing bracket of an object. `None` if the
    /// file ends before.
    pub(super) fn at(
        file: Arc<dyn ReadAt>,
        path: &Path,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Option<Self>, FileError> {
        let failed = FileError::on("read", path);
        let bytes = file.size().map_err(FileError::on("read", path))?;
        let end = match length {
            Some(length) => offset.checked_add(length),
            None => object_end(&*file, offset..bytes).map_err(failed)?,
        };
        let range = end.filter(|end| *end <= bytes).map(|end| offset..end);
        Ok(range.map(|range| Self { file, path: path.to_owned(), range }))
    }

    /// The same without surrounding whitespace, if that begins and ends like an object.
    pub(super) fn object(mut self) -> Result<Option<Self>, FileError> {
        let byte_at = |offset| {
            let mut byte = [0];
            self.file.read_exact_at(&mut byte, offset).map_err(FileError::on("read", &self.path))?;
            Ok(byte[0])
        };
        let Range { mut start, mut end } = self.range;
        while start < end && byte_at(end - 1)?.is_ascii_whitespace() {
            end -= 1;
        }
        while start < end && byte_at(start)?.is_ascii_whitespace() {
            start += 1;
        }
        let is_object = start < end && byte_at(start)? == b'{' && byte_at(end - 1)? == b'}';
        self.range = start..end;
        Ok(is_object.then_some(self))
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn reader(&self) -> RangeReader<'_> {
        RangeReader::new(&*self.file, self.range.clone())
    }

    /// Its content, if it is a reply.
    pub(super) fn read(&self, reader: &mut ReplyReader, role: ReplyRole) -> Result<Option<Reply>, FileError> {
        if let Ok(length @ ..=HELD_BYTES_MAX) = usize::try_from(self.bytes()) {
            let mut held = vec![0; length];
            self.file.read_exact_at(&mut held, self.range.start).map_err(FileError::on("read", &self.path))?;
            return Ok(reader.read(&held, role));
        }
        self.ask(|object| reader.read_tree(object, role))
    }

    /// The id that it answers, if it is a reply.
    pub(super) fn id(&self) -> Result<Option<String>, FileError> {
        self.ask(|object| id_of(object, &ReplyNames::COMMON))
    }

    /// The result of `question` about it, read in place.
    pub(super) fn ask<T>(&self, question: impl FnOnce(StoredValue<'_>) -> T) -> Result<T, FileError> {
        StoredText::ask(&*self.file, self.range.clone(), question).map_err(FileError::on("read", &self.path))
    }

    /// Passes on all of it, in order.
    pub(super) fn each_piece<E: From<FileError>>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut reader = self.reader();
        loop {
            let piece = reader.fill_buf().map_err(FileError::on("read", &self.path))?;
            if piece.is_empty() {
                return Ok(());
            }
            take(piece)?;
            let taken = piece.len();
            reader.consume(taken);
        }
    }

    /// Whether both have the same bytes.
    pub(super) fn is_same_as(&self, other: &Self) -> Result<bool, FileError> {
        if self.bytes() != other.bytes() {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (self.reader(), other.reader());
        loop {
            let one = ours.fill_buf().map_err(FileError::on("read", &self.path))?;
            let another = theirs.fill_buf().map_err(FileError::on("read", &other.path))?;
            let common = one.len().min(another.len());
            if common == 0 || one[..common] != another[..common] {
                return Ok(common == 0);
            }
            ours.consume(common);
            theirs.consume(common);
        }
    }
}

/// Where the object ends that begins a range of a file.
fn object_end(file: &dyn ReadAt, range: Range<u64>) -> io::Result<Option<u64>> {
    let mut object = Brackets::new(RangeReader::new(file, range.clone()));
    Ok(Broken::found(object.object())?.map(|()| range.start + object.at()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::custom_id::IdHasher;
    use crate::storage::durable;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("replies.jsonl");
        durable::publish_bytes(&path, content).unwrap();
        (directory, path)
    }

    #[test]
    fn without_a_length_it_ends_where_its_brackets_do() {
        let (_directory, path) = file(b"{\"a\":\"}\"} {\"b\":{}}\n{\"cut\":");
        let bytes = |offset| {
            ReplyText::open(&path, offset, None).map(|text| {
                let mut bytes = Vec::new();
                let take = |piece: &[u8]| {
                    bytes.extend_from_slice(piece);
                    Ok::<_, FileError>(())
                };
                text.each_piece(take).unwrap();
                bytes
            })
        };
        assert_eq!(bytes(0).unwrap(), b"{\"a\":\"}\"}");
        assert_eq!(bytes(10).unwrap(), b"{\"b\":{}}");
        assert!(bytes(9).is_err() && bytes(19).is_err() && bytes(1000).is_err());
        assert!(ReplyText::open(&path, 20, Some(8)).is_err(), "it ends behind the file");
    }

    #[test]
    fn white_space_is_no_part_of_an_object() {
        let (_directory, path) = file(b" \t{\"a\":1} \r\nx{}   {");
        let object = |offset, length| ReplyText::open(&path, offset, Some(length)).unwrap().object().unwrap();
        assert_eq!(object(0, 11).map(|text| text.range), Some(2..9));
        assert_eq!(object(13, 2).map(|text| text.range), Some(13..15));
        for (offset, length) in [(12, 3), (13, 6), (2, 6), (15, 3), (15, 0), (18, 1)] {
            assert!(object(offset, length).is_none(), "{offset} {length}");
        }
    }

    #[test]
    fn long_replies_are_read_and_compared_in_pieces() {
        let reply = |length: usize, last: char| {
            let text = "x".repeat(length);
            format!(r#"{{"t":"{text}{last}","custom_id":"a","response":{{"status_code":500,"body":null}}}}"#)
        };
        let [short, long, other] = [reply(9, 'x'), reply(HELD_BYTES_MAX, 'x'), reply(HELD_BYTES_MAX, 'y')];
        let (_directory, path) = file([short.as_str(), &long, &other, &long].concat().as_bytes());
        let mut offset = 0;
        let texts = [&short, &long, &other, &long].map(|line| {
            let text = ReplyText::open(&path, offset, Some(line.len() as u64)).unwrap();
            offset += line.len() as u64;
            text
        });
        let mut reader = ReplyReader::new(IdHasher { key: 1 }, &crate::dialect::ReplyNames::COMMON);
        let mut read = |which: usize| texts[which].read(&mut reader, ReplyRole::Output).unwrap();
        assert!(read(0).is_some_and(|reply| reply.kind.is_error()));
        assert_eq!(read(0), read(1));
        let same = |one: usize, other: usize| texts[one].is_same_as(&texts[other]).unwrap();
        assert!(same(1, 3) && !same(1, 2) && !same(0, 1) && same(2, 2));
    }
}
