//! A JSON value in a file, too large for memory.
//!
//! In: a range of a file. Out: a [`Tree`], read again for each query, and the value's bytes in pieces.
//!
//! A reply of any length is classified by the same rule, and normalized in the same way, as one in memory. Each query
//! costs a pass over the value; there are a handful.
//!
//! Invariants: memory is a piece of the file, and [`TEXT_BYTES_MAX`] of a string. A value that cannot be read is absent
//! to the caller, and the read error is reported at the end: see [`StoredText::ask`].

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, BufRead, Read};
use std::ops::Range;

use crate::json::brackets::Broken;
use crate::json::tree::{Members, Raw, RawTree, Scalar, Tree, each_child, find_child, find_members};
use crate::storage::lines::RangeReader;
use crate::storage::read_at::ReadAt;

/// Maximum bytes of a scalar that are read. A longer string is truncated.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// Represents a string that begins with that much white space.
const ELLIPSIS: &str = "…";

/// Text in a file, and what went wrong when it was read.
#[derive(Debug)]
pub(super) struct StoredText<'f> {
    file: &'f dyn ReadAt,
    failure: RefCell<Option<io::Error>>,
}

impl<'f> StoredText<'f> {
    /// What `question` makes of the value in this range.
    ///
    /// # Errors
    /// When it could not be read to answer it.
    pub(super) fn ask<T>(
        file: &'f dyn ReadAt,
        range: Range<u64>,
        question: impl FnOnce(StoredValue<'_>) -> T,
    ) -> io::Result<T> {
        let text = Self { file, failure: RefCell::default() };
        let answer = question(StoredValue { text: &text, start: range.start, end: range.end });
        text.failure.into_inner().map_or(Ok(answer), Err)
    }

    fn fail(&self, error: io::Error) {
        self.failure.borrow_mut().get_or_insert(error);
    }
}

/// A value, or a place that should be one. See the [module](self).
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredValue<'t> {
    text: &'t StoredText<'t>,
    start: u64,
    end: u64,
}

impl<'t> StoredValue<'t> {
    fn reader(self) -> RangeReader<'t> {
        RangeReader::new(self.text.file, self.start..self.end)
    }

    /// Its first bytes, all of them if they are not more than [`TEXT_BYTES_MAX`].
    fn beginning(self) -> Vec<u8> {
        let mut beginning = Vec::new();
        let end = self.end.min(self.start + TEXT_BYTES_MAX);
        if let Err(error) = RangeReader::new(self.text.file, self.start..end).read_to_end(&mut beginning) {
            self.text.fail(error);
        }
        beginning
    }

    fn first_byte(self) -> Option<u8> {
        let first = self.reader().fill_buf().map(|bytes| bytes.first().copied());
        first.unwrap_or_else(|error| {
            self.text.fail(error);
            None
        })
    }

    fn is_long(self) -> bool {
        self.end - self.start > TEXT_BYTES_MAX
    }

    fn each_child(self, mut child: impl FnMut(&[u8], Self)) -> Option<()> {
        let place = |range: Range<u64>| Self { start: self.start + range.start, end: self.start + range.end, ..self };
        let passed = each_child(self.reader(), self.end - self.start, |key, range| child(key, place(range)));
        Broken::found(passed).unwrap_or_else(|error| {
            self.text.fail(error);
            None
        })
    }
}

impl<'t> Tree<'t> for StoredValue<'t> {
    fn members<const N: usize>(self, names: [&str; N]) -> Option<Members<Self, N>> {
        (self.first_byte() == Some(b'{')).then(|| find_members(names, |child| self.each_child(child)))?
    }

    fn find_child(self, such: impl FnMut(Self) -> bool) -> Option<Self> {
        find_child(such, |child| self.each_child(child))
    }

    fn scalar(self) -> Scalar<'t> {
        match (self.first_byte(), self.is_long()) {
            (Some(b'{' | b'['), _) => Scalar::Container,
            (_, false) => Raw(&self.beginning()).scalar().into_owned(),
            (Some(b'"'), true) => {
                let beginning = [&self.beginning()[..], b"\""].concat();
                match Raw(&beginning).text().filter(|text| !text.trim().is_empty()) {
                    Some(text) => Scalar::Text(Cow::Owned(text.into_owned())),
                    None => Scalar::Text(Cow::Borrowed(ELLIPSIS)),
                }
            }
            // A number with that many digits, or anything else.
            (_, true) => Scalar::Bool(true),
        }
    }

    fn written_number(self) -> Option<Cow<'t, str>> {
        if self.is_long() {
            return None;
        }
        Raw(&self.beginning()).written_number().map(|number| Cow::Owned(number.into_owned()))
    }

    fn is_null(self) -> bool {
        !self.is_long() && Raw(&self.beginning()).is_null()
    }
}

