//! The inputs of the merge, and its result for one window of Seqs.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ResultsError;
use super::held_seqs::HeldSeqs;
use super::reply_index::{LONG_BYTES, ReplyIndex, Slot};
use crate::results::normalize::Shape;
use crate::results::reply_cache::ReplyCache;
use crate::storage::aligned::ALIGNMENT;

/// Seqs in a window.
pub(super) const WINDOW_SEQS: u64 = 256;

/// A window with more bytes than this is copied line by line.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why a request has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The request's id, as far as the line has one.
    pub custom_id: Option<String>,
    /// `missing`, or the code of the line's Defect.
    pub code: &'static str,
    /// What happened, for people.
    pub message: String,
}

/// The code of an [`Unanswered`] request that was sent.
pub const MISSING: &str = "missing";

/// The code of an [`Unanswered`] request whose shard waits for a decision.
pub const HELD: &str = "held";

/// What the merge reads.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it borrows functions")]
pub struct MergeInputs<'m> {
    /// Where the replies are.
    pub replies: &'m ReplyIndex,
    /// The path of a reply file.
    pub path: &'m (dyn Fn(u32) -> Result<PathBuf, ResultsError> + Sync),
    /// Why a Seq has no reply. The number is that of the shard that holds it, if one does.
    pub unanswered: &'m (dyn Fn(u64, Option<u32>) -> Result<Unanswered, ResultsError> + Sync),
    /// Which Seqs are held, whatever replies they have from earlier rounds; `None` when none is.
    pub held_seqs: Option<&'m HeldSeqs>,
    /// The raw `body` of a Seq's request; `None` for a line that is not a request.
    pub body: &'m (dyn Fn(u64) -> Result<Option<Vec<u8>>, ResultsError> + Sync),
    /// Reply files in memory. Its budget is also that of replies that are rearranged.
    pub held: &'m ReplyCache,
    /// Directory for scratch files.
    pub scratch: &'m Path,
    /// The format of the lines.
    pub shape: Shape,
    /// Threads that gather.
    pub threads: usize,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Requests with an output.
    pub outputs: u64,
    /// Requests with an error.
    pub errors: u64,
    /// Requests without either.
    pub missing: u64,
    /// Requests that wait for a decision.
    pub held: u64,
    /// Invalid lines that were skipped.
    pub invalid: u64,
    /// Bytes written, to both files together.
    pub bytes: u64,
}

impl Merged {
    /// All lines written.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.outputs + self.errors + self.missing + self.held + self.invalid
    }

    /// Adds what was written elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.outputs += other.outputs;
        self.errors += other.errors;
        self.missing += other.missing;
        self.held += other.held;
        self.invalid += other.invalid;
        self.bytes += other.bytes;
    }
}

/// Where the lines go.
#[expect(missing_debug_implementations, reason = "it borrows writers")]
pub struct Sinks<'m> {
    /// Takes every line, or only outputs if there is a sink for the rest.
    pub outputs: &'m mut dyn Write,
    /// Where the next byte for `outputs` goes within a cache line of its file; affects only speed.
    pub outputs_lead: usize,
    /// Takes errors, missing, held and invalid lines, each with the `body` of its request, so that they can be sent
    /// again.
    pub errors: Option<&'m mut dyn Write>,
}

impl Sinks<'_> {
    /// So many bytes were written to `outputs`.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.outputs_lead = (self.outputs_lead + usize::try_from(bytes % ALIGNMENT as u64).unwrap_or(0)) % ALIGNMENT;
    }
}

/// What a Seq has: its reply, if there is one, and the shard that holds it, if one does. What is held has no reply.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    pub(super) slot: Option<Slot>,
    pub(super) held_by: Option<u32>,
}

/// Whether a window with these replies is too large to be gathered, so that it is copied line by line.
pub(super) fn is_large(slots: &[Option<Slot>]) -> bool {
    let bytes: u64 = slots.iter().flatten().map(|slot| slot.length.map_or(LONG_BYTES, u64::from) + 1).sum();
    bytes > WINDOW_BYTES_MAX
}

/// A range of the output.
#[derive(Default)]
pub(super) struct Window {
    /// Lines, from `lead` on.
    pub(super) outputs: Vec<u8>,
    /// Bytes that align the lines.
    pub(super) lead: usize,
    pub(super) errors: Vec<u8>,
    /// Too large to be gathered: these are still to be copied.
    pub(super) large: Vec<(u64, Standing)>,
    pub(super) merged: Merged,
}
