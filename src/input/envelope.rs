//! What a line has around its `body`, and what it is given on its way up.
//!
//! In: a good line, as Together's (`custom_id`, `body`), as OpenAI's (`custom_id`, `method`, `url`, `body`), or [bare](crate::input::body_only). Out: what
//! it lacks of what the service wants, and the line with that in it.
//!
//! What always holds: what a line has is never touched, and what it lacks is put before it, right behind the opening brace, or around all of
//! it. So the bytes that a line takes in a batch file are known when it is checked, and the checksum of a shard stays that of the user's
//! own lines.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::dialect::line::{FULL, LineFormat, METHOD, MINIMAL};
use crate::dialect::providers::{line_format, line_urls};
use crate::input::body_only::assigned_id;
use crate::model::defect::{Defect, DefectKind};

/// What a service wants around a `body`: a format, and the URL that lines have in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    pub(super) format: &'static LineFormat,
    pub(super) url: &'static str,
}

impl Default for Envelope {
    fn default() -> Self {
        Self::MINIMAL
    }
}

/// What a line has to be given on its way up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lacks {
    /// An id and all that is around a body: the line is [bare](crate::input::body_only).
    pub id: bool,
    /// A method.
    pub method: bool,
    /// A URL.
    pub url: bool,
}

/// The members of a line that matter here; one that is `null` is there.
#[derive(Deserialize)]
struct Wrapping<'l> {
    #[serde(borrow, default, deserialize_with = "there")]
    method: Option<&'l RawValue>,
    #[serde(borrow, default, deserialize_with = "there")]
    url: Option<&'l RawValue>,
}

fn there<'de: 'l, 'l, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'l RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Envelope {
    /// The `custom_id`; other members are ignored.
    pub const MINIMAL: Self = Self { format: &MINIMAL, url: "" };

    /// That of a format whose lines have this URL, if they have one; `None` for a URL that is no provider's.
    #[must_use]
    pub fn of(format: &'static LineFormat, url: &str) -> Option<Self> {
        let url = if format.has_target { line_urls().find(|known| *known == url)? } else { "" };
        Some(Self { format, url })
    }

    /// The `custom_id`, `"method":"POST"`, and this `url`.
    #[must_use]
    pub fn full(url: &str) -> Option<Self> {
        Self::of(&FULL, url)
    }

    /// Reads what [`Envelope`]'s `Display` writes.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (name, url) = text.split_once(' ').unwrap_or((text, ""));
        let envelope = Self::of(line_format(name)?, url)?;
        (envelope.url == url).then_some(envelope)
    }

    /// What `line`, which is a request otherwise, lacks of the envelope. A Defect if it has something else in its place.
    pub fn lacks(self, line: &[u8]) -> Result<Lacks, Defect> {
        if !self.format.has_target {
            return Ok(Lacks::default());
        }
        let wanted_url = self.url;
        let text = std::str::from_utf8(line).unwrap_or_default();
        let Ok(Wrapping { method, url }) = serde_json::from_str(text) else { return Ok(Lacks::default()) };
        let is = |value: &RawValue, wanted: &str| {
            serde_json::from_str::<String>(value.get()).is_ok_and(|text| text == wanted)
        };
        let at = |value: &RawValue, kind| {
            let column = value.get().as_ptr() as usize - text.as_ptr() as usize + 1;
            Err(Defect { kind, column, custom_id: super::check::custom_id(line).map(|(custom_id, _)| custom_id) })
        };
        if let Some(other) = method.filter(|method| !is(method, METHOD)) {
            return at(other, DefectKind::OtherMethod);
        }
        if let Some(other) = url.filter(|url| !is(url, wanted_url)) {
            return at(other, DefectKind::OtherUrl(wanted_url.to_owned()));
        }
        Ok(Lacks { id: false, method: method.is_none(), url: url.is_none() })
    }

    /// What a line lacks that is a body alone.
    #[must_use]
    pub fn around_body(self) -> Lacks {
        let has_target = self.format.has_target;
        Lacks { id: true, method: has_target, url: has_target }
    }

    /// How many bytes a line grows by that lacks this. The id that it may be given follows from its `seq`.
    #[must_use]
    pub fn added_bytes(self, lacks: Lacks, seq: u64) -> u32 {
        let added = if lacks.id {
            self.format.overhead_bytes(quoted_id(seq).len(), self.url)
        } else {
            self.target(lacks).as_flattened().iter().map(|part| part.len()).sum()
        };
        u32::try_from(added).unwrap_or(u32::MAX)
    }

    /// Writes `line` with what it lacks. The id that it may be given follows from its `seq`.
    pub fn write(self, line: &[u8], lacks: Lacks, seq: u64, out: &mut Vec<u8>) {
        if lacks.id {
            return self.format.write(&quoted_id(seq), self.url, line, out);
        }
        let brace = memchr::memchr(b'{', line).map_or(0, |at| at + 1);
        out.extend_from_slice(&line[..brace]);
        for part in self.target(lacks).as_flattened() {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&line[brace..]);
    }

    fn target(self, lacks: Lacks) -> [[&'static str; 3]; 2] {
        let [method, url] = self.format.target(self.url);
        [if lacks.method { method } else { [""; 3] }, if lacks.url { url } else { [""; 3] }]
    }
}

