//! The reply index: one fixed-width slot for each line of the input, by Seq, that says where its reply stands.
//!
//! In: slots of one shard after another, in any order. Out: the slot of any Seq.
//!
//! ```text
//! byte  0   6      10    14   15   16
//!       | offset | length | file | kind | check |      all little-endian, slot n at byte 16 n; all zero: no reply
//! ```
//!
//! A reply of [`LONG_BYTES`] or more has all bits of its length set: it ends where its brackets do. So a slot leads to a reply of any length, and
//! only one of 4 GiB is looked through to find its end.
//!
//! The check is the exclusive or of the other bytes: one that the disk has changed leads to an error and never to another reply.
//!
//! The file begins as a hole of its final size. What counts as written is what the Ledger says: a shard's slots are synced
//! before its step is recorded, and writing them again changes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::model::reply::ReplyKind;
use crate::storage::durable;
use crate::storage::durable::FileError;

/// Size of a slot in bytes.
pub const SLOT_BYTES: u64 = 16;

/// Length from which on a slot does not hold it.
pub const LONG_BYTES: u64 = u32::MAX as u64;

/// Slots that are read, changed and written back at a time.
const PATCH_SLOTS: u64 = 64 * 1024;

/// Where a reply stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Offset of its first byte in its reply file.
    pub offset: u64,
    /// How many bytes it has; `None` for [`LONG_BYTES`] or more, which end where its brackets do.
    pub length: Option<u32>,
    /// Number of the reply file.
    pub file: u32,
    /// What the reply is.
    pub kind: ReplyKind,
}

impl Slot {
    /// A length as slots hold it.
    #[must_use]
    pub fn length(bytes: u64) -> Option<u32> {
        u32::try_from(bytes).ok().filter(|_| bytes < LONG_BYTES)
    }

    pub(super) fn to_bytes(slot: Option<Self>) -> [u8; 16] {
        let mut bytes = [0; 16];
        if let Some(slot) = slot {
            bytes[..6].copy_from_slice(&slot.offset.to_le_bytes()[..6]);
            bytes[6..10].copy_from_slice(&slot.length.unwrap_or(u32::MAX).to_le_bytes());
            bytes[10..14].copy_from_slice(&slot.file.to_le_bytes());
            bytes[14] = match slot.kind {
                ReplyKind::Output => 1,
                ReplyKind::Error => 2,
                ReplyKind::Retryable => 3,
            };
            bytes[15] = check(&bytes);
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; 16]) -> io::Result<Option<Self>> {
        if *bytes == [0; 16] {
            return Ok(None);
        }
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a slot is damaged: {what}"));
        if bytes[15] != check(bytes) {
            return Err(damaged("its check does not fit"));
        }
        let mut offset = [0; 8];
        offset[..6].copy_from_slice(&bytes[..6]);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = match bytes[14] {
            1 => ReplyKind::Output,
            2 => ReplyKind::Error,
            3 => ReplyKind::Retryable,
            other => return Err(damaged(&format!("kind {other} is unknown"))),
        };
        Ok(Some(Self {
            offset: u64::from_le_bytes(offset),
            length: Self::length(word(6).into()),
            file: word(10),
            kind,
        }))
    }
}

/// The exclusive or of all bytes of a slot but the last.
fn check(bytes: &[u8; 16]) -> u8 {
    bytes[..15].iter().fold(0, |check, byte| check ^ byte)
}

/// The index on disk.
#[derive(Debug)]
pub struct ReplyIndex {
    file: File,
    path: PathBuf,
    /// Shards whose requests are interleaved share pages of the file: one at a time reads, changes and writes back.
    patching: Mutex<()>,
}

impl ReplyIndex {
    /// Opens the index at `path` for `slots` slots, or makes an empty one.
    pub fn open_or_create(path: &Path, slots: u64) -> Result<Self, FileError> {
        let file = durable::open_or_create(path)?;
        if file.metadata().map_err(FileError::on("read", path))?.len() != slots * SLOT_BYTES {
            file.set_len(slots * SLOT_BYTES).map_err(FileError::on("size", path))?;
        }
        Ok(Self { file, path: path.to_owned(), patching: Mutex::new(()) })
    }

    /// Reads the slots from `first` on, `count` of them.
    pub fn read(&self, first: u64, count: u64) -> Result<Vec<Option<Slot>>, FileError> {
        let mut bytes = vec![0; usize::try_from(count * SLOT_BYTES).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, first * SLOT_BYTES).map_err(FileError::on("read", &self.path))?;
        let slots: io::Result<_> = bytes.as_chunks::<16>().0.iter().map(Slot::from_bytes).collect();
        slots.map_err(FileError::on("read", &self.path))
    }

    /// The slots of ascending Seqs.
    pub fn read_each(&self, seqs: &[u64]) -> Result<Vec<Option<Slot>>, FileError> {
        let mut slots = Vec::with_capacity(seqs.len());
        for (group, first, count) in groups(seqs) {
            let read = self.read(first, count)?;
            slots.extend(group.iter().map(|seq| read[position(seq - first)]));
        }
        Ok(slots)
    }

