//! Line to Request or Defect.
//!
//! In: the bytes of one line, and the rules. Out: its id, its model and its missing fields, or its defect.
//!
//! A line is a whole request, or a body such as `{"model":…,"messages":…}` if ids are [assigned].
//!
//! [`request`] is the fast path: it scans the line (`grammar.rs`) and builds nothing. What it does not accept goes to
//! [`diagnose`], the slow path, which is authoritative: it locates the defect, or accepts the line after all.
//!
//! Invariants: what the fast path accepts, `diagnose` accepts, with the same result.
//!
//! [assigned]: crate::model::custom_id::assigned_id

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::embeddings;
use super::envelope::{Envelope, Lacks};
use super::grammar::{self, RawFields};
use crate::json::exact::{Object, Oddities, column, string};
use crate::json::marks::Marks;
use crate::json::scanner::Scanner;
use crate::model::defect::{DEPTH_MAX, Defect, DefectKind};

/// The rules for lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineLimits {
    /// Maximum length of a line in bytes, without its terminator.
    pub line_bytes: u64,
    /// Maximum length of a `custom_id` in Unicode scalar values.
    pub custom_id_characters: usize,
    /// The fields that it must have, or that are added during the upload.
    pub envelope: Envelope,
    /// Whether lines are bodies, to which ids are assigned.
    pub assign_ids: bool,
    /// Maximum inputs of a request for embeddings, if the service limits them.
    pub inputs: Option<u64>,
}

impl LineLimits {
    /// The fields that are assumed to be missing before the line has been read.
    pub(super) fn presumed(&self) -> Lacks {
        if self.assign_ids { self.envelope.around_body() } else { Lacks::default() }
    }

    /// Maximum length of a line that is held in memory, in bytes: a carriage return may follow the line.
    pub(super) fn held_bytes_max(&self) -> usize {
        usize::try_from(self.line_bytes).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// See [`Envelope::lacks`].
    fn lacks<'l>(&self, method: Option<&'l str>, url: Option<&'l str>) -> Result<Lacks, (DefectKind, &'l str)> {
        if self.assign_ids { Ok(self.presumed()) } else { self.envelope.lacks(method, url) }
    }

    /// This many inputs, where they are counted; `None` if they are too many.
    fn counted(&self, inputs: u64) -> Option<u32> {
        let Some(most) = self.inputs else { return Some(1) };
        u32::try_from(inputs).ok().filter(|_| inputs <= most)
    }

    /// How many inputs a request has, where they are counted; or that they are too many, and where they begin.
    fn inputs(&self, line: &[u8]) -> Result<u32, (DefectKind, usize)> {
        let Some(most) = self.inputs else { return Ok(1) };
        let (inputs, column) =
            std::str::from_utf8(line).map_or((1, 1), |line| embeddings::count(line, self.assign_ids));
        self.counted(inputs).ok_or((DefectKind::TooManyInputs(inputs, most), column))
    }

    /// Whether a line with these fields missing is too long when uploaded.
    fn is_too_long(&self, line: &[u8], lacks: Lacks) -> bool {
        self.envelope.written_bytes(line, lacks) > self.line_bytes
    }
}

/// The relevant fields of a request. Strings without escapes borrow from the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields<'l> {
    /// The caller's name for the request; `None` where it is assigned.
    pub custom_id: Option<Cow<'l, str>>,
    /// The model that it asks for.
    pub model: Cow<'l, str>,
    /// The fields that are added during the upload.
    pub lacks: Lacks,
    /// Its inputs, where they are counted; 1 elsewhere.
    pub inputs: u32,
}

/// The fields of a line, which is passed without its terminator, or its defect.
pub fn check<'l>(line: &'l [u8], limits: &LineLimits) -> Result<Fields<'l>, Defect> {
    request(line, limits).map_or_else(|| diagnose(line, limits), Ok)
}

/// The fields of a valid line, without its terminator; `None` if it needs [`diagnose`].
#[must_use]
pub fn request<'l>(line: &'l [u8], limits: &LineLimits) -> Option<Fields<'l>> {
    request_by(line, limits, &mut Marks::default())
}

/// The same, with these marks.
#[must_use]
pub fn request_by<'l>(line: &'l [u8], limits: &LineLimits, marks: &mut Marks) -> Option<Fields<'l>> {
    let text = simdutf8::basic::from_utf8(line).ok()?;
    fields(Scanner::of(text, marks).whole(|scanner| scan(scanner, limits))?, line, limits)
}

