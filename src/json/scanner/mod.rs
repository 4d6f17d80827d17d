//! The fast reader of JSON: one pass over a text that builds nothing.
//!
//! In: a text and its [marks], found as the scanner arrives at them. Out: the few raw values that matter, as slices of
//! the text.
//!
//! A parser that builds values spends most of its time on that; here a string is skipped to its next mark, what stands
//! between strings is read byte by byte, and only what is requested is kept. A text is one JSON value, or lines of one
//! value each ([`lines`]), which are thereby framed: an accepted line ends where its value does, and only a
//! rejected one is searched for its end.
//!
//! The scanner rejects nesting beyond [`DEPTH_MAX`]: such a line goes to a slower reader that accepts more.
//!
//! Invariants: a line that is scanned to its end is valid UTF-8 and valid JSON without lone surrogates. All kinds of
//! white space are equivalent. Nothing is allocated but the marks, and memory does not grow with the line.

pub(crate) mod lines;

use std::borrow::Cow;

use memchr::memchr;

use crate::json::brackets::is_space;
use crate::json::marks::Marks;

/// Maximum nesting depth: one bit of a word per level.
const DEPTH_MAX: u32 = u64::BITS;

/// The raw text of a string, between its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawString<'l>(pub(crate) &'l str);

impl<'l> RawString<'l> {
    /// The raw text of a JSON value that is a string; `None` for any other value.
    pub(crate) fn of(value: &'l str) -> Option<Self> {
        Some(Self(value.strip_prefix('"')?.strip_suffix('"')?))
    }

    /// Whether it has escapes.
    #[inline]
    pub(crate) fn is_escaped(self) -> bool {
        let bytes = self.0.as_bytes();
        match (bytes.first_chunk(), bytes.last_chunk()) {
            // Nearly all keys and ids: a search would take longer to begin.
            (Some(first), Some(last)) if bytes.len() <= 16 => has_backslash(*first) || has_backslash(*last),
            (Some(_), _) => memchr(b'\\', bytes).is_some(),
            (None, _) => bytes.contains(&b'\\'),
        }
    }

    /// Whether its decoded text is `wanted`, which has no backslash.
    pub(crate) fn is(self, wanted: &str) -> bool {
        self.0 == wanted || self.is_escaped() && self.unescaped().is_some_and(|text| text == wanted)
    }

    /// Its decoded text; `None` if it has a lone surrogate.
    pub(crate) fn unescaped(self) -> Option<Cow<'l, str>> {
        let Self(text) = self;
        if self.is_escaped() { serde_json::from_str(&format!("\"{text}\"")).ok() } else { Some(Cow::Borrowed(text)) }
    }
}

/// Whether one of eight bytes is a backslash.
fn has_backslash(bytes: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let backslashes_are_zero = u64::from_ne_bytes(bytes) ^ u64::from_ne_bytes([b'\\'; 8]);
    // A byte's highest bit is only set by a borrow, and the lowest byte that borrows is zero.
    backslashes_are_zero.wrapping_sub(ONES) & !backslashes_are_zero & ONES << 7 != 0
}

/// A cursor in a text that is valid UTF-8.
pub(crate) struct Scanner<'l, 'm> {
    text: &'l str,
    bytes: &'l [u8],
    at: usize,
    /// Those of the text.
    marks: &'m mut Marks,
    /// Whether a `\n` ends a value.
    by_lines: bool,
}

impl<'l, 'm> Scanner<'l, 'm> {
    /// A cursor at the start of a text that is one value.
    pub(crate) fn of(text: &'l str, marks: &'m mut Marks) -> Self {
        marks.restart();
        Self { text, bytes: text.as_bytes(), at: 0, marks, by_lines: false }
    }

    /// Reads the whole text.
    pub(crate) fn whole<T>(mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let value = read(&mut self)?;
        self.end()?;
        Some(value)
    }

    /// Requires that only white space follows, in the line or in the text.
    fn end(&mut self) -> Option<()> {
        matches!(self.next_byte(), None | Some(b'\n')).then_some(())
    }

