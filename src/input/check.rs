//! Line to Request or Defect.
//!
//! In: the bytes of one line. Out: the hash of its `custom_id` and its model, or what is wrong with it.
//!
//! Two share the work. [`request`] is fast: it walks over the line (`grammar.rs`, `walk.rs`) and builds nothing. Whatever it does not
//! accept goes to [`diagnose`], which is slow, exact and the judge: it finds the place of the defect, or accepts the line after all.
//!
//! What always holds: both accept the same requests. What the fast one takes, `diagnose` takes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::{Envelope, Lacks};
use super::grammar;
use crate::input::body_only;
use crate::model::defect::{DEPTH_MAX, Defect, DefectKind};

/// What a line must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineLimits {
    /// Longest line in bytes, its line end not counted.
    pub line_bytes: u64,
    /// Longest `custom_id` in Unicode scalar values.
    pub custom_id_characters: usize,
    /// What it must have, or is given on its way up.
    pub envelope: Envelope,
    /// Whether lines are [bodies only](super::body_only), and are given ids, too.
    pub assign_ids: bool,
}

impl LineLimits {
    /// What a line is taken to lack before it is known.
    pub(super) fn presumed(&self) -> Lacks {
        if self.assign_ids { self.envelope.around_body() } else { Lacks::default() }
    }
}

/// A request as the fast path sees it; strings without escapes are those of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields<'l> {
    /// The caller's name for the request.
    pub custom_id: Cow<'l, str>,
    /// The model that it asks for.
    pub model: Cow<'l, str>,
    /// What it is given on its way up.
    pub lacks: Lacks,
}

/// The fields of a good line, without its line end; `None` when it needs [`diagnose`].
#[must_use]
pub fn request<'l>(line: &'l [u8], limits: &LineLimits) -> Option<Fields<'l>> {
    if line.len() as u64 > limits.line_bytes {
        return None;
    }
    let raw = grammar::request(line)?;
    let lacks = limits.envelope.lacks(line).ok()?;
    let fields = Fields { custom_id: raw.custom_id.unescaped()?, model: raw.model.unescaped()?, lacks };
    let fits = fields.custom_id.len() <= limits.custom_id_characters
        || fields.custom_id.chars().count() <= limits.custom_id_characters;
    (!fields.custom_id.is_empty() && fits && written_bytes(line, lacks, limits) <= limits.line_bytes).then_some(fields)
}

/// Bytes of a line as it goes up.
fn written_bytes(line: &[u8], lacks: Lacks, limits: &LineLimits) -> u64 {
    line.len() as u64 + u64::from(limits.envelope.added_bytes(lacks, 0))
}

/// A request as the slow path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosed {
    /// The caller's name for the request.
    pub custom_id: String,
    /// The model that it asks for.
    pub model: String,
    /// What it is given on its way up.
    pub lacks: Lacks,
}