/// The raw values of the line that a scanner is at; `None` if it needs [`diagnose`].
pub(super) fn scan<'l>(scanner: &mut Scanner<'l, '_>, limits: &LineLimits) -> Option<RawFields<'l>> {
    if limits.assign_ids { grammar::body_only(scanner) } else { grammar::request(scanner) }
}

/// The fields of a line with these raw values; `None` if it needs [`diagnose`].
pub(super) fn fields<'l>(raw: RawFields<'l>, line: &[u8], limits: &LineLimits) -> Option<Fields<'l>> {
    if line.len() as u64 > limits.line_bytes {
        return None;
    }
    let lacks = limits.lacks(raw.method, raw.url).ok()?;
    let custom_id = match raw.custom_id {
        Some(id) => Some(id.unescaped().filter(|id| !id.is_empty() && id_characters_over(id, limits).is_none())?),
        None => None,
    };
    let model = raw.model.unescaped()?;
    let inputs = limits.counted(raw.inputs)?;
    (!limits.is_too_long(line, lacks)).then_some(Fields { custom_id, model, lacks, inputs })
}

/// How many characters an id has, if they are too many.
fn id_characters_over(id: &str, limits: &LineLimits) -> Option<usize> {
    if id.len() <= limits.custom_id_characters {
        return None;
    }
    Some(id.chars().count()).filter(|characters| *characters > limits.custom_id_characters)
}

/// Checks a line that the fast path did not accept. `line` is unchanged from the file, without its terminator.
pub fn diagnose<'l>(line: &'l [u8], limits: &LineLimits) -> Result<Fields<'l>, Defect> {
    let (object, lone_surrogate) = read(line, limits)?;
    let id_value = object.first("custom_id");
    // The id first, so that every message can include it.
    let custom_id = id_value.and_then(string);
    let defect = |kind, column| Defect { kind, column, custom_id: custom_id.as_ref().map(ToString::to_string) };
    let at = |kind, value: &str| defect(kind, object.column_of(value));
    if let Some(column) = lone_surrogate {
        return Err(defect(DefectKind::LoneSurrogate, column));
    }
    let model = if limits.assign_ids {
        if let Some(id_value) = id_value {
            return Err(at(DefectKind::HasCustomId, id_value));
        }
        model_of(&object, object.column()).map_err(|(kind, column)| defect(kind, column))?
    } else {
        if let Some((key, value)) = object.repeated(|_| true) {
            return Err(at(DefectKind::DuplicateKey(key.into_owned()), value));
        }
        check_id(id_value, custom_id.as_deref(), limits).map_err(|kind| match id_value {
            Some(value) => at(kind, value),
            None => defect(kind, object.column()),
        })?;
        let Some(value) = object.first("body") else {
            return Err(defect(DefectKind::MissingBody, object.column()));
        };
        let body = Object::read(value).map_err(|_| at(DefectKind::BodyNotAnObject, value))?;
        let place = object.column_of(value) - 1;
        model_of(&body, 1).map_err(|(kind, column)| match kind {
            DefectKind::DuplicateKey(key) => defect(DefectKind::DuplicateKey(format!("body.{key}")), place + column),
            kind => defect(kind, place + column),
        })?
    };
    let lacks = limits.lacks(object.first("method"), object.first("url")).map_err(|(kind, value)| at(kind, value))?;
    if limits.is_too_long(line, lacks) {
        return Err(defect(DefectKind::LineTooLong(limits.line_bytes), 1));
    }
    let inputs = limits.inputs(line).map_err(|(kind, column)| defect(kind, column))?;
    Ok(Fields { custom_id, model, lacks, inputs })
}

/// Reads a line that is a JSON object; and the column of the first half of a surrogate pair in it.
fn read<'l>(line: &'l [u8], limits: &LineLimits) -> Result<(Object<'l>, Option<usize>), Defect> {
    let plain = |kind, column| Defect { kind, column, custom_id: None };
    if line.len() as u64 > limits.line_bytes {
        return Err(plain(DefectKind::LineTooLong(limits.line_bytes), 1));
    }
    let text = std::str::from_utf8(line).map_err(|error| plain(DefectKind::NotUtf8, error.valid_up_to() + 1))?;
    let oddities = Oddities::of(line, DEPTH_MAX);
    if let Some(column) = oddities.too_deep {
        return Err(plain(DefectKind::TooDeep, column));
    }
    let object = Object::read(text).map_err(|error| match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => plain(DefectKind::NotAnObject, column(text)),
        Err(_) => invalid_json(&error),
    })?;
    Ok((object, oddities.lone_surrogate))
}

