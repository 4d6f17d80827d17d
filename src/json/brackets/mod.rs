//! Where JSON values begin and end, found by brackets and strings alone.
//!
//! In: bytes, from memory or piece by piece from a file: any [`BufRead`], such as a slice. Out: where values, members
//! and objects end, and as much of a value as the caller asks for.
//!
//! A reply has to be whole, but it may be malformed (a lone surrogate, bytes that are not UTF-8, `NaN`, a number of any
//! length) and larger than memory. Only what determines where a value ends is validated. The readers of lines that the
//! scanner rejects are built on this module, generic over the source, so that a line of 10 GB is read like one of 10
//! KB.
//!
//! Invariants: every byte is read once and in order. Memory is what is captured, which is limited, and one bit per open
//! bracket, up to 64 Mi of them (`open`); deeper brackets are only counted.

use std::io::{self, BufRead};

use memchr::{memchr, memchr2};

mod open;
pub(crate) mod whole;

use crate::json::brackets::open::Open;

/// Maximum bytes of a key that are kept: no key that is looked up is longer, even if every letter is an escape.
pub(crate) const KEY_BYTES_MAX: usize = 256;

/// Why no value was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The bytes end too early, or their brackets do not match.
    #[error("not whole JSON")]
    NotWhole,
    /// They cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

impl Broken {
    /// Turns [`Broken::NotWhole`] into `None`.
    pub(crate) fn found<T>(result: Result<T, Self>) -> io::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Self::NotWhole) => Ok(None),
            Err(Self::Read(error)) => Err(error),
        }
    }
}

/// A value, or as much of it as was requested.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Its first bytes, unchanged.
    pub bytes: Vec<u8>,
    /// Whether they are the whole value.
    pub whole: bool,
}

/// A cursor in JSON text. See the [module](self).
#[derive(Debug)]
pub(crate) struct Brackets<R> {
    from: R,
    /// Bytes consumed so far.
    at: u64,
    /// Skipped bytes are kept here, up to the given limit.
    capture: Option<(Vec<u8>, usize)>,
    /// The buffer of the last key, for reuse.
    key: Vec<u8>,
    /// Whether two values may be adjacent, without a comma.
    lenient: bool,
}

impl<R: BufRead> Brackets<R> {
    /// A cursor at the first byte of `from`.
    pub(crate) fn new(from: R) -> Self {
        Self { from, at: 0, capture: None, key: Vec::new(), lenient: false }
    }

    /// The same, but without validation between the brackets of a value: for a list in which one malformed entry must
    /// not hide the others.
    pub(crate) fn lenient(from: R) -> Self {
        Self { lenient: true, ..Self::new(from) }
    }

