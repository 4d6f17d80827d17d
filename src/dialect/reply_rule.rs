//! Classifies a reply: an output, an error, or a retryable error.
//!
//! In: the `Parts` of a reply and the role of its file. Out: why it is an error, or that it is not one. One rule covers
//! all dialects and looks at the content first: services put failures into output files, and outputs into error files.
//! The first row that applies decides.
//!
//! | # | the reply | is | code, message | retryable | written by |
//! | --- | --- | --- | --- | --- | --- |
//! | 1 | `error` or `errors`, `result.error`, `response.error` or `.errors`, `response.body.error` or `.errors` has content | error | its own | by [class](crate::dialect::retry_class) | Together: `error`. OpenAI: `body.error` with a status, or `error` with `response:null`. Anthropic: `result.error`. Gateways: a 200 with `body.error` |
//! | 2 | `result.type` is `errored`, `expired`, `canceled` or `failed` | error | the type | by class | Anthropic |
//! | 3 | `response.status_code`, a number or a string of digits, is not 2xx | error | the status | by class | OpenAI, Mistral |
//! | 4 | there is no answer: no `response`, or `null`, or only a status; `body` is `null` | error | [`NO_ANSWER`] | yes | no service on purpose |
//! | 5 | `response.status_code` is 2xx, or `result.type` is `succeeded` | output | | | Together, OpenAI; Anthropic |
//! | 6 | anything else: there is an answer, but no sign of success or failure | by the role of its file | none | no | Nebius, where the response is a bare answer |
//!
//! Values without content count as absent: `null`, `NaN`, `false`, `0`, blank strings, empty arrays and objects, and
//! containers of only such values. A bare answer (row 6) that has an `error` with content is an error by row 1, in
//! every file.
//!
//! Invariants: this is the only classification; both the reader, which counts replies, and
//! [`normalize`](crate::results::normalize), which writes them, use it.

use std::borrow::Cow;

use crate::dialect::reply_parts::Parts;
use crate::json::tree::{Scalar, Tree};
use crate::model::reply::ReplyRole;

/// The code of a reply that has neither an output nor an error.
pub const NO_ANSWER: &str = "no_answer";

/// The message that goes with [`NO_ANSWER`].
pub(crate) const NO_ANSWER_MESSAGE: &str = "the reply has neither an output nor an error";

/// Maximum levels of errors nested in errors.
const INNER_ERRORS_MAX: u32 = 4;

/// Why a reply is an error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Why<'l, T> {
    /// It has this error member.
    Said(T),
    /// Its result is of this type.
    Ended(Cow<'l, str>),
    /// Its status alone.
    Status,
    /// It has no answer.
    Silent,
    /// It is in an error file.
    File,
}

impl<'l, T: Tree<'l>> Parts<'l, T> {
    /// Why this reply, in a file of this role, is an error; `None` for an output. See the [module](self).
    pub(crate) fn why_error(&self, role: ReplyRole) -> Option<Why<'l, T>> {
        if let Some(error) = self.error() {
            return Some(Why::Said(error));
        }
        let ended = self.result.kind.and_then(Tree::text);
        if let Some("errored" | "expired" | "canceled" | "cancelled" | "failed") = ended.as_deref() {
            return ended.map(Why::Ended);
        }
        let status = self.status();
        let succeeded = status.map(|status| (200..300).contains(&status));
        if succeeded == Some(false) {
            return Some(Why::Status);
        }
        if !self.answers() {
            return Some(Why::Silent);
        }
        let is_output = succeeded == Some(true) || ended.as_deref() == Some("succeeded") || role == ReplyRole::Output;
        (!is_output).then_some(Why::File)
    }
}

/// The members of an error, each only if it has content.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Failure<T> {
    pub(crate) code: Option<T>,
    pub(crate) kind: Option<T>,
    pub(crate) message: Option<T>,
}

impl<'l, T: Tree<'l>> Failure<T> {
    /// The members of `error`, which has content. A nested error is used if the outer one has no message: some services
    /// wrap their upstream's error, and some return a list.
    pub(crate) fn of(error: T) -> Self {
        Self::within(error, INNER_ERRORS_MAX)
    }

    fn within(error: T, levels: u32) -> Self {
        let names = ["code", "type", "message", "error"];
        let says = |value: Option<T>| value.filter(|value| value.has_content());
        let Some(members) = error.members(names) else { return Self::of_other(error, levels) };
        let [code, kind, message, inner] = members.found.map(says);
        match inner {
            Some(inner) if message.is_none() && levels > 0 => {
                let inner = Self::within(inner, levels - 1);
                Self { code: inner.code.or(code), kind: inner.kind.or(kind), message: inner.message }
            }
            _ => Self { code, kind, message },
        }
    }

