//! The exact reader of JSON: every member of an object, and where a text is not JSON.
//!
//! In: text. Out: an [`Object`] whose members are slices of the text, so that each has a column; or `serde_json`'s
//! error with its position. [`Oddities`] are valid JSON, or may be, but services read them differently.
//!
//! The [scanner](super::scanner) is tried first, since it accepts nearly every text; what it rejects is parsed.
//!
//! Invariants: the reader accepts what `serde_json` accepts, at any nesting depth. Nothing is copied: memory is a few
//! words per top-level member.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::marks::Marks;
use super::scanner::{RawString, Scanner};
use super::tree::unit;

/// The content of `value`, a JSON value, if it is a string; `None` if it is not, or contains a lone surrogate.
pub(crate) fn string(value: &str) -> Option<Cow<'_, str>> {
    RawString::of(value)?.unescaped()
}

/// The raw elements of an array.
pub(crate) fn elements(text: &str) -> serde_json::Result<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text)?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// An object and its members, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object<'l> {
    text: &'l str,
    members: Vec<(RawString<'l>, &'l str)>,
}

impl<'l> Object<'l> {
    /// Reads a text that is one object.
    pub(crate) fn read(text: &'l str) -> serde_json::Result<Self> {
        Self::scanned(text).map_or_else(|| Self::parsed(text), Ok)
    }

    fn scanned(text: &'l str) -> Option<Self> {
        let (mut marks, mut members) = (Marks::default(), Vec::new());
        Scanner::of(text, &mut marks).whole(|scanner| {
            scanner.members(|scanner, key| {
                members.push((key, scanner.raw_value()?));
                Some(())
            })
        })?;
        Some(Self { text, members })
    }

    fn parsed(text: &'l str) -> serde_json::Result<Self> {
        // The whole text first: that it is not JSON is reported before that it is not an object.
        serde_json::from_str::<&RawValue>(text)?;
        let Members(members) = serde_json::from_str(text)?;
        Ok(Self { text, members })
    }

    fn named(&self, name: &str) -> impl DoubleEndedIterator<Item = &'l str> {
        self.members.iter().filter(move |(key, _)| key.is(name)).map(|(_, value)| *value)
    }

    /// The first member of this name.
    pub(crate) fn first(&self, name: &str) -> Option<&'l str> {
        self.named(name).next()
    }

    /// The last members of these names.
    pub(crate) fn last<const N: usize>(&self, names: [&str; N]) -> [Option<&'l str>; N] {
        names.map(|name| self.named(name).next_back())
    }

    /// The first duplicate of a key that `matters`, with the value of the duplicate.
    pub(crate) fn repeated(&self, matters: impl Fn(&str) -> bool) -> Option<(Cow<'l, str>, &'l str)> {
        let mut seen = HashSet::new();
        self.members.iter().find_map(|(key, value)| {
            let key = key.unescaped().unwrap_or(Cow::Borrowed(key.0));
            (matters(&key) && !seen.insert(key.clone())).then_some((key, *value))
        })
    }

    /// Column of the object's first byte, in bytes from 1.
    pub(crate) fn column(&self) -> usize {
        column(self.text)
    }

    /// Column of the first byte of `part`, a slice of the text, in bytes from 1.
    pub(crate) fn column_of(&self, part: &str) -> usize {
        part.as_ptr() as usize - self.text.as_ptr() as usize + 1
    }
}

/// For the server, which passes lines on without some of their members.
#[cfg(any(feature = "serve", test))]
impl<'l> Object<'l> {
    /// The text without the members of these names, otherwise byte for byte.
    pub(crate) fn without(&self, names: &[&str]) -> Cow<'l, str> {
        let cuts = self.cuts(names);
        if cuts.is_empty() {
            return Cow::Borrowed(self.text);
        }
        let (mut kept, mut at) = (String::with_capacity(self.text.len()), 0);
        for cut in cuts {
            kept.push_str(&self.text[at..cut.start]);
            at = cut.end;
        }
        kept.push_str(&self.text[at..]);
        Cow::Owned(kept)
    }

    /// The ranges of the members of these names, each including the comma to remove with it.
    fn cuts(&self, names: &[&str]) -> Vec<std::ops::Range<usize>> {
        let (mut cuts, mut kept) = (Vec::<std::ops::Range<usize>>::new(), None);
        for (number, (key, value)) in self.members.iter().enumerate() {
            let (start, end) = (self.column_of(key.0) - 2, self.column_of(value) - 1 + value.len());
            let is_last = number + 1 == self.members.len();
            if !names.iter().any(|name| key.is(name)) {
                kept = Some(end);
            } else if let Some(kept) = kept.filter(|_| is_last) {
                // A last member: remove the comma before it, too, and all in between.
                cuts.retain(|cut| cut.start < kept);
                cuts.push(kept..end);
            } else {
                let comma = self.text[end..].find(',').filter(|_| !is_last);
                cuts.push(start..end + comma.map_or(0, |comma| comma + 1));
            }
        }
        cuts
    }
}

/// Column of the first byte of the value in `text`, in bytes from 1.
pub(crate) fn column(text: &str) -> usize {
    text.bytes().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0) + 1
}

