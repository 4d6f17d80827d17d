//! Reply files to slots: the step "index".
//!
//! In: the reply files of one batch (or those that somebody downloaded by hand), and the ids of the requests they may answer.
//! Out: one slot for each request that was answered, and counts that account for every line of the files.
//!
//! What always holds: each reply is kept (it fills a slot), a duplicate, in conflict or unknown, and is counted once, as is each line that is
//! unreadable. Replies have any length: more than a few MiB of none is in memory. Which reply wins does not depend on threads: the first in file order, but an output before an error.

use std::fs::File;
use std::path::Path;

use super::ResultsError;
use super::id_table::IdTable;
pub use super::reply_file::ReplyFile;
use super::reply_file::{self, Found, Strays};
use super::reply_index::Slot;
use super::reply_text::ReplyText;
use super::side_files::{Aside, SideFiles};
use crate::dialect::ReplyNames;
use crate::dialect::reply_reader::ReplyReader;
use crate::model::outcome::{Indexed, OTHER_ERRORS};
use crate::model::reply::{Reply, ReplyKind, ReplyRole};
use xxhash_rust::xxh3::Xxh3Default;

use crate::model::custom_id::IdHasher;
use crate::storage::durable::FileError;
use crate::storage::lines;
use crate::storage::lines::{Block, Extent};

/// Reads the files, in the order given, and fills the slots. Slot n belongs to the request that `table` gives number n.
///
/// # Errors
/// When a file cannot be read, is no file of replies and strays are refused, or replies to set aside cannot be written.
pub fn index(
    files: &[ReplyFile],
    table: &IdTable,
    ids: IdHasher,
    threads: usize,
    strays: Strays,
    slots: &mut [Option<Slot>],
    aside: &mut SideFiles,
) -> Result<Indexed, ResultsError> {
    let mut placing = Placing { files, slots, aside, ids, indexed: Indexed::default() };
    let request_of = |id| table.get(id);
    let take = |found| placing.place(found);
    let checksums = reply_file::read(files, ids, threads, strays, &request_of, &|_| (), take)?;
    Ok(Indexed { checksums, ..placing.indexed })
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
    Ok(label_of(&text_of(path, slot)?, ids)?)
}

/// The hash of the id in the reply that a slot leads to; `None` when there is no readable reply.
#[must_use]
pub fn id_at(path: &Path, slot: Slot, ids: IdHasher) -> Option<u128> {
    let reply = text_of(path, slot).ok()?.read(&mut ReplyReader::new(ids, &ReplyNames::COMMON), ReplyRole::Output);
    reply.ok()?.map(|reply| reply.id_hash)
}

/// The reply that a slot leads to. Its file is opened for it: few replies are read a second time, and there may be more files than can be open.
fn text_of(path: &Path, slot: Slot) -> Result<ReplyText, FileError> {
    ReplyText::open(path, slot.offset, slot.length.map(u64::from))
}

fn label_of(text: &ReplyText, ids: IdHasher) -> Result<String, FileError> {
    let reply = text.read(&mut ReplyReader::new(ids, &ReplyNames::COMMON), ReplyRole::Error)?;
    Ok(reply.and_then(|reply| reply.error).unwrap_or_else(|| OTHER_ERRORS.to_owned()))
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
        let aside = |placing: &mut Self, aside| {
            let text = ReplyText::open(placing.path(file), offset, length)?;
            Ok(placing.aside.keep(aside, &text)?)
        };
        let Some(reply) = reply else {
            self.indexed.unreadable += 1;
            return aside(self, Aside::Unreadable);
        };
        let Some(request) = request else {
            self.indexed.unknown += 1;
            return aside(self, Aside::Unknown);
        };
        let slot = Slot { offset, length: length.and_then(Slot::length), file, kind: reply.kind };
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
        let kept_text = self.text(kept)?;
        let text = self.text(slot)?;
        if kept_text.is_same_as(&text)? {
            self.indexed.duplicates += 1;
            return Ok(());
        }
        self.indexed.conflicts += 1;
        if kept.kind == ReplyKind::Output || reply.kind.is_error() {
            return Ok(self.aside.keep(Aside::Conflict, &text)?);
        }
        // An output came after an error: it takes its place.
        self.indexed.forget_error(&label_of(&kept_text, self.ids)?);
        self.keep(request, slot, reply)?;
        Ok(self.aside.keep(Aside::Conflict, &kept_text)?)
    }

    fn keep(&mut self, request: usize, slot: Slot, reply: &Reply) -> Result<(), ResultsError> {
        self.slots[request] = Some(slot);
        self.indexed.usage += reply.usage;
        match (reply.kind, &reply.error) {
            (ReplyKind::Output, _) => self.indexed.outputs += 1,
            (ReplyKind::Error | ReplyKind::Retryable, Some(label)) => self.indexed.count_error(label),
            (ReplyKind::Error | ReplyKind::Retryable, None) => {
                let label = label_of(&self.text(slot)?, self.ids)?;
                self.indexed.count_error(&label);
            }
        }
        Ok(())
    }

    fn text(&self, slot: Slot) -> Result<ReplyText, FileError> {
        text_of(self.path(slot.file), slot)
    }

    /// The path of one of the files.
    fn path(&self, number: u32) -> &Path {
        let file = self.files.iter().find(|file| file.number == number);
        &file.expect("the place was found in one of these files").path
    }
}