    /// The members of an error that is not an object: a list of errors, or a message.
    fn of_other(error: T, levels: u32) -> Self {
        match error.scalar() {
            Scalar::Text(_) => Self { code: None, kind: None, message: Some(error) },
            Scalar::Integer(_) => Self { code: Some(error), kind: None, message: None },
            _ if levels == 0 => Self { code: None, kind: None, message: None },
            _ => {
                let first = error.find_child(Tree::has_content);
                first.map_or(Self { code: None, kind: None, message: None }, |first| Self::within(first, levels - 1))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dialect::reply_reader::tests::{Reader, read_by};
    use crate::model::reply::ReplyKind;
    use crate::model::reply::ReplyKind::{Error, Output, Retryable};

    /// The members besides the id, the kind in an output file and in an error file, and the label of an error.
    type Case = (&'static str, [ReplyKind; 2], &'static str);

    const SILENT: &str = "no_answer: the reply has neither an output nor an error";

    /// The table, row by row.
    pub(crate) const CASES: &[Case] = &[
        // 1, Together.
        (
            r#""error":{"code":"batch_client_error","message":"Internal Server Error"}"#,
            [Retryable; 2],
            "batch_client_error: Internal Server Error",
        ),
        (
            r#""error":{"code":"batch_client_error","message":"cannot identify image file"}"#,
            [Error; 2],
            "batch_client_error: cannot identify image file",
        ),
        (r#""error":{"code":"timeout"}"#, [Retryable; 2], "timeout"),
        (r#""error":"out of luck""#, [Error; 2], "out of luck"),
        (r#""error":true"#, [Error; 2], "error without a message"),
        (r#""error":503"#, [Retryable; 2], "503"),
        // 1, OpenAI.
        (r#""response":null,"error":{"code":"batch_expired","message":"late"}"#, [Retryable; 2], "batch_expired: late"),
        (r#""response":null,"error":{"code":"batch_cancelled","message":"no"}"#, [Error; 2], "batch_cancelled: no"),
        (
            r#""response":{"status_code":400,"request_id":"r","body":{"error":{"message":"no","type":"invalid_request_error","code":null}}},"error":null"#,
            [Error; 2],
            "no",
        ),
        (
            r#""response":{"status_code":429,"body":{"error":{"message":"slow down","type":"tokens"}}},"error":null"#,
            [Retryable; 2],
            "slow down",
        ),
        (
            r#""response":{"status_code":500,"body":{"error":{"type":"server_error"}}},"error":null"#,
            [Retryable; 2],
            "server_error",
        ),
        // 1, in other places and of other kinds.
        (r#""errors":[{"message":"no"}]"#, [Error; 2], "no"),
        (r#""errors":["","timed out"]"#, [Retryable; 2], "timed out"),
        (r#""response":{"error":{"code":429,"message":"later"}}"#, [Retryable; 2], "429: later"),
        (r#""response":{"errors":{"message":"no"}}"#, [Error; 2], "no"),
        (
            r#""response":{"status_code":200,"body":{"error":{"message":"upstream","code":502}}}"#,
            [Retryable; 2],
            "502: upstream",
        ),
        (
            r#""response":{"status_code":200,"body":{"error":{"message":"no such model","code":"404"}}}"#,
            [Error; 2],
            "404: no such model",
        ),
        (r#""response":{"status_code":200,"body":{"errors":["no"]}},"error":null"#, [Error; 2], "no"),
        (
            r#""response":{"status_code":200,"body":{"id":"resp_1","status":"failed","error":{"code":"server_error","message":"no"},"output":[]}}"#,
            [Retryable; 2],
            "server_error: no",
        ),
        (r#""error":{"code":500,"error":{"message":"inner","type":"t"}}"#, [Retryable; 2], "500: inner"),
        // 1 and 2, Anthropic.
        (
            r#""result":{"type":"errored","error":{"type":"error","error":{"type":"invalid_request_error","message":"no"}}}"#,
            [Error; 2],
            "no",
        ),
        (
            r#""result":{"type":"errored","error":{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}}"#,
            [Retryable; 2],
            "Overloaded",
        ),
        (r#""result":{"type":"errored","error":{"type":"api_error"}}"#, [Retryable; 2], "api_error"),
        (r#""result":{"type":"errored"}"#, [Error; 2], "errored"),
        (r#""result":{"type":"expired"}"#, [Retryable; 2], "expired"),
        (r#""result":{"type":"canceled"}"#, [Error; 2], "canceled"),
        // 3.
        (r#""response":{"status_code":500,"body":{}},"error":null"#, [Retryable; 2], "status 500"),
        (r#""response":{"status_code":"500","body":{"choices":[]}}"#, [Retryable; 2], "status 500"),
        (r#""response":{"status_code":" 422 ","body":{}}"#, [Error; 2], "status 422"),
        (r#""response":{"status_code":400,"body":"{\"detail\":\"no\"}"}"#, [Error; 2], "status 400"),
        (r#""response":{"status_code":0,"body":{}}"#, [Error; 2], "status 0"),
        (r#""response":{"status_code":503}"#, [Retryable; 2], "status 503"),
        (r#""response":{"status_code":500,"body":null},"error":{}"#, [Retryable; 2], "status 500"),
        // 4.
        ("", [Retryable; 2], SILENT),
        (r#""response":null,"error":null"#, [Retryable; 2], SILENT),
        (r#""response":null,"error":{}"#, [Retryable; 2], SILENT),
        (r#""response":NaN,"error":NaN"#, [Retryable; 2], SILENT),
        (r#""response":{}"#, [Retryable; 2], SILENT),
        (r#""response":"""#, [Retryable; 2], SILENT),
        (r#""response":{"status_code":200}"#, [Retryable; 2], SILENT),
        (r#""response":{"status_code":200,"request_id":"r","body":null},"error":null"#, [Retryable; 2], SILENT),
        (r#""result":{"type":"succeeded"}"#, [Retryable; 2], SILENT),
        (r#""result":null"#, [Retryable; 2], SILENT),
        (r#""body":{"model":"m"}"#, [Retryable; 2], SILENT),
        // 5.
        (r#""response":{"status_code":200,"body":{"choices":[]}}"#, [Output; 2], ""),
        (r#""response":{"status_code":200,"request_id":"r","body":{}},"error":null"#, [Output; 2], ""),
        (r#""response":{"status_code":"200","body":{}}"#, [Output; 2], ""),
        (r#""response":{"status_code":202,"body":"text"}"#, [Output; 2], ""),
        (r#""response":{"status_code":200,"body":{"error":null,"errors":[]}},"error":{}"#, [Output; 2], ""),
        (r#""response":{"status_code":200,"body":{}},"error":"""#, [Output; 2], ""),
        (r#""response":{"status_code":200,"body":{}},"error":[],"errors":[{}]"#, [Output; 2], ""),
        (r#""response":{"status_code":200,"body":{}},"error":false"#, [Output; 2], ""),
        (
            r#""response":{"status_code":200,"body":{}},"error":{"code":null,"message":null,"line":null}"#,
            [Output; 2],
            "",
        ),
        (r#""response":{"status_code":200,"body":{}},"error":{"code":0,"message":""}"#, [Output; 2], ""),
        (r#""response":{"status_code":200,"body":{"t":NaN},"error":null}"#, [Output; 2], ""),
        (r#""response":{"status_code":200,"choices":[1]}"#, [Output; 2], ""),
        (r#""result":{"type":"succeeded","message":{"role":"assistant","content":[]}}"#, [Output; 2], ""),
        // 6.
        (r#""response":{"id":"c","choices":[]}"#, [Output, Error], "error without a message"),
        (r#""response":{"usage":{}}"#, [Output, Error], "error without a message"),
        (r#""response":{"body":{"choices":[]}}"#, [Output, Error], "error without a message"),
        (r#""response":{"status_code":"fine","body":{}}"#, [Output, Error], "error without a message"),
        (r#""response":["a"]"#, [Output, Error], "error without a message"),
        (r#""result":{"choices":[]}"#, [Output, Error], "error without a message"),
        (r#""result":{"type":"paused","message":{"content":[]}}"#, [Output, Error], "error without a message"),
    ];

    /// The line with its id first, and with its id last.
    pub(crate) fn lines((members, ..): &Case) -> [String; 2] {
        let id = r#""custom_id":"a""#;
        let comma = if members.is_empty() { "" } else { "," };
        [format!("{{{id}{comma}{members}}}"), format!("{{{members}{comma}{id}}}")]
    }

    #[test]
    fn every_reader_classifies_every_row_of_the_table() {
        for case in CASES {
            for line in lines(case) {
                for (role, wanted) in [ReplyRole::Output, ReplyRole::Error].into_iter().zip(case.1) {
                    let mut readers = 0;
                    for reader in Reader::ALL {
                        let Some(reply) = read_by(reader, line.as_bytes(), role) else { continue };
                        assert_eq!(reply.kind, wanted, "{reader:?} of {line} as {role:?}");
                        let label = wanted.is_error().then_some(case.2);
                        assert_eq!(reply.error.as_deref(), label, "{reader:?} of {line} as {role:?}");
                        readers += 1;
                    }
                    let is_json = !line.contains("NaN");
                    assert_eq!(readers, if is_json { Reader::ALL.len() } else { 1 }, "{line}");
                }
            }
        }
    }
}
