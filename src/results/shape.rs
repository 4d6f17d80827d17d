//! One shape for the replies of every service.
//!
//! In: a reply as its service shaped it. Out: the same reply, for a reader that need not know who answered:
//!
//! ```text
//! {"custom_id":"a","response":{"status_code":200,"body":{…}},"error":null}
//! {"custom_id":"b","response":{"status_code":400,"body":{…}},"error":{"code":"http_400","message":"…"}}
//! {"custom_id":"c","response":null,"error":{"code":"batch_expired","message":"…"}}
//! ```
//!
//! | member | is |
//! | --- | --- |
//! | `custom_id` | the request's, as the service sent it; `null` for a line of the input that has none |
//! | `response` | `null` where nobody answered |
//! | `response.status_code` | what the service says; 200 for an output of a service that says nothing, else `null` |
//! | `response.body` | the answer, byte for byte; where `response` itself is the answer (see [`ReplyShape`]), that |
//! | `error` | `null` for an output, and only there |
//! | `error.code` | a string: the service's, or `http_400` where there is only a status; `null` where there is neither |
//! | `error.message` | a string: the service's, or what it says instead of one, or that it gave no reason |
//!
//! An error is looked for in `error`, then in the answer's own `error`, where OpenAI's dialect has it. What a service puts around an
//! answer besides (`id`, `request_id`, members of its error) is left away: the native shape has it.
//!
//! What always holds: the same members in the same order; a reply in this shape stays as it is. A reply that cannot be taken apart, because
//! it is cut off, is not lost: it is the `body`, as a string, with the code `not_json`. The values of one that can are not judged: what is
//! no JSON inside of a body is none here either. Memory is a reply, which has at most [`REPLY_BYTES_MAX`] bytes, and its copy.
//!
//! [`ReplyShape`]: crate::remote::ReplyShape
//! [`REPLY_BYTES_MAX`]: super::index::REPLY_BYTES_MAX

use std::borrow::Cow;

use super::reply_reader::scan_for_id;
use crate::brackets::members_of;

/// What lines of the output look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// As the service sent them, byte for byte.
    #[default]
    Native,
    /// The same for every service. See the [module](self).
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

    /// The shape of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name() == name)
    }
}

