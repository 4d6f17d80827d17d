//! A JSON value as the readers of replies see it.
//!
//! In: a value in one of three representations: [`Raw`] bytes, of which only strings and brackets are known, the same
//! in a [file](crate::results::stored_value), or a node of simd-json's tape. Out: its members, its elements, its
//! content. The caller need not know which representation it is.
//!
//! Invariants: for a value that is JSON, all representations give the same results. Of duplicate members, the first
//! counts.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::ops::Range;

use memchr::memchr;
use simd_json::prelude::{ValueAsScalar, ValueIntoString};

use crate::json::brackets::{Brackets, Broken, is_key};

/// Depth to which a value is searched for content. Anything deeper counts as content.
const DEPTH_MAX: u32 = 8;

/// A scalar value, or a mark that the value is a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar<'l> {
    Null,
    Bool(bool),
    Integer(i128),
    /// A number that is not an integer, or too large for one.
    Number(f64),
    Text(Cow<'l, str>),
    /// An object or an array.
    Container,
}

impl Scalar<'_> {
    /// The same, without borrowing from its source.
    pub(crate) fn into_owned(self) -> Scalar<'static> {
        match self {
            Self::Null => Scalar::Null,
            Self::Bool(is_true) => Scalar::Bool(is_true),
            Self::Integer(number) => Scalar::Integer(number),
            Self::Number(number) => Scalar::Number(number),
            Self::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
            Self::Container => Scalar::Container,
        }
    }
}

/// Requested members of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Members<T, const N: usize> {
    /// Those that were requested.
    pub(crate) found: [Option<T>; N],
    /// Whether there are any that were not requested.
    pub(crate) others: bool,
}

/// A JSON value.
pub(crate) trait Tree<'l>: Copy {
    /// Those of the named members that an object has; `None` if the value is not an object.
    fn members<const N: usize>(self, names: [&str; N]) -> Option<Members<Self, N>>;

    /// The first element, or value of a member, that matches.
    fn find_child(self, matches: impl FnMut(Self) -> bool) -> Option<Self>;

    /// The scalar that it is; [`Scalar::Container`] for an object or an array.
    fn scalar(self) -> Scalar<'l>;

    /// Its content, if it is a string.
    fn text(self) -> Option<Cow<'l, str>> {
        match self.scalar() {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number as it is written, if its bytes are available.
    fn written_number(self) -> Option<Cow<'l, str>> {
        None
    }

    /// Whether it is `null`.
    fn is_null(self) -> bool;

    /// Its value, if it is an integer that fits `u64`; else 0.
    fn count(self) -> u64 {
        match self.scalar() {
            Scalar::Integer(number) => u64::try_from(number).unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether it has content: `null`, `false`, zero, a blank string, an empty array or object have none, nor do
    /// containers that hold only such values.
    fn has_content(self) -> bool {
        has_content(self, DEPTH_MAX)
    }
}

fn has_content<'l, T: Tree<'l>>(value: T, depth: u32) -> bool {
    match value.scalar() {
        Scalar::Null => false,
        Scalar::Bool(is_true) => is_true,
        Scalar::Integer(number) => number != 0,
        Scalar::Number(number) => number != 0.0,
        Scalar::Text(text) => !text.trim().is_empty(),
        Scalar::Container if depth == 0 => true,
        Scalar::Container => value.find_child(|child| has_content(child, depth - 1)).is_some(),
    }
}

/// A value whose bytes are available, as they are in the reply.
pub(crate) trait RawTree<'l>: Tree<'l> {
    /// Whether it is a string.
    fn is_string(self) -> bool;

    /// Passes its bytes to `take`, in order.
    ///
    /// # Errors
    /// Those of `take`.
    fn each_piece(self, take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>;
}

/// Skips an object or array of `length` bytes. `child` is called with the range of each element, or of each member's
/// value and its key in quotes.
pub(crate) fn each_child(
    value: impl BufRead,
    length: u64,
    mut child: impl FnMut(&[u8], Range<u64>),
) -> Result<(), Broken> {
    let mut brackets = Brackets::new(value);
    let mut take = |brackets: &mut Brackets<_>, key: &[u8]| {
        let first = brackets.at();
        brackets.value()?;
        child(key, first..brackets.at());
        Ok(())
    };
    brackets.space()?;
    match brackets.peek()? {
        Some(b'[') => brackets.elements(|brackets| take(brackets, b""))?,
        _ => brackets.members(take)?,
    }
    brackets.space()?;
    if brackets.at() == length { Ok(()) } else { Err(Broken::NotWhole) }
}

/// Finds members among the children that `each_child` yields, each with its key in quotes.
pub(crate) fn find_members<T, const N: usize>(
    names: [&str; N],
    each_child: impl FnOnce(&mut dyn FnMut(&[u8], T)) -> Option<()>,
) -> Option<Members<T, N>> {
    let mut members = Members { found: [const { None }; N], others: false };
    each_child(&mut |key, value| match names.iter().position(|name| is_key(key, name)) {
        Some(place) => drop(members.found[place].get_or_insert(value)),
        None => members.others = true,
    })?;
    Some(members)
}

/// Finds the first match among the children that `each_child` yields. All are read: a value that is not whole has none.
pub(crate) fn find_child<T: Copy>(
    mut matches: impl FnMut(T) -> bool,
    each_child: impl FnOnce(&mut dyn FnMut(&[u8], T)) -> Option<()>,
) -> Option<T> {
    let mut found = None;
    each_child(&mut |_, value| {
        if found.is_none() && matches(value) {
            found = Some(value);
        }
    })?;
    found
}

/// The bytes of a value in its line, without white space around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Raw<'l>(pub(crate) &'l [u8]);

impl Raw<'_> {
    /// The elements, or members with their keys in quotes; `None` unless the value is whole.
    fn each_child(self, mut child: impl FnMut(&[u8], Self)) -> Option<()> {
        let Self(value) = self;
        let position = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let place = |range: Range<u64>| Self(&value[position(range.start)..position(range.end)]);
        each_child(value, value.len() as u64, |key, range| child(key, place(range))).ok()
    }
}

impl<'l> RawTree<'l> for Raw<'l> {
    fn is_string(self) -> bool {
        self.0.starts_with(b"\"")
    }

    fn each_piece(self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        take(self.0)
    }
}