/// Decides about a line that the fast path did not accept. `line` is as it stands in the file, its line end not included.
pub fn diagnose(line: &[u8], limits: &LineLimits) -> Result<Diagnosed, Defect> {
    let object = Object::parse(line, limits)?;
    let column_of = |value: &str| object.column_of(value);
    // The id first, so that every other message can name it.
    let custom_id = object.get("custom_id").and_then(|value| serde_json::from_str::<String>(value).ok());
    let defect = |kind, column| Defect { kind, column, custom_id: custom_id.clone() };
    if let Some(column) = object.lone_surrogate() {
        return Err(defect(DefectKind::LoneSurrogate, column));
    }
    if let Some((key, value)) = object.repeated() {
        return Err(defect(DefectKind::DuplicateKey(key.to_owned()), column_of(value)));
    }
    let Some(id_value) = object.get("custom_id") else {
        return Err(defect(DefectKind::MissingCustomId, object.column()));
    };
    let Some(id) = &custom_id else {
        return Err(defect(DefectKind::CustomIdNotAString, column_of(id_value)));
    };
    if id.is_empty() {
        return Err(defect(DefectKind::EmptyCustomId, column_of(id_value)));
    }
    let characters = id.chars().count();
    if characters > limits.custom_id_characters {
        let kind = DefectKind::CustomIdTooLong(characters, limits.custom_id_characters);
        return Err(defect(kind, column_of(id_value)));
    }
    let Some(body_value) = object.get("body") else {
        return Err(defect(DefectKind::MissingBody, object.column()));
    };
    if !body_value.starts_with('{') {
        return Err(defect(DefectKind::BodyNotAnObject, column_of(body_value)));
    }
    let body = Members::parse(body_value).map_err(|error| invalid_json(&error))?;
    if let Some((key, value)) = body.repeated.as_ref().filter(|(key, _)| key == "model") {
        return Err(defect(DefectKind::DuplicateKey(format!("body.{key}")), column_of(value)));
    }
    let Some(model_value) = body.get("model") else {
        return Err(defect(DefectKind::MissingModel, column_of(body_value)));
    };
    let Ok(model) = serde_json::from_str(model_value) else {
        return Err(defect(DefectKind::ModelNotAString, column_of(model_value)));
    };
    let lacks = limits.envelope.lacks(line)?;
    if written_bytes(line, lacks, limits) > limits.line_bytes {
        return Err(defect(DefectKind::LineTooLong(limits.line_bytes), 1));
    }
    Ok(Diagnosed { custom_id: id.clone(), model, lacks })
}

/// What is wrong with a line, bare or not, if anything is.
#[must_use]
pub fn defect(line: &[u8], limits: &LineLimits) -> Option<Defect> {
    if limits.assign_ids { body_only::model(line, limits).err() } else { diagnose(line, limits).err() }
}

/// A line that is a JSON object.
pub(super) struct Object<'l> {
    text: &'l str,
    members: Members<'l>,
    structure: Structure,
}

impl<'l> Object<'l> {
    /// Reads a line; the Defect says why it is no JSON object.
    pub(super) fn parse(line: &'l [u8], limits: &LineLimits) -> Result<Self, Defect> {
        let plain = |kind, column| Defect { kind, column, custom_id: None };
        if line.len() as u64 > limits.line_bytes {
            return Err(plain(DefectKind::LineTooLong(limits.line_bytes), 1));
        }
        let text = std::str::from_utf8(line).map_err(|error| plain(DefectKind::NotUtf8, error.valid_up_to() + 1))?;
        let structure = Structure::of(line);
        if let Some(column) = structure.too_deep {
            return Err(plain(DefectKind::TooDeep, column));
        }
        // A sequence of values would be refused as trailing characters; the shape comes first.
        let whole: &RawValue = serde_json::from_str(text).map_err(|error| invalid_json(&error))?;
        if !whole.get().starts_with('{') {
            return Err(plain(DefectKind::NotAnObject, column_in(text)));
        }
        let members = Members::parse(whole.get()).map_err(|error| match structure.lone_surrogate {
            // In a key.
            Some(column) => plain(DefectKind::LoneSurrogate, column),
            None => invalid_json(&error),
        })?;
        Ok(Self { text, members, structure })
    }

    pub(super) fn get(&self, key: &str) -> Option<&'l str> {
        self.members.get(key)
    }

    /// See [`Members`].
    pub(super) fn repeated(&self) -> Option<(&str, &'l str)> {
        self.members.repeated.as_ref().map(|(key, value)| (key.as_str(), *value))
    }

    /// See [`Structure`].
    pub(super) fn lone_surrogate(&self) -> Option<usize> {
        self.structure.lone_surrogate
    }

    /// Where the object begins, in bytes counted from 1.
    pub(super) fn column(&self) -> usize {
        column_in(self.text)
    }

    /// Where a value of it begins.
    pub(super) fn column_of(&self, value: &str) -> usize {
        value.as_ptr() as usize - self.text.as_ptr() as usize + 1
    }
}

/// Where the first thing in a text begins, in bytes counted from 1.
fn column_in(text: &str) -> usize {
    text.bytes().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0) + 1
}

