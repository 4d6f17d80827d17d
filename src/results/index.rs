//! Reply files to slots: the step "index".
//!
//! In: the reply files of one batch (or those that the user downloaded), and the ids of the requests they may
//! answer. Out: one slot for each request that was answered, and counts that account for every line of the files.
//!
//! A reply whose id matches no request may have a near id of one: it is examined once all others have been placed.
//!
//! Invariants: each reply is kept (it fills a slot), a duplicate, in conflict or unknown, and is counted once, as is
//! each line that is unreadable. Replies may have any length: at most a few MiB of each is in memory. Which reply wins
//! does not depend on threads: the first in file order, but an output before an error.

use std::collections::BTreeSet;
use std::path::Path;

use super::ResultsError;
use super::id_table::IdTable;
use super::near_ids::{self, STRANGERS_MIN, Strangers};
pub use super::reply_file::ReplyFile;
use super::reply_file::{self, Found, Strays};
use super::reply_index::Slot;
use super::reply_text::ReplyText;
use super::side_files::{Aside, SideFiles};
use crate::dialect::ReplyNames;
use crate::dialect::reply_reader::ReplyReader;
use crate::model::outcome::{Indexed, OTHER_ERRORS};
use crate::model::reply::{Reply, ReplyKind, ReplyRole, Usage};
use xxhash_rust::xxh3::Xxh3Default;

use crate::model::custom_id::IdHasher;
use crate::storage::durable::FileError;
use crate::storage::lines;
use crate::storage::lines::{Block, Extent};
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// How to read reply files.
#[derive(Debug, Clone, Copy)]
pub struct IndexOptions {
    /// Hashes ids.
    pub ids: IdHasher,
    /// Threads that read.
    pub threads: usize,
    /// What to do about files of another kind.
    pub strays: Strays,
}

/// Reads the files, in the order given, and fills the slots. Slot n belongs to the request that `table` gives number n.
///
/// If there are unmatched replies, and requests without one, `each_id` is called to yield the number and the id of each
/// request, to match near ids. As many such replies are examined as there are requests, or `STRANGERS_MIN`.
///
/// # Errors
/// When a file cannot be read, is not a reply file and those are refused, or replies to set aside cannot be written;
/// and those of `each_id`.
pub fn index<E: From<ResultsError>>(
    files: &[ReplyFile],
    table: &IdTable,
    options: IndexOptions,
    each_id: impl FnOnce(&mut dyn FnMut(u64, &str)) -> Result<(), E>,
    slots: &mut [Option<Slot>],
    aside: &mut SideFiles,
) -> Result<Indexed, E> {
    let IndexOptions { ids, threads, strays } = options;
    let mut placing = Placing::new(files, ids, aside, slots.len().max(STRANGERS_MIN));
    let take = |found| placing.place(slots, found);
    let checksums = reply_file::read(files, ids, threads, strays, Some(table), &|_| (), take)?;
    let met = placing.meet(slots.len() as u64, each_id)?;
    placing.place_near(slots, met, |request| usize::try_from(request).unwrap_or(usize::MAX))?;
    Ok(Indexed { checksums, ..placing.indexed })
}

/// The checksum of a reply file, as the index takes it.
pub fn file_checksum(path: &Path) -> Result<u128, FileError> {
    let file = LocalFile::open(path)?;
    let end = file.size().map_err(FileError::on("read", path))?;
    let start = lines::mark_bytes(&file).map_err(FileError::on("read", path))?;
    let extent = Extent { file: &file, start, end };
    let (mut block, mut checksum) = (Block::default(), Xxh3Default::new());
    for number in 0..extent.blocks() {
        block.read(&extent, number).map_err(FileError::on("read", path))?;
        checksum.update(&block.hash().to_le_bytes());
    }
    Ok(checksum.digest128())
}

/// The kind under which the error reply in a slot is counted. `path` is the slot's file.
pub fn error_label(path: &Path, slot: Slot, ids: IdHasher) -> Result<String, ResultsError> {
    Ok(label_of(&text_of(path, slot)?, ids)?)
}

/// The hash of the id in the reply that a slot refers to; `None` if there is no readable reply.
#[must_use]
pub fn id_at(path: &Path, slot: Slot, ids: IdHasher) -> Option<u128> {
    let reply = text_of(path, slot).ok()?.read(&mut ReplyReader::new(ids, &ReplyNames::COMMON), ReplyRole::Output);
    reply.ok()?.map(|reply| reply.id_hash)
}

/// Whether the reply that a slot refers to answers a request with this id by a near id.
pub fn is_near(path: &Path, slot: Slot, id: &str) -> Result<bool, ResultsError> {
    Ok(text_of(path, slot)?.id()?.is_some_and(|found| near_ids::canonical(&found) == near_ids::canonical(id)))
}

/// The path of one of the files.
fn path_of(files: &[ReplyFile], number: u32) -> &Path {
    let file = files.iter().find(|file| file.number == number);
    &file.expect("the place was found in one of these files").path
}

/// The reply that a slot refers to. Its file is opened each time: few replies are read twice, and there may be more
/// files than can be open.
fn text_of(path: &Path, slot: Slot) -> Result<ReplyText, FileError> {
    ReplyText::open(path, slot.offset, slot.length.map(u64::from))
}