/// The id that a line is given, as a JSON string. It has nothing in it that would have to be escaped.
fn quoted_id(seq: u64) -> String {
    format!("\"{}\"", assigned_id(seq))
}

impl fmt::Display for Envelope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.format.name)?;
        if self.format.has_target { write!(out, " {}", self.url) } else { Ok(()) }
    }
}

impl Lacks {
    /// Whether the line goes up as it stands.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// As three bits.
    pub(super) fn to_bits(self) -> u8 {
        u8::from(self.method) | u8::from(self.url) << 1 | u8::from(self.id) << 2
    }

    /// Reads three bits; `None` for what is more.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits < 8).then_some(Self { id: bits & 4 != 0, method: bits & 1 != 0, url: bits & 2 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::line;

    const FULL: Envelope = Envelope { format: &line::FULL, url: "/v1/chat/completions" };

    #[test]
    fn a_line_is_given_what_it_lacks_and_keeps_the_rest() {
        for (line, written) in [
            (
                r#"{"custom_id": "a", "body": {"model":"m"}}"#,
                r#"{"method":"POST","url":"/v1/chat/completions","custom_id": "a", "body": {"model":"m"}}"#,
            ),
            (
                r#"  {"custom_id":"{","url":"\/v1\/chat\/completions","body":{"method":1}}"#,
                r#"  {"method":"POST","custom_id":"{","url":"\/v1\/chat\/completions","body":{"method":1}}"#,
            ),
            (
                r#"{"m\u0065thod":"POST","custom_id":"a","body":{}}"#,
                r#"{"url":"/v1/chat/completions","m\u0065thod":"POST","custom_id":"a","body":{}}"#,
            ),
            (
                r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}"#,
                r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}"#,
            ),
        ] {
            let lacks = FULL.lacks(line.as_bytes()).unwrap();
            let mut out = Vec::new();
            FULL.write(line.as_bytes(), lacks, 0, &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), written);
            assert_eq!(line.len() + FULL.added_bytes(lacks, 0) as usize, written.len());
            assert_eq!(Lacks::from_bits(lacks.to_bits()), Some(lacks));
            let mut minimal = Vec::new();
            let nothing = Envelope::MINIMAL.lacks(line.as_bytes()).unwrap();
            Envelope::MINIMAL.write(line.as_bytes(), nothing, 0, &mut minimal);
            assert_eq!(minimal, line.as_bytes());
        }
        assert_eq!(Lacks::from_bits(8), None);
    }

    #[test]
    fn a_bare_line_is_given_everything_around_it() {
        let line = br#"{"model": "m"}"#;
        for (envelope, seq, written) in [
            (Envelope::MINIMAL, 0, r#"{"custom_id":"line-1","body":{"model": "m"}}"#),
            (
                FULL,
                9_999,
                r#"{"custom_id":"line-10000","method":"POST","url":"/v1/chat/completions","body":{"model": "m"}}"#,
            ),
        ] {
            let (lacks, mut out) = (envelope.around_body(), Vec::new());
            envelope.write(line, lacks, seq, &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), written);
            assert_eq!(line.len() + envelope.added_bytes(lacks, seq) as usize, written.len());
            assert_eq!(Lacks::from_bits(lacks.to_bits()), Some(lacks));
        }
    }

    #[test]
    fn another_method_or_url_is_a_defect_with_its_place() {
        for (line, code, column) in [
            (r#"{"custom_id":"a","method":"GET","body":{}}"#, "other-method", 27),
            (r#"{"custom_id":"a","method":null,"body":{}}"#, "other-method", 27),
            (r#"{"custom_id":"a","url":"/v1/embeddings","body":{}}"#, "other-url", 24),
            (r#"{"custom_id":"a","url":7,"body":{}}"#, "other-url", 24),
        ] {
            let defect = FULL.lacks(line.as_bytes()).unwrap_err();
            assert_eq!(
                (defect.kind.code(), defect.column, defect.custom_id.as_deref()),
                (code, column, Some("a")),
                "{line}"
            );
            assert!(Envelope::MINIMAL.lacks(line.as_bytes()).is_ok());
        }
    }

    #[test]
    fn an_envelope_is_read_back() {
        for envelope in [Envelope::MINIMAL, FULL] {
            assert_eq!(Envelope::read(&envelope.to_string()), Some(envelope));
        }
        assert_eq!((Envelope::read("full /elsewhere"), Envelope::read("")), (None, None));
    }
}