    /// How many bytes have been consumed.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The next byte, without consuming it; `None` at the end.
    pub(crate) fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.from.fill_buf()?.first().copied())
    }

    /// Skips white space.
    pub(crate) fn space(&mut self) -> io::Result<()> {
        self.pass_while(is_space)
    }

    /// Skips a value of any kind, which begins here.
    pub(crate) fn value(&mut self) -> Result<(), Broken> {
        match self.peek()?.ok_or(Broken::NotWhole)? {
            b'"' => self.string(),
            b'{' | b'[' => self.nested(),
            _ => {
                let first = self.at;
                self.pass_while(|byte| !is_space(byte) && !STRUCTURAL[usize::from(byte)])?;
                // At the end of the bytes, a number may be incomplete.
                if self.at > first && self.peek()?.is_some() { Ok(()) } else { Err(Broken::NotWhole) }
            }
        }
    }

    /// Skips an object, which begins here.
    pub(crate) fn object(&mut self) -> Result<(), Broken> {
        if self.peek()? == Some(b'{') { self.nested() } else { Err(Broken::NotWhole) }
    }

    /// Skips a value and keeps its first bytes, at most `bytes_max`.
    pub(crate) fn captured(&mut self, bytes_max: usize) -> Result<Captured, Broken> {
        let first = self.at;
        self.capture = Some((Vec::new(), bytes_max));
        let passed = self.value();
        let (bytes, _) = self.capture.take().unwrap_or_default();
        passed?;
        let whole = bytes.len() as u64 == self.at - first;
        Ok(Captured { bytes, whole })
    }

    /// Skips to the end, and returns how many bytes have been consumed by then.
    pub(crate) fn skip_to_end(&mut self) -> io::Result<u64> {
        self.pass_while(|_| true)?;
        Ok(self.at)
    }

    /// Skips an object. `take` is called with each key, in its quotes, and has to consume the value.
    pub(crate) fn members(
        &mut self,
        mut take: impl FnMut(&mut Self, &[u8]) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        self.expect(b'{')?;
        while !self.object_ends()? {
            let key = self.key()?;
            self.space()?;
            self.expect(b':')?;
            self.space()?;
            take(self, &key)?;
            self.key = key;
            self.member_ends()?;
        }
        Ok(())
    }

    /// Whether the object ends here, and then consumes its end; else another member follows. Extra commas are accepted.
    fn object_ends(&mut self) -> Result<bool, Broken> {
        self.pass_while(|byte| is_space(byte) || byte == b',')?;
        let ends = self.peek()? == Some(b'}');
        if ends {
            self.expect(b'}')?;
        }
        Ok(ends)
    }

    /// Requires a comma or the end of the object after a member.
    fn member_ends(&mut self) -> Result<(), Broken> {
        self.space()?;
        if matches!(self.peek()?, Some(b',' | b'}')) { Ok(()) } else { Err(Broken::NotWhole) }
    }

    /// Skips an array. `take` has to consume each element. Extra and missing commas are accepted.
    pub(crate) fn elements(&mut self, mut take: impl FnMut(&mut Self) -> Result<(), Broken>) -> Result<(), Broken> {
        self.expect(b'[')?;
        loop {
            self.space()?;
            match self.peek()? {
                Some(b']') => return self.expect(b']'),
                Some(b',') => self.expect(b',')?,
                _ => take(self)?,
            }
        }
    }

    fn key(&mut self) -> Result<Vec<u8>, Broken> {
        let mut buffer = std::mem::take(&mut self.key);
        buffer.clear();
        // No key is inside a captured value, since those are skipped without reading their members.
        self.capture = Some((buffer, KEY_BYTES_MAX));
        let passed = self.string();
        let (key, _) = self.capture.take().unwrap_or_default();
        passed.map(|()| key)
    }

    /// A value between brackets. Adjacent values without a comma, as where one was cut off and another begins, are
    /// rejected.
    fn nested(&mut self) -> Result<(), Broken> {
        let mut open = Open::default();
        let mut after_value = false;
        loop {
            let bare = self.bare()?;
            let mark = self.next_byte()?;
            let begins = matches!(mark, b'"' | b'{' | b'[');
            let adjacent = after_value && (bare || begins) || bare && begins;
            if adjacent && !self.lenient {
                return Err(Broken::NotWhole);
            }
            after_value = matches!(mark, b'"' | b'}' | b']');
            match mark {
                b'"' => self.string_rest()?,
                b'{' | b'[' => open.push(mark == b'{'),
                b'}' | b']' => open.pop(mark == b'}').ok_or(Broken::NotWhole)?,
                _ => {}
            }
            if open.depth == 0 {
                return Ok(());
            }
        }
    }

    /// Skips what is neither a string nor structural, and returns whether that is more than white space.
    fn bare(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            let piece = self.from.fill_buf()?;
            let found = piece.iter().position(|byte| STRUCTURAL[usize::from(*byte)]);
            let passed = found.unwrap_or(piece.len());
            any = any || !piece[..passed].iter().copied().all(is_space);
            if found.is_some() || piece.is_empty() {
                return self.pass(passed).map(|()| any);
            }
            self.pass(passed)?;
        }
    }

    /// Skips a string, which begins here.
    fn string(&mut self) -> Result<(), Broken> {
        self.expect(b'"')?;
        self.string_rest()
    }

    fn string_rest(&mut self) -> Result<(), Broken> {
        while self.next_of(|piece| memchr2(b'"', b'\\', piece))? != b'"' {
            self.next_byte()?;
        }
        Ok(())
    }

    /// Consumes the next byte, which has to be `wanted`.
    pub(crate) fn expect(&mut self, wanted: u8) -> Result<(), Broken> {
        if self.next_byte()? == wanted { Ok(()) } else { Err(Broken::NotWhole) }
    }

    fn next_byte(&mut self) -> Result<u8, Broken> {
        self.next_of(|_| Some(0))
    }

    /// Skips everything up to and including the byte that `find` finds in a piece, and returns that byte.
    fn next_of(&mut self, find: impl Fn(&[u8]) -> Option<usize>) -> Result<u8, Broken> {
        loop {
            let piece = self.from.fill_buf()?;
            if piece.is_empty() {
                return Err(Broken::NotWhole);
            }
            let found = find(piece).map(|place| (place + 1, piece[place]));
            let passed = found.map_or(piece.len(), |(passed, _)| passed);
            self.pass(passed)?;
            if let Some((_, byte)) = found {
                return Ok(byte);
            }
        }
    }

    fn pass_while(&mut self, such: impl Fn(u8) -> bool) -> io::Result<()> {
        loop {
            let piece = self.from.fill_buf()?;
            let passed = piece.iter().position(|byte| !such(*byte));
            let whole = piece.len();
            self.pass(passed.unwrap_or(whole))?;
            if passed.is_some() || whole == 0 {
                return Ok(());
            }
        }
    }

    /// Consumes `bytes` bytes of the current piece.
    fn pass(&mut self, bytes: usize) -> io::Result<()> {
        if let Some((kept, most)) = &mut self.capture {
            let more = bytes.min(*most - kept.len());
            kept.extend_from_slice(&self.from.fill_buf()?[..more]);
        }
        self.from.consume(bytes);
        self.at += bytes as u64;
        Ok(())
    }
}

