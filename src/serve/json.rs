//! Picks members out of a JSON object without building it.
//!
//! In: the text of one JSON value. Out: the raw texts of the wanted members, borrowed from it.
//! What always holds: the whole text was checked to be JSON; of a repeated member the last one counts; the values of
//! all other members are skipped over, never kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The raw texts of the members called `names` of the JSON object in `text`, in the order of `names`.
/// Fails when the text is not JSON or not an object.
pub(super) fn members<'t, const N: usize>(
    text: &'t str,
    names: [&str; N],
) -> Result<[Option<&'t str>; N], serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = deserializer.deserialize_map(Members { names: &names })?;
    deserializer.end()?;
    Ok(found)
}

/// Shows `visit` the raw texts of the members called `names` of each object in the JSON array in `text`. Fails when the
/// text is no array of objects.
pub(super) fn each<'t, const N: usize>(
    text: &'t str,
    names: [&str; N],
    visit: impl FnMut([Option<&'t str>; N]),
) -> Result<(), serde_json::Error> {
    serde_json::Deserializer::from_str(text).deserialize_seq(Each { names: &names, visit })
}

/// How many elements the JSON array in `text` has, or `None` when it is no array.
pub(super) fn count(text: &str) -> Option<usize> {
    serde_json::from_str::<Vec<IgnoredAny>>(text).ok().map(|elements| elements.len())
}

/// The value of the JSON string in `text`, or `None` when it is no string, or one that UTF-8 cannot hold (a lone
/// surrogate).
pub(super) fn string(text: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Borrowed<'t>(#[serde(borrow)] Cow<'t, str>);
    serde_json::from_str::<Borrowed<'_>>(text).ok().map(|borrowed| borrowed.0)
}

/// The first `chars` characters of the JSON string in `text`, without decoding the rest. `None` as for [`string`].
pub(super) fn string_start(text: &str, chars: usize) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut rest = inner;
    for _ in 0..chars {
        let Some(first) = rest.chars().next() else { break };
        let length = match (first, rest.as_bytes()) {
            // The second half of a surrogate pair belongs to the character that the first half starts.
            ('\\', [_, b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', ..]) => 12,
            ('\\', [_, b'u', ..]) => 6,
            ('\\', _) => 2,
            _ => first.len_utf8(),
        };
        rest = rest.get(length..)?;
    }
    let start = &inner[..inner.len() - rest.len()];
    string(&format!("\"{start}\"")).map(Cow::into_owned)
}

/// The JSON object in `line` without its members called `names`, and otherwise byte for byte. What is no object stays as it is.
pub(super) fn without<'l>(line: &'l [u8], names: &[&str]) -> Cow<'l, [u8]> {
    let spans: Vec<(usize, usize)> = spans(line, names).unwrap_or_default();
    if spans.is_empty() {
        return Cow::Borrowed(line);
    }
    let (mut kept, mut at) = (Vec::with_capacity(line.len()), 0);
    for (start, end) in spans {
        kept.extend_from_slice(&line[at..start]);
        at = end;
    }
    kept.extend_from_slice(&line[at..]);
    Cow::Owned(kept)
}

/// Where the members called `names` of the object in `line` stand, each with a comma that goes with it; `None` for what is no object.
fn spans(line: &[u8], names: &[&str]) -> Option<Vec<(usize, usize)>> {
    let (mut spans, mut left) = (Vec::new(), 0);
    let mut at = line.iter().position(|byte| !byte.is_ascii_whitespace()).filter(|at| line[*at] == b'{')? + 1;
    loop {
        let start = at + line[at..].iter().position(|byte| !byte.is_ascii_whitespace())?;
        let key_end = value_end(line, start)?;
        let colon = key_end + line[key_end..].iter().position(|byte| *byte == b':')?;
        let end = value_end(line, colon + 1 + line[colon + 1..].iter().position(|byte| !byte.is_ascii_whitespace())?)?;
        let next = end + line[end..].iter().position(|byte| !byte.is_ascii_whitespace())?;
        let is_last = line[next] != b',';
        let key = std::str::from_utf8(&line[start..key_end]).ok().and_then(string)?;
        if !names.contains(&&*key) {
            left = end;
        } else if is_last && left > 0 {
            // The comma before it goes, too, and with it what stands in between.
            spans.retain(|(start, _)| *start < left);
            spans.push((left, end));
        } else {
            spans.push((start, if is_last { end } else { next + 1 }));
        }
        if is_last {
            return Some(spans);
        }
        at = next + 1;
    }
}

