//! The reply index: one fixed-width slot for each line of the input, by Seq, that says where its reply is.
//!
//! In: slots of one shard after another, in any order. Out: the slot of any Seq.
//!
//! ```text
//! byte  0   6      10    14   15
//!       | offset | length | file | kind | check |      all little-endian, in a file of records (see `storage/records`)
//! ```
//!
//! A reply of [`LONG_BYTES`] or more has all bits of its length set: it ends with its closing bracket. So a slot can
//! refer to a reply of any length, and only one of 4 GiB or more is scanned to find its end.
//!
//! The file begins as a hole of its final size: no replies. The Ledger records what is written: a shard's slots are
//! synced before its step is recorded, and writing them again is idempotent.

use crate::model::reply::ReplyKind;
use crate::storage::records::{Record, RecordFile};

/// The index on disk.
pub type ReplyIndex = RecordFile<Slot>;

/// The minimum length that a slot does not store.
pub const LONG_BYTES: u64 = u32::MAX as u64;

/// The location of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Offset of its first byte in its reply file.
    pub offset: u64,
    /// Its length in bytes; `None` for [`LONG_BYTES`] or more, in which case it ends with its closing bracket.
    pub length: Option<u32>,
    /// Number of the reply file.
    pub file: u32,
    /// The kind of the reply.
    pub kind: ReplyKind,
}

impl Slot {
    /// A length as slots store it.
    #[must_use]
    pub fn length(bytes: u64) -> Option<u32> {
        u32::try_from(bytes).ok().filter(|_| bytes < LONG_BYTES)
    }
}

impl Record for Slot {
    const KIND: &'static str = "replies";
    const BYTES: usize = 15;

    fn write(self, content: &mut [u8]) {
        content[..6].copy_from_slice(&self.offset.to_le_bytes()[..6]);
        content[6..10].copy_from_slice(&self.length.unwrap_or(u32::MAX).to_le_bytes());
        content[10..14].copy_from_slice(&self.file.to_le_bytes());
        content[14] = match self.kind {
            ReplyKind::Output => 1,
            ReplyKind::Error => 2,
            ReplyKind::Retryable => 3,
        };
    }

    fn read(content: &[u8]) -> Result<Self, String> {
        let mut offset = [0; 8];
        offset[..6].copy_from_slice(&content[..6]);
        let word = |at: usize| u32::from_le_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
        let kind = match content[14] {
            1 => ReplyKind::Output,
            2 => ReplyKind::Error,
            3 => ReplyKind::Retryable,
            other => return Err(format!("kind {other} is unknown")),
        };
        let length = Self::length(word(6).into());
        Ok(Self { offset: u64::from_le_bytes(offset), length, file: word(10), kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let slot = |seq: u64| {
            let kind = [ReplyKind::Output, ReplyKind::Error, ReplyKind::Retryable][usize::try_from(seq % 3).unwrap()];
            let length = if seq.is_multiple_of(2) { None } else { Some(u32::MAX - 1) };
            (!seq.is_multiple_of(5)).then_some(Slot { offset: (1 << 47) + seq, length, file: u32::MAX - 9, kind })
        };
        let index = ReplyIndex::scratch(directory.path(), 100).unwrap();
        index.write(0, (0..100).map(slot)).unwrap();
        assert!(index.read(0, 100).unwrap().into_iter().eq((0..100).map(slot)));
    }
}