/// The bytes outside of strings that are not part of a number or a literal.
const STRUCTURAL: [bool; 256] = {
    let mut these = [false; 256];
    let bytes = b"{}[]\",:";
    let mut number = 0;
    while number < bytes.len() {
        these[bytes[number] as usize] = true;
        number += 1;
    }
    these
};

/// White space as JSON defines it.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether a key in its quotes is `name`, however it is escaped.
pub(crate) fn is_key(key: &[u8], name: &str) -> bool {
    if memchr(b'\\', key).is_some() {
        return serde_json::from_slice::<String>(key).is_ok_and(|key| key == name);
    }
    key.len() == name.len() + 2 && key[1..=name.len()] == *name.as_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::whole::{is_whole_object, members_of, object_end, objects_of};
    use super::*;

    const MALFORMED: [&[u8]; 6] = [
        br#"{"custom_id":"a","n":NaN,"big":123456789012345678901234567890,"s":"\ud83d"}"#,
        b"{\"s\":\"\xff\xfe\",\"t\":\"tab\t and nul\0\"}",
        br#"{"a":"\\","b":"\"}","c":["{",{"d":[]}]}"#,
        b" {\t\"a\" : [ 1 , 2 ] , \"b\" : { } } \r",
        b"{}",
        br#"{"a":{"b":{"c":[[[[[[1]]]]]]}}}"#,
    ];

    #[test]
    fn whole_objects_are_accepted_and_truncated_ones_rejected() {
        for line in MALFORMED {
            assert!(is_whole_object(line), "{}", line.escape_ascii());
            let end = line.trim_ascii_end().len();
            for cut in 0..end {
                assert!(!is_whole_object(&line[..cut]), "{}", line[..cut].escape_ascii());
            }
            assert!(members_of(line, ["a"]).is_some(), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn non_objects_and_mismatched_brackets_are_not_whole() {
        for line in [
            &b"[]"[..],
            b"[{}]",
            b"1",
            b"\"a\"",
            b"null",
            b"",
            b" ",
            b"{}{}",
            b"{} 1",
            b"{},",
            b"{\"a\":[}",
            b"{\"a\":1]}",
            b"{\"a\":[1}]",
            b"}{",
            b"x{}",
        ] {
            assert!(!is_whole_object(line), "{}", line.escape_ascii());
            assert!(members_of(line, ["a"]).is_none(), "{}", line.escape_ascii());
        }
        assert_eq!(object_end(b"{\"a\":\"}\"}{\"b\":1}"), Some(9));
        assert_eq!(objects_of(b" {\"a\":\"}\"}{} \t{\"b\":1}\r"), Some(vec![1..10, 10..12, 14..21]));
        for line in [&b""[..], b" ", b"{}{", b"{}x", b"{},{}", b"{}[]", b"x{}"] {
            assert_eq!(objects_of(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn nesting_has_no_limit_and_needs_no_stack() {
        let depth = 3_000_000;
        let line = [b"{\"a\":".to_vec(), vec![b'['; depth], vec![b']'; depth], b"}".to_vec()].concat();
        assert!(is_whole_object(&line));
        assert!(!is_whole_object(&line[..line.len() - 1]));
        let mut crossed = line;
        crossed[depth / 2] = b'{';
        assert!(!is_whole_object(&crossed));
    }

    #[test]
    fn the_first_of_duplicate_keys_counts_however_escaped() {
        let line = br#" { "x" : {"a":0}, "\u0061" : "one" , "a":2,"b":[3, 4 ] }"#;
        assert_eq!(members_of(line, ["a", "b", "c"]), Some([Some(&br#""one""#[..]), Some(b"[3, 4 ]"), None]));
        let long = format!(r#"{{"{}":1,"a":2}}"#, "a".repeat(10_000));
        assert_eq!(members_of(long.as_bytes(), ["a"]), Some([Some(&b"2"[..])]));
    }

    #[test]
    fn children_are_found_between_extra_commas_but_not_between_adjacent_values() {
        for line in [r#"{"a":1,"b":[2]}"#, r#"{ "a" :1 ,"b" : [2], }"#, r#"{,"a":1,,"b":[2]}"#] {
            assert_eq!(members_of(line.as_bytes(), ["a", "b"]), Some([Some(&b"1"[..]), Some(b"[2]")]), "{line}");
        }
        for line in [r#"{"a":1 2}"#, r#"{"a":1 "b":2}"#, r#"{"a"}"#, r#"{"a":}"#, r#"{"a" 1}"#, "{a:1}", r#"{"a":b[}"#]
        {
            assert!(members_of(line.as_bytes(), ["a"]).is_none(), "{line}");
        }
        // A truncated value, followed by another one.
        for inner in [r#""{"id":1"#, r#"1{"id":1}"#, r#"{}{"id":1}"#, "[]x", "x[]", r#""a""b""#, r#"x"b""#] {
            for line in [format!(r#"{{"a":[{inner}]}}"#), format!(r#"{{"a":{{"b":{inner}}}}}"#)] {
                assert!(!is_whole_object(line.as_bytes()), "{line}");
            }
        }
        assert!(Brackets::lenient(&br#"{"a":["b" "c" 1{}]}"#[..]).value().is_ok());
        for (array, wanted) in [("[]", 0), ("[ 1 , \"a\",[2],{} ]", 4), ("[1,]", 1)] {
            let (mut brackets, mut elements) = (Brackets::new(array.as_bytes()), 0);
            let passed = brackets.elements(|brackets| {
                elements += 1;
                brackets.value()
            });
            assert!(passed.is_ok() && elements == wanted && brackets.peek().unwrap().is_none(), "{array}");
        }
        for cut in ["[", "[1", "[1,", "[[]", "1"] {
            assert!(Brackets::new(cut.as_bytes()).elements(Brackets::value).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_value_is_captured_up_to_a_limit() {
        let line = br#"{"id":"abcdef","rest":[1,2]}"#;
        for piece in [1, 3, 1000] {
            for (most, wanted) in [(8, &br#""abcdef""#[..]), (1000, br#""abcdef""#), (4, br#""abc"#)] {
                let mut brackets = Brackets::new(BufReader::with_capacity(piece, &line[..]));
                let mut captured = Captured::default();
                let passed = brackets.members(|brackets, key| {
                    if is_key(key, "id") {
                        captured = brackets.captured(most)?;
                        return Ok(());
                    }
                    brackets.value()
                });
                assert!(passed.is_ok());
                assert_eq!((captured.bytes.as_slice(), captured.whole), (wanted, most >= 8));
                assert_eq!(brackets.at(), line.len() as u64);
            }
        }
    }

    #[test]
    fn a_read_error_is_not_taken_for_the_end() {
        struct Failing;
        impl io::Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk"))
            }
        }
        let mut brackets = Brackets::new(BufReader::new(Failing));
        assert!(matches!(brackets.object(), Err(Broken::Read(_))));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[a-c{}\\[\\]\",:\\\\ é\n]{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::vec(("[ab{\"\\\\]{0,3}", inner), 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_end_where_a_parser_ends_them_at_any_piece_size(value in json(), pretty: bool, piece in 1_usize..40) {
            let mut text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
            let end = text.len();
            prop_assert_eq!(is_whole_object(&text), value.is_object());
            text.extend_from_slice(b" {\"next\"");
            let mut brackets = Brackets::new(BufReader::with_capacity(piece, &text[..]));
            prop_assert!(brackets.value().is_ok());
            prop_assert_eq!(brackets.at(), end as u64);
            for cut in 0..end {
                if value.is_object() {
                    prop_assert!(!is_whole_object(&text[..cut]));
                }
            }
        }
    }
}
