//! Marks: the few positions of a text at which a reader of JSON has to look.
//!
//! In: the bytes of a text, one line or many. Out: its marks, ascending. A mark is a byte that a string cannot pass
//! over:
//!
//! - a quote that is not escaped: it begins or ends a string;
//! - a control character: no string has one, and every line ends with one;
//! - the letter of a wrong escape: `\x`, `\u12g4`, or half a surrogate pair.
//!
//! ```text
//! text    {"a":"say \"hi\"", "b":"C:\dir"}⏎{"c":[1, 2]}⏎
//! marks    ^ ^ ^          ^  ^ ^ ^   ^  ^ ^ ^ ^        ^
//!                                    └ \d is no escape
//! ```
//!
//! So a string ends at the next mark behind its first quote, and is right if that mark is a quote. What stands between
//! strings is short, and the scanner reads it byte by byte. Backslashes are not marks: most escapes
//! need no second look.
//!
//! Marks are found 64 bytes at a time, by vectors as wide as the processor has them: one bit for each byte, then the
//! positions of the bits that are set.
//!
//! | file | has |
//! | --- | --- |
//! | `lanes.rs` | what is asked of 64 bytes, whatever the vectors |
//! | `portable.rs`, `avx2.rs` | the answers, by vectors of 16 bytes, and of 32 |
//! | `escapes.rs` | which bytes are escaped, and which escapes are wrong |
//!
//! A text is marked a stretch of some KiB at a time, when the reader arrives there: memory does not depend on
//! the length of a line, and the bytes are in the nearest cache when they are read.
//!
//! Invariants: all widths find the same marks. An escape never crosses the end of a line: what is wrong in one line
//! marks nothing in the next.

#![expect(clippy::inline_always, reason = "wide vectors are only used in what is inlined where they are enabled")]

#[cfg(target_arch = "x86_64")]
mod avx2;
mod escapes;
mod lanes;
mod portable;

use escapes::Escapes;
use lanes::{BLOCK_BYTES, Lanes};

/// Bytes that are marked at once. A multiple of a block; with its marks it fits into the first-level cache.
const STRETCH_BYTES: usize = 4096;

/// The vectors with which marks are found.
#[derive(Debug, Clone, Copy)]
pub struct Width(Vectors);

#[derive(Debug, Clone, Copy)]
enum Vectors {
    /// Of 16 bytes, on any processor.
    Portable,
    /// Of 32 bytes.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
}

impl Width {
    /// All that this processor has, the widest last.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wider = pulp::x86::V3::try_new().map(Vectors::Avx2);
        #[cfg(not(target_arch = "x86_64"))]
        let wider = None;
        std::iter::once(Vectors::Portable).chain(wider).map(Self)
    }
}

impl Default for Width {
    /// The widest. Which there are has been asked of the processor once, and is remembered.
    fn default() -> Self {
        Self::all().last().unwrap_or(Self(Vectors::Portable))
    }
}

/// The marks of one text after another. The text itself is passed to each call.
#[derive(Debug, Default)]
pub struct Marks {
    width: Width,
    /// Positions in the stretch.
    places: Vec<u32>,
    /// How many of them are marks.
    count: usize,
    /// How many of these were passed over.
    next: usize,
    /// The stretch, in the text.
    start: usize,
    end: usize,
    escapes: Escapes,
}

impl Marks {
    /// Marks found with vectors of this width.
    #[must_use]
    pub fn of_width(width: Width) -> Self {
        Self { width, ..Self::default() }
    }

    /// Begins a new text. Until the next call all calls are about the same one.
    pub(crate) fn restart(&mut self) {
        (self.count, self.next, self.start, self.end) = (0, 0, 0, 0);
        self.escapes = Escapes::default();
    }