impl<'l> Tree<'l> for Raw<'l> {
    fn members<const N: usize>(self, names: [&str; N]) -> Option<Members<Self, N>> {
        let is_object = self.0.trim_ascii_start().starts_with(b"{");
        is_object.then(|| find_members(names, |child| self.each_child(child)))?
    }

    fn find_child(self, matches: impl FnMut(Self) -> bool) -> Option<Self> {
        find_child(matches, |child| self.each_child(child))
    }

    fn written_number(self) -> Option<Cow<'l, str>> {
        // `NaN`, `Infinity` and other non-numbers do not end with a digit.
        let is_number = matches!(self.0, [b'-' | b'0'..=b'9', .., b'0'..=b'9'] | [b'0'..=b'9']);
        std::str::from_utf8(self.0).ok().filter(|_| is_number).map(Cow::Borrowed)
    }

    fn is_null(self) -> bool {
        // Python's writers emit `NaN` for a missing number, and pandas for an empty field.
        matches!(self.0, b"null" | b"NaN")
    }

    fn scalar(self) -> Scalar<'l> {
        match self.0 {
            [b'"', text @ .., b'"'] => Scalar::Text(unescaped(text)),
            [b'{' | b'[', ..] => Scalar::Container,
            _ if self.is_null() => Scalar::Null,
            b"true" => Scalar::Bool(true),
            b"false" => Scalar::Bool(false),
            other => number(other),
        }
    }
}

/// A number; anything else counts as content, whatever it is.
fn number(text: &[u8]) -> Scalar<'static> {
    // Nearly all numbers that are read are short.
    if text.len() < 10 && text.iter().all(u8::is_ascii_digit) {
        let number = text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        return Scalar::Integer(number.into());
    }
    let Ok(text) = std::str::from_utf8(text) else { return Scalar::Bool(true) };
    let integer = text.parse().map(u64::into).or_else(|_| text.parse().map(i64::into));
    let number = || text.parse().map_or(Scalar::Bool(true), Scalar::Number);
    integer.map_or_else(|_| number(), Scalar::Integer)
}

/// Decodes the text between the quotes of a string. Anything that is neither a valid escape nor UTF-8 becomes U+FFFD.
pub(crate) fn unescaped(text: &[u8]) -> Cow<'_, str> {
    if memchr(b'\\', text).is_none() {
        return std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
    }
    let (mut plain, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some(at) = memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        let (character, bytes) = escape(&rest[at + 1..]);
        plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[at + 1 + bytes..];
    }
    plain.extend_from_slice(rest);
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

/// The character that an escape encodes, and its length. `text` starts after the backslash.
fn escape(text: &[u8]) -> (char, usize) {
    let simple = match text.first() {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return escaped_unit(text),
        _ => return (char::REPLACEMENT_CHARACTER, 0),
    };
    (simple, 1)
}

