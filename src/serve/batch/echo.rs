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
    use serde_json::{Value, json};

    use super::*;
    use crate::dialect::OPENAI;
    use crate::serve::surfaces::{echo_reply, echo_reply_in};

    fn reply(request: &Value) -> Value {
        serde_json::from_slice(&echo_reply(request.to_string().as_bytes())).unwrap()
    }

    #[test]
    fn an_echo_carries_digest_excerpt_and_usage() {
        let line = br#"{"custom_id":"\u0061\"1","body":{"model":"m/x","messages":[{"role":"user","content":"first"},{"role":"user","content":"say \"hi\""},{"role":"assistant","content":"no"}]}}"#;
        let row: Value = serde_json::from_slice(&echo_reply(line)).unwrap();
        assert_eq!(row["custom_id"], "a\"1");
        assert!(row["id"].as_str().unwrap().starts_with("br_"));
        assert_eq!(row["response"]["status_code"], 200);
        let body = &row["response"]["body"];
        let content = body["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(content, format!("batchline echo {}: say \"hi\"", request_digest(line)));
        assert_eq!(body["model"], "m/x");
        let tokens = |name: &str| body["usage"][name].as_u64().unwrap();
        assert!(tokens("prompt_tokens") > 0);
        assert_eq!(tokens("prompt_tokens") + tokens("completion_tokens"), tokens("total_tokens"));
    }

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

    /// Services decode requests with parsers that keep the last.
    #[test]
    fn of_a_member_that_is_there_twice_the_last_counts() {
        let line =
            br#"{"custom_id":"a","body":{"model":"m"},"custom\u005fid":"b","body":{"model":3,"mod\u0065l":"n"}}"#;
        let row: Value = serde_json::from_slice(&echo_reply(line)).unwrap();
        assert_eq!((&row["custom_id"], &row["response"]["body"]["model"]), (&"b".into(), &"n".into()));
    }

    #[test]
    fn one_changed_byte_changes_the_reply() {
        let request = br#"{"custom_id":"a","body":{"model":"m","seed":1}}"#;
        let other = br#"{"custom_id":"a","body":{"model":"m","seed":2}}"#;
        assert_eq!(echo_reply(request), echo_reply(request));
        assert_ne!(echo_reply(request), echo_reply(other));
    }

    #[test]
    fn a_known_request_has_this_very_reply() {
        // Pinned, so that the promise to depend on nothing but the line cannot be broken unnoticed.
        let row = echo_reply(br#"{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}"#);
        let expected = concat!(
            r#"{"id":"br_29b16a2fbd2a98c0910e59cda2ae96c3","custom_id":"a","response":{"status_code":200,"body":{"#,
            r#""id":"echo-d89b899d386e7ba333fdeaa24156ade9","object":"chat.completion","created":1735689600,"#,
            r#""model":"m","prompt":[],"choices":[{"index":0,"finish_reason":"stop","logprobs":null,"seed":null,"#,
            r#""message":{"role":"assistant","content":"batchline echo d89b899d386e7ba333fdeaa24156ade9: hi","#,
            r#""tool_calls":[]}}],"usage":{"prompt_tokens":15,"completion_tokens":13,"total_tokens":28}}}}"#
        );
        assert_eq!(String::from_utf8(row).unwrap(), expected);
    }

    #[test]
    fn the_same_request_has_the_same_answer_in_both_dialects_whatever_its_envelope() {
        let bare = r#"{"custom_id": "a", "body": {"model": "m"}}"#;
        let read = |row: Vec<u8>| -> Value { serde_json::from_slice(&row).unwrap() };
        let together = read(echo_reply(bare.as_bytes()));
        for line in [
            bare.to_owned(),
            bare.replacen('{', r#"{"method":"POST","url":"/v1/chat/completions","#, 1),
            bare.replacen(r#""body""#, r#""method":"POST","url":"/v1/chat/completions","body""#, 1),
        ] {
            let openai = read(echo_reply_in(OPENAI, line.as_bytes()));
            assert_eq!(openai["response"]["body"], together["response"]["body"], "{line}");
            assert_eq!(openai["response"]["status_code"], 200);
            assert!(openai["error"].is_null() && openai.as_object().unwrap().contains_key("error"));
        }
        let refused = br#"{"custom_id":"a","body":{"model":"nonexistent/x"}}"#;
        let (together, openai) = (read(echo_reply(refused)), read(echo_reply_in(OPENAI, refused)));
        assert_eq!(openai["response"]["body"]["error"]["message"], together["error"]["message"]);
        assert_eq!(openai["response"]["status_code"], 400);
    }

    #[test]
    fn requests_that_fail_say_why() {
        for (body, message) in [
            (json!({}), "missing 'model' field in body or not a string"),
            (json!({"model": 5}), "missing 'model' field in body or not a string"),
            (json!("no object"), "missing 'model' field in body or not a string"),
            (json!({"model": "m", "stop": [1, 2, 3, 4, 5]}), "Maximum four stop sequences allowed"),
            (
                json!({"model": "nonexistent/x"}),
                "Unable to access model nonexistent/x. Please visit https://api.together.ai/models/nonexistent/x to create and start a new dedicated endpoint for the model.",
            ),
        ] {
            let row = reply(&json!({"custom_id": "a", "body": body}));
            assert_eq!(row["error"], json!({"code": "batch_client_error", "message": message}));
            assert_eq!(row["custom_id"], "a");
            assert!(row.get("response").is_none());
        }
        let four = reply(&json!({"custom_id": "a", "body": {"model": "m", "stop": ["1", "2", "3", "4"]}}));
        assert_eq!(four["response"]["status_code"], 200);
    }

    #[test]
    fn ugly_requests_are_answered_too() {
        let line = br#"{"custom_id":"\ud800","body":{"model":"m","n":1e999999,"big":123456789012345678901234567890,"messages":[{"role":"user","content":[{"type":"text","text":"\udfff"}]}]}}"#;
        let row = String::from_utf8(echo_reply(line)).unwrap();
        assert!(row.contains(r#""custom_id":"\ud800","response""#), "{row}");
        assert!(row.contains(r#"[{\"type\":\"text\",\"text\":\"\\udfff\"}]"#), "{row}");
    }
}