/// Appends the reply `line`, which is given without its line end, in the common shape. `failed` says that its request has no output.
pub(super) fn write_common(line: &[u8], failed: bool, out: &mut Vec<u8>) {
    let Some(Parts { custom_id, response, error }) = Parts::of(line) else { return write_unreadable(line, out) };
    let error = error.or_else(|| member(response?.body?, "error"));
    put(out, &[br#"{"custom_id":"#, custom_id, br#","response":"#]);
    match response {
        Some(Response { status, body }) => {
            let usual: &[u8] = if failed { b"null" } else { b"200" };
            put(out, &[br#"{"status_code":"#, status.unwrap_or(usual), br#","body":"#, body.unwrap_or(b"null"), b"}"]);
        }
        None => put(out, &[b"null"]),
    }
    if failed {
        let Failure { code, message } = Failure::of(error, response.and_then(|response| response.status));
        put(out, &[br#","error":{"code":"#, &code, br#","message":"#, &message, b"}}"]);
    } else {
        put(out, &[br#","error":null}"#]);
    }
}

/// The line is the only answer there is, whatever it is.
fn write_unreadable(line: &[u8], out: &mut Vec<u8>) {
    let custom_id = scan_for_id(line).map_or(b"null".to_vec(), |custom_id| quoted(custom_id.as_bytes()));
    put(out, &[br#"{"custom_id":"#, &custom_id, br#","response":{"status_code":null,"body":"#, &quoted(line)]);
    put(out, &[br#"},"error":{"code":"not_json","message":"the service's reply is not whole JSON"}}"#]);
}

/// What of a reply matters, as it stands there. Of a member that is there twice, the first counts, as everywhere.
#[derive(Clone, Copy)]
struct Parts<'l> {
    custom_id: &'l [u8],
    response: Option<Response<'l>>,
    error: Option<&'l [u8]>,
}

#[derive(Clone, Copy)]
struct Response<'l> {
    status: Option<&'l [u8]>,
    body: Option<&'l [u8]>,
}

impl<'l> Parts<'l> {
    fn of(line: &'l [u8]) -> Option<Self> {
        let [custom_id, response, error] = members_of(line, ["custom_id", "response", "error"])?;
        let custom_id = custom_id.filter(|id| id.starts_with(b"\""))?;
        Some(Self { custom_id, response: said(response).map(Response::of), error: said(error) })
    }
}

impl<'l> Response<'l> {
    fn of(response: &'l [u8]) -> Self {
        match members_of(response, ["status_code", "body"]) {
            None | Some([None, None]) => Self { status: None, body: Some(response) },
            Some([status, body]) => Self { status: said(status), body },
        }
    }
}

/// The code and the message of an error, both as JSON.
struct Failure<'l> {
    code: Cow<'l, [u8]>,
    message: Cow<'l, [u8]>,
}

impl<'l> Failure<'l> {
    fn of(error: Option<&'l [u8]>, status: Option<&[u8]>) -> Self {
        let [code, message] = error.and_then(|error| members_of(error, ["code", "message"])).unwrap_or_default();
        let code = said(code).map(text).or_else(|| Some(quoted(&[b"http_", status?].concat()).into()));
        let message = said(message).or(error).map(text);
        let no_reason = br#""the service gave no reason""#;
        Self { code: code.unwrap_or(b"null".into()), message: message.unwrap_or(no_reason.into()) }
    }
}

/// A value as a JSON string: itself, if it is one, else what it says.
fn text(value: &[u8]) -> Cow<'_, [u8]> {
    if value.starts_with(b"\"") { value.into() } else { quoted(value).into() }
}

fn quoted(text: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&String::from_utf8_lossy(text)).expect("a string is always JSON")
}

fn put(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// One member of an object, if it is there and not `null`.
fn member<'l>(object: &'l [u8], name: &str) -> Option<&'l [u8]> {
    let [value] = members_of(object, [name])?;
    said(value)
}

/// What a member says, if it is there and not `null`.
fn said(value: Option<&[u8]>) -> Option<&[u8]> {
    value.filter(|value| *value != b"null")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::super::reply::{Reply, ReplyRole};
    use super::super::reply_reader::ReplyReader;
    use super::*;
    use crate::custom_id::IdHasher;

    const IDS: IdHasher = IdHasher { key: 1 };

    fn read(line: &[u8], role: ReplyRole) -> Option<Reply> {
        ReplyReader::new(IDS).read(line, role)
    }

    /// The line in the common shape, as the index would have it judged.
    fn common(line: &[u8], role: ReplyRole) -> Vec<u8> {
        let mut out = Vec::new();
        write_common(line, read(line, role).unwrap().kind.is_error(), &mut out);
        out
    }

    #[track_caller]
    fn assert_becomes(line: &str, wanted: &str) {
        let role = if line.contains("error") { ReplyRole::Error } else { ReplyRole::Output };
        let given = common(line.as_bytes(), role);
        assert_eq!(String::from_utf8_lossy(&given), wanted);
        // Whatever stands in the file of errors is in the other one now: what it is, it says itself.
        assert_eq!(common(&given, ReplyRole::Output), given, "it stays as it is");
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
            // OpenAI's: an output, a refusal of the model, a request that nobody executed, a status alone.
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
            // Mistral's failures have JSON inside a string, DeepInfra's codes and xAI's errors other types, AIBrix the id last.
            (
                r#"{"custom_id":"a","response":{"status_code":400,"body":"{\"detail\":\"no\"}"}}"#,
                r#"{"custom_id":"a","response":{"status_code":400,"body":"{\"detail\":\"no\"}"},"error":{"code":"http_400","message":"the service gave no reason"}}"#,
            ),
            (
                r#"{"error":{"code":400,"type":null},"response":null,"custom_id":"a"}"#,
                r#"{"custom_id":"a","response":null,"error":{"code":"400","message":"{\"code\":400,\"type\":null}"}}"#,
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
    fn ugly_replies_pass_as_they_are_and_cut_ones_as_text() {
        for body in [&br#"{"t":"\ud83d"}"#[..], b"{\"t\":\"\xff\"}", b"[1e999,-0]", b"{\"t\":\"tab\t\"}"] {
            let line = [br#"{"custom\u005fid":"a","response":{"status_code":200,"body":"#, body, b"}}"].concat();
            let wanted =
                [br#"{"custom_id":"a","response":{"status_code":200,"body":"#, body, br#"},"error":null}"#].concat();
            let mut out = Vec::new();
            write_common(&line, false, &mut out);
            assert_eq!(out, wanted);
        }
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_becomes(
            &format!(r#"{{"custom_id":"a","response":{deep}}}"#),
            &format!(r#"{{"custom_id":"a","response":{{"status_code":200,"body":{deep}}},"error":null}}"#),
        );
        let whole = r#"{"id":"x","custom_id":"a","response":{"status_code":200,"body":{"t":"\""}}}"#;
        for end in whole.find(r#","resp"#).unwrap()..whole.len() {
            let out = common(&whole.as_bytes()[..end], ReplyRole::Output);
            let row: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!((&row["custom_id"], &row["error"]["code"]), (&"a".into(), &"not_json".into()));
            assert_eq!(row["response"]["body"], whole[..end]);
        }
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
    fn value() -> impl Strategy<Value = String> {
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

    proptest! {
        /// Whatever a service puts around it and in whatever order: the id, the status, the body's bytes and the outcome are the same.
        #[test]
        fn a_reply_says_the_same_in_the_common_shape(
            id in any::<String>(), body in value(), other in value(), status in prop::option::of(100_u16..600),
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
            let shaped = common(line.as_bytes(), ReplyRole::Output);
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
            prop_assert_eq!(common(&shaped, ReplyRole::Output), shaped);
        }

        /// No bytes are too odd to be taken apart, or to be kept as text.
        #[test]
        fn any_bytes_are_kept(mut line in prop::collection::vec(prop::sample::select(b"{}[]:,\"\\ ax1\xff".to_vec()), 0..40), failed: bool) {
            let mut out = Vec::new();
            write_common(&line, failed, &mut out);
            prop_assert!(out.starts_with(br#"{"custom_id":"#) && out.ends_with(b"}"), "{:?}", out);
            line.splice(0..0, *br#"{"custom_id":"a","response":"#);
            out.clear();
            write_common(&line, failed, &mut out);
            prop_assert!(out.starts_with(br#"{"custom_id":"a","response":"#), "{:?}", out);
        }
    }
}
