//! A reply file, read front to back: its replies and their positions.
//!
//! In: a downloaded file. Out: its replies, in order, and its checksum.
//!
//! A line is one reply, as services write it. Two or more complete objects on a line are as many replies: files were
//! concatenated, one of which had no final terminator. A line of any length is read; one that is too long for memory is
//! streamed once. Anything else in place of a reply is unreadable, or shows that the file is not a reply file (see
//! [`Form`]).
//!
//! Invariants: all of the file is accounted for: each non-blank line results in one finding or several. Only what the
//! [reader](ReplyReader) rejects is examined more closely.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::ResultsError;
use super::form::{self, Form, LOOK_BYTES_MAX};
use super::id_table::IdTable;
use super::reply_text::{HELD_BYTES_MAX, ReplyText};
use crate::dialect::ReplyNames;
use crate::dialect::reply_parts;
use crate::dialect::reply_reader::ReplyReader;
use crate::json::brackets::whole::objects_of;
use crate::json::brackets::{Brackets, Broken};
use crate::json::marks::Marks;
use crate::json::scanner::lines::each_line;
use crate::json::tree::Raw;
use crate::model::custom_id::IdHasher;
use crate::model::reply::{Reply, ReplyRole};
use crate::storage::durable::FileError;
use crate::storage::lines;
use crate::storage::lines::{Block, Extent, Lines, RangeReader};
use crate::storage::local_file::LocalFile;
use crate::storage::ordered::in_order;
use crate::storage::read_at::ReadAt;

/// A reply file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyFile {
    /// The number by which slots refer to it.
    pub number: u32,
    /// Where it is.
    pub path: PathBuf,
    /// Its role among a batch's files.
    pub role: ReplyRole,
}

/// Blocks that a thread reads before it passes on its findings.
const CHUNK_BLOCKS: u64 = 16;

/// Bytes after a line that are examined for what follows it.
const NEXT_BYTES: usize = 1024;

/// What to do about a file that turns out not to be a reply file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strays {
    /// Any line that shows it is an error: [`ResultsError::NotReplies`]. For files that the user passes.
    Refuse,
    /// It is an error only if it contains no reply. Services have written lines of an HTML page between replies; those
    /// are unreadable.
    RefuseWhole,
    /// It is not an error: everything in it that is not a reply is unreadable.
    SetAside,
}

/// A finding in a reply file; without a reply if it is unreadable.
#[derive(Debug)]
pub(super) struct Found {
    /// Number of the file.
    pub(super) file: u32,
    pub(super) offset: u64,
    /// If it is unknown, the object ends with its closing bracket.
    pub(super) length: Option<u64>,
    pub(super) reply: Option<Reply>,
    /// The number of the request that it answers.
    pub(super) request: Option<u32>,
}

/// Reads the files, in the order given, and calls `take` with their findings, in order. Returns the files' checksums.
///
/// With a `table`, the findings have the numbers of the requests that they answer. `progress` is called with the bytes
/// read so far.
pub(super) fn read(
    files: &[ReplyFile],
    ids: IdHasher,
    threads: usize,
    strays: Strays,
    table: Option<&IdTable>,
    progress: &dyn Fn(u64),
    mut take: impl FnMut(Found) -> Result<(), ResultsError>,
) -> Result<Vec<u128>, ResultsError> {
    let mut checksums = Vec::new();
    let mut done = 0;
    for file in files {
        let file = OpenFile::open(file, strays)?;
        let (mut checksum, mut replies, mut stray) = (Xxh3Default::new(), false, None);
        in_order(
            threads,
            file.extent().blocks().div_ceil(CHUNK_BLOCKS),
            || Readers::new(ids),
            |readers, number| {
                let mut chunk = file.read_chunk(readers, number)?;
                if let Some(table) = table {
                    chunk.find_requests(table);
                }
                Ok::<_, ResultsError>(chunk)
            },
            |chunk| {
                checksum.update(chunk.hashes.as_flattened());
                replies |= chunk.found.iter().any(|found| found.reply.is_some());
                stray = stray.or(chunk.stray);
                chunk.found.into_iter().try_for_each(&mut take)?;
                done += CHUNK_BLOCKS * lines::BLOCK_BYTES;
                progress(done);
                Ok(())
            },
        )?;
        if let Some((offset, form)) = stray.filter(|_| !replies && strays != Strays::SetAside) {
            return Err(file.refused(offset, form));
        }
        checksums.push(checksum.digest128());
    }
    Ok(checksums)
}

/// What a thread reads with.
struct Readers {
    block: Block,
    marks: Marks,
    reader: ReplyReader,
}

impl Readers {
    fn new(ids: IdHasher) -> Self {
        Self { block: Block::default(), marks: Marks::default(), reader: ReplyReader::new(ids, &ReplyNames::COMMON) }
    }
}

