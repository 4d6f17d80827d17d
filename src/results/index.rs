//! Reply files to slots: the step "index".
//!
//! In: the reply files of one batch (or those that somebody downloaded by hand), and the ids of the requests they may answer.
//! Out: one slot for each request that was answered, and counts that account for every line of the files.
//!
//! What always holds: each line is kept (it fills a slot), a duplicate, in conflict, unknown or unreadable, and is counted once. Which
//! reply wins does not depend on threads: the first in file order, but an output before an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ResultsError;
use super::id_table::IdTable;
use super::reply::{Reply, ReplyKind, ReplyRole, Usage};
use super::reply_index::Slot;
use super::reply_reader::ReplyReader;
use super::side_files::{Aside, SideFiles};
use xxhash_rust::xxh3::Xxh3Default;

use crate::custom_id::IdHasher;
use crate::durable::FileError;
use crate::in_order::in_order;
use crate::lines::{self, Block, Extent, Line};

/// Longest reply that is read for its id, in bytes. A longer one stays in its file and is counted as unreadable.
pub const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Blocks that a thread reads before it hands over what it found.
const CHUNK_BLOCKS: u64 = 16;

/// Most kinds of errors that are counted apart; the rest count as [`OTHER_ERRORS`].
const ERROR_LABELS_MAX: usize = 50;

/// What errors beyond the first `ERROR_LABELS_MAX` kinds are counted as.
pub const OTHER_ERRORS: &str = "other errors";

/// A file of replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyFile {
    /// The number that slots know it by.
    pub number: u32,
    /// Where it is.
    pub path: PathBuf,
    /// Which of a batch's files it is.
    pub role: ReplyRole,
}

/// What became of the lines of reply files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexed {
    /// Lines, blank ones not counted.
    pub replies: u64,
    /// Requests that have an output.
    pub outputs: u64,
    /// Requests that have an error.
    pub errors: u64,
    /// Replies that say the same as the one kept.
    pub duplicates: u64,
    /// Replies that say something else than the one kept.
    pub conflicts: u64,
    /// Replies to nobody.
    pub unknown: u64,
    /// Lines in which no id can be found.
    pub unreadable: u64,
    /// Tokens of the replies kept.
    pub usage: Usage,
    /// Errors kept, by code and message.
    pub labels: BTreeMap<String, u64>,
    /// Checksums of the files, in their order: XXH3-128 over the XXH3-64 hashes of their blocks.
    pub checksums: Vec<u128>,
}

impl Indexed {
    /// Adds the counts of other files.
    pub fn add(&mut self, other: &Self) {
        self.replies += other.replies;
        self.outputs += other.outputs;
        self.errors += other.errors;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.unknown += other.unknown;
        self.unreadable += other.unreadable;
        self.usage += other.usage;
        for (label, count) in &other.labels {
            self.count_label(label, *count);
        }
    }

    /// Counts a request that has an error.
    pub fn count_error(&mut self, label: &str) {
        self.errors += 1;
        self.count_label(label, 1);
    }

    fn count_label(&mut self, label: &str, count: u64) {
        let known = self.labels.contains_key(label) || self.labels.len() < ERROR_LABELS_MAX;
        *self.labels.entry(if known { label } else { OTHER_ERRORS }.to_owned()).or_default() += count;
    }

    /// Counts the errors by what `rename` makes of their labels.
    pub fn rename_labels(&mut self, rename: impl Fn(String) -> String) {
        for (label, count) in std::mem::take(&mut self.labels) {
            self.count_label(&rename(label), count);
        }
    }

    /// Takes back what [`Indexed::count_error`] counted.
    pub fn forget_error(&mut self, label: &str) {
        self.errors -= 1;
        let label = if self.labels.contains_key(label) { label } else { OTHER_ERRORS };
        if let Some(count) = self.labels.get_mut(label) {
            *count -= 1;
            if *count == 0 {
                self.labels.remove(label);
            }
        }
    }
}

/// Reads the files, in the order given, and fills the slots. Slot n belongs to the request that `table` gives number n.
///
/// # Errors
/// When a file cannot be read, or replies to set aside cannot be written.
pub fn index(
    files: &[ReplyFile],
    table: &IdTable,
    ids: IdHasher,
    slots: &mut [Option<Slot>],
    threads: usize,
    aside: &mut SideFiles,
) -> Result<Indexed, ResultsError> {
    let mut placing = Placing { files, slots, aside, ids, indexed: Indexed::default() };
    let checksums = read(files, ids, threads, &|id| table.get(id), &|_| (), |found| placing.place(found))?;
    Ok(Indexed { checksums, ..placing.indexed })
}