/// Where the JSON value ends that begins at `start`. The text is known to be JSON.
fn value_end(line: &[u8], start: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut at) = (0_usize, false, start);
    loop {
        match *line.get(at)? {
            b'\\' if in_string => at += 1,
            b'"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return Some(at + 1);
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            byte if depth == 0 && byte.is_ascii_whitespace() => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

struct Members<'n, const N: usize> {
    names: &'n [&'n str; N],
}

impl<'t, const N: usize> DeserializeSeed<'t> for Members<'_, N> {
    type Value = [Option<&'t str>; N];

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'t, const N: usize> Visitor<'t> for Members<'_, N> {
    type Value = [Option<&'t str>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(place) = map.next_key_seed(Place { names: self.names })? {
            match place {
                Some(place) => found[place] = Some(map.next_value::<&RawValue>()?.get()),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Turns a key into its place among the wanted names.
struct Place<'n> {
    names: &'n [&'n str],
}

impl<'t> DeserializeSeed<'t> for Place<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Place<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.names.iter().position(|name| *name == key))
    }
}

struct Each<'n, const N: usize, V> {
    names: &'n [&'n str; N],
    visit: V,
}

impl<'t, const N: usize, V: FnMut([Option<&'t str>; N])> Visitor<'t> for Each<'_, N, V> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON array of objects")
    }

    fn visit_seq<A: SeqAccess<'t>>(mut self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(found) = sequence.next_element_seed(Members { names: self.names })? {
            (self.visit)(found);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_raw_and_the_last_of_two_counts() {
        let found = members(r#"{"a": [1, "\ud800"], "b\u0062": 1, "a":"x", "c":null}"#, ["a", "bb", "d"]).unwrap();
        assert_eq!(found, [Some(r#""x""#), Some("1"), None]);
    }

    #[test]
    fn anything_but_one_object_is_refused() {
        for text in ["", "[]", "1", "{", "{} {}", r#"{"a":01}"#, r#"{"a":"\x"}"#] {
            assert!(members(text, ["a"]).is_err(), "{text}");
        }
    }

    #[test]
    fn members_are_taken_out_and_nothing_else_is_touched() {
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
            (r#"{"custom_id":"a"}"#, r#"{"custom_id":"a"}"#),
        ] {
            let bare = without(line.as_bytes(), &["method", "url"]);
            assert_eq!(std::str::from_utf8(&bare).unwrap(), left);
        }
        for other in ["", "[]", "{", "{}", r#"{"method"#, r#"{"method":"#] {
            assert_eq!(without(other.as_bytes(), &["method"]), other.as_bytes(), "{other}");
        }
    }

    #[test]
    fn each_object_of_an_array_is_shown() {
        let mut seen = Vec::new();
        each(r#"[{"a":1},{},{"b":2,"a":[3]}]"#, ["a"], |[a]| seen.push(a)).unwrap();
        assert_eq!(seen, [Some("1"), None, Some("[3]")]);
        assert!(each(r#"[{"a":1},2]"#, ["a"], |_| {}).is_err());
        assert!(each("{}", ["a"], |_| {}).is_err());
    }

    #[test]
    fn the_start_of_a_string_ends_between_characters() {
        let text = r#""a\n\ud83d\uDE00ü\u00e9\"z""#;
        let whole = string(text).unwrap().into_owned();
        assert_eq!(whole, "a\n😀üé\"z");
        for chars in 0..9 {
            let expected: String = whole.chars().take(chars).collect();
            assert_eq!(string_start(text, chars), Some(expected), "{chars}");
        }
        assert_eq!(string_start(r#""a\ud800b""#, 5), None);
        assert_eq!(string_start("[1]", 5), None);
    }

    #[test]
    fn arrays_and_strings_are_told_from_other_values() {
        assert_eq!(count(r#"[1,{"a":2}]"#), Some(2));
        assert_eq!(count("{}"), None);
        assert_eq!(string(r#""a\n""#).as_deref(), Some("a\n"));
        assert_eq!(string("1"), None);
        assert_eq!(string(r#""\ud800""#), None);
    }
}