/// The findings of a thread.
#[derive(Default)]
struct Chunk {
    /// The hashes of its blocks.
    hashes: Vec<[u8; 8]>,
    /// The findings that begin in them.
    found: Vec<Found>,
    /// The first line that shows the file's kind, if it is not a reply file.
    stray: Option<(u64, Form)>,
}

impl Chunk {
    /// Looks up the requests of all replies together.
    fn find_requests(&mut self, table: &IdTable) {
        let id = |found: &Found| found.reply.as_ref().filter(|reply| reply.id_is_string).map(|reply| reply.id_hash);
        let hashes: Vec<u128> = self.found.iter().filter_map(id).collect();
        let mut requests = Vec::with_capacity(hashes.len());
        table.get_each(&hashes, &mut requests);
        for (found, request) in self.found.iter_mut().filter(|found| id(found).is_some()).zip(requests) {
            found.request = request;
        }
    }
}

/// An open reply file.
struct OpenFile<'f> {
    reply_file: &'f ReplyFile,
    strays: Strays,
    file: Arc<dyn ReadAt>,
    /// Length of a byte order mark, which is not part of a reply.
    mark_bytes: u64,
    bytes: u64,
}

impl<'f> OpenFile<'f> {
    fn open(reply_file: &'f ReplyFile, strays: Strays) -> Result<Self, ResultsError> {
        let failed = || FileError::on("read", &reply_file.path);
        let file = LocalFile::open(&reply_file.path)?;
        let bytes = file.size().map_err(failed())?;
        let mark_bytes = lines::mark_bytes(&file).map_err(failed())?;
        Ok(Self { reply_file, strays, file: Arc::new(file), mark_bytes, bytes })
    }

    fn extent(&self) -> Extent<'_> {
        Extent { file: &*self.file, start: self.mark_bytes, end: self.bytes }
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> FileError {
        FileError::on("read", &self.reply_file.path)
    }

    fn read_chunk(&self, readers: &mut Readers, number: u64) -> Result<Chunk, ResultsError> {
        let mut chunk = Chunk::default();
        let first = number * CHUNK_BLOCKS;
        for number in first..(first + CHUNK_BLOCKS).min(self.extent().blocks()) {
            readers.block.read(&self.extent(), number).map_err(self.failed())?;
            chunk.hashes.push(readers.block.hash().to_le_bytes());
            self.read_block(readers, &mut chunk)?;
        }
        Ok(chunk)
    }

    fn read_block(&self, readers: &mut Readers, chunk: &mut Chunk) -> Result<(), ResultsError> {
        let (extent, Readers { block, marks, reader }) = (self.extent(), readers);
        while let Some(found) = block.next_lines(&extent, HELD_BYTES_MAX).map_err(self.failed())? {
            match found {
                Lines::Whole { offset, lines } => self.read_lines(offset, lines, marks, reader, chunk)?,
                Lines::TooLong { offset } => self.read_long(offset, reader, chunk)?,
            }
        }
        Ok(())
    }

    fn read_lines(
        &self,
        first: u64,
        lines: &[u8],
        marks: &mut Marks,
        reader: &mut ReplyReader,
        chunk: &mut Chunk,
    ) -> Result<(), ResultsError> {
        let names = reader.names();
        each_line(
            lines,
            marks,
            |scanner| reply_parts::scan(scanner, names),
            |at, line, parts| {
                let (offset, object) = (first + at as u64, line.trim_ascii());
                if object.is_empty() {
                    return Ok(());
                }
                match reader.read_scanned(parts, object, self.reply_file.role) {
                    Some(reply) if !is_request(&reply, object) => {
                        let start = offset + leading_space(line) as u64;
                        chunk.found.push(self.found(start, object.len() as u64, Some(reply)));
                        Ok(())
                    }
                    _ => self.read_refused(offset, line, reader, chunk),
                }
            },
        )
    }

    fn found(&self, offset: u64, length: u64, reply: Option<Reply>) -> Found {
        Found { file: self.reply_file.number, offset, length: Some(length), reply, request: None }
    }

