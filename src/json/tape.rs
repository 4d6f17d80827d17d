//! Trees of lines, as simd-json builds them, with buffers that are used again.
//!
//! In: a line. Out: its [tree](crate::json::tree), for as long as a function looks at it.
//!
//! A tape is the fastest tree there is, but a tree costs twice the pass of the [scanner](super::scanner), which
//! builds nothing; so it is for the lines that the scanner rejects, and for questions that only a tree can answer.
//!
//! Invariants: a line is not modified. Memory is bounded by [`LINE_BYTES_MAX`].

use std::fmt;

use simd_json::{Buffers, Tape};

use super::tree::Node;

/// Maximum length of a line, in bytes: its tape takes up to 24 bytes per byte of a hostile line.
pub(crate) const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Builds one tree at a time.
pub(crate) struct TapeReader {
    buffers: Buffers,
    tape: Tape<'static>,
    /// A copy of the line that simd-json may modify.
    scratch: Vec<u8>,
}

impl TapeReader {
    /// What `look` finds in the tree of a line; `None` if the line is not JSON, or too long.
    pub(crate) fn read<T>(&mut self, line: &[u8], look: impl FnOnce(Node<'_, '_>) -> Option<T>) -> Option<T> {
        if line.len() > LINE_BYTES_MAX {
            return None;
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(line);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let built = simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape);
        let found = if built.is_ok() { look(tape.as_value()) } else { None };
        self.tape = tape.reset();
        found
    }
}

impl Default for TapeReader {
    fn default() -> Self {
        Self { buffers: Buffers::default(), tape: Tape(Vec::new()), scratch: Vec::new() }
    }
}

impl fmt::Debug for TapeReader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("TapeReader")
    }
}
