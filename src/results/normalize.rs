//! Normalizes the replies of all services to one format, the common shape.
//!
//! In: a reply in its service's format. Out: the same reply, in a format that does not depend on the service:
//!
//! ```text
//! {"custom_id":"a","response":{"status_code":200,"body":{…}},"error":null}
//! {"custom_id":"b","response":{"status_code":400,"body":{…}},"error":{"code":"http_400","message":"…"}}
//! {"custom_id":"c","response":null,"error":{"code":"batch_expired","message":"…"}}
//! ```
//!
//! | member | is |
//! | --- | --- |
//! | `custom_id` | the request's, as the service sent it, a number as a string; `null` for a line of the input that has none |
//! | `response` | `null` if there is no answer |
//! | `response.status_code` | the service's status, as a number; without one, 200 for an output, else `null` |
//! | `response.body` | the answer, byte for byte; where `response` itself is the answer (see [`ReplyShape`]), that; the message of Anthropic's `result` |
//! | `error` | `null` for an output, and only there |
//! | `error.code` | a string: the service's, or `http_400` if there is only a status, or the error's type, or `no_answer` for a reply without content; `null` without any of these |
//! | `error.message` | a string: the service's, or what it sends instead of one, or that it gave no reason |
//!
//! The [rule](crate::dialect::reply_rule) decides what is an error and where it is: a reply is written as it was
//! counted. Other members around an answer (`id`, `request_id`, members of its error) are omitted: the native shape has
//! them.
//!
//! Invariants: the same members in the same order; normalizing is idempotent. The values of a reply are not validated:
//! a body that is not JSON stays so. How much of a reply is in memory depends on the parts that the caller passes.
//!
//! [`ReplyShape`]: crate::remote::ReplyShape

use std::io::{self, Write};

use crate::dialect::ReplyNames;
use crate::dialect::reply_parts;
use crate::dialect::reply_parts::Parts;
use crate::dialect::reply_rule::{Failure, NO_ANSWER, NO_ANSWER_MESSAGE, Why};
use crate::json::marks::Marks;
use crate::json::tree::{Raw, RawTree};
use crate::model::reply::ReplyRole;
use crate::results::normalize::Piece::{Json, Made, Text, Value};

/// The format of output lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// As the service sent them, byte for byte.
    #[default]
    Native,
    /// The same members in the same order for every service: `custom_id`, `response` with `status_code` and `body`,
    /// `error` with `code` and `message`. Bodies stay as they are.
    Common,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Native, Self::Common];

    /// The name that users type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Common => "common",
        }
    }

    /// The shape of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name() == name)
    }
}

/// Appends the reply `line`, without its terminator, in the common shape. `failed` means that its request has no
/// output. Returns `None`, and appends nothing, if the line is not a reply.
pub(super) fn write_common(line: &[u8], failed: bool, out: &mut Vec<u8>) -> Option<()> {
    let names = &ReplyNames::COMMON;
    let mut marks = Marks::default();
    let parts = reply_parts::scanned(line, names, &mut marks).or_else(|| Parts::of(Raw(line), names))?;
    write_parts(&parts, failed, out)?.ok()
}

