//! Reply lines: who is answered, and how it went.
//!
//! In: one line of an output or error file. Out: the hash of its `custom_id`, whether it is an output or an error, and the tokens
//! it used. The line itself is never rewritten: what goes on is its place.
//!
//! A reply is paid data, so no parser may lose it. simd-json reads nearly all; what it refuses (half a surrogate pair, an integer of
//! thirty digits) goes to `serde_json`, and what that refuses is searched for `"custom_id"` byte by byte. Only a line in which
//! all three find no id is unreadable, and even that is kept.

use std::fmt;

use serde::Deserialize;
use simd_json::prelude::{TypedScalarValue, ValueAsScalar};
use simd_json::{Buffers, Tape};

use super::retry_class::worth_retrying;
use crate::custom_id::IdHasher;

/// Longest line that simd-json gets, in bytes: its tape takes up to 24 bytes for each byte of a hostile line.
const FAST_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Most characters of an error's message that are kept to count errors by.
const LABEL_CHARACTERS_MAX: usize = 100;

/// Which of a batch's two files a reply stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyRole {
    /// The output file.
    Output,
    /// The error file.
    Error,
}

/// What a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// The request was answered.
    Output,
    /// The request failed, and would fail again.
    Error,
    /// The request failed, and may fare better another time.
    Retryable,
}

impl ReplyKind {
    /// Whether the request failed.
    #[must_use]
    pub fn is_error(self) -> bool {
        self != Self::Output
    }
}

/// Tokens as the service counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt: u64,
    /// Tokens of the answers.
    pub completion: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.completion = self.completion.saturating_add(other.completion);
    }
}

/// What matters of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Hash of the `custom_id` that it answers.
    pub id_hash: u128,
    /// How it went.
    pub kind: ReplyKind,
    /// Tokens that it used; none for most errors.
    pub usage: Usage,
    /// An error's code and message, cut to a length that can be counted by.
    pub error: Option<String>,
}

/// Reads replies; one for each thread.
pub struct ReplyReader {
    ids: IdHasher,
    buffers: Buffers,
    tape: Tape<'static>,
    raw: Vec<u8>,
}

impl fmt::Debug for ReplyReader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ReplyReader")
    }
}

impl ReplyReader {
    /// A reader with empty buffers that hashes ids with `ids`.
    #[must_use]
    pub fn new(ids: IdHasher) -> Self {
        Self { ids, buffers: Buffers::new(64 * 1024), tape: Tape(Vec::new()), raw: Vec::new() }
    }

    /// Reads the line in the first `length` bytes of `padded`, which holds [`simd_json::INPUT_PADDING`] bytes more; `None` when no
    /// id can be found in it. The line is changed, the padding is not.
    pub fn read(&mut self, padded: &mut [u8], length: usize, role: ReplyRole) -> Option<Reply> {
        if length > FAST_LINE_BYTES_MAX {
            return careful(&padded[..length], role, self.ids);
        }
        self.raw.clear();
        self.raw.extend_from_slice(&padded[..length]);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let reply = match simd_json::fill_tape_padded(padded, length, &mut self.buffers, &mut tape) {
            Ok(()) => from_tape(&tape, role, self.ids),
            Err(_) => None,
        };
        self.tape = tape.reset();
        reply.or_else(|| careful(&self.raw, role, self.ids))
    }
}

fn from_tape(tape: &Tape<'_>, role: ReplyRole, ids: IdHasher) -> Option<Reply> {
    let line = tape.as_value();
    let id_hash = ids.hash(line.get("custom_id")?.as_str()?);
    let response = line.get("response");
    let status = response.as_ref().and_then(|response| response.get("status_code")?.as_u64());
    let error = line.get("error").filter(|error| !error.is_null());
    let usage = response.as_ref().and_then(|response| {
        // Some services give the answer without anything around it.
        let usage = response.get("body").unwrap_or(*response).get("usage")?;
        let count = |key| usage.get(key).and_then(|count| count.as_u64()).unwrap_or(0);
        Some(Usage { prompt: count("prompt_tokens"), completion: count("completion_tokens") })
    });
    // OpenAI's dialect: a request that its model refused has the refusal as its response.
    let refusal =
        || response.as_ref()?.get("body")?.get("error").filter(|_| status.is_some_and(|status| status >= 400));
    let error = error.or_else(refusal).map(|error| {
        let text = |key| error.get(key).and_then(|value| value.as_str().map(str::to_owned));
        (text("code"), text("message").or_else(|| error.as_str().map(str::to_owned)))
    });
    Some(assemble(id_hash, role, status, error, usage.unwrap_or_default()))
}

/// What a reply line holds, as far as it matters, for `serde_json`.
#[derive(Deserialize)]
struct Wire {
    custom_id: String,
    #[serde(default)]
    response: Option<WireResponse>,
    #[serde(default)]
    error: Option<WireError>,
}

/// The least that a reply line holds, whatever the rest is.
#[derive(Deserialize)]
struct Named {
    custom_id: String,
}