/// An object's members as `serde_json` reads them.
struct Members<'l>(Vec<(RawString<'l>, &'l str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    let key = RawString::of(key.get()).ok_or_else(|| de::Error::custom("a key is not a string"))?;
                    members.push((key, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// What only the bytes show: how deep the nesting is, and lone surrogates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Oddities {
    /// Column of the first bracket beyond the maximum depth.
    pub(crate) too_deep: Option<usize>,
    /// Column of the first escape that is a lone surrogate.
    pub(crate) lone_surrogate: Option<usize>,
}

impl Oddities {
    /// Those of a text that is possibly JSON.
    pub(crate) fn of(text: &[u8], depth_max: usize) -> Self {
        let mut oddities = Self { too_deep: None, lone_surrogate: None };
        let (mut depth, mut in_string, mut at) = (0_usize, false, 0);
        while let Some(&byte) = text.get(at) {
            match byte {
                b'"' => in_string = !in_string,
                b'\\' if in_string => {
                    let (first, second) = (unit(&text[at + 1..]), text.get(at + 6..).and_then(escaped_unit));
                    match (first, second) {
                        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 6,
                        (Some(0xd800..=0xdfff), _) => drop(oddities.lone_surrogate.get_or_insert(at + 1)),
                        _ => {}
                    }
                    at += 1;
                }
                b'[' | b'{' if !in_string => {
                    depth += 1;
                    if depth > depth_max {
                        oddities.too_deep.get_or_insert(at + 1);
                    }
                }
                b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
        }
        oddities
    }
}

/// The UTF-16 code unit of the `\uXXXX` escape at the start of `text`.
fn escaped_unit(text: &[u8]) -> Option<u16> {
    unit(text.strip_prefix(b"\\")?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Object<'_> {
        Object::read(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn members_are_slices_and_duplicates_have_a_first_and_a_last() {
        let text = " {\"a\": [1, \"\\ud800\"],\t\"b\\u0062\" : 1, \"a\":\"x\", \"c\":null} ";
        let object = read(text);
        assert_eq!((object.first("a"), object.first("d")), (Some(r#"[1, "\ud800"]"#), None));
        assert_eq!(object.last(["a", "bb", "d"]), [Some(r#""x""#), Some("1"), None]);
        assert_eq!((object.column(), object.column_of(object.first("c").unwrap())), (2, 51));
        assert_eq!(object.repeated(|_| true), Some(("a".into(), r#""x""#)));
        assert_eq!(object.repeated(|key| key != "a"), None);
        assert_eq!(read(r#"{"\u0061":1,"a":2,"a":3}"#).repeated(|_| true), Some(("a".into(), "2")));
    }

    #[test]
    fn anything_but_one_object_is_rejected_with_its_position() {
        for (text, words) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("[]", "invalid type: sequence, expected an object at line 1 column 0"),
            ("[1,]", "expected value at line 1 column 4"),
            ("1", "invalid type: integer `1`, expected an object at line 1 column 1"),
            ("{", "EOF while parsing an object at line 1 column 1"),
            ("{} {}", "trailing characters at line 1 column 4"),
            (r#"{"a":01}"#, "invalid number at line 1 column 7"),
            (r#"{"a":"\x"}"#, "invalid escape at line 1 column 8"),
            ("{\"a\":\"\t\"}", "control character (\\u0000-\\u001F) found while parsing a string at line 1 column 6"),
        ] {
            assert_eq!(Object::read(text).unwrap_err().to_string(), words, "{text}");
        }
    }

    #[test]
    fn members_are_removed_and_nothing_else_changes() {
        for (line, left) in [
            (
                r#"{"method":"POST","url":"/v1","custom_id": "a", "body": {"url":1}}"#,
                r#"{"custom_id": "a", "body": {"url":1}}"#,
            ),
            (r#"{"custom_id":"a","body":{},"method":"POST","url":"/v1"}"#, r#"{"custom_id":"a","body":{}}"#),
            (
                r#" { "custom_id":"a" , "url":"x,}\"{" , "body":[{}] , "method" : 1.5e3 } "#,
                r#" { "custom_id":"a" ,  "body":[{}] } "#,
            ),
            (r#"{"m\u0065thod":null,"body":"\\"}"#, r#"{"body":"\\"}"#),
            (r#"{"method":true,"url":{}}"#, "{}"),
            ("{\t\"method\" :1\t,\"\":\"\"}", "{\t\"\":\"\"}"),
            (r#"{"custom_id":"a"}"#, r#"{"custom_id":"a"}"#),
            ("{}", "{}"),
        ] {
            assert_eq!(read(line).without(&["method", "url"]), left);
        }
    }

    #[test]
    fn strings_and_elements_are_distinguished_from_other_values() {
        assert_eq!(elements(r#" [1 ,{"a":2}] "#).unwrap(), ["1", r#"{"a":2}"#]);
        assert!(elements("{}").is_err() && elements("[1").is_err());
        assert_eq!((string(r#""a\n""#).as_deref(), string("1"), string(r#""\ud800""#)), (Some("a\n"), None, None));
    }

    proptest! {
        /// However a valid text is edited: the scanner reads the same as the parser, or rejects it.
        #[test]
        fn scanner_and_parser_agree(
            line in crate::json::scanner::tests::edited(
                b"{\"a\":\"id-1\",\t\"b\" :{\"model\":\"m\",\"a\":[{\"c\":\"h\\u00e9 \\\"q\\\"\"}],\"n\":-1.5e3},\"a\":[true,null,{}]}",
            ),
        ) {
            let Ok(text) = std::str::from_utf8(&line) else { return Ok(()) };
            let parsed = Object::parsed(text).ok();
            let known: Option<serde_json::Value> = serde_json::from_str(text).ok().filter(serde_json::Value::is_object);
            // Numbers beyond 64 bits and lone surrogates are JSON, but no `Value`.
            prop_assert!(parsed.is_some() || known.is_none(), "{}", text);
            if let Some(object) = &parsed && let Some(known) = known {
                for name in ["a", "b"] {
                    let last = object.last([name])[0].map(|value| serde_json::from_str(value).unwrap());
                    prop_assert_eq!(last.as_ref(), known.get(name));
                }
            }
            if let Some(object) = Object::scanned(text) {
                prop_assert_eq!(Some(object), parsed);
            }
        }
    }
}
