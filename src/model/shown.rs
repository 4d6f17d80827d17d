//! Sanitizes untrusted text for display: file names, models, ids, messages of a service.
//!
//! In: any text. Out: the same text, in which no character can control a terminal, reorder its output, or fake a line
//! of this program.
//!
//! Invariants: characters that [`is_unsafe`] matches are always escaped or removed; all others are unchanged. Data that
//! is written, not displayed, is not sanitized.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::path::Path;

/// Maximum length of a service's message, in characters; longer ones are truncated with `…`. The output has it once for
/// each request of a batch that failed with it.
pub const MESSAGE_CHARACTERS: usize = 4_000;

/// Replaces a key.
pub const REDACTED: &str = "[redacted]";

/// Whether a character must not reach a terminal unescaped: C0 and C1 controls (escape sequences begin with one), marks
/// that change the direction of text, line and paragraph separators, and invisible characters that only hide or split
/// words.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` with an escape such as `\n` or `\u{202e}` in place of each unsafe character.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// `text` on one line, without unsafe characters, truncated at [`MESSAGE_CHARACTERS`].
#[must_use]
pub fn one_line(text: &str) -> String {
    let visible = text.chars().map(|c| if is_unsafe(c) { ' ' } else { c });
    let mut cleaned = String::new();
    for (count, c) in visible.enumerate().skip_while(|(_, c)| c.is_whitespace()) {
        if count >= MESSAGE_CHARACTERS {
            cleaned.push('…');
            break;
        }
        if !(c == ' ' && cleaned.ends_with(' ')) {
            cleaned.push(c);
        }
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// JSON text with `\uXXXX` in place of each unsafe character. They only occur in strings, so the value stays the same.
#[must_use]
pub fn visible_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a `String` cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A file name in a message: as it is, or in quotes with escapes where it has unsafe characters, or bytes that are not
/// UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Name<'p>(pub &'p Path);

impl fmt::Display for Name<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_str() {
            Some(plain) if !plain.contains(is_unsafe) => out.pad(plain),
            _ => fmt::Debug::fmt(self.0, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(visible("a\u{1b}[31m\n\u{9b}2J\u{202e}b\u{7f}"), "a\\u{1b}[31m\\n\\u{9b}2J\\u{202e}b\\u{7f}");
        assert!(matches!(visible("größer, 漢字, 👩‍💻 \\n"), Cow::Borrowed(_)));
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = c.to_string();
            assert!(!visible(&text).contains(is_unsafe) && !visible(&text).contains(char::is_control), "{c:?}");
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"a\u{202e}": "\u{1b}[0m \u{9b} \u{7f} \u{2028} \u{e0041} ü \\ \" \n"});
        let json = value.to_string();
        assert!(json.contains('\u{9b}') && json.contains('\u{202e}'), "serde_json leaves them as they are");
        let shown = visible_json(&json);
        assert!(!shown.contains(is_unsafe), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn an_odd_file_name_is_quoted() {
        let name = |bytes: &[u8]| Name(Path::new(OsStr::from_bytes(bytes))).to_string();
        assert_eq!(name("größer als.jsonl".as_bytes()), "größer als.jsonl");
        assert_eq!(name(b"a\nerror: b\x1b[1m"), "\"a\\nerror: b\\u{1b}[1m\"");
        assert_eq!(name("x\u{202e}lnosj".as_bytes()), "\"x\\u{202e}lnosj\"");
        assert_eq!(name(b"a\xffb"), "\"a\\xFFb\"");
    }
}
