//! Replies that do not fit memory, rearranged so that those of a part of the output lie together.
//!
//! In: the slots of a range of Seqs, and the reply files. Out: for each Seq, in ascending order, the bytes of its reply
//! in memory.
//!
//! ```text
//! reply files       scratch file                     memory            output
//! ┌ section ┐       ┌ section, by Seq ┐    a piece   ┌ portion ┐
//! │ 3 7 1 5 │ ────► │ 1 3 │ 5 7       │ ── of each ►│ 1 3 0 2 │ ─────► 0 1 2 3
//! │ 2 6 0 4 │       │ 0 2 │ 4 6       │             └─────────┘
//! └─────────┘       └─────────────────┘
//! ```
//!
//! It is an external merge sort with one merge. Each section of a reply file is read as a whole, and its replies are
//! written to a scratch file in order of their Seqs. The output consists of portions; the replies of a portion are one
//! piece of each section, next to the piece of the portion before. So a read gets a piece, and not one reply. Space of
//! the scratch file is given back as soon as it has been read: the output then takes the place, on disk and in the page
//! cache, of what was rearranged. Without that, this would take longer than it saves, which was measured.
//!
//! # Choice
//! Each reply can also be read where it is. [`Survey`] decides what takes less time. Replies are not rearranged
//!
//! - if the files that are in use at the same time fit the [reply cache](super::reply_cache);
//! - if most of them lie near the one before, so that they are read together anyway;
//! - if they are long: to copy them once more takes longer than to read them. How long a read takes is measured, on
//!   some of them: a microsecond or two in the page cache, a hundred and more on a disk;
//! - if the scratch directory is in memory, cannot give space back, or has no room for them and a quarter more;
//! - if the disk is full nevertheless.
//!
//! # Sizes
//! Sections and portions have the same size: the smallest power of two with pieces of 128 KiB, but no more than fits
//! the budget, which is that of the reply cache. With the default of 64 MiB that is at most 16 MiB: pieces of 128
//! KiB for 2 GB of replies, of 32 KiB for 8 GB, and of 2.6 KB for 100 GB, which is still a few replies a read. Twice
//! the memory makes pieces four times as large. What is in memory for a section is a few bytes, and there are at most
//! 8,192 of them: 128 GB at the default. Beyond that, or where pieces are as small as replies, these stay where they
//! are.
//!
//! Invariants: memory is the budget, and a window for each thread. The scratch file has no name: it vanishes with the
//! process. The output does not depend on what is rearranged.

mod plan;
mod portion;
mod section;
mod survey;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use plan::{BLOCK_BYTES, Plan, bytes_of, each_window, position};
pub(super) use portion::Portion;
use section::Sections;
pub(super) use survey::Survey;

use super::ResultsError;
use super::window::{MergeInputs, WINDOW_SEQS};
use crate::storage::aligned::{ALIGNMENT, AlignedBuffer};
use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Most Seqs of a portion, whose slots are in memory at once.
const PORTION_SEQS_MAX: u64 = 128 * 1024;

/// Space of a section that is given back at once: each time costs about as much as a few reads.
const GIVE_BACK_BYTES: u64 = 1024 * 1024;

/// Rearranged replies. See the [module](self).
#[derive(Debug)]
pub(super) struct Rearranged {
    plan: Plan,
    sections: Sections,
    /// The first Seq of each portion, and the end of the last.
    bounds: Vec<u64>,
    scratch: LocalFile,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The next portion to load.
    next: usize,
    /// For each section, what has not been loaded.
    rest: Vec<Rest>,
    /// Portions in use, by their number.
    loaded: BTreeMap<usize, Arc<Portion>>,
    /// The memory of a portion that is not in use any more.
    spare: AlignedBuffer,
}

/// What is left of a section in the scratch file.
#[derive(Debug, Clone, Copy)]
struct Rest {
    start: u64,
    /// Before this, the space was given back.
    kept: u64,
}

impl Rearranged {
    /// Rearranges the replies to these Seqs, if that takes less time than to read them where they are.
    ///
    /// # Errors
    /// When slots or replies cannot be read, or the scratch file cannot be written although the disk is not full.
    pub(super) fn new(
        survey: &Survey,
        seqs: Range<u64>,
        inputs: MergeInputs<'_>,
    ) -> Result<Option<Self>, ResultsError> {
        let Some(plan) = survey.plan(seqs.clone(), inputs)? else { return Ok(None) };
        let scratch = LocalFile::scratch(inputs.scratch)?;
        if scratch.is_in_memory() || scratch.give_back(0..BLOCK_BYTES).is_err() {
            return Ok(None);
        }
        inputs.held.clear();
        Self::with(plan, seqs, inputs, scratch)
    }

