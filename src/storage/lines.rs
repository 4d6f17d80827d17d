//! The lines of a large file, block by block, so that several threads can frame one file.
//!
//! In: a file and the number of a block. Out: the lines that *start* in that block, each whole.
//!
//! Invariants:
//! - Lines are separated by `\n` bytes only. A line belongs to the block that contains its first byte, so blocks can be
//!   framed in any order and no line is seen twice or omitted.
//! - Of a line longer than the limit no more is read than the block: it is reported by its offset, unless it ends
//!   there. A [`RangeReader`] streams it.

use std::io::{self, BufRead, Read};
use std::ops::Range;

use memchr::{memchr, memchr_iter, memrchr};

use crate::storage::aligned::AlignedBuffer;
use crate::storage::line_hash::hash_line;
use crate::storage::read_at::ReadAt;

/// Size of a block in bytes. Small enough that a block, its table of lines and the parser's buffers fit into a core's
/// cache; large enough that a read is no more than a few per mille of the work on it.
pub const BLOCK_BYTES: u64 = 128 * 1024;

/// The byte order mark that some programs put before UTF-8 text. It is not part of a line.
const UTF8_MARK: &[u8; 3] = b"\xef\xbb\xbf";

/// Bytes read past the end of a block in the first read, which usually include the end of its last line.
const SLACK_BYTES: u64 = 8 * 1024;

/// Buffer size of a [`RangeReader`] in bytes.
const PIECE_BYTES: u64 = 256 * 1024;

/// A part of a file that is framed into lines: from `start` to `end`, both byte offsets in the file.
#[derive(Debug, Clone, Copy)]
pub struct Extent<'f> {
    /// The file to read from.
    pub file: &'f dyn ReadAt,
    /// Offset of the first byte.
    pub start: u64,
    /// Offset past the last byte.
    pub end: u64,
}

impl Extent<'_> {
    /// Number of blocks in the extent.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        (self.end - self.start).div_ceil(BLOCK_BYTES)
    }

    /// Offset of the first byte of block `number`.
    #[must_use]
    fn block_start(&self, number: u64) -> u64 {
        self.start + number * BLOCK_BYTES
    }
}

/// Lines as [`Block::next_lines`] finds them.
#[derive(Debug)]
pub enum Lines<'b> {
    /// One or more lines.
    Whole {
        /// Offset of the first byte in the file.
        offset: u64,
        /// The lines, each with its `\n`, which only the last line of the extent may lack.
        lines: &'b [u8],
    },
    /// A line longer than the limit. It is the last of its block.
    TooLong {
        /// Offset of its first byte in the file.
        offset: u64,
    },
}

/// A buffer that holds one block at a time.
#[derive(Debug, Default)]
pub struct Block {
    buffer: AlignedBuffer,
    /// File offset of `buffer[0]`.
    origin: u64,
    /// Whether `buffer[0]` is the byte before the block.
    preceded: bool,
    /// Where the next line starts in the buffer.
    cursor: usize,
    /// Lines start before this place in the buffer.
    limit: usize,
}

impl Block {
    /// Reads block `number` of `extent` and places the cursor on the first line that starts in it.
    pub fn read(&mut self, extent: &Extent<'_>, number: u64) -> io::Result<()> {
        let start = extent.block_start(number);
        let end = (start + BLOCK_BYTES).min(extent.end);
        // The byte before the block says whether a line starts at its first byte.
        self.preceded = number > 0;
        self.origin = start - u64::from(self.preceded);
        let wanted = (end + SLACK_BYTES).min(extent.end);
        self.buffer.place(self.origin, position(wanted - self.origin));
        extent.file.read_exact_at(&mut self.buffer, self.origin)?;
        self.limit = position(end - self.origin);
        self.cursor = if number == 0 {
            0
        } else {
            memchr(b'\n', &self.buffer[..self.limit - 1]).map_or(self.limit, |newline| newline + 1)
        };
        Ok(())
    }

