//! The rearranged replies of a part of the output, in memory.

use std::sync::Arc;

use crate::storage::aligned::AlignedBuffer;

/// See the [module](self).
#[derive(Debug)]
pub(in crate::results) struct Portion {
    first: u64,
    /// Where the reply to each Seq is; `None` if it is not here.
    places: Vec<Option<u32>>,
    content: Arc<AlignedBuffer>,
}

impl Portion {
    pub(super) fn new(first: u64, places: Vec<Option<u32>>, content: AlignedBuffer) -> Self {
        Self { first, places, content: Arc::new(content) }
    }

    /// All replies.
    pub(in crate::results) fn content(&self) -> Arc<AlignedBuffer> {
        self.content.clone()
    }

    /// Where the reply to a Seq begins.
    pub(in crate::results) fn place(&self, seq: u64) -> Option<usize> {
        let n = usize::try_from(seq - self.first).ok()?;
        Some(self.places.get(n).copied().flatten()? as usize)
    }

    /// The memory, to be used again; empty if some of it is still in use.
    pub(super) fn into_content(self) -> AlignedBuffer {
        Arc::into_inner(self.content).unwrap_or_default()
    }
}