/// What is wrong with an id, given its raw value and its decoded text.
fn check_id(value: Option<&str>, custom_id: Option<&str>, limits: &LineLimits) -> Result<(), DefectKind> {
    match (value, custom_id) {
        (None, _) => Err(DefectKind::MissingCustomId),
        (_, None) => Err(DefectKind::CustomIdNotAString),
        (_, Some("")) => Err(DefectKind::EmptyCustomId),
        (_, Some(id)) => id_characters_over(id, limits)
            .map_or(Ok(()), |characters| Err(DefectKind::CustomIdTooLong(characters, limits.custom_id_characters))),
    }
}

/// The model of a body; or what is wrong with it, and the column. Where there is none, that is `start`.
fn model_of<'l>(body: &Object<'l>, start: usize) -> Result<Cow<'l, str>, (DefectKind, usize)> {
    if let Some((key, value)) = body.repeated(|key| key == "model") {
        return Err((DefectKind::DuplicateKey(key.into_owned()), body.column_of(value)));
    }
    let value = body.first("model").ok_or((DefectKind::MissingModel, start))?;
    string(value).ok_or_else(|| (DefectKind::ModelNotAString, body.column_of(value)))
}

/// The `custom_id` of a line and its column in bytes counted from 1, whatever else the line holds; `None` when it has
/// none.
#[must_use]
pub fn custom_id(line: &[u8]) -> Option<(String, usize)> {
    let object = Object::read(std::str::from_utf8(line).ok()?).ok()?;
    let value = object.first("custom_id")?;
    Some((string(value)?.into_owned(), object.column_of(value)))
}

/// The raw `body` of a line.
#[must_use]
pub fn body(line: &[u8]) -> Option<&[u8]> {
    Object::read(std::str::from_utf8(line).ok()?).ok()?.first("body").map(str::as_bytes)
}

