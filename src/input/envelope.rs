//! What surrounds the `body` of a line, and which fields are added during the upload.
//!
//! In: a valid line, like Together's (`custom_id`, `body`), like OpenAI's (`custom_id`, `method`, `url`, `body`), or a
//! body only. Out: the fields that the service requires and the line is missing, and the line with them added.
//!
//! Invariants: what a line has is never modified; missing fields are inserted directly after the opening brace, or
//! around the whole line. So the length of a line in a batch file is known when it is checked, and the checksum of a
//! shard is that of the user's own lines.

use std::fmt;

use crate::dialect::line::{FULL, LineFormat, METHOD, MINIMAL};
use crate::dialect::provider::Provider;
use crate::dialect::providers::{line_format, line_urls};
use crate::json::scanner::RawString;
use crate::model::custom_id::{assigned_id, assigned_id_bytes};
use crate::model::defect::DefectKind;

/// What a service requires around a `body`: a format, and the URL of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    pub(super) format: &'static LineFormat,
    pub(super) url: &'static str,
}

/// The place for whose id every body alone leaves room, because its own is not known when it is checked: 16 TiB of the
/// shortest lines are fewer.
const LAST_SEQ: u64 = 1 << 41;

impl Default for Envelope {
    fn default() -> Self {
        Self::MINIMAL
    }
}

/// The fields that are added to a line during the upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lacks {
    /// An id and everything else around a body: the line is a body only.
    pub id: bool,
    /// A method.
    pub method: bool,
    /// A URL.
    pub url: bool,
}

impl Envelope {
    /// The `custom_id`; other members are ignored.
    pub const MINIMAL: Self = Self { format: &MINIMAL, url: "" };

    /// The envelope of a format whose lines have this URL, if they have one; `None` if no provider has this URL.
    #[must_use]
    pub fn of(format: &'static LineFormat, url: &str) -> Option<Self> {
        let url = if format.has_target { line_urls().find(|known| *known == url)? } else { "" };
        Some(Self { format, url })
    }

    /// That of the lines that go to this endpoint of a provider.
    #[must_use]
    pub fn for_provider(provider: &Provider, endpoint: &'static str) -> Self {
        let url = if provider.line.has_target { provider.url_for(endpoint) } else { "" };
        Self { format: provider.line, url }
    }

    /// The `custom_id`, `"method":"POST"`, and this `url`.
    #[must_use]
    pub fn full(url: &str) -> Option<Self> {
        Self::of(&FULL, url)
    }

    /// Parses the output of [`Envelope`]'s `Display`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (name, url) = text.split_once(' ').unwrap_or((text, ""));
        let envelope = Self::of(line_format(name)?, url)?;
        (envelope.url == url).then_some(envelope)
    }

    /// The missing fields of a line with these raw values of `method` and `url`.
    ///
    /// # Errors
    /// When one of them is wrong: the defect, and the value.
    pub fn lacks<'l>(self, method: Option<&'l str>, url: Option<&'l str>) -> Result<Lacks, (DefectKind, &'l str)> {
        if !self.format.has_target {
            return Ok(Lacks::default());
        }
        let wanted_url = self.url;
        let other = |value: Option<&'l str>, wanted| {
            value.filter(|value| !RawString::of(value).is_some_and(|text| text.is(wanted)))
        };
        if let Some(other) = other(method, METHOD) {
            return Err((DefectKind::OtherMethod, other));
        }
        if let Some(other) = other(url, wanted_url) {
            return Err((DefectKind::OtherUrl(wanted_url.to_owned()), other));
        }
        Ok(Lacks { id: false, method: method.is_none(), url: url.is_none() })
    }

    /// The missing fields of a body-only line.
    #[must_use]
    pub fn around_body(self) -> Lacks {
        let has_target = self.format.has_target;
        Lacks { id: true, method: has_target, url: has_target }
    }

    /// How many bytes these fields add to a line. An assigned id follows from its `seq`.
    #[must_use]
    #[inline]
    pub fn added_bytes(self, lacks: Lacks, seq: u64) -> u32 {
        // Asked of every line, and of most nothing is missing.
        if lacks.is_nothing() {
            return 0;
        }
        let added = if lacks.id {
            self.format.overhead_bytes(assigned_id_bytes(seq) + r#""""#.len(), self.url)
        } else {
            self.target(lacks).as_flattened().iter().map(|part| part.len()).sum()
        };
        u32::try_from(added).unwrap_or(u32::MAX)
    }

    /// Maximum length of the uploaded line in bytes, for any Seq.
    pub(super) fn written_bytes(self, line: &[u8], lacks: Lacks) -> u64 {
        line.len() as u64 + u64::from(self.added_bytes(lacks, LAST_SEQ))
    }

    /// Writes `line` with the missing fields added. An assigned id follows from its `seq`.
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

/// The id that is assigned to a line, as a JSON string. It needs no escapes.
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
    /// Whether the line is uploaded unchanged.
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
    use crate::json::exact::Object;

    const FULL: Envelope = Envelope { format: &line::FULL, url: "/v1/chat/completions" };

    fn lacks_of(envelope: Envelope, line: &str) -> Result<Lacks, (DefectKind, &str)> {
        let object = Object::read(line).unwrap();
        envelope.lacks(object.first("method"), object.first("url"))
    }

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
            let lacks = lacks_of(FULL, line).unwrap();
            let mut out = Vec::new();
            FULL.write(line.as_bytes(), lacks, 0, &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), written);
            assert_eq!(line.len() + FULL.added_bytes(lacks, 0) as usize, written.len());
            assert_eq!(Lacks::from_bits(lacks.to_bits()), Some(lacks));
            let mut minimal = Vec::new();
            let nothing = lacks_of(Envelope::MINIMAL, line).unwrap();
            Envelope::MINIMAL.write(line.as_bytes(), nothing, 0, &mut minimal);
            assert_eq!(minimal, line.as_bytes());
        }
        assert_eq!(Lacks::from_bits(8), None);
    }

    #[test]
    fn a_body_alone_is_given_everything_around_it() {
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
    fn another_method_or_url_is_a_defect_of_that_value() {
        for (line, code, column) in [
            (r#"{"custom_id":"a","method":"GET","body":{}}"#, "other-method", 26),
            (r#"{"custom_id":"a","method":null,"body":{}}"#, "other-method", 26),
            (r#"{"custom_id":"a","url":"/v1/embeddings","body":{}}"#, "other-url", 23),
            (r#"{"custom_id":"a","url":7,"body":{}}"#, "other-url", 23),
        ] {
            let (kind, value) = lacks_of(FULL, line).unwrap_err();
            assert_eq!((kind.code(), line.find(value)), (code, Some(column)), "{line}");
            assert!(lacks_of(Envelope::MINIMAL, line).is_ok());
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
