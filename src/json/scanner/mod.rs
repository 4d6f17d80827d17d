//! The fast reader of JSON: one pass over a line that builds nothing.
//!
//! In: the bytes of a line. Out: the few raw values that matter.
//!
//! A parser that builds values spends most of its time on that; here a string is skipped by a search for its end, in
//! blocks of 64 bytes, and only what is requested is read. The scanner rejects what it does not handle (nesting beyond
//! [`DEPTH_MAX`]; keys with escapes where members are requested): such a line goes to a slower reader that accepts
//! more.
//!
//! Invariants: a line that is scanned to its end is valid UTF-8 and valid JSON without lone surrogates. All kinds of
//! white space are equivalent. Nothing is allocated, and memory does not grow with the line.

use std::borrow::Cow;

use wide::u8x16;

use crate::json::brackets::is_space;

/// Maximum nesting depth: one bit of a word per level.
const DEPTH_MAX: u32 = u64::BITS;

/// Bytes that are searched at once: one bit of a word each.
const BLOCK_BYTES: usize = 64;

/// The entry in `DIGITS` of a byte that is not a hexadecimal digit.
const NO_DIGIT: u8 = 0xff;

/// The value of each byte as a hexadecimal digit.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value: u8 = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        digits[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// The bytes that form an escape together with a backslash.
const ESCAPES: [bool; 256] = {
    let mut escapes = [false; 256];
    let letters = b"\"\\/bfnrt";
    let mut number = 0;
    while number < letters.len() {
        escapes[letters[number] as usize] = true;
        number += 1;
    }
    escapes
};

/// The raw text of a string, between its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawString<'l> {
    pub(crate) text: &'l str,
    /// Whether it has escapes.
    pub(crate) escaped: bool,
}

impl<'l> RawString<'l> {
    /// The raw text of a JSON value that is a string; `None` for any other value.
    pub(crate) fn of(value: &'l str) -> Option<Self> {
        let text = value.strip_prefix('"')?.strip_suffix('"')?;
        Some(Self { text, escaped: memchr::memchr(b'\\', text.as_bytes()).is_some() })
    }

    /// Whether its decoded text is `wanted`.
    pub(crate) fn is(self, wanted: &str) -> bool {
        if self.escaped { self.unescaped().is_some_and(|text| text == wanted) } else { self.text == wanted }
    }

    /// Its decoded text; `None` if it has a lone surrogate.
    pub(crate) fn unescaped(self) -> Option<Cow<'l, str>> {
        let Self { text, escaped } = self;
        if escaped { serde_json::from_str(&format!("\"{text}\"")).ok() } else { Some(Cow::Borrowed(text)) }
    }
}

/// A cursor in a line that is valid UTF-8.
pub(crate) struct Scanner<'l> {
    text: &'l str,
    line: &'l [u8],
    at: usize,
    /// The block that `marks` are of.
    block: usize,
    /// A bit for each quote, backslash and control character of the block.
    marks: u64,
}

impl<'l> Scanner<'l> {
    /// A cursor at the start of a line; `None` if it is not UTF-8.
    pub(crate) fn new(line: &'l [u8]) -> Option<Self> {
        simdutf8::basic::from_utf8(line).ok().map(Self::of)
    }

    /// A cursor at the start of a text.
    pub(crate) fn of(text: &'l str) -> Self {
        Self { text, line: text.as_bytes(), at: 0, block: usize::MAX, marks: 0 }
    }