    /// This many bytes at this position.
    fn text(&self, offset: u64, length: u64) -> Result<ReplyText, FileError> {
        let text = ReplyText::at(self.file.clone(), &self.reply_file.path, offset, Some(length))?;
        text.ok_or_else(|| self.failed()(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Examines a line that is not one reply: it may be several, or none.
    fn read_refused(
        &self,
        offset: u64,
        line: &[u8],
        reader: &mut ReplyReader,
        chunk: &mut Chunk,
    ) -> Result<(), ResultsError> {
        let first = leading_space(line);
        let text = line.trim_ascii();
        let marked = text.len() - lines::without_mark(text).len();
        let objects = objects_of(&text[marked..]).unwrap_or_default();
        let objects: Vec<Range<usize>> =
            objects.into_iter().map(|object| object.start + marked..object.end + marked).collect();
        self.examine(offset, &text[..text.len().min(LOOK_BYTES_MAX)], &objects, chunk)?;
        if objects.is_empty() {
            let line = lines::without_carriage_return(line);
            chunk.found.push(self.found(offset, line.len() as u64, None));
        }
        for object in objects {
            let (place, object) = (offset + (first + object.start) as u64, &text[object]);
            let reply = reader.read(object, self.reply_file.role).filter(|reply| !is_request(reply, object));
            chunk.found.push(self.found(place, object.len() as u64, reply));
        }
        Ok(())
    }

    /// Examines a line that is too long for memory: each of its objects is located, and read in place.
    fn read_long(&self, offset: u64, reader: &mut ReplyReader, chunk: &mut Chunk) -> Result<(), ResultsError> {
        let mut line = Brackets::new(RangeReader::line(&*self.file, offset..self.bytes));
        let mut found = Vec::new();
        let whole = loop {
            line.space().map_err(self.failed())?;
            if line.peek().map_err(self.failed())?.is_none() {
                break true;
            }
            let first = line.at();
            if Broken::found(line.object()).map_err(self.failed())?.is_none() {
                break false;
            }
            let (place, length) = (offset + first, line.at() - first);
            let object = self.text(place, length)?;
            let reply = object.read(reader, self.reply_file.role)?;
            if reply.as_ref().is_some_and(|reply| reply.kind.is_error())
                && object.ask(|object| form::is_request(object))?
            {
                self.judge(offset, Form::Requests, chunk)?;
                break false;
            }
            found.push(self.found(place, length, reply));
        };
        if whole {
            chunk.found.append(&mut found);
            return Ok(());
        }
        let end = offset + line.skip_to_end().map_err(self.failed())?;
        let mut start = vec![0; LOOK_BYTES_MAX];
        self.file.read_exact_at(&mut start, offset).map_err(self.failed())?;
        self.examine(offset, start.trim_ascii_start(), &[], chunk)?;
        chunk.found.push(self.found(offset, end - offset, None));
        Ok(())
    }

    /// Examines what a line that is not a reply shows about the file.
    fn examine(
        &self,
        offset: u64,
        line: &[u8],
        objects: &[Range<usize>],
        chunk: &mut Chunk,
    ) -> Result<(), ResultsError> {
        let is_first = chunk.found.is_empty() && self.is_first(offset).map_err(self.failed())?;
        let goes_on = || Ok(line == b"{" && form::goes_on(&self.next_bytes(offset + 1)?));
        match Form::of(line, objects, is_first) {
            Some(form) => self.judge(offset, form, chunk),
            None if goes_on().map_err(self.failed())? => self.judge(offset, Form::Pretty, chunk),
            None if is_first && form::is_text(line) => {
                // Unless replies follow.
                chunk.stray = Some((offset, Form::Text));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A line that shows the kind of the file.
    fn judge(&self, offset: u64, form: Form, chunk: &mut Chunk) -> Result<(), ResultsError> {
        if self.strays == Strays::Refuse {
            return Err(self.refused(offset, form));
        }
        chunk.stray.get_or_insert((offset, form));
        Ok(())
    }

    /// The error about a file because of the line that begins at this place.
    fn refused(&self, offset: u64, form: Form) -> ResultsError {
        let path = self.reply_file.path.clone();
        match lines::lines_before(&*self.file, offset) {
            Ok(before) => ResultsError::NotReplies { path, line: before + 1, form },
            Err(error) => self.failed()(error).into(),
        }
    }

    /// Whether only whitespace precedes this position, up to a reasonable amount.
    fn is_first(&self, offset: u64) -> io::Result<bool> {
        let before = usize::try_from(offset - self.mark_bytes).unwrap_or(usize::MAX);
        if before > NEXT_BYTES {
            return Ok(false);
        }
        let mut space = vec![0; before];
        self.file.read_exact_at(&mut space, self.mark_bytes)?;
        Ok(space.trim_ascii().is_empty())
    }

    /// Some bytes from this position on.
    fn next_bytes(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut next = vec![0; NEXT_BYTES];
        let length = self.file.read_some_at(&mut next, offset)?;
        next.truncate(length);
        Ok(next)
    }
}

/// A request line contains no answer, so it is only ever reported as an error.
fn is_request(reply: &Reply, object: &[u8]) -> bool {
    reply.kind.is_error() && form::is_request(Raw(object))
}

fn leading_space(line: &[u8]) -> usize {
    line.len() - line.trim_ascii_start().len()
}
