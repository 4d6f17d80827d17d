//! The one place where API keys are removed from what a service sends.
//!
//! In: texts and JSON of a service. Out: the same with `[redacted]` in place of each key: verbatim, escaped as in JSON
//! or URLs, or in base64. Abbreviated keys, as services display them (`sk-…1234`), are kept; so is the beginning of a
//! key that is too short to be useful.
//!
//! Invariants: every text that leaves `super::response` has been redacted, so no message, record or id contains a key.
//! Reply files are not redacted: their bytes are the user's data, delivered as received.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::{memchr2, memmem};
use secrecy::{ExposeSecret, SecretString};

use super::token::Token;
use crate::model::shown::REDACTED;

/// Shorter words are no secrets (`local`, `EMPTY`), and would be found in the midst of others.
const SECRET_BYTES_MIN: usize = 8;

/// Removes keys from texts. Without keys it changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Redactor(Arc<[Secret]>);

/// A key in the forms that it is looked for in: as it is, and in both alphabets of base64, whatever comes before it,
/// which is at each of three places in a group of three bytes.
#[derive(Debug)]
struct Secret([SecretString; 7]);

impl Redactor {
    /// Removes these keys.
    #[must_use]
    pub fn of(tokens: impl IntoIterator<Item = Token>) -> Self {
        let secrets = tokens.into_iter().map(Token::into_secret);
        Self(secrets.filter(|secret| secret.expose_secret().len() >= SECRET_BYTES_MIN).map(Secret::new).collect())
    }

    /// `text` without the keys.
    #[must_use]
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &*self.0 {
            if let Some(redacted) = secret.redact(text.as_bytes()) {
                text = Cow::Owned(String::from_utf8_lossy(&redacted).into_owned());
            }
        }
        text
    }

    /// The same, of text that may have been cut off: what may be the beginning of a key at its end goes, too.
    #[must_use]
    pub fn beginning<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = self.text(text);
        let cut = self.0.iter().filter_map(|secret| secret.cut_off_in(&text)).min();
        match cut {
            Some(at) => Cow::Owned(format!("{}{REDACTED}{}", &text[..at], &text[text.trim_end_matches('…').len()..])),
            None => text,
        }
    }

    /// The same of bytes, such as JSON, which stays JSON.
    #[must_use]
    pub fn bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for secret in &*self.0 {
            if let Some(redacted) = secret.redact(&bytes) {
                bytes = redacted;
            }
        }
        bytes
    }
}

impl Secret {
    fn new(plain: SecretString) -> Self {
        let encoded = |alphabet: GeneralPurpose, before: usize| {
            let bytes = [&[0; 2][..before], plain.expose_secret().as_bytes()].concat();
            let text = alphabet.encode(&bytes);
            // Each character encodes six bits. Those that depend on the bytes before or after the key are omitted.
            SecretString::from(&text[(before * 8).div_ceil(6)..bytes.len() * 8 / 6])
        };
        let [first, second, third] = [0, 1, 2].map(|before| encoded(STANDARD_NO_PAD, before));
        let [fourth, fifth, sixth] = [0, 1, 2].map(|before| encoded(URL_SAFE_NO_PAD, before));
        Self([plain, first, second, third, fourth, fifth, sixth])
    }

    /// Whether a full search is needed: most texts contain neither the key nor an escape.
    fn may_be_in(&self, text: &[u8]) -> bool {
        memchr2(b'\\', b'%', text).is_some()
            || self.0.iter().any(|form| memmem::find(text, form.expose_secret().as_bytes()).is_some())
    }

    /// The text without this key, if it is there.
    fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        if !self.may_be_in(text) {
            return None;
        }
        let mut redacted = Vec::new();
        let mut kept = 0;
        let mut at = 0;
        while at < text.len() {
            match self.end_in(text, at) {
                Some(end) => {
                    redacted.extend_from_slice(&text[kept..at]);
                    redacted.extend_from_slice(REDACTED.as_bytes());
                    (kept, at) = (end, end);
                }
                None => at += 1,
            }
        }
        (kept > 0).then(|| [&redacted, &text[kept..]].concat())
    }

    /// Where a key that begins at `at` ends.
    fn end_in(&self, text: &[u8], at: usize) -> Option<usize> {
        self.0.iter().find_map(|form| end_of(form.expose_secret(), text, at).ok())
    }

    /// Where, at the end of the text, something begins that is the beginning of the key; an ellipsis may follow.
    fn cut_off_in(&self, text: &str) -> Option<usize> {
        let text = text.trim_end_matches('…').as_bytes();
        let wanted = self.0[0].expose_secret();
        (text.len().saturating_sub(wanted.len())..text.len().saturating_sub(SECRET_BYTES_MIN - 1))
            .find(|at| end_of(wanted, text, *at) == Err(text.len()))
    }
}