    /// Consumes and returns the next byte that is not white space.
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            let byte = *self.line.get(self.at)?;
            self.at += 1;
            // Nearly every byte is above the space character; only the others are compared with each kind of white
            // space.
            if byte > b' ' || !is_space(byte) {
                return Some(byte);
            }
        }
    }

    fn skip_space(&mut self) {
        while self.take_byte(|byte| is_space(*byte)).is_some() {}
    }

    fn skip_byte(&mut self, wanted: u8) -> Option<()> {
        (self.next_byte()? == wanted).then_some(())
    }

    /// Requires that only white space follows.
    pub(crate) fn end(&mut self) -> Option<()> {
        self.next_byte().is_none().then_some(())
    }

    /// A key without escapes, and its colon.
    fn plain_key(&mut self) -> Option<&'l str> {
        let key = self.string()?;
        self.skip_byte(b':')?;
        (!key.escaped).then_some(key.text)
    }

    /// An object. `take` is called with each key, and must consume the value.
    #[inline]
    pub(crate) fn members(&mut self, mut take: impl FnMut(&mut Self, &'l str) -> Option<()>) -> Option<()> {
        self.skip_byte(b'{')?;
        if self.closes_at_once(b'}') {
            return Some(());
        }
        loop {
            let key = self.plain_key()?;
            take(self, key)?;
            match self.next_byte()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Whether the next value begins with this byte.
    pub(crate) fn follows(&mut self, first: u8) -> bool {
        self.skip_space();
        self.line.get(self.at) == Some(&first)
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
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => drop(self.string_rest()?),
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
                    (b',', true) => break self.key()?,
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

    /// Any key, and its colon.
    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.skip_byte(b':')
    }

    pub(crate) fn string(&mut self) -> Option<RawString<'l>> {
        self.skip_byte(b'"')?;
        self.string_rest()
    }

    /// A string whose first quote has been read.
    fn string_rest(&mut self) -> Option<RawString<'l>> {
        let first = self.at;
        let mut escaped = false;
        loop {
            let at = self.next_mark()?;
            self.at = at + 1;
            match self.line[at] {
                b'"' => return Some(RawString { text: &self.text[first..at], escaped }),
                b'\\' => self.escape_rest()?,
                _ => return None,
            }
            escaped = true;
        }
    }

    /// The position of the next quote, backslash or control character.
    #[inline]
    fn next_mark(&mut self) -> Option<usize> {
        let block = self.at / BLOCK_BYTES;
        if block != self.block {
            self.look_at(block)?;
        }
        let mut marks = self.marks & u64::MAX << (self.at % BLOCK_BYTES);
        while marks == 0 {
            self.look_at(self.block + 1)?;
            marks = self.marks;
        }
        Some(self.block * BLOCK_BYTES + marks.trailing_zeros() as usize)
    }

    /// Computes the marks of a block; `None` past the last one.
    fn look_at(&mut self, block: usize) -> Option<()> {
        let rest = self.line.get(block * BLOCK_BYTES..).filter(|rest| !rest.is_empty())?;
        self.block = block;
        self.marks = if let Some(bytes) = rest.first_chunk() {
            marks(bytes)
        } else {
            let mut bytes = [b' '; BLOCK_BYTES];
            bytes[..rest.len()].copy_from_slice(rest);
            marks(&bytes)
        };
        Some(())
    }

    /// An escape whose backslash has been read.
    fn escape_rest(&mut self) -> Option<()> {
        let kind = *self.line.get(self.at)?;
        self.at += 1;
        // A table lookup, because the processor cannot predict a branch per letter.
        if ESCAPES[usize::from(kind)] {
            return Some(());
        }
        if kind != b'u' {
            return None;
        }
        match self.unit()? {
            0xd800..=0xdbff => {
                let pair = self.line.get(self.at..self.at + 2)? == b"\\u";
                self.at += 2;
                (pair && matches!(self.unit()?, 0xdc00..=0xdfff)).then_some(())
            }
            0xdc00..=0xdfff => None,
            _ => Some(()),
        }
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Option<u32> {
        let digits = self.line.get(self.at..self.at + 4)?;
        self.at += 4;
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| DIGITS[usize::from(digits[at])]);
        // Only `NO_DIGIT` has upper bits.
        let all_digits = (a | b | c | d) < 16;
        all_digits.then(|| u32::from(a) << 12 | u32::from(b) << 8 | u32::from(c) << 4 | u32::from(d))
    }

    /// `true`, `false` or `null` without its first letter.
    fn literal(&mut self, rest: &[u8]) -> Option<()> {
        let found = self.line.get(self.at..self.at + rest.len())? == rest;
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
        let byte = *self.line.get(self.at).filter(|byte| matches(byte))?;
        self.at += 1;
        Some(byte)
    }
}

/// A bit for each quote, backslash and control character.
#[inline]
fn marks(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    let (words, _) = bytes.as_chunks::<16>();
    let mut lowest = u8x16::splat(u8::MAX);
    let mut marks = 0;
    for (number, word) in words.iter().enumerate() {
        let word = u8x16::new(*word);
        lowest = lowest.min(word);
        let found = word.simd_eq(u8x16::splat(b'"')) | word.simd_eq(u8x16::splat(b'\\'));
        marks |= u64::from(found.to_bitmask()) << (16 * number);
    }
    // Few blocks have a control character.
    if controls(lowest) == 0 { marks } else { marks | control_marks(bytes) }
}

/// A bit for each control character.
#[cold]
fn control_marks(bytes: &[u8; BLOCK_BYTES]) -> u64 {
    let (words, _) = bytes.as_chunks::<16>();
    let marked = words.iter().enumerate().map(|(number, word)| u64::from(controls(u8x16::new(*word))) << (16 * number));
    marked.fold(0, |marks, word| marks | word)
}

/// A bit for each control character of sixteen bytes: those that are their own minimum with the last control character.
#[inline]
fn controls(word: u8x16) -> u32 {
    word.min(u8x16::splat(b' ' - 1)).simd_eq(word).to_bitmask()
}

#[cfg(test)]
pub(crate) mod tests;