    /// The Seqs whose slots are not what was written.
    pub fn damaged(&self) -> Result<BTreeSet<u64>, FileError> {
        let slots = self.file.metadata().map_err(FileError::on("read", &self.path))?.len() / SLOT_BYTES;
        let mut damaged = BTreeSet::new();
        for first in (0..slots).step_by(position(PATCH_SLOTS)) {
            let mut bytes = vec![0; position(PATCH_SLOTS.min(slots - first) * SLOT_BYTES)];
            self.file.read_exact_at(&mut bytes, first * SLOT_BYTES).map_err(FileError::on("read", &self.path))?;
            let slots = (first..).zip(bytes.as_chunks::<16>().0);
            damaged.extend(slots.filter(|(_, slot)| Slot::from_bytes(slot).is_err()).map(|(seq, _)| seq));
        }
        Ok(damaged)
    }

    /// Empties the slots of some Seqs and syncs them.
    pub fn clear(&self, seqs: &BTreeSet<u64>) -> Result<(), FileError> {
        for seq in seqs {
            self.file
                .write_all_at(&Slot::to_bytes(None), seq * SLOT_BYTES)
                .map_err(FileError::on("write", &self.path))?;
        }
        durable::sync(&self.file, &self.path)
    }

    /// Writes the slots of the Seqs from `first` on, without syncing them.
    pub fn write(&self, first: u64, slots: &[Option<Slot>]) -> Result<(), FileError> {
        let mut offset = first * SLOT_BYTES;
        for group in slots.chunks(position(PATCH_SLOTS)) {
            let bytes: Vec<u8> = group.iter().flat_map(|slot| Slot::to_bytes(*slot)).collect();
            self.file.write_all_at(&bytes, offset).map_err(FileError::on("write", &self.path))?;
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    /// Writes the slots of ascending Seqs and syncs them.
    pub fn write_each(&self, seqs: &[u64], slots: &[Option<Slot>]) -> Result<(), FileError> {
        let _one_at_a_time = self.patching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slots = slots.iter();
        for (group, first, count) in groups(seqs) {
            let mut bytes = vec![0; position(count * SLOT_BYTES)];
            self.file.read_exact_at(&mut bytes, first * SLOT_BYTES).map_err(FileError::on("read", &self.path))?;
            let (patched, _) = bytes.as_chunks_mut::<16>();
            for (seq, slot) in group.iter().zip(&mut slots) {
                patched[position(seq - first)] = Slot::to_bytes(*slot);
            }
            self.file.write_all_at(&bytes, first * SLOT_BYTES).map_err(FileError::on("write", &self.path))?;
        }
        durable::sync(&self.file, &self.path)
    }
}

/// Splits ascending Seqs into groups that lie within [`PATCH_SLOTS`]: the group, its first Seq, and the slots from that to its last.
fn groups(seqs: &[u64]) -> impl Iterator<Item = (&[u64], u64, u64)> {
    let mut rest = seqs;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let (group, after) = rest.split_at(rest.partition_point(|&seq| seq < first + PATCH_SLOTS));
        rest = after;
        Some((group, first, group[group.len() - 1] - first + 1))
    })
}

/// A distance within a group, which is bounded.
fn position(distance: u64) -> usize {
    usize::try_from(distance).expect("a group of slots fits the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_interleave_do_not_disturb_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("replies.idx");
        let index = ReplyIndex::open_or_create(&path, 300_000).unwrap();
        let slot = |seq: u64, file: u32| Slot {
            offset: (1 << 47) + seq,
            length: if seq.is_multiple_of(3) { None } else { Some(u32::MAX - 1) },
            file,
            kind: if seq.is_multiple_of(2) { ReplyKind::Output } else { ReplyKind::Error },
        };
        for shard in 0..3_u32 {
            let seqs: Vec<u64> = (0..300_000).filter(|seq| seq % 4 == u64::from(shard)).collect();
            let slots: Vec<_> = seqs.iter().map(|&seq| Some(slot(seq, shard))).collect();
            index.write_each(&seqs, &slots).unwrap();
            assert_eq!(index.read_each(&seqs).unwrap(), slots);
        }
        drop(index);
        let index = ReplyIndex::open_or_create(&path, 300_000).unwrap();
        for (seq, found) in (100_u64..).zip(index.read(100, 1000).unwrap()) {
            let shard = u32::try_from(seq % 4).unwrap();
            assert_eq!(found, (shard < 3).then(|| slot(seq, shard)));
        }
    }
    #[test]
    fn a_slot_that_the_disk_has_changed_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("replies.idx");
        let index = ReplyIndex::open_or_create(&path, 3).unwrap();
        let slot = Slot { offset: 70_000, length: Some(300), file: 2, kind: ReplyKind::Output };
        index.write_each(&[0, 1], &[Some(slot), Some(slot)]).unwrap();
        let sound = std::fs::read(&path).unwrap();
        for bit in 0..8 * 48 {
            let mut changed = sound.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            index.file.write_all_at(&changed, 0).unwrap();
            assert!(index.read(0, 3).is_err(), "bit {bit}");
            let seq = bit as u64 / 128;
            assert_eq!(index.damaged().unwrap(), BTreeSet::from([seq]));
            index.clear(&BTreeSet::from([seq])).unwrap();
            assert_eq!(index.read(seq, 1).unwrap(), [None]);
        }
    }
}
