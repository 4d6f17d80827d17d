//! Detects what a file is that was passed as a reply file but is not one.
//!
//! In: a line that has no reply. Out: the format it suggests, if that shows that the file is of another kind: reply
//! files have one whole object per line. A line that is merely damaged suggests none; it is unreadable, and the lines
//! around it count.

use std::fmt;
use std::io::Read;
use std::ops::Range;

use memchr::memchr;

use crate::json::brackets::{Brackets, Broken};
use crate::json::tree::{Raw, Scalar, Tree};
use crate::storage::lines;

/// Maximum bytes of a line that are examined.
pub(super) const LOOK_BYTES_MAX: usize = 64 * 1024;

/// The format of a file that is not a reply file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// One value over several lines, as `jq .` writes it.
    Pretty,
    /// An array of replies.
    Array,
    /// Requests, as an input has them.
    Requests,
    /// A page for a browser, or another answer in XML.
    Page,
    /// UTF-16, in either order.
    Utf16,
    /// A compressed file: gzip, Zstandard, ZIP.
    Compressed,
    /// Bytes that are no text.
    Binary,
    /// Text, and not a single object in it.
    Text,
}

impl fmt::Display for Form {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Pretty => "JSON that is spread over several lines",
            Self::Array => "a JSON array",
            Self::Requests => "a request",
            Self::Page => "an HTML or XML page",
            Self::Utf16 => "UTF-16 text",
            Self::Compressed => "compressed data",
            Self::Binary => "binary data",
            Self::Text => "text that is not JSON",
        })
    }
}

impl Form {
    /// What to do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Pretty => {
                "each reply has a line of its own: `jq -c . FILE` puts them so, `jq -c '.[]' FILE` those of an array"
            }
            Self::Array => "each reply has a line of its own: `jq -c '.[]' FILE` puts them so",
            Self::Requests => "requests are the input, which is named first; name files of replies behind --replies",
            Self::Page => "the page says why the file did not come; download it again",
            Self::Utf16 => "convert it: `iconv -f UTF-16 -t UTF-8 FILE`",
            Self::Compressed | Self::Binary | Self::Text => "name files in which each line is a reply in JSON",
        }
    }

    /// What a line looks like in which no reply was found; `None` if nothing is known but that. It is given as far as
    /// [`LOOK_BYTES_MAX`], without white space around it; `objects` are the whole objects that it consists of, and
    /// `is_first` says that it begins the file.
    pub(super) fn of(line: &[u8], objects: &[Range<usize>], is_first: bool) -> Option<Self> {
        if let Some(form) = Self::of_start(line).filter(|_| is_first) {
            return Some(form);
        }
        let text = lines::without_mark(line);
        match text {
            _ if objects.iter().any(|object| is_request(Raw(&line[object.clone()]))) => Some(Self::Requests),
            [b'<', ..] if !text.ends_with(b"}") && (is_first || is_page(text)) => Some(Self::Page),
            [b'[', ..] if is_array(text) => Some(Self::Array),
            [b'{', ..] if objects.is_empty() && is_list(text).unwrap_or(false) => Some(Self::Array),
            [b'"', ..] if is_member(text).unwrap_or(false) => Some(Self::Pretty),
            _ => None,
        }
    }

    /// The format that the first bytes indicate, of a file that is not UTF-8 text.
    fn of_start(start: &[u8]) -> Option<Self> {
        match start {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{' | b'[', 0, ..] | [0, b'{' | b'[', ..] => Some(Self::Utf16),
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'P', b'K', 3, 4, ..] => Some(Self::Compressed),
            _ if !start.starts_with(b"{") && start.contains(&0) => Some(Self::Binary),
            _ => None,
        }
    }
}

/// Whether a line has nothing of an object, not even of one that is damaged.
pub(super) fn is_text(line: &[u8]) -> bool {
    !line.iter().any(|byte| matches!(byte, b'{' | b'}'))
}

/// Whether the line `{` begins an object that continues on the next lines.
pub(super) fn goes_on(next: &[u8]) -> bool {
    let next = next.trim_ascii_start();
    let line = memchr(b'\n', next).map_or(next, |end| &next[..end]);
    line.starts_with(b"\"") && is_member(line.trim_ascii_end()).unwrap_or(false)
}

/// Whether an object is a request: a line of an input, whole or its body alone.
pub(super) fn is_request<'l>(object: impl Tree<'l>) -> bool {
    let answers = ["response", "result", "error", "errors", "id", "choices"];
    let request = ["custom_id", "body", "method", "url"];
    let (Some(answers), Some(request)) = (object.members(answers), object.members(request)) else { return false };
    if answers.found.iter().any(Option::is_some) {
        return false;
    }
    let [custom_id, body, method, url] = request.found;
    if custom_id.is_some() {
        return body.is_some_and(|body| body.scalar() == Scalar::Container) || method.and(url).is_some();
    }
    let Some(bare) = object.members(["model", "messages", "input", "prompt"]) else { return false };
    let [model, asked @ ..] = bare.found;
    model.is_some() && asked.iter().any(Option::is_some)
}

fn is_page(text: &[u8]) -> bool {
    let starts = |start: &[u8]| text.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start));
    starts(b"<!doctype") || starts(b"<html") || starts(b"<?xml")
}

