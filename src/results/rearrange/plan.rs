//! Which replies are rearranged, and in which sizes.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::results::ResultsError;
use crate::results::reply_index::Slot;
use crate::results::window::{MergeInputs, WINDOW_SEQS, is_large};

/// Size of the pieces that are read, where memory permits.
pub(super) const PIECE_BYTES: u64 = 128 * 1024;

/// Slots that are read at a time: whole windows.
const SLOTS: u64 = 256 * WINDOW_SEQS;

/// Blocks of file systems are of this size or divide it.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// What is rearranged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Size of sections and portions in bytes: a power of two, at most 1 GiB.
    pub(super) section_bytes: u64,
    /// Longer replies stay where they are.
    pub(super) reply_bytes_max: u64,
    /// Size of each reply file as far as there are replies in it.
    pub(super) files: BTreeMap<u32, u64>,
}

impl Plan {
    /// The Seqs of a window whose replies are rearranged, with their slots.
    pub(super) fn taken(&self, first: u64, window: &[Option<Slot>]) -> impl Iterator<Item = (u64, Slot)> {
        // A large window is copied line by line.
        let window = if is_large(window) { &[] } else { window };
        let slots = (first..).zip(window).filter_map(|(seq, slot)| Some((seq, (*slot)?)));
        slots.filter(|(_, slot)| slot.length.is_some_and(|length| u64::from(length) <= self.reply_bytes_max))
    }
}

/// Passes on the slots of each window of these Seqs, with its first Seq.
pub(super) fn each_window(
    seqs: Range<u64>,
    inputs: MergeInputs<'_>,
    mut take: impl FnMut(u64, &[Option<Slot>]) -> Result<(), ResultsError>,
) -> Result<(), ResultsError> {
    let mut first = seqs.start;
    while first < seqs.end {
        let slots = inputs.replies.read(first, SLOTS.min(seqs.end - first))?;
        for window in slots.chunks(position(WINDOW_SEQS)) {
            take(first, window)?;
            first += window.len() as u64;
        }
    }
    Ok(())
}

/// The length of a reply that is rearranged.
pub(super) fn bytes_of(slot: Slot) -> usize {
    slot.length.unwrap_or(0) as usize
}

/// An offset within what is in memory.
pub(super) fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("what is in memory is smaller than the address space")
}