    /// Rearranges as planned, unless the disk is full.
    fn with(
        plan: Plan,
        seqs: Range<u64>,
        inputs: MergeInputs<'_>,
        scratch: LocalFile,
    ) -> Result<Option<Self>, ResultsError> {
        match Self::write(plan, seqs, inputs, scratch) {
            Err(ResultsError::File(error)) if durable::is_out_of_space(&error.source) => Ok(None),
            written => written.map(Some),
        }
    }

    fn write(plan: Plan, seqs: Range<u64>, inputs: MergeInputs<'_>, scratch: LocalFile) -> Result<Self, ResultsError> {
        let mut sections = Sections::new(&plan, inputs);
        let (mut bounds, mut bytes) = (vec![seqs.start], 0);
        each_window(seqs.clone(), inputs, |first, slots| {
            let before = bytes;
            for (_, slot) in plan.taken(first, slots) {
                sections.add(slot)?;
                bytes += bytes_of(slot) as u64;
            }
            let begun = bounds[bounds.len() - 1];
            if first > begun && (bytes > plan.section_bytes || first - begun >= PORTION_SEQS_MAX) {
                bounds.push(first);
                bytes -= before;
            }
            Ok(())
        })?;
        bounds.push(seqs.end);
        let starts = sections.write(inputs, &scratch)?;
        let rest = starts.into_iter().map(|start| Rest { start, kept: start }).collect();
        let state = State { next: 0, rest, loaded: BTreeMap::new(), spare: AlignedBuffer::default() };
        Ok(Self { plan, sections, bounds, scratch, state: Mutex::new(state) })
    }

    /// The portion with this Seq. Portions are loaded in order, and kept until they are [released](Self::release).
    pub(super) fn portion(&self, seq: u64, inputs: MergeInputs<'_>) -> Result<Option<Arc<Portion>>, ResultsError> {
        let wanted = self.bounds.partition_point(|bound| *bound <= seq) - 1;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.next <= wanted {
            let number = state.next;
            let portion = self.load(number, &mut state, inputs)?;
            state.loaded.insert(number, Arc::new(portion));
            state.next += 1;
        }
        Ok(state.loaded.get(&wanted).cloned())
    }

    /// All windows before this Seq are done.
    pub(super) fn release(&self, seq: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = state.loaded.first_entry()
            && self.bounds[first.key() + 1] <= seq
        {
            if let Some(portion) = Arc::into_inner(first.remove()) {
                state.spare = portion.into_content();
            }
        }
    }

    fn load(&self, number: usize, state: &mut State, inputs: MergeInputs<'_>) -> Result<Portion, ResultsError> {
        let (first, end) = (self.bounds[number], self.bounds[number + 1]);
        let slots = inputs.replies.read(first, end - first)?;
        let windows = (first..).step_by(position(WINDOW_SEQS)).zip(slots.chunks(position(WINDOW_SEQS)));
        let taken = || windows.clone().flat_map(|(first, window)| self.plan.taken(first, window));
        let mut pieces = vec![0; state.rest.len()];
        taken().for_each(|(_, slot)| pieces[self.sections.of(slot)] += bytes_of(slot));
        let mut content = std::mem::take(&mut state.spare);
        content.place(0, pieces.iter().filter(|bytes| **bytes > 0).map(|bytes| bytes + 2 * ALIGNMENT).sum());
        let mut at = 0;
        for (rest, piece) in state.rest.iter_mut().zip(&mut pieces).filter(|(_, piece)| **piece > 0) {
            // At the same offset in a cache line as in the file.
            at = usize::next_multiple_of(at, ALIGNMENT) + position(rest.start % ALIGNMENT as u64);
            let end = at + *piece;
            self.scratch.read_exact_at(&mut content[at..end], rest.start).map_err(self.failed("read"))?;
            rest.start += *piece as u64;
            self.give_back(rest);
            // From here on, where its next reply is.
            (*piece, at) = (at, end);
        }
        let mut places = vec![None; position(end - first)];
        for (seq, slot) in taken() {
            let piece = &mut pieces[self.sections.of(slot)];
            places[position(seq - first)] = u32::try_from(*piece).ok();
            *piece += bytes_of(slot);
        }
        Ok(Portion::new(first, places, content))
    }

    /// Gives back the space of what was loaded. If that fails, it is given back at the end.
    fn give_back(&self, rest: &mut Rest) {
        let end = rest.start / BLOCK_BYTES * BLOCK_BYTES;
        if end >= rest.kept + GIVE_BACK_BYTES && self.scratch.give_back(rest.kept..end).is_ok() {
            rest.kept = end;
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> FileError {
        FileError::on(action, self.scratch.path())
    }
}