/// Whether a line is an array of objects, or begins one. The rest of a damaged reply may begin like one, but has more
/// after it.
fn is_array(text: &[u8]) -> bool {
    let begins = matches!(text[1..].trim_ascii_start().first(), None | Some(b'{' | b']'));
    let mut array = Brackets::new(text);
    begins && (array.value().is_err() || array.at() == text.len() as u64)
}

/// Whether a line consists of whole objects with commas between or behind them: elements of an array.
fn is_list(text: &[u8]) -> Result<bool, Broken> {
    let mut list = Brackets::new(text);
    let mut commas = 0;
    loop {
        list.object()?;
        list.space()?;
        if list.peek()?.is_some() {
            list.expect(b',')?;
            list.space()?;
            commas += 1;
        }
        if list.peek()?.is_none() {
            return Ok(commas > 0);
        }
    }
}

/// Whether a line is one member of an object, as `jq .` writes it.
fn is_member(text: &[u8]) -> Result<bool, Broken> {
    // What follows it may be on the next line.
    let text = text.strip_suffix(b",").unwrap_or(text);
    let mut member = Brackets::new(text.chain(&b","[..]));
    member.value()?;
    member.space()?;
    member.expect(b':')?;
    member.space()?;
    let opens = matches!(&text[text.len().min(usize::try_from(member.at()).unwrap_or(usize::MAX))..], b"{" | b"[");
    if !opens {
        member.value()?;
        member.space()?;
    }
    Ok(opens || member.at() == text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::brackets::whole::objects_of;

    fn form(line: &[u8], is_first: bool) -> Option<Form> {
        Form::of(line, &objects_of(line).unwrap_or_default(), is_first)
    }

    #[test]
    fn what_is_no_file_of_replies_is_told_by_its_lines() {
        let pretty = serde_json::to_string_pretty(&serde_json::json!({
            "custom_id": "a", "n": 1, "big": 1.5e3, "none": null, "s": "a,\"b\":{", "o": {}, "l": [], "x": {"y": [{"z": true}]},
        }))
        .unwrap();
        for line in pretty.lines().map(str::trim).filter(|line| line.starts_with('"')) {
            assert_eq!(form(line.as_bytes(), false), Some(Form::Pretty), "{line}");
        }
        for (line, wanted) in [
            (&b"["[..], Form::Array),
            (b"[]", Form::Array),
            (b"[ {\"custom_id\":\"a\"", Form::Array),
            (b"{\"custom_id\":\"a\"},", Form::Array),
            (b"{\"custom_id\":\"a\"} , {\"custom_id\":\"b\"}", Form::Array),
            (b"<!DOCTYPE html>", Form::Page),
            (b"<HTML><body>", Form::Page),
            (b"<?xml version=\"1.0\"?><Error>", Form::Page),
            (br#"{"custom_id":"a","method":"POST","url":"/v1/x","body":{"model":"m"}}"#, Form::Requests),
            (br#"{"body":{"model":"m"},"custom_id":"a"}"#, Form::Requests),
            (br#"{"model":"m","messages":[]}"#, Form::Requests),
            (br#"{"custom_id":"a","response":{}}{"custom_id":"a","body":{}}"#, Form::Requests),
        ] {
            assert_eq!(form(line, false), Some(wanted), "{}", line.escape_ascii());
            assert_eq!(form(line, true), Some(wanted), "{}", line.escape_ascii());
        }
        for (start, wanted) in [
            (&b"\xff\xfe{\0\"\0"[..], Form::Utf16),
            (b"\xfe\xff\0{\0\"", Form::Utf16),
            (b"{\0\"\0c\0", Form::Utf16),
            (b"\0{\0\"", Form::Utf16),
            (b"\x1f\x8b\x08\0", Form::Compressed),
            (b"\x28\xb5\x2f\xfd\x04", Form::Compressed),
            (b"PK\x03\x04", Form::Compressed),
            (b"\x7fELF\x02\0\0", Form::Binary),
            (b"<Error>", Form::Page),
        ] {
            assert_eq!(form(start, true), Some(wanted), "{}", start.escape_ascii());
            assert_eq!(form(start, false), None, "{}", start.escape_ascii());
        }
    }

    #[test]
    fn what_is_only_damaged_looks_like_nothing_else() {
        let line =
            br#"{"id":"b","custom_id":"a","response":{"status_code":200,"body":{"l":[{"t":"<b>"},{}],"s":"]"}}}"#;
        for end in 1..line.len() {
            for is_first in [false, true] {
                let cut = &line[..end];
                assert_eq!(form(cut, is_first), None, "{}", cut.escape_ascii());
                assert_eq!(form(&line[end..], is_first), None, "{}", line[end..].escape_ascii());
            }
        }
        for line in [
            &b"{not a reply"[..],
            b"not a reply",
            br#"{"custom_id":"a","error":{"code":"x"},"body":{"model":"m"}}"#,
            br#"{"custom_id":"a","response":null}"#,
            br#"{"custom_id":"a"}"#,
            br#"{"id":"chatcmpl","model":"m","choices":[]}"#,
            br#"{"error":{"message":"no such file"}}"#,
            b"{\"custom_id\":\"\0\"",
        ] {
            assert_eq!(form(line, true), None, "{}", line.escape_ascii());
        }
    }
}