    /// Hash of the block's own bytes, whatever the lines.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let first = usize::from(self.preceded);
        hash_line(&self.buffer[first..self.limit])
    }

    /// The next lines that start in this block, as many as are in memory; `None` after the last. More of a line is read
    /// into memory up to the length of `line_bytes_max`, without its `\n`.
    pub fn next_lines(&mut self, extent: &Extent<'_>, line_bytes_max: usize) -> io::Result<Option<Lines<'_>>> {
        if self.cursor >= self.limit {
            return Ok(None);
        }
        let first = self.cursor;
        let offset = self.origin + first as u64;
        let Some(end) = self.end_of_whole_lines(extent) else {
            return self.next_long_line(extent, line_bytes_max).map(Some);
        };
        self.cursor = end;
        Ok(Some(Lines::Whole { offset, lines: &self.buffer[first..end] }))
    }

    /// Where the last line ends that is in memory as a whole; `None` if there is none.
    fn end_of_whole_lines(&self, extent: &Extent<'_>) -> Option<usize> {
        // The last line that starts in the block usually ends soon after it.
        let last = self.limit - 1;
        let behind = || memchr(b'\n', &self.buffer[last..]).map(|newline| last + newline + 1);
        let is_all = self.origin + self.buffer.len() as u64 == extent.end;
        let before = || memrchr(b'\n', &self.buffer[self.cursor..last]).map(|newline| self.cursor + newline + 1);
        behind().or_else(|| if is_all { Some(self.buffer.len()) } else { before() })
    }

    /// The line at the cursor, the last of its block, which does not end in the buffer.
    fn next_long_line(&mut self, extent: &Extent<'_>, line_bytes_max: usize) -> io::Result<Lines<'_>> {
        let first = self.cursor;
        let offset = self.origin + first as u64;
        self.cursor = self.limit;
        let mut searched = self.buffer.len();
        loop {
            let length = searched - first;
            let more = self.origin + searched as u64;
            if length > line_bytes_max {
                return Ok(Lines::TooLong { offset });
            }
            if more >= extent.end {
                return Ok(Lines::Whole { offset, lines: &self.buffer[first..] });
            }
            let wanted = (length as u64).max(SLACK_BYTES).min(line_bytes_max as u64 + 1);
            self.buffer.grow(position((more + wanted).min(extent.end) - self.origin));
            extent.file.read_exact_at(&mut self.buffer[searched..], more)?;
            if let Some(newline) = memchr(b'\n', &self.buffer[searched..]) {
                let end = searched + newline + 1;
                let is_held = end - 1 - first <= line_bytes_max;
                return Ok(if is_held {
                    Lines::Whole { offset, lines: &self.buffer[first..end] }
                } else {
                    Lines::TooLong { offset }
                });
            }
            searched = self.buffer.len();
        }
    }
}

/// Streams bytes of a file, of any number: a range of it, or one line.
#[derive(Debug)]
pub struct RangeReader<'f> {
    file: &'f dyn ReadAt,
    /// The range that is still to be read.
    rest: Range<u64>,
    /// Whether a `\n` ends it.
    is_line: bool,
    piece: AlignedBuffer,
    /// Bytes of the piece that were consumed.
    taken: usize,
    /// Bytes of the piece that belong to the range.
    length: usize,
}

impl<'f> RangeReader<'f> {
    /// The bytes of `range`. A shorter file is a read error.
    #[must_use]
    pub fn new(file: &'f dyn ReadAt, range: Range<u64>) -> Self {
        Self { file, rest: range, is_line: false, piece: AlignedBuffer::default(), taken: 0, length: 0 }
    }

    /// The line that begins with `range`, without its `\n`; at most to the end of `range`.
    #[must_use]
    pub fn line(file: &'f dyn ReadAt, range: Range<u64>) -> Self {
        Self { is_line: true, ..Self::new(file, range) }
    }
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let taken = piece.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&piece[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}

impl BufRead for RangeReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.length && !self.rest.is_empty() {
            let length = PIECE_BYTES.min(self.rest.end - self.rest.start);
            // Empty until it is filled.
            (self.taken, self.length) = (0, 0);
            self.piece.place(self.rest.start, position(length));
            self.file.read_exact_at(&mut self.piece, self.rest.start)?;
            let newline = if self.is_line { memchr(b'\n', &self.piece) } else { None };
            self.rest.start = if newline.is_some() { self.rest.end } else { self.rest.start + length };
            self.length = newline.unwrap_or(position(length));
        }
        Ok(&self.piece[self.taken..self.length])
    }

    fn consume(&mut self, bytes: usize) {
        self.taken = (self.taken + bytes).min(self.length);
    }
}

/// The number of lines that end before `offset`, which is the number of the line that begins there, from 0.
pub fn lines_before(file: &dyn ReadAt, offset: u64) -> io::Result<u64> {
    let (mut reader, mut lines) = (RangeReader::new(file, 0..offset), 0);
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(lines);
        }
        lines += memchr_iter(b'\n', piece).count() as u64;
        let length = piece.len();
        reader.consume(length);
    }
}