fn invalid_json(error: &serde_json::Error) -> Defect {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let words = error.to_string();
    let words = words.strip_suffix(&place).unwrap_or(&words).to_owned();
    Defect { kind: DefectKind::InvalidJson(words), column: error.column().max(1), custom_id: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::line::FULL as FULL_LINE;
    use crate::json::marks::Width;
    use crate::model::custom_id::assigned_id;

    const LIMITS: LineLimits = LineLimits {
        line_bytes: 10_000_000,
        custom_id_characters: 64,
        envelope: Envelope::MINIMAL,
        assign_ids: false,
        inputs: None,
    };

    const FULL: LineLimits =
        LineLimits { envelope: Envelope { format: &FULL_LINE, url: "/v1/chat/completions" }, ..LIMITS };

    const BODIES: LineLimits = LineLimits { line_bytes: 1000, assign_ids: true, ..FULL };

    const COUNTED: LineLimits = LineLimits { inputs: Some(2), ..LIMITS };

    fn fast(line: &[u8]) -> Option<Fields<'_>> {
        request(line, &LIMITS)
    }

    fn model(line: &[u8]) -> Result<Cow<'_, str>, Defect> {
        check(line, &BODIES).map(|fields| fields.model)
    }

    #[test]
    fn the_fast_path_takes_a_plain_request() {
        let line = br#"{"custom_id":"a\u0062","body":{"x":[1,{"model":3}],"model":"m","messages":[]},"method":"POST"}"#;
        let expected = Fields { custom_id: Some("ab".into()), model: "m".into(), lacks: Lacks::default(), inputs: 1 };
        assert_eq!(fast(line), Some(expected.clone()));
        assert_eq!(diagnose(line, &LIMITS), Ok(expected));
    }

    #[test]
    fn numbers_beyond_any_type_are_json() {
        let line =
            br#"{"custom_id":"a","body":{"model":"m","n":123456789012345678901234567890123456789012345,"x":1e999}}"#;
        assert_eq!(diagnose(line, &LIMITS).map(|found| found.custom_id), Ok(Some("a".into())));
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

    #[test]
    fn bodies_are_taken_and_what_is_none_is_told() {
        for line in [
            r#"{"model":"m"}"#,
            r#" {"messages":[{"custom_id":1}],"model":"\u006d"} "#,
            r#"{"temperature":1e999,"temperature":0,"mod\u0065l":"m"}"#,
        ] {
            assert_eq!(model(line.as_bytes()).as_deref(), Ok("m"), "{line}");
        }
        for (line, code, column) in [
            (r#"{"custom_id":"a","body":{"model":"m"}}"#, "has-custom-id", 14),
            (r#"{"model":"m","custom\u005fid":7}"#, "has-custom-id", 31),
            (r#"{"body":{"model":"m"}}"#, "missing-model", 1),
            (r#" {"model":7}"#, "model-not-a-string", 11),
            (r#"{"model":"m","model":"n"}"#, "duplicate-key", 22),
            (r#"["model"]"#, "not-an-object", 1),
            (r#"{"model":"m""#, "invalid-json", 12),
            (r#"{"model":"\ud800"}"#, "lone-surrogate", 11),
        ] {
            let defect = model(line.as_bytes()).unwrap_err();
            assert_eq!((defect.kind.code(), defect.column), (code, column), "{line}");
        }
    }

    #[test]
    fn a_line_leaves_room_for_what_is_put_around_it() {
        let written = |seq| {
            let mut out = Vec::new();
            BODIES.envelope.write(br#"{"model":""}"#, BODIES.envelope.around_body(), seq, &mut out);
            out.len() as u64
        };
        let line = |model: u64| format!(r#"{{"model":"{}"}}"#, "m".repeat(usize::try_from(model).unwrap()));
        let most = BODIES.line_bytes - written(1 << 41);
        assert!(model(line(most).as_bytes()).is_ok());
        let defect = model(line(most + 1).as_bytes()).unwrap_err();
        assert_eq!(defect.kind, DefectKind::LineTooLong(BODIES.line_bytes));
        assert!(written(1 << 41) - written(0) < 16, "little is left unused");
        assert!(assigned_id(u64::MAX - 1).len() <= 64, "every provider takes it");
    }

    #[test]
    fn another_method_or_url_is_a_defect_with_its_place() {
        for (line, code, column) in [
            (r#"{"custom_id":"a","method":"GET","body":{"model":"m"}}"#, "other-method", 27),
            (r#"{"custom_id":"a","method":null,"body":{"model":"m"}}"#, "other-method", 27),
            (r#"{"custom_id":"a","url":"/v1/embeddings","body":{"model":"m"}}"#, "other-url", 24),
            (r#"{"custom_id":"a","\u0075rl":7,"body":{"model":"m"}}"#, "other-url", 29),
        ] {
            let defect = check(line.as_bytes(), &FULL).unwrap_err();
            let found = (defect.kind.code(), defect.column, defect.custom_id.as_deref());
            assert_eq!(found, (code, column, Some("a")), "{line}");
            assert!(check(line.as_bytes(), &LIMITS).is_ok());
        }
    }

    /// A line as it becomes when a piece of it is cut, doubled or written over.
    fn patched(line: &'static str) -> impl Strategy<Value = String> {
        let patch = prop_oneof![
            Just(String::new()),
            Just("\"".to_owned()),
            Just("\\u0041".to_owned()),
            Just("1e400".to_owned()),
            Just("\"custom_id\":1".to_owned()),
            Just(",\"model\":\"x\"".to_owned()),
            Just(",\"method\":\"POST\",\"url\":\"\\/v1/chat/completions\"".to_owned()),
            "[\\[\\]{},:\"0-9a-z\\\\ \t\r\n]{0,8}",
        ];
        (0..=line.len(), 0_usize..30, patch).prop_map(move |(from, length, patch)| {
            let to = (from + length).min(line.len());
            format!("{}{patch}{}", &line[..from], &line[to..])
        })
    }

    proptest! {
        /// Whatever becomes of a good line, the fast path may refuse what `diagnose` takes, but never the other way
        /// round, and they read the same fields.
        #[test]
        fn what_the_fast_path_takes_is_taken_alike(
            line in prop_oneof![
                patched("{\"custom_id\":\"id-1\",\"body\":{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9 \\\"q\\\"\"}],\"n\":1.5e3}}"),
                patched(r#"{"custom_id":"a","body":{"input":["one","two"],"model":"m","in\u0070ut":[[1],"x"]}}"#),
                patched("{\t\"method\" : \"POST\",\t\"custom_id\": \"id-1\",\"url\":\"/v1/chat/completions\",\"body\":\t{\"model\":\"m\"}}"),
                patched("{\"model\":\"m\",\t\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9 \\\"q\\\"\"}],\"n\":1.5e3,\"stop\":null}"),
            ],
        ) {
            for (limits, width) in [LIMITS, FULL, BODIES, COUNTED].into_iter().flat_map(|limits| Width::all().map(move |width| (limits, width))) {
                let Some(fields) = request_by(line.as_bytes(), &limits, &mut Marks::of_width(width)) else { continue };
                prop_assert_eq!(diagnose(line.as_bytes(), &limits), Ok(fields));
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&line).is_ok(), "{}", line);
            }
        }
    }
}