fn label_of(text: &ReplyText, ids: IdHasher) -> Result<String, FileError> {
    let reply = text.read(&mut ReplyReader::new(ids, &ReplyNames::COMMON), ReplyRole::Error)?;
    Ok(reply.and_then(|reply| reply.error).unwrap_or_else(|| OTHER_ERRORS.to_owned()))
}

/// Assigns replies to slots, in file order.
pub(super) struct Placing<'p> {
    files: &'p [ReplyFile],
    ids: IdHasher,
    aside: &'p mut SideFiles,
    /// Unmatched replies.
    strangers: Strangers,
    /// The counts of all replies.
    pub(super) indexed: Indexed,
}

impl<'p> Placing<'p> {
    /// At most this many unmatched replies are kept for near ids.
    pub(super) fn new(files: &'p [ReplyFile], ids: IdHasher, aside: &'p mut SideFiles, strangers: usize) -> Self {
        Self { files, ids, aside, strangers: Strangers::new(strangers), indexed: Indexed::default() }
    }

    /// Assigns a reply to the slot of the request that it answers.
    pub(super) fn place(&mut self, slots: &mut [Option<Slot>], found: Found) -> Result<(), ResultsError> {
        self.indexed.replies += 1;
        match (&found.reply, found.request) {
            (None, _) => {
                self.indexed.unreadable += 1;
                self.set_aside(Aside::Unreadable, &found)
            }
            (Some(reply), Some(request)) => self.place_at(&mut slots[request as usize], &found, reply),
            (Some(_), None) => match self.strangers.take(found) {
                Some(found) => self.set_aside_unknown(&found),
                None => Ok(()),
            },
        }
    }

    /// Counts outputs that were assigned elsewhere, each the first reply to its request.
    pub(super) fn count_outputs(&mut self, outputs: u64, usage: Usage) {
        self.indexed.replies += outputs;
        self.indexed.outputs += outputs;
        self.indexed.usage += usage;
    }

    /// Unmatched replies with the requests that they answer by near ids. `each_id` is called only if a request is
    /// without a reply.
    pub(super) fn meet<E: From<ResultsError>>(
        &mut self,
        requests: u64,
        each_id: impl FnOnce(&mut dyn FnMut(u64, &str)) -> Result<(), E>,
    ) -> Result<Vec<(Found, Option<u64>)>, E> {
        let strangers = std::mem::take(&mut self.strangers);
        if self.indexed.outputs + self.indexed.errors == requests {
            return Ok(strangers.answering_nobody());
        }
        strangers.meet(self.files, self.ids, each_id)
    }

    /// Places replies that match requests by near ids; the others, and those to requests with an exact reply, are set
    /// aside. `place_of` returns the position of a request's slot.
    pub(super) fn place_near(
        &mut self,
        slots: &mut [Option<Slot>],
        met: Vec<(Found, Option<u64>)>,
        place_of: impl Fn(u64) -> usize,
    ) -> Result<(), ResultsError> {
        let mut recognised = BTreeSet::new();
        for (found, request) in met {
            match (&found.reply, request.map(&place_of)) {
                (Some(reply), Some(place)) if recognised.contains(&place) || !self.is_own(slots[place]) => {
                    recognised.insert(place);
                    self.place_at(&mut slots[place], &found, reply)?;
                }
                _ => self.set_aside_unknown(&found)?,
            }
        }
        self.indexed.recognised += recognised.len() as u64;
        Ok(())
    }

    /// Whether a slot refers to one of these files.
    fn is_own(&self, slot: Option<Slot>) -> bool {
        slot.is_some_and(|slot| self.files.iter().any(|file| file.number == slot.file))
    }

    fn set_aside_unknown(&mut self, found: &Found) -> Result<(), ResultsError> {
        self.indexed.unknown += 1;
        self.set_aside(Aside::Unknown, found)
    }

    fn set_aside(&mut self, aside: Aside, found: &Found) -> Result<(), ResultsError> {
        let text = ReplyText::open(path_of(self.files, found.file), found.offset, found.length)?;
        Ok(self.aside.keep(aside, &text)?)
    }

    fn place_at(&mut self, place: &mut Option<Slot>, found: &Found, reply: &Reply) -> Result<(), ResultsError> {
        let Found { file, offset, length, .. } = found;
        let slot = Slot { offset: *offset, length: length.and_then(Slot::length), file: *file, kind: reply.kind };
        match *place {
            Some(kept) if self.is_own(*place) => self.settle(place, kept, slot, reply),
            // Filled from another set of files, it belongs to another round. The newer reply is kept: files are
            // numbered chronologically, and an earlier round is indexed late when part of it has to be rebuilt.
            Some(kept) if kept.file > slot.file => Ok(()),
            _ => self.keep(place, slot, reply),
        }
    }

    /// Two replies to one request.
    fn settle(&mut self, place: &mut Option<Slot>, kept: Slot, slot: Slot, reply: &Reply) -> Result<(), ResultsError> {
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
        // An output after an error replaces it.
        self.indexed.forget_error(&label_of(&kept_text, self.ids)?);
        self.keep(place, slot, reply)?;
        Ok(self.aside.keep(Aside::Conflict, &kept_text)?)
    }

    fn keep(&mut self, place: &mut Option<Slot>, slot: Slot, reply: &Reply) -> Result<(), ResultsError> {
        *place = Some(slot);
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
        text_of(path_of(self.files, slot.file), slot)
    }
}
