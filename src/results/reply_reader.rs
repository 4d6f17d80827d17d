//! One line of a reply file, read for what matters of it.
//!
//! In: a line. Out: a [`Reply`], or nothing.
//!
//! A reply is paid data, so no parser may lose it. A walk over the line (`walk.rs`) reads nearly all; what it is not sure of goes to
//! simd-json, what that refuses (half a surrogate pair, an integer of thirty digits) to `serde_json`, and what that refuses is searched
//! for `"custom_id"` byte by byte. Only a line in which none of them finds an id is unreadable, and even that is kept.
//!
//! What always holds: the walk and simd-json read the same in a line that both accept. Of a member that is there twice, the first counts.

use std::fmt;

use serde::Deserialize;
use simd_json::prelude::{TypedScalarValue, ValueAsScalar};
use simd_json::{Buffers, Tape};

use super::reply::{Failure, Reply, ReplyRole, Usage};
use crate::custom_id::IdHasher;
use crate::walk::Walk;

/// Longest line that simd-json gets, in bytes: its tape takes up to 24 bytes for each byte of a hostile line.
const PARSED_BYTES_MAX: usize = 1024 * 1024;

/// Reads replies; one for each thread.
pub struct ReplyReader {
    ids: IdHasher,
    buffers: Buffers,
    tape: Tape<'static>,
    /// A line that simd-json may change.
    scratch: Vec<u8>,
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
        Self { ids, buffers: Buffers::default(), tape: Tape(Vec::new()), scratch: Vec::new() }
    }

    /// Reads a line, without its line end; `None` when no id can be found in it.
    pub fn read(&mut self, line: &[u8], role: ReplyRole) -> Option<Reply> {
        walk_over(line, role, self.ids).or_else(|| self.parse(line, role)).or_else(|| careful(line, role, self.ids))
    }

    fn parse(&mut self, line: &[u8], role: ReplyRole) -> Option<Reply> {
        if line.len() > PARSED_BYTES_MAX {
            return None;
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(line);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let reply = match simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape) {
            Ok(()) => from_tape(&tape, role, self.ids),
            Err(_) => None,
        };
        self.tape = tape.reset();
        reply
    }
}

/// What a walk over a reply has seen.
#[derive(Default)]
struct Seen<'l> {
    status: Option<u64>,
    /// Of the body.
    usage: Option<Usage>,
    /// Some services give the answer without anything around it.
    flat_usage: Option<Usage>,
    body: bool,
    /// What the body says went wrong.
    refusal: Option<&'l str>,
}

fn walk_over(line: &[u8], role: ReplyRole, ids: IdHasher) -> Option<Reply> {
    let mut walk = Walk::new(line)?;
    let (mut custom_id, mut error) = (None, None);
    let mut seen = None;
    walk.members(|walk, key| {
        match key {
            "custom_id" => keep_first(&mut custom_id, walk.string()?),
            "error" => keep_first(&mut error, walk.raw_value()?),
            "response" => keep_first(&mut seen, response(walk)?),
            _ => walk.value()?,
        }
        Some(())
    })?;
    walk.end()?;
    let Seen { status, usage, flat_usage, body, refusal } = seen.unwrap_or_default();
    // OpenAI's dialect: a request that its model refused has the refusal as its response.
    let refusal = refusal.filter(|_| status.is_some_and(|status| status >= 400));
    let failure = match error.filter(|error| *error != "null").or(refusal) {
        Some(error) => Some(failure(error)?),
        None => None,
    };
    let usage = if body { usage } else { flat_usage };
    Some(Reply::new(ids.hash(&custom_id?.unescaped()?), role, status, failure, usage.unwrap_or_default()))
}

fn keep_first<T>(kept: &mut Option<T>, value: T) {
    kept.get_or_insert(value);
}

fn response<'l>(walk: &mut Walk<'l>) -> Option<Seen<'l>> {
    let mut seen = Seen::default();
    if !walk.at_object() {
        walk.value()?;
        return Some(seen);
    }
    let mut status = None;
    walk.members(|walk, key| {
        match key {
            "status_code" => keep_first(&mut status, walk.raw_value()?.parse().ok()),
            "usage" => keep_first(&mut seen.flat_usage, usage(walk)?),
            "body" if !seen.body => body(walk, &mut seen)?,
            _ => walk.value()?,
        }
        Some(())
    })?;
    seen.status = status.flatten();
    Some(seen)
}