/// The `custom_id` of a line and its column in bytes counted from 1, whatever else the line holds; `None` when it has none.
#[must_use]
pub fn custom_id(line: &[u8]) -> Option<(String, usize)> {
    let text = std::str::from_utf8(line).ok()?;
    let members = Members::parse(text).ok()?;
    let value = members.get("custom_id")?;
    let column = value.as_ptr() as usize - text.as_ptr() as usize + 1;
    Some((serde_json::from_str(value).ok()?, column))
}

/// The `body` of a line, as it stands there.
#[must_use]
pub fn body(line: &[u8]) -> Option<&[u8]> {
    Members::parse(std::str::from_utf8(line).ok()?).ok()?.get("body").map(str::as_bytes)
}

fn invalid_json(error: &serde_json::Error) -> Defect {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let words = error.to_string();
    let words = words.strip_suffix(&place).unwrap_or(&words).to_owned();
    Defect { kind: DefectKind::InvalidJson(words), column: error.column().max(1), custom_id: None }
}

/// The members of an object that matter, as slices of the text, and the first key that stands twice among them or `model`.
struct Members<'l> {
    kept: Vec<(String, &'l str)>,
    repeated: Option<(String, &'l str)>,
}

impl<'l> Members<'l> {
    fn parse(object: &'l str) -> serde_json::Result<Self> {
        serde_json::from_str(object)
    }

    fn get(&self, key: &str) -> Option<&'l str> {
        self.kept.iter().find(|(kept, _)| kept == key).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members { kept: Vec::new(), repeated: None };
                let mut seen = HashSet::new();
                while let Some(Key(key)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    if ["custom_id", "body", "model"].contains(&key.as_ref()) {
                        members.kept.push((key.clone().into_owned(), value.get()));
                    }
                    let again = !seen.insert(key.clone());
                    if again && (members.repeated.is_none() || key == "model") {
                        members.repeated = Some((key.into_owned(), value.get()));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A key, borrowed from the text unless it is escaped.
#[derive(Deserialize)]
struct Key<'l>(#[serde(borrow)] Cow<'l, str>);

/// What only a look at the bytes tells: how deep the nesting goes, and halves of surrogate pairs.
struct Structure {
    /// Column of the bracket that is one too deep.
    too_deep: Option<usize>,
    /// Column of an escape that is half of a pair.
    lone_surrogate: Option<usize>,
}

impl Structure {
    fn of(line: &[u8]) -> Self {
        let mut structure = Self { too_deep: None, lone_surrogate: None };
        let (mut depth, mut in_string, mut at) = (0_usize, false, 0);
        while let Some(&byte) = line.get(at) {
            match byte {
                b'"' => in_string = !in_string,
                b'\\' if in_string => {
                    let is_half = |escape| matches!(escape, Some(0xd800..=0xdfff));
                    let first = escaped_unit(&line[at..]);
                    if matches!(first, Some(0xd800..=0xdbff))
                        && matches!(escaped_unit(&line[at + 6..]), Some(0xdc00..=0xdfff))
                    {
                        at += 6;
                    } else if is_half(first) {
                        structure.lone_surrogate.get_or_insert(at + 1);
                    }
                    at += 1;
                }
                b'[' | b'{' if !in_string => {
                    depth += 1;
                    if depth > DEPTH_MAX {
                        structure.too_deep.get_or_insert(at + 1);
                    }
                }
                b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
        }
        structure
    }
}

/// The UTF-16 unit of a `\uXXXX` escape that `bytes` begins with.
fn escaped_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: LineLimits =
        LineLimits { line_bytes: 10_000_000, custom_id_characters: 64, envelope: Envelope::MINIMAL, assign_ids: false };

    fn fast(line: &[u8]) -> Option<Diagnosed> {
        let Fields { custom_id, model, lacks } = request(line, &LIMITS)?;
        Some(Diagnosed { custom_id: custom_id.into_owned(), model: model.into_owned(), lacks })
    }

    #[test]
    fn the_fast_path_takes_a_plain_request() {
        let line = br#"{"custom_id":"a\u0062","body":{"x":[1,{"model":3}],"model":"m","messages":[]},"method":"POST"}"#;
        let expected = Diagnosed { custom_id: "ab".to_owned(), model: "m".to_owned(), lacks: Lacks::default() };
        assert_eq!(fast(line), Some(expected.clone()));
        assert_eq!(diagnose(line, &LIMITS), Ok(expected));
    }

    #[test]
    fn numbers_beyond_any_type_are_json() {
        let line =
            br#"{"custom_id":"a","body":{"model":"m","n":123456789012345678901234567890123456789012345,"x":1e999}}"#;
        assert_eq!(diagnose(line, &LIMITS).map(|found| found.custom_id), Ok("a".to_owned()));
        assert!(fast(line).is_some());
    }

    #[test]
    fn a_key_that_stands_twice_is_found_in_any_spelling_and_any_number() {
        let escaped = br#"{"custom_id":"a","body":{"model":"m"},"custom\u005fid":"b"}"#;
        assert_eq!(fast(escaped), None);
        assert_eq!(diagnose(escaped, &LIMITS).unwrap_err().kind.code(), "duplicate-key");
        let many = (0..50).map(|n| format!(r#""k{n}":{n}"#)).collect::<Vec<_>>().join(",");
        let line = format!(r#"{{{many},"custom_id":"a","body":{{"model":"m"}},"k7":1}}"#);
        assert_eq!(fast(line.as_bytes()), None);
        assert_eq!(diagnose(line.as_bytes(), &LIMITS).unwrap_err().kind, DefectKind::DuplicateKey("k7".to_owned()));
    }

    #[test]
    fn depth_beyond_the_limit_is_refused_without_recursion() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            for depth in [2000, 200_000] {
                let line = format!(r#"{{"custom_id":"a","body":{}1{}}}"#, open.repeat(depth), close.repeat(depth));
                assert_eq!(fast(line.as_bytes()), None);
                assert_eq!(diagnose(line.as_bytes(), &LIMITS).unwrap_err().kind, DefectKind::TooDeep);
            }
        }
    }

    #[test]
    fn pairs_are_whole_and_halves_are_not() {
        let with = |text: &str| format!(r#"{{"custom_id":"a","body":{{"model":"m","t":"{text}"}}}}"#);
        for good in [r"\ud83d\ude00", r"\\ud83d", r"\u00e9"] {
            assert!(diagnose(with(good).as_bytes(), &LIMITS).is_ok(), "{good}");
            assert!(fast(with(good).as_bytes()).is_some(), "{good}");
        }
        for bad in [r"\ud83d", r"\ude00", r"\ud83d\u0041", r"\ud83dx"] {
            assert_eq!(diagnose(with(bad).as_bytes(), &LIMITS).unwrap_err().kind, DefectKind::LoneSurrogate, "{bad}");
            assert_eq!(fast(with(bad).as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        /// Cuts, doubles and overwrites pieces of a good line: whatever comes out, the fast path may refuse what the
        /// judge takes, but never the other way round, and they read the same fields.
        #[test]
        fn the_judge_takes_whatever_the_fast_path_takes(
            from in 0_usize..110, length in 0_usize..30, patch in prop_oneof![
                Just(String::new()), Just("\"".to_owned()), Just("\\u0041".to_owned()), Just("1e400".to_owned()),
                Just("{\"model\":\"x\"}".to_owned()), "[\\[\\]{},:\"0-9a-z\\\\ ]{0,8}",
            ],
        ) {
            let line = r#"{"custom_id":"id-1","body":{"model":"m","messages":[{"role":"user","content":"h\u00e9 \"q\""}],"n":1.5e3}}"#;
            let from = from.min(line.len());
            let to = (from + length).min(line.len());
            let changed = format!("{}{patch}{}", &line[..from], &line[to..]);
            if let Some(fields) = fast(changed.as_bytes()) {
                prop_assert_eq!(diagnose(changed.as_bytes(), &LIMITS), Ok(fields));
            }
        }
    }
}
