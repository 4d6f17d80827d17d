//! The replies of a window of the output, in memory.
//!
//! In: Seqs. Out: the bytes of their replies. They come from the first of these that has them:
//!
//! - replies that were [rearranged](super::rearrange), which lie together;
//! - files that are [cached](super::reply_cache);
//! - their files, where replies that lie close together are read together.
//!
//! Invariants: memory is a window, with what lies between its replies, and what the others hold.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::ResultsError;
use super::rearrange::Rearranged;
use super::reply_index::Slot;
use super::window::MergeInputs;
use crate::storage::aligned::{ALIGNMENT, AlignedBuffer};
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Reply files that each thread keeps open.
const OPEN_FILES_MAX: usize = 16;

/// Replies with at most this many bytes between them are read together: to copy those takes less time than a read.
const GAP_BYTES_MAX: u64 = 8 * 1024;

/// Reads the replies of windows, one after the other; one for each thread.
pub(super) struct WindowReplies<'m> {
    inputs: MergeInputs<'m>,
    rearranged: Option<&'m Rearranged>,
    open: BTreeMap<u32, OpenReplies>,
    /// Where the replies of the current window are: a part and an offset in it.
    places: Vec<Option<(usize, usize)>>,
    parts: Vec<Arc<AlignedBuffer>>,
    /// Replies that are still to be read, with their places in the window.
    unread: Vec<(Slot, usize)>,
    /// What was read for the last window.
    read: AlignedBuffer,
}

/// An open reply file.
pub(super) struct OpenReplies {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn ReadAt>,
    bytes: u64,
    /// All of it, for as long as this window lasts.
    held: Option<Arc<AlignedBuffer>>,
}

impl<'m> WindowReplies<'m> {
    pub(super) fn new(inputs: MergeInputs<'m>, rearranged: Option<&'m Rearranged>) -> Self {
        Self {
            inputs,
            rearranged,
            open: BTreeMap::new(),
            places: Vec::new(),
            parts: Vec::new(),
            unread: Vec::new(),
            read: AlignedBuffer::default(),
        }
    }

    /// Reads the replies in these slots, one for each Seq of the window.
    pub(super) fn load(&mut self, seqs: Range<u64>, slots: &[Option<Slot>]) -> Result<(), ResultsError> {
        self.places.clear();
        self.unread.clear();
        let portion = match self.rearranged {
            Some(rearranged) => rearranged.portion(seqs.start, self.inputs)?,
            None => None,
        };
        self.parts.extend(portion.as_ref().map(|portion| portion.content()));
        let mut held = BTreeMap::new();
        for (n, (seq, slot)) in seqs.zip(slots).enumerate() {
            let place = match slot {
                None => None,
                Some(slot) => match portion.as_ref().and_then(|portion| portion.place(seq)) {
                    Some(place) => Some((0, place)),
                    None => self.held_place(*slot, n, &mut held)?,
                },
            };
            self.places.push(place);
        }
        self.read_unread()
    }

    /// The place of a reply whose file is cached; if it is not, the reply is to be read. `held` are the parts of the
    /// cached files of this window.
    fn held_place(
        &mut self,
        slot: Slot,
        n: usize,
        held: &mut BTreeMap<u32, usize>,
    ) -> Result<Option<(usize, usize)>, ResultsError> {
        let part = held.get(&slot.file).copied();
        let bytes = match part {
            Some(part) => self.parts[part].len() as u64,
            None => self.file(slot.file)?.bytes,
        };
        let length = u64::from(slot.length.ok_or_else(|| damaged(slot))?);
        if slot.offset.saturating_add(length) > bytes {
            return Err(damaged(slot));
        }
        let part = part.or_else(|| {
            self.parts.push(self.open[&slot.file].held.clone()?);
            held.insert(slot.file, self.parts.len() - 1);
            Some(self.parts.len() - 1)
        });
        if part.is_none() {
            self.unread.push((slot, n));
        }
        Ok(part.map(|part| (part, position(slot.offset))))
    }

    /// Reads what is neither rearranged nor cached.
    fn read_unread(&mut self) -> Result<(), ResultsError> {
        if self.unread.is_empty() {
            return Ok(());
        }
        let mut unread = std::mem::take(&mut self.unread);
        unread.sort_unstable_by_key(|(slot, _)| (slot.file, slot.offset));
        let groups = || unread.chunk_by(|(one, _), (next, _)| lie_together(*one, *next));
        let room = |group: &[(Slot, usize)]| position(extent(group).end - extent(group).start) + 2 * ALIGNMENT;
        let mut read = std::mem::take(&mut self.read);
        read.place(0, groups().map(room).sum());
        let mut at = 0_usize;
        for group in groups() {
            let Range { start, end } = extent(group);
            // At the same offset in a cache line as in the file.
            at = at.next_multiple_of(ALIGNMENT) + position(start % ALIGNMENT as u64);
            let next = at + position(end - start);
            let OpenReplies { path, file, .. } = self.file(group[0].0.file)?;
            file.read_exact_at(&mut read[at..next], start).map_err(FileError::on("read", path))?;
            for (slot, n) in group {
                self.places[*n] = Some((self.parts.len(), at + position(slot.offset - start)));
            }
            at = next;
        }
        self.parts.push(Arc::new(read));
        self.unread = unread;
        Ok(())
    }

    /// The reply in a slot, which is the n-th of the window.
    pub(super) fn reply(&self, n: usize, slot: Slot) -> Result<&[u8], ResultsError> {
        let (Some((part, at)), Some(length)) = (self.places[n], slot.length) else { return Err(damaged(slot)) };
        let reply = &self.parts[part][at..at + length as usize];
        let object = reply.trim_ascii();
        if object.starts_with(b"{") && object.ends_with(b"}") { Ok(reply) } else { Err(damaged(slot)) }
    }

    /// Ends the window: releases cached files, so that they can be evicted, and looks up the others again.
    pub(super) fn end(&mut self) {
        self.open.clear();
        let last = self.parts.drain(..).next_back();
        if let Some(read) = last.filter(|_| !self.unread.is_empty()).and_then(Arc::into_inner) {
            self.read = read;
        }
    }

    /// An open reply file.
    pub(super) fn file(&mut self, number: u32) -> Result<&OpenReplies, ResultsError> {
        if !self.open.contains_key(&number) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.open.pop_first();
            }
            let path = (self.inputs.path)(number)?;
            let file = LocalFile::open(&path)?;
            let bytes = file.size().map_err(FileError::on("read", &path))?;
            let held = self.inputs.held.content(number, &file, bytes).map_err(FileError::on("read", &path))?;
            self.open.insert(number, OpenReplies { path, file: Arc::new(file), bytes, held });
        }
        Ok(&self.open[&number])
    }
}

/// Whether two replies, the second of which lies behind the first, are read together.
fn lie_together(one: Slot, next: Slot) -> bool {
    one.file == next.file && next.offset <= end_of(one) + GAP_BYTES_MAX
}

fn end_of(slot: Slot) -> u64 {
    slot.offset + u64::from(slot.length.unwrap_or(0))
}

/// From the first byte of these replies, which are sorted, to their last.
fn extent(group: &[(Slot, usize)]) -> Range<u64> {
    let end = group.iter().map(|(slot, _)| end_of(*slot)).max();
    group[0].0.offset..end.unwrap_or(group[0].0.offset)
}

/// An offset within what is in memory.
fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("what is in memory is smaller than the address space")
}

/// The error about a slot that does not lead to a reply.
pub(super) fn damaged(slot: Slot) -> ResultsError {
    ResultsError::Damaged { number: slot.file, offset: slot.offset }
}