fn body<'l>(walk: &mut Walk<'l>, seen: &mut Seen<'l>) -> Option<()> {
    seen.body = true;
    if !walk.at_object() {
        return walk.value();
    }
    walk.members(|walk, key| {
        match key {
            "usage" => keep_first(&mut seen.usage, usage(walk)?),
            "error" => keep_first(&mut seen.refusal, walk.raw_value()?),
            _ => walk.value()?,
        }
        Some(())
    })
}

fn usage(walk: &mut Walk<'_>) -> Option<Usage> {
    let (mut prompt, mut completion) = (None, None);
    if walk.at_object() {
        walk.members(|walk, key| {
            match key {
                "prompt_tokens" => keep_first(&mut prompt, walk.raw_value()?.parse().unwrap_or(0)),
                "completion_tokens" => keep_first(&mut completion, walk.raw_value()?.parse().unwrap_or(0)),
                _ => walk.value()?,
            }
            Some(())
        })?;
    } else {
        walk.value()?;
    }
    Some(Usage { prompt: prompt.unwrap_or(0), completion: completion.unwrap_or(0) })
}

/// What an error says.
fn failure(error: &str) -> Option<Failure> {
    let mut walk = Walk::new(error.as_bytes())?;
    let (mut code, mut message) = (None, None);
    if walk.at_object() {
        walk.members(|walk, key| {
            match key {
                "code" => keep_first(&mut code, walk.raw_value()?),
                "message" => keep_first(&mut message, walk.raw_value()?),
                _ => walk.value()?,
            }
            Some(())
        })?;
    } else {
        message = Some(error);
    }
    let text = |value: Option<&str>| value.filter(|value| value.starts_with('"')).map(serde_json::from_str).transpose();
    Some((text(code).ok()?, text(message).ok()?))
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
    Some(Reply::new(id_hash, role, status, error, usage.unwrap_or_default()))
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
        return Some(Reply::new(ids.hash(&custom_id), role, None, None, Usage::default()));
    };
    let error = wire.error.map(|error| match error {
        WireError::Object { code, message } => (code, message),
        WireError::Text(text) => (None, Some(text)),
        WireError::Other(_) => (None, None),
    });
    let status = wire.response.and_then(|response| response.status_code);
    Some(Reply::new(ids.hash(&wire.custom_id), role, status, error, Usage::default()))
}

/// The last resort: the string behind the first `"custom_id"` and a colon.
pub(super) fn scan_for_id(line: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"custom_id\"";
    let after = &line[memchr::memmem::find(line, KEY)? + KEY.len()..];
    let colon = after.iter().position(|byte| !byte.is_ascii_whitespace()).filter(|&at| after[at] == b':')?;
    let mut strings = serde_json::Deserializer::from_slice(&after[colon + 1..]).into_iter::<String>();
    strings.next()?.ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reply::ReplyKind;
    use super::*;

    const IDS: IdHasher = IdHasher { key: 1 };

    fn read(line: &[u8], role: ReplyRole) -> Option<Reply> {
        ReplyReader::new(IDS).read(line, role)
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

    /// A value in which something that matters may stand, or that looks like it.
    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            (0_u64..600).prop_map(|number| number.to_string()),
            Just("1.5".to_owned()),
            Just("-3".to_owned()),
            Just("99999999999999999999".to_owned()),
            "[a-c]{0,3}".prop_map(|text| format!("{text:?}")),
            Just(r#""a\n\u00e9\"""#.to_owned()),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            let key = prop::sample::select(vec![
                "custom_id",
                "response",
                "status_code",
                "body",
                "usage",
                "prompt_tokens",
                "completion_tokens",
                "error",
                "code",
                "message",
                "other",
            ]);
            let members = prop::collection::vec((key, inner.clone()), 0..5).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(key, value)| format!("{key:?} : {value}")).collect();
                format!("{{{}}}", members.join(", "))
            });
            prop_oneof![4 => members, 1 => prop::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(",")))]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_walk_and_a_parser_read_the_same(id in value(), response in value(), error in value(), last: bool, output: bool) {
            let role = if output { ReplyRole::Output } else { ReplyRole::Error };
            let id = if last { format!("\"{}\"", id.len()) } else { id };
            let line = format!(r#"{{"custom_id":{id},"response":{response},"x":{response},"error":{error}}}"#);
            let (walked, parsed) = (walk_over(line.as_bytes(), role, IDS), ReplyReader::new(IDS).parse(line.as_bytes(), role));
            if let (Some(walked), Some(parsed)) = (&walked, &parsed) {
                prop_assert_eq!(walked, parsed, "{}", line);
            }
            prop_assert!(walked.is_some() || !last, "{}", line);
        }
    }
}