impl<'t> RawTree<'t> for StoredValue<'t> {
    fn is_string(self) -> bool {
        self.first_byte() == Some(b'"')
    }

    fn each_piece(self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut reader = self.reader();
        loop {
            let piece = match reader.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(piece) => piece,
                Err(error) => {
                    self.text.fail(error);
                    return Ok(());
                }
            };
            take(piece)?;
            let taken = piece.len();
            reader.consume(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::ReplyNames;
    use crate::dialect::reply::reply_of;
    use crate::dialect::reply_parts::Parts;
    use crate::model::custom_id::IdHasher;
    use crate::model::reply::ReplyRole;
    use crate::results::normalize;
    use crate::storage::local_file::LocalFile;

    const IDS: IdHasher = IdHasher { key: 5 };

    fn stored(text: &[u8]) -> LocalFile {
        let file = LocalFile::scratch(&std::env::temp_dir()).unwrap();
        file.write_all_at(text, 0).unwrap();
        file
    }

    fn ask<T>(text: &[u8], question: impl FnOnce(StoredValue<'_>) -> T) -> T {
        let file = stored(&[b"before", text, b"behind"].concat());
        StoredText::ask(&file, 6..6 + text.len() as u64, question).unwrap()
    }

    /// What a value says, as far as the rule asks.
    fn said<'l>(value: impl Tree<'l>) -> (Scalar<'static>, bool, bool) {
        (value.scalar().into_owned(), value.is_null(), value.has_content())
    }

    #[test]
    fn values_say_what_they_say_in_memory() {
        for text in [
            &b"null"[..],
            b"NaN",
            b"true",
            b"false",
            b"0",
            b"-7",
            b"1.5",
            b"{}",
            b"[]",
            b"[null,0]",
            b"[null,\"x\"]",
            b"{\"a\":[1]}",
            br#""a\n\u00e9""#,
            b"\" \"",
            b"\"\xff\"",
            b"[1,",
            b"{\"a\"",
            b"123456789012345678901234567890",
        ] {
            assert_eq!(ask(text, |value| said(value)), said(Raw(text)), "{}", text.escape_ascii());
            let number = ask(text, |value| value.written_number().map(Cow::into_owned));
            assert_eq!(number, Raw(text).written_number().map(Cow::into_owned), "{}", text.escape_ascii());
        }
        let members = ask(br#"{"a":{"b":"x"},"c":[1,2],"a":3}"#, |value| {
            let Members { found: [a, b], others } = value.members(["a", "b"]).unwrap();
            (a.unwrap().members(["b"]).unwrap().found[0].unwrap().text().map(Cow::into_owned), b.is_none(), others)
        });
        assert_eq!(members, (Some("x".to_owned()), true, true));
        assert!(ask(b"[1]", |value| value.members(["a"]).is_none()));
    }

    #[test]
    fn long_values_say_what_begins_them() {
        let long = usize::try_from(TEXT_BYTES_MAX).unwrap() + 1;
        let text = |text: &str| {
            ask(format!("\"{}\"", text.repeat(long)).as_bytes(), |value| value.text().unwrap().into_owned())
        };
        assert!(text("x").starts_with("xxx") && text("\\u00e9").starts_with("éé") && text(" ") == ELLIPSIS);
        assert_eq!(ask(&b"7".repeat(long), |value| said(value)), (Scalar::Bool(true), false, true));
        assert_eq!(
            ask(&[b"[", &b"null,".repeat(long)[..], b"0]"].concat(), |value| said(value)),
            (Scalar::Container, false, false)
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_no_answer() {
        let file = stored(b"{\"a\":1}");
        for range in [0..100, 50..60] {
            assert!(StoredText::ask(&file, range, |value| value.members(["a"]).is_some()).is_err());
        }
        let pieces = StoredText::ask(&file, 0..100, |value| value.each_piece(|_| Ok(())).is_ok());
        assert!(pieces.is_err());
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("false".to_owned()),
            (150_u64..600).prop_map(|number| number.to_string()),
            "[a-c]{0,3}".prop_map(|text| format!("{text:?}")),
            Just(format!("{:?}", "x".repeat(70_000))),
            Just(format!("[{}1]", "1,".repeat(40_000))),
        ];
        let names = [
            "response",
            "result",
            "error",
            "errors",
            "status_code",
            "body",
            "usage",
            "prompt_tokens",
            "output_tokens",
            "code",
            "message",
            "type",
            "other",
        ];
        leaf.prop_recursive(4, 24, 5, move |inner| {
            prop::collection::vec((prop::sample::select(names.to_vec()), inner), 0..6).prop_map(move |members| {
                let members: Vec<String> = members.iter().map(|(key, value)| format!("{key:?} : {value}")).collect();
                format!("{{{}}}", members.join(", "))
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_reply_is_read_and_shaped_as_one_in_memory(response in value(), error in value(), output: bool, failed: bool) {
            let role = if output { ReplyRole::Output } else { ReplyRole::Error };
            let line = format!(r#"{{"response":{response},"custom_id":"a", "error":{error} }}"#);
            let (mut in_memory, mut in_file) = (Vec::new(), Vec::new());
            normalize::write_common(line.as_bytes(), failed, &mut in_memory).unwrap();
            let read = ask(line.as_bytes(), |value| {
                let parts = Parts::of(value, &ReplyNames::COMMON).unwrap();
                normalize::write_parts(&parts, failed, &mut in_file).unwrap().unwrap();
                reply_of(&parts, role, IDS)
            });
            prop_assert_eq!(read, Parts::of(Raw(line.as_bytes()), &ReplyNames::COMMON).and_then(|parts| reply_of(&parts, role, IDS)));
            prop_assert!(in_file == in_memory, "{} and {}", in_file.escape_ascii(), in_memory.escape_ascii());
        }
    }
}
