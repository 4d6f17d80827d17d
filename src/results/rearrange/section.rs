//! Sections of reply files, whose replies are written in order of their Seqs.
//!
//! In: slots, in order of their Seqs. Out: the same replies in a scratch file, section by section.
//!
//! A reply belongs to the section in which it begins. Slots wait in [`Partitions`], one per section.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::{BLOCK_BYTES, Plan, position};
use crate::results::ResultsError;
use crate::results::reply_index::Slot;
use crate::results::window::MergeInputs;
use crate::storage::aligned::{AlignedBuffer, BlockWriter};
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::ordered::in_order;
use crate::storage::partitions::Partitions;
use crate::storage::read_at::ReadAt;
use crate::storage::records::Record;

/// Sections that are written at a time: while one is read, the other one is written.
pub(super) const WRITERS_MAX: usize = 2;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Sections {
    /// The size of a section as a power of two.
    shift: u32,
    /// For each file, its number and that of its first section.
    files: Vec<(u32, usize)>,
    /// Bytes of the replies of each section.
    bytes: Vec<u64>,
    entries: Option<Partitions<Entry>>,
}

/// A reply in a section.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where it begins in the section.
    offset: u32,
    length: u32,
}

impl Record for Entry {
    const KIND: &'static str = "section";
    const BYTES: usize = 2 * size_of::<u32>();

    fn write(self, content: &mut [u8]) {
        content[..4].copy_from_slice(&self.offset.to_le_bytes());
        content[4..].copy_from_slice(&self.length.to_le_bytes());
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        let word = |at: usize| u32::from_le_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
        Ok(Self { offset: word(0), length: word(4) })
    }
}

impl Sections {
    /// The sections of the files, without replies.
    pub(super) fn new(plan: &Plan, inputs: MergeInputs<'_>) -> Self {
        let shift = plan.section_bytes.ilog2();
        let (mut files, mut count) = (Vec::new(), 0);
        for (file, bytes) in &plan.files {
            files.push((*file, count));
            count += position(bytes >> shift) + 1;
        }
        let budget = position(inputs.held.budget_bytes() / 4);
        Self { shift, files, bytes: vec![0; count], entries: Some(Partitions::new(count, budget, inputs.scratch)) }
    }

    /// The section of a reply.
    pub(super) fn of(&self, slot: Slot) -> usize {
        let file = self.files.partition_point(|(file, _)| *file <= slot.file) - 1;
        self.files[file].1 + position(slot.offset >> self.shift)
    }

    /// Adds a reply; its Seq is greater than those before.
    pub(super) fn add(&mut self, slot: Slot) -> Result<(), FileError> {
        let (section, length) = (self.of(slot), slot.length.unwrap_or(0));
        self.bytes[section] += u64::from(length);
        let offset = slot.offset & ((1 << self.shift) - 1);
        let entry = Entry { offset: u32::try_from(offset).expect("sections have at most 1 GiB"), length };
        self.entries.as_mut().expect("they are there until they are written").add(section, entry)
    }

    /// Writes all sections. Returns where each of them begins.
    pub(super) fn write(&mut self, inputs: MergeInputs<'_>, scratch: &LocalFile) -> Result<Vec<u64>, ResultsError> {
        let entries = self.entries.take().expect("they are written once");
        let mut end = 0;
        let starts = self.bytes.iter().map(|bytes| {
            let start = end;
            end = (start + bytes).next_multiple_of(BLOCK_BYTES);
            start
        });
        let starts: Vec<u64> = starts.collect();
        let writer =
            Writer { sections: self, entries: &entries, starts: &starts, inputs, scratch, file: Mutex::default() };
        in_order(
            inputs.threads.min(WRITERS_MAX),
            self.bytes.len() as u64,
            AlignedBuffer::default,
            |section, number| writer.write(position(number), section),
            |()| Ok(()),
        )?;
        Ok(starts)
    }

    /// The file of a section, and where that begins in it.
    fn place(&self, section: usize) -> (u32, u64) {
        let (file, first) = self.files[self.files.partition_point(|(_, first)| *first <= section) - 1];
        (file, ((section - first) as u64) << self.shift)
    }
}

/// Writes sections.
struct Writer<'w> {
    sections: &'w Sections,
    entries: &'w Partitions<Entry>,
    starts: &'w [u64],
    inputs: MergeInputs<'w>,
    scratch: &'w LocalFile,
    /// The file that was read last.
    file: Mutex<Option<OpenFile>>,
}

#[derive(Debug, Clone)]
struct OpenFile {
    number: u32,
    path: PathBuf,
    file: Arc<LocalFile>,
}

impl Writer<'_> {
    /// Reads a section as far as there are replies in it, and writes them.
    fn write(&self, number: usize, section: &mut AlignedBuffer) -> Result<(), ResultsError> {
        let entries = self.entries.load(number)?;
        let first = entries.iter().map(|entry| entry.offset).min();
        let Some(first) = first else { return Ok(()) };
        let end = entries.iter().map(|entry| u64::from(entry.offset) + u64::from(entry.length)).max().unwrap_or(0);
        let (file, start) = self.sections.place(number);
        let offset = start + u64::from(first);
        let OpenFile { path, file: open, .. } = self.open(file)?;
        section.place(offset, position(end - u64::from(first)));
        open.read_exact_at(section, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ResultsError::Damaged { number: file, offset },
            _ => FileError::on("read", &path)(error).into(),
        })?;
        let failed = |error| FileError::on("write", self.scratch.path())(error);
        let at = self.starts[number];
        let mut out = BlockWriter::starting_at(self.scratch.writer_at(at), at);
        for Entry { offset, length } in entries {
            let offset = (offset - first) as usize;
            out.write_all(&section[offset..offset + length as usize]).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
        Ok(())
    }

    fn open(&self, number: u32) -> Result<OpenFile, ResultsError> {
        let mut last = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = last.as_ref().filter(|open| open.number == number) {
            return Ok(open.clone());
        }
        let path = (self.inputs.path)(number)?;
        let file = Arc::new(LocalFile::open(&path)?);
        Ok(last.insert(OpenFile { number, path, file }).clone())
    }
}