#[derive(Deserialize)]
struct WireResponse {
    #[serde(default)]
    status_code: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireError {
    Object {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    },
    Text(String),
    Other(serde::de::IgnoredAny),
}

/// The slow way for lines that simd-json refuses.
fn careful(line: &[u8], role: ReplyRole, ids: IdHasher) -> Option<Reply> {
    let Ok(wire) = serde_json::from_slice::<Wire>(line) else {
        let named = serde_json::from_slice::<Named>(line).map(|named| named.custom_id);
        let custom_id = named.ok().or_else(|| scan_for_id(line))?;
        return Some(assemble(ids.hash(&custom_id), role, None, None, Usage::default()));
    };
    let error = wire.error.map(|error| match error {
        WireError::Object { code, message } => (code, message),
        WireError::Text(text) => (None, Some(text)),
        WireError::Other(_) => (None, None),
    });
    let status = wire.response.and_then(|response| response.status_code);
    Some(assemble(ids.hash(&wire.custom_id), role, status, error, Usage::default()))
}

/// The last resort: the string behind the first `"custom_id"` and a colon.
fn scan_for_id(line: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"custom_id\"";
    let after = &line[memchr::memmem::find(line, KEY)? + KEY.len()..];
    let colon = after.iter().position(|byte| !byte.is_ascii_whitespace()).filter(|&at| after[at] == b':')?;
    let mut strings = serde_json::Deserializer::from_slice(&after[colon + 1..]).into_iter::<String>();
    strings.next()?.ok()
}

/// The code and the message of an error.
type WireFailure = (Option<String>, Option<String>);

/// Content decides what a reply is; the file that it stands in decides only when the content says nothing.
fn assemble(id_hash: u128, role: ReplyRole, status: Option<u64>, error: Option<WireFailure>, usage: Usage) -> Reply {
    let failed = match (&error, status) {
        (Some(_), _) => true,
        (None, Some(status)) => !(200..300).contains(&status),
        (None, None) => role == ReplyRole::Error,
    };
    if !failed {
        return Reply { id_hash, kind: ReplyKind::Output, usage, error: None };
    }
    let (code, message) = error.unwrap_or_default();
    let (code, message) = (code.as_deref(), message.as_deref());
    let kind = if worth_retrying(status, code, message) { ReplyKind::Retryable } else { ReplyKind::Error };
    let error = match (code, message, status) {
        (None, None, Some(status)) => format!("status {status}"),
        _ => label(code, message),
    };
    Reply { id_hash, kind, usage, error: Some(error) }
}

fn label(code: Option<&str>, message: Option<&str>) -> String {
    let whole = match (code, message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => "error without a message".to_owned(),
    };
    whole.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LABEL_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: IdHasher = IdHasher { key: 1 };

    fn read(line: &[u8], role: ReplyRole) -> Option<Reply> {
        let mut padded = line.to_vec();
        padded.resize(line.len() + simd_json::INPUT_PADDING, b' ');
        ReplyReader::new(IDS).read(&mut padded, line.len(), role)
    }

    #[test]
    fn outputs_and_errors_are_told_by_their_content() {
        let output = br#"{"id":"br_1","custom_id":"a","response":{"status_code":200,"body":{"usage":{"prompt_tokens":7,"completion_tokens":3}}}}"#;
        let reply = read(output, ReplyRole::Output).unwrap();
        assert_eq!(reply.kind, ReplyKind::Output);
        assert_eq!(reply.usage, Usage { prompt: 7, completion: 3 });
        assert_eq!(read(output, ReplyRole::Error).unwrap().kind, ReplyKind::Output);
        let error =
            br#"{"id":"br_2","custom_id":"b","error":{"code":"batch_client_error","message":"Internal Server Error"}}"#;
        let reply = read(error, ReplyRole::Error).unwrap();
        assert_eq!(reply.kind, ReplyKind::Retryable);
        assert_eq!(reply.error.as_deref(), Some("batch_client_error: Internal Server Error"));
        assert_eq!(read(error, ReplyRole::Output).unwrap().kind, ReplyKind::Retryable);
        let status = br#"{"custom_id":"c","response":{"status_code":500,"body":{}},"error":null}"#;
        let reply = read(status, ReplyRole::Output).unwrap();
        assert_eq!((reply.kind, reply.error.as_deref()), (ReplyKind::Retryable, Some("status 500")));
    }

    #[test]
    fn ugly_replies_keep_their_id() {
        let lone = br#"{"custom_id":"a","response":{"status_code":200,"body":{"text":"\ud83d"}}}"#;
        let big = br#"{"custom_id":"a","response":{"status_code":200,"body":{"n":123456789012345678901234567890123456789012345}}}"#;
        let cut = br#"{"id":"x", "custom_id" : "a","response":{"status_code":200,"bo"#;
        let bytes = b"{\"custom_id\":\"a\",\"response\":{\"body\":\"\xff\xfe\"}}";
        for line in [lone.as_slice(), big, cut, bytes] {
            let reply = read(line, ReplyRole::Output).unwrap();
            assert_eq!((reply.id_hash, reply.kind), (IDS.hash("a"), ReplyKind::Output));
        }
        let deep = format!(r#"{{"custom_id":"a","response":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(deep.as_bytes(), ReplyRole::Output).unwrap().id_hash, IDS.hash("a"));
        assert_eq!(read(b"nonsense", ReplyRole::Output), None);
        assert_eq!(read(b"{\"custom_id\":7}", ReplyRole::Output), None);
    }
}
