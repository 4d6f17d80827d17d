//! Lines of JSON, framed and scanned in one pass.
//!
//! In: the bytes of whole lines. Out: each line, with what was read of it; or without, if it has to be looked at more
//! closely.
//!
//! Invariants: every line is passed on once, in order, whatever it holds. A value never goes beyond its line.

use memchr::memchr;

use super::Scanner;
use crate::json::marks::Marks;

/// Calls `take` with each line, without its `\n`: its position, its bytes, and the value that `read` finds in it if it
/// accepts the whole line. The last line may lack its `\n`.
///
/// # Errors
/// Those of `take`.
pub(crate) fn each_line<'l, T, E>(
    lines: &'l [u8],
    marks: &mut Marks,
    mut read: impl FnMut(&mut Scanner<'l, '_>) -> Option<T>,
    mut take: impl FnMut(usize, &'l [u8], Option<T>) -> Result<(), E>,
) -> Result<(), E> {
    // All lines are validated at once.
    if let Ok(text) = simdutf8::basic::from_utf8(lines) {
        let mut scanner = Scanner { by_lines: true, ..Scanner::of(text, marks) };
        while let Some((at, line, value)) = scanner.line(&mut read) {
            take(at, line, value)?;
        }
        return Ok(());
    }
    // If that fails, each on its own: only a line that is not UTF-8 itself is not scanned.
    let mut at = 0;
    for whole in lines.split_inclusive(|byte| *byte == b'\n') {
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        let text = simdutf8::basic::from_utf8(line);
        take(at, line, text.ok().and_then(|text| Scanner::of(text, marks).whole(&mut read)))?;
        at += whole.len();
    }
    Ok(())
}

impl<'l> Scanner<'l, '_> {
    /// The next line, its position, and what `read` finds in it; `None` after the last.
    #[inline]
    fn line<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<(usize, &'l [u8], Option<T>)> {
        let start = self.at;
        let rest = self.bytes.get(start..).filter(|rest| !rest.is_empty())?;
        let value = read(self).filter(|_| self.end().is_some());
        if value.is_none() {
            self.at = memchr(b'\n', rest).map_or(self.bytes.len(), |end| start + end + 1);
        }
        let line = &self.bytes[start..self.at];
        Some((start, line.strip_suffix(b"\n").unwrap_or(line), value))
    }
}