/// Where `word` ends if it begins at `at`, each of its characters as it is, or escaped as in JSON or in a URL;
/// otherwise how far the text agrees with it.
fn end_of(word: &str, text: &[u8], at: usize) -> Result<usize, usize> {
    let mut end = at;
    for wanted in word.bytes() {
        let rest = &text[end..];
        end += match rest {
            [b'\\', b'u', b'0', b'0', code @ ..] | [b'%', code @ ..] if is_code(code, wanted) => {
                rest.len() - code.len() + 2
            }
            [b'\\', found, ..] if wanted == *found => 2,
            [found, ..] if wanted == *found => 1,
            _ => return Err(end),
        };
    }
    Ok(end)
}

/// Whether `text` begins with the code of a character, in hexadecimal.
fn is_code(text: &[u8], wanted: u8) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    matches!(text, [high, low, ..] if digit(*high) == Some(u32::from(wanted >> 4)) && digit(*low) == Some(u32::from(wanted & 15)))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    /// A key with all that is escaped somewhere.
    const KEY: &str = r#"canary/5b1f+0c9e=7d3a"4826\do~not_sing"#;

    fn redactor() -> Redactor {
        Redactor::of([Token::new(KEY).unwrap(), Token::new("another-key").unwrap()])
    }

    fn in_json(text: &str) -> String {
        serde_json::to_string(text).unwrap().trim_matches('"').to_owned()
    }

    #[test]
    fn a_key_is_found_in_every_form() {
        let escaped =
            |prefix: &str| KEY.bytes().fold(String::new(), |codes, byte| codes + &format!("{prefix}{byte:02x}"));
        let percent = KEY.replace('/', "%2F").replace('+', "%2b").replace('"', "%22").replace('\\', "%5C");
        for form in [KEY.to_owned(), in_json(KEY), in_json(KEY).replace('/', "\\/"), escaped("\\u00"), percent] {
            let text = format!("a Bearer {form}, {form}{form} ü");
            assert_eq!(redactor().text(&text), "a Bearer [redacted], [redacted][redacted] ü", "{form}");
        }
        assert_eq!(redactor().text("x another-key y"), "x [redacted] y");
        for before in ["", "x", "xy", "Bearer ", "user:"] {
            for behind in ["", ":", "\n--"] {
                let text = format!("{before}{KEY}{behind}");
                for encoded in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
                    let redacted = redactor().text(&encoded).into_owned();
                    assert!(redacted.contains(REDACTED), "{encoded}");
                    // What is left of it is useless: at most the surrounding bytes, and a few bits.
                    let left = redacted.len() - REDACTED.len();
                    assert!(left <= (before.len() + behind.len()).div_ceil(3) * 4 + 8, "{redacted}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_key_stays() {
        for text in ["", "canary/5b1f…sing", "a text of any kind, with %2F and \\u0063 and \\", "canary/5b1f+0c9e=7d3a"]
        {
            assert!(matches!(redactor().text(text), Cow::Borrowed(_)), "{text}");
        }
        assert_eq!(Redactor::default().text(KEY), KEY);
        assert_eq!(Redactor::of([Token::new("local").unwrap()]).text("a local one"), "a local one");
        // As services show which key it was.
        assert_eq!(redactor().beginning("no key like canary/…"), "no key like canary/…");
    }

    #[test]
    fn a_key_that_was_cut_off_is_taken_out_as_far_as_it_goes() {
        for length in SECRET_BYTES_MIN..KEY.len() {
            for (cut, wanted) in [("", "key [redacted]"), ("…", "key [redacted]…")] {
                let text = format!("key {}{cut}", &KEY[..length]);
                assert_eq!(redactor().beginning(&text), wanted, "{text}");
            }
        }
        assert_eq!(redactor().beginning(&format!("{KEY} and canary/5b1f+")), "[redacted] and [redacted]");
    }

    #[test]
    fn json_is_the_same_but_for_the_key() {
        let key = in_json(KEY);
        let json = format!(r#"{{"text":"{key}","{key}":[true,"b{key}\n",-7,null]}} "#);
        let redacted = redactor().bytes([json.as_bytes(), b"\xff"].concat());
        assert_eq!(redacted, b"{\"text\":\"[redacted]\",\"[redacted]\":[true,\"b[redacted]\\n\",-7,null]} \xff");
    }
}