/// Reads the files, in the order given, and calls `take` with each line that is not blank, in its order. Returns the files' checksums.
///
/// `request_of` gives the number of the request whose id has a hash; `progress` is told the bytes read so far.
pub(super) fn read(
    files: &[ReplyFile],
    ids: IdHasher,
    threads: usize,
    request_of: &(dyn Fn(u128) -> Option<u32> + Sync),
    progress: &dyn Fn(u64),
    mut take: impl FnMut(Found) -> Result<(), ResultsError>,
) -> Result<Vec<u128>, ResultsError> {
    let mut checksums = Vec::new();
    let mut done = 0;
    for file in files {
        let file = OpenFile::open(file)?;
        let mut checksum = Xxh3Default::new();
        in_order(
            threads,
            file.extent().blocks().div_ceil(CHUNK_BLOCKS),
            || (Block::default(), ReplyReader::new(ids)),
            |(block, reader), number| {
                let (hashes, mut found) = file.read_chunk(block, reader, number)?;
                // One after the other: the processor waits for several places of the table at a time.
                for Found { reply, request, .. } in &mut found {
                    *request = reply.as_ref().and_then(|reply| request_of(reply.id_hash));
                }
                Ok::<_, ResultsError>((hashes, found))
            },
            |(hashes, found)| {
                checksum.update(hashes.as_flattened());
                found.into_iter().try_for_each(&mut take)?;
                done += CHUNK_BLOCKS * lines::BLOCK_BYTES;
                progress(done);
                Ok(())
            },
        )?;
        checksums.push(checksum.digest128());
    }
    Ok(checksums)
}

/// The checksum of a reply file, as the index takes it.
pub fn file_checksum(path: &Path) -> Result<u128, FileError> {
    let file = File::open(path).map_err(FileError::on("open", path))?;
    let end = file.metadata().map_err(FileError::on("read", path))?.len();
    let start = lines::mark_bytes(&file).map_err(FileError::on("read", path))?;
    let extent = Extent { file: &file, start, end };
    let (mut block, mut checksum) = (Block::default(), Xxh3Default::new());
    for number in 0..extent.blocks() {
        block.read(&extent, number).map_err(FileError::on("read", path))?;
        checksum.update(&block.hash().to_le_bytes());
    }
    Ok(checksum.digest128())
}

/// What the error reply in a slot says, as it is counted. `path` is the slot's file.
pub fn error_label(path: &Path, slot: Slot, ids: IdHasher) -> Result<String, ResultsError> {
    let mut line = vec![0; slot.length as usize];
    let file = File::open(path).map_err(FileError::on("open", path))?;
    file.read_exact_at(&mut line, slot.offset).map_err(FileError::on("read", path))?;
    Ok(label_of(&line, ids))
}

/// The hash of the id in the reply that a slot leads to; `None` when there is no readable reply.
#[must_use]
pub fn id_at(path: &Path, slot: Slot, ids: IdHasher) -> Option<u128> {
    let mut line = vec![0; slot.length as usize];
    File::open(path).ok()?.read_exact_at(&mut line, slot.offset).ok()?;
    ReplyReader::new(ids).read(&line, ReplyRole::Output).map(|reply| reply.id_hash)
}

fn label_of(line: &[u8], ids: IdHasher) -> String {
    let reply = ReplyReader::new(ids).read(line, ReplyRole::Error);
    reply.and_then(|reply| reply.error).unwrap_or_else(|| OTHER_ERRORS.to_owned())
}

/// A reply file that is open.
struct OpenFile<'f> {
    reply_file: &'f ReplyFile,
    file: File,
    /// Bytes of a byte order mark, which belong to no reply.
    mark_bytes: u64,
    bytes: u64,
}

/// A line of a reply file; without a reply when it is unreadable.
pub(super) struct Found {
    /// Number of the file.
    pub(super) file: u32,
    pub(super) offset: u64,
    /// 0 for a line longer than [`REPLY_BYTES_MAX`].
    pub(super) length: u32,
    pub(super) reply: Option<Reply>,
    /// The number of the request that it answers.
    pub(super) request: Option<u32>,
}

/// What a thread hands over: the hashes of the blocks, and the lines that begin in them.
type ReplyChunk = (Vec<[u8; 8]>, Vec<Found>);

impl<'f> OpenFile<'f> {
    fn open(reply_file: &'f ReplyFile) -> Result<Self, ResultsError> {
        let file = File::open(&reply_file.path).map_err(FileError::on("open", &reply_file.path))?;
        let bytes = file.metadata().map_err(FileError::on("read", &reply_file.path))?.len();
        let mark_bytes = lines::mark_bytes(&file).map_err(FileError::on("read", &reply_file.path))?;
        Ok(Self { reply_file, file, mark_bytes, bytes })
    }