/// Writes a reply with these parts in the common shape. Returns `None`, and writes nothing, if it is not a reply.
pub(super) fn write_parts<'l, T: RawTree<'l>>(
    parts: &Parts<'l, T>,
    failed: bool,
    out: &mut (impl Write + ?Sized),
) -> Option<io::Result<()>> {
    let custom_id = parts.id.as_ref()?.raw;
    let mut write = || {
        put(out, &[Json(br#"{"custom_id":"#), Text(custom_id), Json(br#","response":"#)])?;
        if parts.responds() {
            let body = parts.body().map_or(Json(b"null"), Value);
            put(out, &[Json(br#"{"status_code":"#), status(parts, failed), Json(br#","body":"#), body, Json(b"}")])?;
        } else {
            put::<T>(out, &[Json(b"null")])?;
        }
        if !failed {
            return put::<T>(out, &[Json(br#","error":null}"#)]);
        }
        // In either file, it is an error.
        let why = parts.why_error(ReplyRole::Error).unwrap_or(Why::File);
        let [code, message] = code_and_message(why, parts.status());
        put(out, &[Json(br#","error":{"code":"#), code, Json(br#","message":"#), message, Json(b"}}")])
    };
    Some(write())
}

/// A piece of a line.
enum Piece<T> {
    /// JSON that is the same everywhere.
    Json(&'static [u8]),
    /// JSON that was made.
    Made(Vec<u8>),
    /// A raw value of the reply.
    Value(T),
    /// A value of the reply as a JSON string: itself if it is one, else its text in quotes.
    Text(T),
}

/// The status as a number, or else as the service has it.
fn status<'l, T: RawTree<'l>>(parts: &Parts<'l, T>, failed: bool) -> Piece<T> {
    let said = parts.response.status.as_ref().map(|status| status.raw).filter(|raw| !raw.is_null());
    match (parts.status(), said) {
        (Some(status), _) => Made(status.to_string().into_bytes()),
        (None, Some(status)) => Value(status),
        (None, None) if failed => Json(b"null"),
        (None, None) => Json(b"200"),
    }
}

/// The code and the message of an error, both as JSON.
fn code_and_message<'l, T: RawTree<'l>>(why: Why<'l, T>, status: Option<u64>) -> [Piece<T>; 2] {
    let of_status = || status.map(|status| Made(quoted(&format!("http_{status}"))));
    let failing_status = || of_status().filter(|_| status.is_some_and(|status| (400..600).contains(&status)));
    let (code, message) = match why {
        Why::Said(error) => {
            let Failure { code, kind, message } = Failure::of(error);
            let code = code.map(Text).or_else(failing_status).or_else(|| kind.map(Text));
            (
                code.or_else(|| of_status().filter(|_| !status.is_some_and(is_success))),
                Some(Text(message.unwrap_or(error))),
            )
        }
        Why::Ended(kind) => (Some(Made(quoted(&kind))), None),
        Why::Status => (of_status(), None),
        Why::Silent => (Some(Made(quoted(NO_ANSWER))), Some(Made(quoted(NO_ANSWER_MESSAGE)))),
        Why::File => (None, None),
    };
    let no_reason = br#""the service gave no reason""#;
    [code.unwrap_or(Json(b"null")), message.unwrap_or(Json(no_reason))]
}

fn is_success(status: u64) -> bool {
    (200..300).contains(&status)
}

fn quoted(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("a string is always JSON")
}

fn put<'l, T: RawTree<'l>>(out: &mut (impl Write + ?Sized), pieces: &[Piece<T>]) -> io::Result<()> {
    for piece in pieces {
        match piece {
            Json(json) => out.write_all(json)?,
            Made(json) => out.write_all(json)?,
            Text(value) if !value.is_string() => put_quoted(out, *value)?,
            Value(value) | Text(value) => value.each_piece(|piece| out.write_all(piece))?,
        }
    }
    Ok(())
}

/// Writes a value's text as a JSON string.
fn put_quoted<'l>(out: &mut (impl Write + ?Sized), value: impl RawTree<'l>) -> io::Result<()> {
    let mut begun = Vec::new();
    out.write_all(b"\"")?;
    value.each_piece(|piece| {
        begun.extend_from_slice(piece);
        let end = begun.len() - unfinished(&begun);
        let json = quoted(&String::from_utf8_lossy(&begun[..end]));
        begun.drain(..end);
        out.write_all(&json[1..json.len() - 1])
    })?;
    let json = quoted(&String::from_utf8_lossy(&begun));
    out.write_all(&json[1..])
}

/// How many bytes at the end of a text may be the beginning of a character.
fn unfinished(text: &[u8]) -> usize {
    let last = &text[text.len().saturating_sub(3)..];
    let lead = last.iter().rposition(|byte| *byte >= 0xc0);
    let begun = lead.map_or(0, |lead| last.len() - lead);
    let wanted = |lead: u8| {
        if lead >= 0xf0 {
            4
        } else if lead >= 0xe0 {
            3
        } else {
            2
        }
    };
    if lead.is_some_and(|lead| begun < wanted(last[lead])) { begun } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;
    use crate::dialect::reply_reader::ReplyReader;
    use crate::dialect::reply_reader::tests::{Reader, line_of, line_with_repeated_members, read_by, value};
    use crate::dialect::reply_rule::tests::{CASES, lines};
    use crate::json::brackets::whole::is_whole_object;
    use crate::model::custom_id::IdHasher;
    use crate::model::reply::ReplyKind;
    use crate::model::reply::{Reply, ReplyRole};

    const IDS: IdHasher = IdHasher { key: 1 };

    fn read(line: &[u8], role: ReplyRole) -> Option<Reply> {
        ReplyReader::new(IDS, &ReplyNames::COMMON).read(line, role)
    }

    /// The line in the common shape, as the index would have it judged.
    fn common_of(line: &[u8], role: ReplyRole) -> Vec<u8> {
        let mut out = Vec::new();
        write_common(line, read(line, role).unwrap().kind.is_error(), &mut out).unwrap();
        out
    }

    #[track_caller]
    fn assert_becomes(line: &str, wanted: &str) {
        let role = if line.contains("error") { ReplyRole::Error } else { ReplyRole::Output };
        let given = common_of(line.as_bytes(), role);
        assert_eq!(String::from_utf8_lossy(&given), wanted);
        // Replies are moved from the error file to the output file: their kind depends on their content.
        assert_eq!(common_of(&given, ReplyRole::Output), given, "it stays as it is");
    }

    #[test]
    fn every_dialects_replies_become_one_shape() {
        for (native, wanted) in [
            // Together's.
            (
                r#"{"id":"br_1","custom_id":"a","response":{"status_code":200,"body":{"t": 1}}}"#,
                r#"{"custom_id":"a","response":{"status_code":200,"body":{"t": 1}},"error":null}"#,
            ),
            (
                r#"{"id":"br_1","custom_id":"a","error":{"code":"batch_client_error","message":"n\u00f6"}}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":"batch_client_error","message":"n\u00f6"}}"#,
            ),
            // OpenAI's: an output, a refusal of the model, a request that was not executed, a status alone.
            (
                r#"{"id":"b","custom_id":"a","response":{"status_code":200,"request_id":"r","body":{}},"error":null}"#,
                r#"{"custom_id":"a","response":{"status_code":200,"body":{}},"error":null}"#,
            ),
            (
                r#"{"custom_id":"a","response":{"status_code":400,"body":{"error":{"message":"no","type":"t","code":null}}},"error":null}"#,
                r#"{"custom_id":"a","response":{"status_code":400,"body":{"error":{"message":"no","type":"t","code":null}}},"error":{"code":"http_400","message":"no"}}"#,
            ),
            (
                r#"{"custom_id":"a","response":null,"error":{"code":"batch_expired","message":"late","line":7}}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":"batch_expired","message":"late"}}"#,
            ),
            (
                r#"{"custom_id":"a","response":{"status_code":500,"body":null}}"#,
                r#"{"custom_id":"a","response":{"status_code":500,"body":null},"error":{"code":"http_500","message":"the service gave no reason"}}"#,
            ),
            // An answer without anything around it: Nebius, Fireworks.
            (
                r#"{ "response" : {"id":"c","choices":[]} , "custom_id" : "a" }"#,
                r#"{"custom_id":"a","response":{"status_code":200,"body":{"id":"c","choices":[]}},"error":null}"#,
            ),
            // Mistral's failures have JSON inside a string, DeepInfra's codes and xAI's errors other types, AIBrix the
            // id last.
            (
                r#"{"custom_id":"a","response":{"status_code":400,"body":"{\"detail\":\"no\"}"}}"#,
                r#"{"custom_id":"a","response":{"status_code":400,"body":"{\"detail\":\"no\"}"},"error":{"code":"http_400","message":"the service gave no reason"}}"#,
            ),
            (
                r#"{"error":{"code":400,"type":null},"response":null,"custom_id":"a"}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":"400","message":"{\"code\":400,\"type\":null}"}}"#,
            ),
            // Anthropic's: an answer, and the ways in which there is none.
            (
                r#"{"custom_id":"a","result":{"type":"succeeded","message":{"content":[],"usage":{}}}}"#,
                r#"{"custom_id":"a","response":{"status_code":200,"body":{"content":[],"usage":{}}},"error":null}"#,
            ),
            (
                r#"{"custom_id":"a","result":{"type":"errored","error":{"type":"error","error":{"type":"api_error","message":"m"}}}}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":"api_error","message":"m"}}"#,
            ),
            (
                r#"{"custom_id":"a","result":{"type":"expired"},"error":null}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":"expired","message":"the service gave no reason"}}"#,
            ),
            // A number in the place of an id.
            (
                r#"{"custom_id":7,"response":{"status_code":200,"body":{}}}"#,
                r#"{"custom_id":"7","response":{"status_code":200,"body":{}},"error":null}"#,
            ),
            // A status as a string, a failure with a status of success, a reply that says nothing.
            (
                r#"{"custom_id":"a","response":{"status_code":"500","body":{}},"error":null}"#,
                r#"{"custom_id":"a","response":{"status_code":500,"body":{}},"error":{"code":"http_500","message":"the service gave no reason"}}"#,
            ),
            (
                r#"{"custom_id":"a","response":{"status_code":200,"body":{"error":{"message":"no","code":null}}}}"#,
                r#"{"custom_id":"a","response":{"status_code":200,"body":{"error":{"message":"no","code":null}}},"error":{"code":null,"message":"no"}}"#,
            ),
            (
                r#"{"custom_id":"a","response":null,"error":null}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":"no_answer","message":"the reply has neither an output nor an error"}}"#,
            ),
            (
                r#"{"custom_id":"a","error":"out of luck"}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":null,"message":"out of luck"}}"#,
            ),
        ] {
            assert_becomes(native, wanted);
        }
    }

    #[test]
    fn ugly_replies_pass_as_they_are() {
        for body in
            [&br#"{"t":"\ud83d"}"#[..], b"{\"t\":\"\xff\"}", b"[1e999,-0]", b"{\"t\":\"tab\t\"}", b"{\"n\":NaN}"]
        {
            let line = [br#"{"custom\u005fid":"a","response":{"status_code":200,"body":"#, body, b"}}"].concat();
            let wanted =
                [br#"{"custom_id":"a","response":{"status_code":200,"body":"#, body, br#"},"error":null}"#].concat();
            let mut out = Vec::new();
            write_common(&line, false, &mut out).unwrap();
            assert_eq!(out, wanted);
        }
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_becomes(
            &format!(r#"{{"custom_id":"a","response":{deep}}}"#),
            &format!(r#"{{"custom_id":"a","response":{{"status_code":200,"body":{deep}}},"error":null}}"#),
        );
        let ugly = br#"{"custom_id":"a","response":{"status_code":500,"body":{"n":NaN}}}"#;
        let wanted = br#"{"custom_id":"a","response":{"status_code":500,"body":{"n":NaN}},"error":{"code":"http_500","message":"the service gave no reason"}}"#;
        assert_eq!(common_of(ugly, ReplyRole::Output), wanted);
    }

    #[derive(Deserialize)]
    struct Row<'l> {
        custom_id: String,
        #[serde(borrow)]
        response: Option<RowResponse<'l>>,
        #[serde(borrow)]
        error: Option<&'l RawValue>,
    }

    #[derive(Deserialize)]
    struct RowResponse<'l> {
        status_code: Option<u16>,
        #[serde(borrow)]
        body: &'l RawValue,
    }

    /// Any JSON, with spaces between its tokens.
    fn any_value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            "-?[1-9][0-9]{0,30}(\\.[0-9]{1,3})?(e[0-9]{1,3})?",
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            Just(r#""\u00e9 \\\" }],{""#.to_owned()),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = prop::sample::select(vec!["body", "status_code", "error", "custom_id", "a\\\"b", ""]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[ {} ]", values.join(" ,\t"))),
                prop::collection::btree_map(key, inner, 0..4).prop_map(|members| {
                    let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    #[test]
    fn of_a_member_that_is_there_twice_the_first_is_written() {
        let (line, body) = line_with_repeated_members();
        let wanted = format!(r#"{{"custom_id":"a","response":{{"status_code":200,"body":{body}}},"error":null}}"#);
        assert_eq!(String::from_utf8_lossy(&common_of(line.as_bytes(), ReplyRole::Output)), wanted);
    }

    #[test]
    fn every_row_of_the_table_stays_what_it_is_in_the_common_shape() {
        for case in CASES {
            for line in lines(case) {
                for (role, wanted) in [ReplyRole::Output, ReplyRole::Error].into_iter().zip(case.1) {
                    let shaped = common_of(line.as_bytes(), role);
                    let again = read_by(Reader::Scanner, &shaped, ReplyRole::Output);
                    let Some(again) = again else {
                        assert!(line.contains("NaN"), "{line}");
                        continue;
                    };
                    assert_eq!(again.kind, wanted, "{line} became {}", String::from_utf8_lossy(&shaped));
                    let row: serde_json::Value = serde_json::from_slice(&shaped).unwrap();
                    assert_eq!(row["error"].is_null(), wanted == ReplyKind::Output, "{row}");
                    assert!(row["error"].is_null() || row["error"]["message"].is_string(), "{row}");
                }
            }
        }
    }

    proptest! {
        /// Whatever a service puts around it and in whatever order: the id, the status, the body's bytes and the
        /// outcome are the same.
        #[test]
        fn a_reply_says_the_same_in_the_common_shape(
            id in any::<String>(), body in any_value(), other in any_value(), status in prop::option::of(100_u16..600),
            failure in prop::option::of((prop::option::of(any::<String>()), any::<String>())), flat: bool, seed: u64,
        ) {
            let json = |text: &String| serde_json::to_string(text).unwrap();
            let flat = flat && failure.is_none();
            // An answer that stands alone must not look like something around one.
            let body = if flat { format!(r#"{{"object":"chat.completion","choices":{body}}}"#) } else { body };
            let mut random = fastrand::Rng::with_seed(seed);
            let mut inner = vec![format!(r#""body" :{body}"#), format!(r#""request_id":{other}"#)];
            inner.extend(status.map(|status| format!(r#""status_code": {status}"#)));
            random.shuffle(&mut inner);
            let response = if flat { body.clone() } else { format!("{{{}}}", inner.join(" , ")) };
            let mut outer = vec![
                format!(r#""custom_id": {}"#, json(&id)), format!(r#""response":{response}"#), format!(r#""x":{other}"#),
            ];
            outer.extend(failure.as_ref().map(|(code, message)| {
                format!(r#""error":{{"code":{},"message":{}}}"#, code.as_ref().map_or("null".to_owned(), json), json(message))
            }));
            random.shuffle(&mut outer);
            let line = format!(" {{{}}}", outer.join(", "));

            let native = read(line.as_bytes(), ReplyRole::Output).unwrap();
            let shaped = common_of(line.as_bytes(), ReplyRole::Output);
            let text = std::str::from_utf8(&shaped).unwrap();
            let row: Row<'_> = serde_json::from_str(text).unwrap();
            let response = row.response.unwrap();
            prop_assert_eq!(&row.custom_id, &id);
            prop_assert_eq!(response.body.get(), &body);
            let usual = (!native.kind.is_error()).then_some(200);
            prop_assert_eq!(response.status_code, if flat { usual } else { status.or(usual) });
            prop_assert_eq!(row.error.is_some(), native.kind.is_error());
            prop_assert!(text.starts_with(r#"{"custom_id":""#), "{}", text);
            let again = read(&shaped, ReplyRole::Output).unwrap();
            prop_assert_eq!((again.id_hash, again.usage), (native.id_hash, native.usage));
            if failure.is_some() {
                prop_assert_eq!(again.kind, native.kind, "what is worth sending again stays so");
            }
            prop_assert_eq!(common_of(&shaped, ReplyRole::Output), shaped);
        }

        /// The common shape of any line is classified as the line itself.
        #[test]
        fn a_line_in_the_common_shape_says_the_same(
            id in "[a-c]{0,3}", response in value(), error in value(), result in prop::option::of(value()), role: bool,
        ) {
            let role = if role { ReplyRole::Output } else { ReplyRole::Error };
            let line = line_of(&format!("{id:?}"), &response, &error, result);
            let reply = read(line.as_bytes(), role).unwrap();
            let shaped = common_of(line.as_bytes(), role);
            let again = read(&shaped, ReplyRole::Output).unwrap();
            let found = (again.id_hash, again.kind.is_error(), again.usage);
            prop_assert_eq!(found, (reply.id_hash, reply.kind.is_error(), reply.usage), "{} became {}", line, String::from_utf8_lossy(&shaped));
        }

        /// Whole objects that identify a request are written, and nothing else.
        #[test]
        fn whole_objects_are_written_and_nothing_else(
            text in prop::collection::vec(prop::sample::select(b"{}[]:,\"\\ ax1\xff".to_vec()), 0..40), failed: bool,
        ) {
            let mut out = Vec::new();
            prop_assert_eq!(write_common(&text, failed, &mut out), None);
            prop_assert!(out.is_empty());
            let line = [br#"{"custom_id":"a","response":"#, text.as_slice(), b"}"].concat();
            let is_reply = read(&line, ReplyRole::Output).is_some();
            prop_assert_eq!(write_common(&line, failed, &mut out).is_some(), is_reply);
            prop_assert_eq!(out.starts_with(br#"{"custom_id":"a","response":"#) && is_whole_object(&out), is_reply, "{:?}", out);
        }
    }
}