/// An offset within a block's buffer. Buffers are bounded by the block and the longest line, far below `usize::MAX`.
fn position(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a buffer's size fits the address space")
}

/// The text without a leading byte order mark.
#[must_use]
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(UTF8_MARK).unwrap_or(text)
}

/// Length of the byte order mark at the beginning of a file: 3, or 0 without one.
pub fn mark_bytes(file: &dyn ReadAt) -> io::Result<u64> {
    let mut start = [0; UTF8_MARK.len()];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) if start == *UTF8_MARK => Ok(start.len() as u64),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(0),
    }
}

/// The line without a trailing `\r`.
#[must_use]
pub fn without_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A line without surrounding JSON whitespace, and the number of leading bytes removed.
#[must_use]
pub fn trim_json_whitespace(line: &[u8]) -> (&[u8], usize) {
    let is_whitespace = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let before = line.iter().take_while(|byte| is_whitespace(byte)).count();
    let behind = line[before..].iter().rev().take_while(|byte| is_whitespace(byte)).count();
    (&line[before..line.len() - behind], before)
}

/// Whether a line is blank.
#[must_use]
pub fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::local_file::LocalFile;

    fn stored(content: &[u8]) -> LocalFile {
        let file = LocalFile::scratch(&std::env::temp_dir()).unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }

    fn frame(content: &[u8], line_bytes_max: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let file = stored(content);
        let extent = Extent { file: &file, start: 0, end: content.len() as u64 };
        let mut block = Block::default();
        let mut lines = Vec::new();
        for number in 0..extent.blocks() {
            block.read(&extent, number).unwrap();
            while let Some(found) = block.next_lines(&extent, line_bytes_max).unwrap() {
                match found {
                    Lines::TooLong { offset } => lines.push((offset, None)),
                    Lines::Whole { mut offset, lines: whole } => {
                        for line in whole.split_inclusive(|byte| *byte == b'\n') {
                            let text = line.strip_suffix(b"\n").unwrap_or(line);
                            lines.push((offset, (text.len() <= line_bytes_max).then(|| text.to_vec())));
                            offset += line.len() as u64;
                        }
                    }
                }
            }
        }
        lines
    }

    fn model(content: &[u8], line_bytes_max: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut lines = Vec::new();
        let mut offset = 0;
        for line in content.split_inclusive(|&byte| byte == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            lines.push((offset, (text.len() <= line_bytes_max).then(|| text.to_vec())));
            offset += line.len() as u64;
        }
        lines
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn blocks_give_the_lines_of_the_whole_file(
            lengths in prop::collection::vec(prop_oneof![0_usize..40, 1000_usize..9000, 100_000_usize..700_000], 0..24),
            final_newline: bool,
        ) {
            let mut content = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                content.extend(std::iter::repeat_n(b'a' + u8::try_from(number % 26).unwrap(), *length));
                content.push(b'\n');
            }
            if !final_newline {
                content.pop();
            }
            for limit in [600_000, 2_000_000, 500] {
                prop_assert!(frame(&content, limit) == model(&content, limit));
            }
        }
    }

    #[test]
    fn a_range_and_a_line_are_read_whatever_their_length() {
        let piece = usize::try_from(PIECE_BYTES).unwrap();
        for length in [0, 1, piece - 1, piece, piece + 1, 3 * piece + 7] {
            let line: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
            let file = stored(&[b"before\n", line.as_slice(), b"\nafter\n"].concat());
            let (start, end) = (7, file.size().unwrap());
            let read = |mut reader: RangeReader<'_>| {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                bytes
            };
            assert!(read(RangeReader::line(&file, start..end)) == line);
            assert!(read(RangeReader::line(&file, start..start + length as u64)) == line, "without a line end");
            assert!(read(RangeReader::new(&file, start..end)) == [&line[..], b"\nafter\n"].concat());
            assert!(RangeReader::new(&file, start..end + 1).read_to_end(&mut Vec::new()).is_err());
            assert_eq!(lines_before(&file, start + length as u64).unwrap(), 1);
            assert_eq!(lines_before(&file, end).unwrap(), 3);
        }
    }

    #[test]
    fn a_line_end_on_a_block_border_is_seen_once() {
        for shift in 0..3 {
            let mut content = vec![b'x'; usize::try_from(BLOCK_BYTES).unwrap() - shift];
            content.extend_from_slice(b"\nsecond\nthird");
            assert_eq!(frame(&content, 1 << 20), model(&content, 1 << 20));
        }
    }
}