    /// The first mark at or behind `at`, which is passed over with all before it; `None` if there is none. Without a
    /// byte in the text at the mark, the text ends in an escape.
    #[inline]
    pub(crate) fn next_from(&mut self, at: usize, text: &[u8]) -> Option<usize> {
        // Nearly always the next mark is the string's first quote, and the one behind it is its end.
        if let Some([first, end]) = self.places[..self.count].get(self.next..self.next + 2)
            && self.start + *first as usize + 1 == at
        {
            self.next += 2;
            return Some(self.start + *end as usize);
        }
        self.search_from(at, text)
    }

    /// The first mark at or behind `at`.
    #[inline(never)]
    fn search_from(&mut self, at: usize, text: &[u8]) -> Option<usize> {
        loop {
            while let Some(place) = self.places[..self.count].get(self.next) {
                self.next += 1;
                let mark = self.start + *place as usize;
                if mark >= at {
                    return Some(mark);
                }
            }
            self.mark_stretch(text)?;
        }
    }

    /// Marks the next stretch of the text; `None` at its end.
    #[cold]
    #[inline(never)]
    fn mark_stretch(&mut self, text: &[u8]) -> Option<()> {
        let rest = text.get(self.end..).filter(|rest| !rest.is_empty())?;
        let length = rest.len().min(STRETCH_BYTES);
        (self.start, self.end) = (self.end, self.end + length);
        let Self { places, start, escapes, .. } = self;
        let stretch = Stretch { text, start: *start, end: self.end, places, escapes };
        self.count = match self.width.0 {
            Vectors::Portable => stretch.mark(portable::Portable),
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2(lanes) => lanes.vectorize(avx2::Marking { stretch, lanes }),
        };
        self.next = 0;
        Some(())
    }
}

/// A stretch that is to be marked.
struct Stretch<'t> {
    text: &'t [u8],
    start: usize,
    end: usize,
    places: &'t mut Vec<u32>,
    escapes: &'t mut Escapes,
}

impl Stretch<'_> {
    /// Marks it; returns how many marks there are.
    #[inline(always)]
    fn mark<L: Lanes>(self, lanes: L) -> usize {
        let Self { text, start, end, places, escapes } = self;
        let (blocks, rest) = text[start..end].as_chunks::<BLOCK_BYTES>();
        let (mut count, mut at) = (0, 0);
        for block in blocks {
            let marks = escapes.marks(lanes, block, text, start + at);
            push(places, &mut count, at, marks);
            at += BLOCK_BYTES;
        }
        if !rest.is_empty() {
            let mut block = [b' '; BLOCK_BYTES];
            block[..rest.len()].copy_from_slice(rest);
            let marks = escapes.marks(lanes, &block, text, start + at);
            push(places, &mut count, at, marks);
        }
        count
    }
}

/// Adds the positions of the marks of a block at `at`.
#[inline(always)]
fn push(places: &mut Vec<u32>, count: &mut usize, at: usize, mut marks: u64) {
    if places.len() < *count + BLOCK_BYTES {
        grow(places);
    }
    let Some(slots) = places[*count..].first_chunk_mut::<BLOCK_BYTES>() else { return };
    let ones = marks.count_ones() as usize;
    #[expect(clippy::cast_possible_truncation, reason = "a stretch is short")]
    let at = at as u32;
    let mut take = || {
        let place = at + marks.trailing_zeros();
        marks &= marks.wrapping_sub(1);
        place
    };
    // Some in any case: how many there are cannot be predicted, and what is too much is written over.
    slots[..4].fill_with(&mut take);
    if ones > 4 {
        slots[4..8].fill_with(&mut take);
        if ones > 8 {
            slots[8..ones].fill_with(&mut take);
        }
    }
    *count += ones;
}

/// Makes room for a block with a mark for each byte. A text with few marks needs little.
#[cold]
#[inline(never)]
fn grow(places: &mut Vec<u32>) {
    places.resize((2 * places.len()).max(2 * BLOCK_BYTES), 0);
}

#[cfg(test)]
mod tests;