fn escaped_unit(text: &[u8]) -> (char, usize) {
    let Some(first) = unit(text) else { return (char::REPLACEMENT_CHARACTER, 1) };
    let second = text.get(5..).and_then(|rest| unit(rest.strip_prefix(b"\\")?));
    let units = [first, second.unwrap_or(0)];
    match char::decode_utf16(units).next() {
        Some(Ok(character)) => (character, if character.len_utf16() == 2 { 11 } else { 5 }),
        _ => (char::REPLACEMENT_CHARACTER, 5),
    }
}

/// The value of the four hexadecimal digits after a `u`.
pub(crate) fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"u")?.first_chunk::<4>()?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u16::from_str_radix(digits, 16).ok()
}

/// A node of simd-json's tape.
pub(crate) type Node<'t, 'l> = simd_json::tape::Value<'t, 'l>;

impl<'l> Tree<'l> for Node<'_, 'l> {
    fn members<const N: usize>(self, names: [&str; N]) -> Option<Members<Self, N>> {
        let mut members = Members { found: [None; N], others: false };
        for (key, value) in &self.as_object()? {
            match names.iter().position(|name| *name == key) {
                Some(place) => drop(members.found[place].get_or_insert(value)),
                None => members.others = true,
            }
        }
        Some(members)
    }

    fn find_child(self, mut matches: impl FnMut(Self) -> bool) -> Option<Self> {
        match (self.as_object(), self.as_array()) {
            (Some(object), _) => object.values().find(|value| matches(*value)),
            (_, Some(array)) => array.iter().find(|value| matches(*value)),
            _ => None,
        }
    }

    fn is_null(self) -> bool {
        self.as_null().is_some()
    }

    fn scalar(self) -> Scalar<'l> {
        if self.is_object() || self.is_array() {
            Scalar::Container
        } else if self.as_null().is_some() {
            Scalar::Null
        } else if let Some(is_true) = self.as_bool() {
            Scalar::Bool(is_true)
        } else if let Some(text) = self.into_string() {
            Scalar::Text(Cow::Borrowed(text))
        } else if let Some(integer) = self.as_u64().map(u64::into).or_else(|| self.as_i64().map(i64::into)) {
            Scalar::Integer(integer)
        } else {
            // An integer of more than 64 bits has no `f64` here, but still counts as content.
            Scalar::Number(self.as_f64().unwrap_or(f64::NAN))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_values_are_distinguished_from_content() {
        let deep = |leaf: &str| format!("{}{leaf}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (value, says) in [
            ("null", false),
            ("NaN", false),
            ("false", false),
            ("0", false),
            ("-0.0", false),
            (r#""""#, false),
            (r#"" \n""#, false),
            ("[]", false),
            ("{}", false),
            (r#"{"code":null,"message":"","inner":{"a":[null,0]}}"#, false),
            ("true", true),
            ("1", true),
            ("123456789012345678901234567890", true),
            ("1e999", true),
            (r#""no""#, true),
            (r#"[null,"no"]"#, true),
            (r#"{"code":null,"message":"no"}"#, true),
            (&deep("0"), true),
        ] {
            assert_eq!(Raw(value.as_bytes()).has_content(), says, "{value:.80}");
            let mut copy = value.as_bytes().to_vec();
            if let Ok(tape) = simd_json::to_tape(&mut copy) {
                assert_eq!(tape.as_value().has_content(), says, "{value:.80}");
            }
        }
    }

    #[test]
    fn malformed_strings_are_decoded_with_replacements() {
        let replaced = "\u{fffd}";
        for (text, wanted) in [
            (br"a\ud83d\ude00\/".as_slice(), "a😀/".to_owned()),
            (br"\ud83d", replaced.to_owned()),
            (br"\ud83d\u0041", format!("{replaced}A")),
            (br"\ude00x", format!("{replaced}x")),
            (br"\u12g4\u+123", format!("{replaced}12g4{replaced}+123")),
            (br"\q\", format!("{replaced}q{replaced}")),
            (b"\xff\t\\n", format!("{replaced}\t\n")),
        ] {
            assert_eq!(unescaped(text), wanted);
        }
    }

    proptest! {
        #[test]
        fn strings_decode_as_a_parser_reads_them(text in any::<String>(), ascii: bool) {
            let mut json = serde_json::to_string(&text).unwrap();
            if ascii {
                let escape = |unit: u16| match u8::try_from(unit) {
                    Ok(plain @ b' '..=b'~') => char::from(plain).to_string(),
                    _ => format!("\\u{unit:04x}"),
                };
                json = json.encode_utf16().map(escape).collect();
            }
            prop_assert_eq!(Raw(json.as_bytes()).text(), Some(Cow::Borrowed(text.as_str())));
        }
    }
}
