//! Where the lines of a window go within a cache line of the output, so that they are gathered in memory that is
//! aligned with it: then they are written without a copy.
//!
//! In: the lengths of the replies of each window, and what was written so far. Out: a prediction for the next windows.
//! It fails for a moment where lines are not as long as their replies. That affects only speed.
//!
//! Memory is a byte for each window.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::storage::aligned::ALIGNMENT;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Alignment {
    /// For each window, the end of its lines relative to the first of them.
    ends: Vec<u8>,
    /// What to add to them.
    shift: AtomicU8,
}

impl Alignment {
    /// Adds a window with lines of this length.
    pub(super) fn add(&mut self, bytes: u64) {
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.push(within_line(u64::from(before) + bytes));
    }

    /// What is written ends here, and all windows before `window` are.
    pub(super) fn align(&self, window: u64, lead: usize) {
        self.shift.store(within_line(lead as u64 + ALIGNMENT as u64 - u64::from(self.start(window))), Relaxed);
    }

    /// Where a window begins.
    pub(super) fn lead(&self, window: u64) -> usize {
        within_line(u64::from(self.start(window)) + u64::from(self.shift.load(Relaxed))).into()
    }

    fn start(&self, window: u64) -> u8 {
        let before = window.checked_sub(1).and_then(|before| usize::try_from(before).ok());
        before.and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
fn within_line(offset: u64) -> u8 {
    (offset % ALIGNMENT as u64) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_from_where_the_output_is() {
        let mut alignment = Alignment::default();
        for bytes in [100, 0, 7] {
            alignment.add(bytes);
        }
        assert_eq!([0, 1, 2, 3, 9].map(|window| alignment.lead(window)), [0, 36, 36, 43, 0]);
        alignment.align(0, 60);
        assert_eq!([0, 1, 2, 3].map(|window| alignment.lead(window)), [60, 32, 32, 39]);
        // The first window was two bytes longer.
        alignment.align(1, 34);
        assert_eq!([1, 2, 3].map(|window| alignment.lead(window)), [34, 34, 41]);
    }
}
