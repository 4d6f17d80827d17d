//! Reply files held in memory while the merge gathers from them.
//!
//! In: the number of a reply file. Out: all of its bytes, if there is room for them.
//!
//! Replies are in the service's order, so gathering them in input order needs a read for each, which costs more than
//! its bytes. Reading a file once, front to back, and gathering from memory avoids that. Shards are about as large as
//! the budget, and the merge goes through them in order.
//!
//! Invariants: memory does not exceed the budget. A file is evicted only when it has not been used for a while, so that
//! files that do not fit together do not evict each other in turn.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::storage::aligned::AlignedBuffer;
use crate::storage::read_at::ReadAt;

/// A file that was not used for this many windows may be evicted.
const IDLE_WINDOWS: u64 = 32;

/// Reply files in memory, shared by the threads that gather. See the [module](self).
#[derive(Debug)]
pub struct ReplyCache {
    budget_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u32, HeldFile>,
    bytes: u64,
    /// Windows so far.
    windows: u64,
}

#[derive(Debug)]
struct HeldFile {
    content: Arc<AlignedBuffer>,
    /// The window in which it was last used.
    used: u64,
}

impl ReplyCache {
    /// Holds nothing yet, and never more than `budget_bytes`.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes: budget_bytes as u64, state: Mutex::default() }
    }

    /// How much it holds at most.
    pub(super) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Releases all files, as far as they are not in use.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.files.clear();
        state.bytes = 0;
    }

    /// A thread begins a window.
    pub(super) fn begin_window(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).windows += 1;
    }

    /// The content of a file of `bytes` bytes, if there is room.
    pub(super) fn content(&self, number: u32, file: &dyn ReadAt, bytes: u64) -> io::Result<Option<Arc<AlignedBuffer>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let window = state.windows;
        if let Some(held) = state.files.get_mut(&number) {
            held.used = window;
            return Ok(Some(held.content.clone()));
        }
        if bytes > self.budget_bytes {
            return Ok(None);
        }
        // The memory of the evicted file is reused: new memory would be zeroed first, page by page.
        let mut content = AlignedBuffer::default();
        if state.bytes + bytes > self.budget_bytes {
            let idle = state.files.extract_if(.., |_, held| held.used + IDLE_WINDOWS < window);
            content = idle.filter_map(|(_, held)| Arc::into_inner(held.content)).last().unwrap_or_default();
            state.bytes = state.files.values().map(|held| held.content.len() as u64).sum();
        }
        if state.bytes + bytes > self.budget_bytes {
            return Ok(None);
        }
        content.place(0, usize::try_from(bytes).unwrap_or(usize::MAX));
        file.read_exact_at(&mut content, 0)?;
        let content = Arc::new(content);
        state.files.insert(number, HeldFile { content: content.clone(), used: window });
        state.bytes += bytes;
        Ok(Some(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::local_file::LocalFile;

    fn file(byte: u8, bytes: usize) -> LocalFile {
        let file = LocalFile::scratch(&std::env::temp_dir()).unwrap();
        file.write_all_at(&vec![byte; bytes], 0).unwrap();
        file
    }

    #[test]
    fn files_are_held_within_the_budget_and_idle_ones_make_room() {
        let held = ReplyCache::new(100);
        let (a, b, large) = (file(b'a', 60), file(b'b', 60), file(b'l', 101));
        held.begin_window();
        assert_eq!(**held.content(1, &a, 60).unwrap().unwrap(), *vec![b'a'; 60]);
        assert!(held.content(2, &b, 60).unwrap().is_none(), "the first one is in use");
        assert!(held.content(3, &large, 101).unwrap().is_none());
        for _ in 0..=IDLE_WINDOWS {
            held.begin_window();
        }
        assert_eq!(**held.content(2, &b, 60).unwrap().unwrap(), *vec![b'b'; 60]);
        assert!(held.content(1, &a, 60).unwrap().is_none());
        assert_eq!(held.state.lock().unwrap().bytes, 60);
    }
}
