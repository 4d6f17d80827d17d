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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::json::marks::Width;
    use crate::json::scanner::tests::edited;

    type Found<'l> = Vec<(usize, &'l [u8], Option<&'l str>)>;

    fn any_value<'l>(scanner: &mut Scanner<'l, '_>) -> Option<&'l str> {
        scanner.raw_value()
    }

    fn found(lines: &[u8], width: Width) -> Found<'_> {
        let mut all = Vec::new();
        let Ok(()) = each_line(lines, &mut Marks::of_width(width), any_value, |at, line, value| {
            all.push((at, line, value));
            Ok::<_, Infallible>(())
        });
        all
    }

    /// Each line on its own.
    fn model(lines: &[u8]) -> Found<'_> {
        let mut at = 0;
        let each = lines.split_inclusive(|byte| *byte == b'\n').map(|whole| {
            let line = whole.strip_suffix(b"\n").unwrap_or(whole);
            let text = std::str::from_utf8(line).ok();
            let value = text.and_then(|text| Scanner::of(text, &mut Marks::default()).whole(Scanner::raw_value));
            at += whole.len();
            (at - whole.len(), line, value)
        });
        each.collect()
    }

    #[test]
    fn a_value_ends_with_its_line() {
        let lines = b"[1,\n2]\n{\"a\":\n\"b\"}\n\"a\nb\"\n \t{}\r\n\n[]";
        for width in Width::all() {
            let found = found(lines, width);
            assert_eq!(found, model(lines));
            let values: Vec<Option<&str>> = found.iter().map(|(_, _, value)| *value).collect();
            assert_eq!(values, [None, None, None, None, None, None, Some("{}"), None, Some("[]")]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// Whatever stands in one line, the others are read as if they were alone.
        #[test]
        fn lines_are_read_as_if_each_were_alone(
            lines in prop::collection::vec(
                prop_oneof![
                    4 => edited(br#"{"custom_id":"id-1","body":{"model":"m","messages":[{"role":"user","content":"h\u00e9 \"q\" \ud83d\ude00"}],"n":-1.5e3}}"#),
                    1 => edited("{\"a\":\t\"漢字 é\"}\r".as_bytes()),
                    1 => prop::collection::vec(any::<u8>(), 0..9),
                    1 => Just(b"\"\\u12".to_vec()),
                    1 => Just(b"\"\\ud83d".to_vec()),
                    1 => Just(br#""\ude00\\""#.to_vec()),
                    1 => (4000_usize..9000).prop_map(|length| format!("[\"{}\"]", "\\\\".repeat(length / 2)).into_bytes()),
                ],
                0..9,
            ),
            ends: bool,
        ) {
            let mut lines = lines.join(&b'\n');
            if ends {
                lines.push(b'\n');
            }
            for width in Width::all() {
                prop_assert_eq!(found(&lines, width), model(&lines));
            }
        }
    }
}
