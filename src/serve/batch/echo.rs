//! Answers one request line with an echo of itself.
//!
//! In: the bytes of a request line. Out: one row, of the output file or of the error file.
//! Invariants: the row depends on those bytes alone, never on time, batch or order, and carries a digest of
//! them, so a test can tell a swapped or altered reply from the right one. An echo says that it is one.
//!
//! The error rows, their messages and which fault earns which are those of live reports about Together's service.

use super::request::{Request, request_digest, row_id};
use super::row::{self, Answered, Kind, quoted};
use crate::json::exact::{Object, elements};
use crate::json::scanner::RawString;
use crate::json::tree::unescaped;
use crate::serve::surfaces::surface::Surface;

/// Characters of the last user message that an echo repeats.
const EXCERPT_CHARS: usize = 64;

/// Bytes that as many characters can take in JSON: each is two escapes at most.
const EXCERPT_BYTES: usize = EXCERPT_CHARS * 12;

/// Bytes that count as one token in `usage`.
const BYTES_PER_TOKEN: usize = 4;

/// `created` of every echo, in Unix seconds: a reply must not depend on the time (2025-01-01T00:00:00Z).
const CREATED: &str = "1735689600";

/// The row with which the server answers `line`, both without a newline: a row of the output file, or of the error file
/// when the request is one that fails.
pub(crate) fn reply(surface: &dyn Surface, line: &[u8]) -> Vec<u8> {
    let (bare, mut row) = (surface.bare(line), Vec::new());
    match Request::parse(line) {
        Ok(request) => {
            answer(surface, &bare, &request, &request_digest(&bare), &mut row);
        }
        // A batch with such a line fails, so no batch has this row.
        Err(fault) => surface.refuse(Answered { id: &row_id(&bare), custom_id: "null" }, &fault, &mut row),
    }
    row
}

/// Appends the row that answers `request`, without a newline, and says which file it belongs to. `bare` is the line as
/// digests know it, and `digest` its digest.
pub(crate) fn answer(
    surface: &dyn Surface,
    bare: &[u8],
    request: &Request<'_>,
    digest: &str,
    row: &mut Vec<u8>,
) -> Kind {
    let body = request.body();
    let id = row_id(bare);
    let answered = Answered { id: &id, custom_id: request.custom_id };
    if let Some(failure) = body.failure() {
        surface.refuse(answered, &failure, row);
        return Kind::Error;
    }
    let content = format!("batchline echo {digest}: {}", excerpt(body.messages));
    let prompt_tokens = request.body.map_or(0, str::len).div_ceil(BYTES_PER_TOKEN);
    let completion_tokens = content.len().div_ceil(BYTES_PER_TOKEN);
    row::output(
        surface.row_form(),
        answered,
        &[
            r#"{"id":"echo-"#,
            digest,
            r#"","object":"chat.completion","created":"#,
            CREATED,
            r#","model":"#,
            body.model.unwrap_or("null"),
            r#","prompt":[],"choices":[{"index":0,"finish_reason":"stop","logprobs":null,"seed":null,"message":"#,
            r#"{"role":"assistant","content":"#,
            &quoted(&content),
            r#","tool_calls":[]}}],"usage":{"prompt_tokens":"#,
            &prompt_tokens.to_string(),
            r#","completion_tokens":"#,
            &completion_tokens.to_string(),
            r#","total_tokens":"#,
            &(prompt_tokens + completion_tokens).to_string(),
            "}}",
        ],
        row,
    );
    Kind::Output
}

/// The first characters of the last message of the user: of its text, or of its JSON when it is made of parts.
/// Empty when there is none, or when some message is no object.
fn excerpt(messages: Option<&str>) -> String {
    let messages = messages.and_then(|messages| elements(messages).ok()).unwrap_or_default();
    let messages: serde_json::Result<Vec<_>> = messages.into_iter().map(Object::read).collect();
    let of_user = messages.into_iter().flatten().rev().find_map(|message| {
        let [role, content] = message.last(["role", "content"]);
        (role == Some(r#""user""#)).then_some(content)
    });
    let content = of_user.flatten().unwrap_or_default();
    let text = RawString::of(content).map_or(content.into(), |text| {
        let text = text.0.as_bytes();
        unescaped(&text[..text.len().min(EXCERPT_BYTES)])
    });
    text.chars().take(EXCERPT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::serve::surfaces::echo_reply;

    #[test]
    fn an_excerpt_ends_between_characters_however_they_are_written() {
        for character in ["a", "ü", r"\n", r"\u00e9", "😀", r"\ud83d\uDE00", r#"\""#, r"\ud800"] {
            let content = character.repeat(EXCERPT_CHARS + 2);
            let line = format!(
                r#"{{"custom_id":"a","body":{{"model":"m","messages":[{{"role":"user","content":"{content}"}}]}}}}"#
            );
            let row: Value = serde_json::from_slice(&echo_reply(line.as_bytes())).unwrap();
            let said = row["response"]["body"]["choices"][0]["message"]["content"].as_str().unwrap();
            let (_, excerpt) = said.split_once(": ").unwrap();
            let wanted = unescaped(character.as_bytes()).repeat(EXCERPT_CHARS);
            assert_eq!(excerpt, wanted, "{character}");
        }
        let odd = br#"{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"hi"},3]}}"#;
        assert!(echo_reply(odd).windows(2).all(|bytes| bytes != b"hi"), "a message is no object");
    }
}