    fn extent(&self) -> Extent<'_> {
        Extent { file: &self.file, start: self.mark_bytes, end: self.bytes }
    }

    fn read_chunk(&self, block: &mut Block, reader: &mut ReplyReader, number: u64) -> Result<ReplyChunk, ResultsError> {
        let (mut hashes, mut found) = (Vec::new(), Vec::new());
        let first = number * CHUNK_BLOCKS;
        for number in first..(first + CHUNK_BLOCKS).min(self.extent().blocks()) {
            let hash = self
                .read_block(block, reader, number, &mut found)
                .map_err(FileError::on("read", &self.reply_file.path))?;
            hashes.push(hash.to_le_bytes());
        }
        Ok((hashes, found))
    }

    fn read_block(
        &self,
        block: &mut Block,
        reader: &mut ReplyReader,
        number: u64,
        found: &mut Vec<Found>,
    ) -> io::Result<u64> {
        let extent = self.extent();
        let file = self.reply_file.number;
        block.read(&extent, number)?;
        let hash = block.hash();
        while let Some(line) = block.next_line(&extent, REPLY_BYTES_MAX)? {
            let (offset, line) = match line {
                Line::Whole { offset, line } => (offset, lines::without_carriage_return(line)),
                Line::TooLong { offset } => {
                    found.push(Found { file, offset, length: 0, reply: None, request: None });
                    continue;
                }
            };
            if !lines::is_blank(line) {
                let reply = reader.read(line, self.reply_file.role);
                let length = u32::try_from(line.len()).unwrap_or(u32::MAX);
                found.push(Found { file, offset, length, reply, request: None });
            }
        }
        Ok(hash)
    }
}

/// A line of one of these files. It is opened for it: few lines are read a second time, and there may be more files than can be open.
pub(super) fn line_of(files: &[ReplyFile], file: u32, offset: u64, length: u32) -> Result<Vec<u8>, ResultsError> {
    let found = files.iter().find(|known| known.number == file);
    let path = &found.expect("the place was found in one of these files").path;
    let mut line = vec![0; length as usize];
    let open = File::open(path).map_err(FileError::on("open", path))?;
    open.read_exact_at(&mut line, offset).map_err(FileError::on("read", path))?;
    Ok(line)
}

/// Gives replies their slots, in file order.
pub(super) struct Placing<'p> {
    pub(super) files: &'p [ReplyFile],
    pub(super) slots: &'p mut [Option<Slot>],
    pub(super) aside: &'p mut SideFiles,
    pub(super) ids: IdHasher,
    pub(super) indexed: Indexed,
}

impl Placing<'_> {
    pub(super) fn place(&mut self, found: Found) -> Result<(), ResultsError> {
        self.indexed.replies += 1;
        let Found { file, offset, length, reply, request } = found;
        let Some(reply) = reply else {
            self.indexed.unreadable += 1;
            return Ok(self.aside.keep(Aside::Unreadable, &line_of(self.files, file, offset, length)?)?);
        };
        let Some(request) = request else {
            self.indexed.unknown += 1;
            return Ok(self.aside.keep(Aside::Unknown, &line_of(self.files, file, offset, length)?)?);
        };
        let slot = Slot { offset, length, file, kind: reply.kind };
        let request = request as usize;
        match self.slots[request] {
            Some(kept) if self.files.iter().any(|file| file.number == kept.file) => {
                self.settle(request, kept, slot, &reply)
            }
            // Filled from another set of files, it belongs to another round. What is newer stands: files are numbered by time, and
            // an earlier round is indexed late when something of it has to be made again.
            Some(kept) if kept.file > slot.file => Ok(()),
            _ => self.keep(request, slot, &reply),
        }
    }

    /// Two replies to one request.
    fn settle(&mut self, request: usize, kept: Slot, slot: Slot, reply: &Reply) -> Result<(), ResultsError> {
        let kept_line = self.read(kept)?;
        let line = self.read(slot)?;
        if kept_line == line {
            self.indexed.duplicates += 1;
            return Ok(());
        }
        self.indexed.conflicts += 1;
        if kept.kind == ReplyKind::Output || reply.kind.is_error() {
            return Ok(self.aside.keep(Aside::Conflict, &line)?);
        }
        // An output came after an error: it takes its place.
        self.indexed.forget_error(&label_of(&kept_line, self.ids));
        self.keep(request, slot, reply)?;
        Ok(self.aside.keep(Aside::Conflict, &kept_line)?)
    }

    fn keep(&mut self, request: usize, slot: Slot, reply: &Reply) -> Result<(), ResultsError> {
        self.slots[request] = Some(slot);
        self.indexed.usage += reply.usage;
        match (reply.kind, &reply.error) {
            (ReplyKind::Output, _) => self.indexed.outputs += 1,
            (ReplyKind::Error | ReplyKind::Retryable, Some(label)) => self.indexed.count_error(label),
            (ReplyKind::Error | ReplyKind::Retryable, None) => {
                let line = self.read(slot)?;
                self.indexed.count_error(&label_of(&line, self.ids));
            }
        }
        Ok(())
    }

    fn read(&self, slot: Slot) -> Result<Vec<u8>, ResultsError> {
        line_of(self.files, slot.file, slot.offset, slot.length)
    }
}