    /// Consumes and returns the next byte that is not white space.
    #[inline]
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            // Nearly every byte is above the space character; only the others are compared with each kind of white
            // space.
            if byte > b' ' || !self.is_space(byte) {
                return Some(byte);
            }
        }
    }

    fn is_space(&self, byte: u8) -> bool {
        is_space(byte) && !(self.by_lines && byte == b'\n')
    }

    fn skip_space(&mut self) {
        while self.bytes.get(self.at).is_some_and(|byte| self.is_space(*byte)) {
            self.at += 1;
        }
    }

    fn skip_byte(&mut self, wanted: u8) -> Option<()> {
        (self.next_byte()? == wanted).then_some(())
    }

    /// An object. `take` is called with each key, and must consume the value.
    #[inline]
    pub(crate) fn members(&mut self, mut take: impl FnMut(&mut Self, RawString<'l>) -> Option<()>) -> Option<()> {
        self.skip_byte(b'{')?;
        if self.closes_at_once(b'}') {
            return Some(());
        }
        loop {
            let key = self.key()?;
            take(self, key)?;
            match self.next_byte()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// An array. `take` is called at each element, and must consume it.
    pub(crate) fn elements(&mut self, mut take: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.skip_byte(b'[')?;
        if self.closes_at_once(b']') {
            return Some(());
        }
        loop {
            take(self)?;
            match self.next_byte()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Whether the next value begins with this byte.
    pub(crate) fn follows(&mut self, first: u8) -> bool {
        self.skip_space();
        self.bytes.get(self.at) == Some(&first)
    }

    /// Any value, unparsed.
    pub(crate) fn raw_value(&mut self) -> Option<&'l str> {
        self.raw(Self::value)
    }

    /// The value that `take` consumes, unparsed.
    pub(crate) fn raw(&mut self, take: impl FnOnce(&mut Self) -> Option<()>) -> Option<&'l str> {
        self.skip_space();
        let first = self.at;
        take(self)?;
        Some(&self.text[first..self.at])
    }

    /// Any value.
    pub(crate) fn value(&mut self) -> Option<()> {
        // One bit per open level: whether it is an object.
        let (mut depth, mut objects) = (0_u32, 0_u64);
        loop {
            match self.next_byte()? {
                open @ (b'{' | b'[') => {
                    let is_object = open == b'{';
                    if self.closes_at_once(if is_object { b'}' } else { b']' }) {
                        // An empty container is a value that has ended.
                    } else {
                        if depth == DEPTH_MAX {
                            return None;
                        }
                        depth += 1;
                        objects = objects << 1 | u64::from(is_object);
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                b'"' => self.skip_string()?,
                b't' => self.literal(b"rue")?,
                b'f' => self.literal(b"alse")?,
                b'n' => self.literal(b"ull")?,
                b'-' => self.number_rest(None)?,
                digit @ b'0'..=b'9' => self.number_rest(Some(digit))?,
                _ => return None,
            }
            // A value has ended: close the levels that end with it, and read the separator.
            loop {
                if depth == 0 {
                    return Some(());
                }
                let in_object = objects & 1 == 1;
                match (self.next_byte()?, in_object) {
                    (b',', true) => break self.skip_key()?,
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => {
                        depth -= 1;
                        objects >>= 1;
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Whether the array or object that was just opened is empty, and then consumes its end.
    fn closes_at_once(&mut self, close: u8) -> bool {
        let opened = self.at;
        let closes = self.next_byte() == Some(close);
        if !closes {
            self.at = opened;
        }
        closes
    }

    /// A key, and its colon.
    #[inline]
    fn key(&mut self) -> Option<RawString<'l>> {
        let key = self.string()?;
        self.skip_byte(b':')?;
        Some(key)
    }

    #[inline]
    fn skip_key(&mut self) -> Option<()> {
        self.skip_byte(b'"')?;
        self.skip_string()?;
        self.skip_byte(b':')
    }

    #[inline]
    pub(crate) fn string(&mut self) -> Option<RawString<'l>> {
        self.skip_byte(b'"')?;
        let first = self.at;
        self.skip_string()?;
        Some(RawString(&self.text[first..self.at - 1]))
    }

    /// The rest of a string whose first quote has been read.
    #[inline]
    fn skip_string(&mut self) -> Option<()> {
        let end = self.marks.next_from(self.at, self.bytes)?;
        self.at = end + 1;
        (*self.bytes.get(end)? == b'"').then_some(())
    }

    /// `true`, `false` or `null` without its first letter.
    fn literal(&mut self, rest: &[u8]) -> Option<()> {
        let found = self.bytes.get(self.at..self.at + rest.len())? == rest;
        self.at += rest.len();
        found.then_some(())
    }

    /// The rest of a number after its first digit, or after its sign.
    fn number_rest(&mut self, first: Option<u8>) -> Option<()> {
        let first = match first {
            Some(digit) => digit,
            None => self.take_byte(u8::is_ascii_digit)?,
        };
        if first != b'0' {
            self.digits();
        }
        if self.take_byte(|byte| *byte == b'.').is_some() {
            self.take_byte(u8::is_ascii_digit)?;
            self.digits();
        }
        if self.take_byte(|byte| matches!(byte, b'e' | b'E')).is_some() {
            self.take_byte(|byte| matches!(byte, b'+' | b'-'));
            self.take_byte(u8::is_ascii_digit)?;
            self.digits();
        }
        Some(())
    }

    fn digits(&mut self) {
        while self.take_byte(u8::is_ascii_digit).is_some() {}
    }

    /// Consumes the next byte, if it matches.
    fn take_byte(&mut self, matches: impl Fn(&u8) -> bool) -> Option<u8> {
        let byte = *self.bytes.get(self.at).filter(|byte| matches(byte))?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
pub(crate) mod tests;
