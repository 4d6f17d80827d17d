//! How the upstream's answers, and its failures, look in reply files.
//!
//! In: what came back for a request. Out: its row, without a line end in it, and the file it belongs to.
//!
//! Invariants: a row is JSON, in UTF-8. An answer that is JSON is in its row byte for byte, but that line ends between
//! its tokens are spaces. One that is not is kept as text, and is an error: it is no reply, but it may have been paid
//! for. Bytes that are not UTF-8 are U+FFFD in the row, and no byte is lost: beside such a `body` there is
//! `body_base64`, the answer as it came.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::json;

use super::client::Failed;
use crate::dialect::row_form::RowForm;
use crate::model::reply::ReplyRole;
use crate::remote::error::{ErrorKind, RemoteError};

/// A request as rows name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'l> {
    pub(super) form: RowForm,
    /// What makes the row's `id`.
    pub(super) row_id: &'l str,
    /// The raw JSON string that names the request.
    pub(super) custom_id: &'l str,
}

/// What came back, as it is in a row.
#[derive(Clone, Copy)]
struct Response<'r> {
    status: u16,
    /// A JSON value.
    body: &'r [u8],
    /// All its bytes in base64, where `body` could not keep them.
    exact: Option<&'r str>,
}

/// The row of an answer with a status of success.
pub(super) fn answered(named: Named<'_>, body: Vec<u8>) -> (ReplyRole, Vec<u8>) {
    let (mut body, exact) = match String::from_utf8(body) {
        Ok(body) => (body.into_bytes(), None),
        Err(error) => {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            (text.into_bytes(), Some(BASE64_STANDARD.encode(error.as_bytes())))
        }
    };
    let exact = exact.as_deref();
    if !is_json(&body) {
        let error = json!({"code": "not_json", "message": "the upstream's answer is not JSON"});
        let body = json!(String::from_utf8_lossy(&body)).to_string();
        let response = Response { status: 200, body: body.as_bytes(), exact };
        return (ReplyRole::Error, row(named, Some(response), Some(&error.to_string())));
    }
    // In JSON they can only stand between tokens.
    for byte in body.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    (ReplyRole::Output, row(named, Some(Response { status: 200, body: body.trim_ascii(), exact }), None))
}

/// The row of a request that failed.
pub(super) fn failed(named: Named<'_>, failed: &Failed) -> Vec<u8> {
    let Failed { error, body } = failed;
    let (code, usual) = describe(error);
    let error_member = json!({"code": code, "message": error.message().unwrap_or(usual)}).to_string();
    let Some(status) = error.status() else { return row(named, None, Some(&error_member)) };
    let body = match body {
        Some(body) if is_json(body.as_bytes()) => body.replace(['\n', '\r'], " ").trim().to_owned(),
        Some(body) => json!(body).to_string(),
        None => "null".to_owned(),
    };
    row(named, Some(Response { status, body: body.as_bytes(), exact: None }), Some(&error_member))
}

/// The row of a request that cannot be sent.
pub(super) fn unsendable(named: Named<'_>, why: &str) -> Vec<u8> {
    row(named, None, Some(&json!({"code": "batch_client_error", "message": why}).to_string()))
}

/// An error's code, and what to say where the upstream said nothing. Clients tell by the code what is worth sending
/// again.
fn describe(error: &RemoteError) -> (String, &'static str) {
    if let Some(status) = error.status().filter(|status| !(200..300).contains(status)) {
        return (format!("http_{status}"), "the upstream gave no reason");
    }
    let (code, usual) = match error.kind() {
        ErrorKind::Timeout => ("timeout", "the upstream's answer timed out"),
        ErrorKind::TooLarge => ("answer_too_large", "the upstream's answer is too large"),
        ErrorKind::Protocol => ("bad_answer", "the upstream's answer makes no sense"),
        _ => ("service_unavailable", "the connection to the upstream broke off"),
    };
    (code.to_owned(), usual)
}

/// Whether an answer is JSON.
pub(super) fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Rows that have every member have no error beside an answer in JSON, which says itself what is wrong.
fn row(named: Named<'_>, response: Option<Response<'_>>, error: Option<&str>) -> Vec<u8> {
    let Named { form: RowForm { prefix, has_every_member }, row_id, custom_id } = named;
    let mut row = format!(r#"{{"id":"{prefix}{row_id}","custom_id":{custom_id}"#).into_bytes();
    if let Some(Response { status, body, exact }) = response {
        let request_id = if has_every_member { format!(r#""request_id":"{row_id}","#) } else { String::new() };
        row.extend_from_slice(format!(r#","response":{{"status_code":{status},{request_id}"body":"#).as_bytes());
        row.extend_from_slice(body);
        if let Some(exact) = exact {
            row.extend_from_slice(format!(r#","body_base64":"{exact}""#).as_bytes());
        }
        row.push(b'}');
    } else if has_every_member {
        row.extend_from_slice(br#","response":null"#);
    }
    let answered = has_every_member && response.is_some_and(|response| response.body.starts_with(b"{"));
    if let Some(error) = error.filter(|_| !answered) {
        row.extend_from_slice(format!(r#","error":{error}"#).as_bytes());
    } else if has_every_member {
        row.extend_from_slice(br#","error":null"#);
    }
    row.push(b'}');
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPARE: RowForm = RowForm::SPARE;
    const FULL: RowForm = RowForm::FULL;
    const NAMED: Named<'_> = Named { form: SPARE, row_id: "1", custom_id: r#""a\n""# };

    fn text(row: Vec<u8>) -> String {
        String::from_utf8(row).unwrap()
    }

    #[test]
    fn an_answer_is_in_its_row_as_it_came() {
        let ugly = "{\"n\":123456789012345678901234567890,\r\n  \"t\" : \"\\ud800\\n\"}\n";
        let (kind, row) = answered(NAMED, ugly.into());
        assert_eq!(kind, ReplyRole::Output);
        let wanted = concat!(
            r#"{"id":"br_1","custom_id":"a\n","response":{"status_code":200,"body":"#,
            r#"{"n":123456789012345678901234567890,    "t" : "\ud800\n"}}}"#
        );
        assert_eq!(text(row), wanted);
    }

    #[test]
    fn bytes_that_are_not_utf8_make_a_row_of_json_and_are_kept() {
        for form in [SPARE, FULL] {
            let named = Named { form, ..NAMED };
            for (body, shown, kind) in [
                (&b"{\"t\":\"\xff\"}\n"[..], json!({"t": "\u{fffd}"}), ReplyRole::Output),
                (b"{\"t\":\"\xed\xa0\x80\xe4\"}", json!({"t": "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"}), ReplyRole::Output),
                (b"caf\xe9", json!("caf\u{fffd}"), ReplyRole::Error),
                (b"\xff\xfe{\0}\0", json!("\u{fffd}\u{fffd}{\0}\0"), ReplyRole::Error),
            ] {
                let (found, row) = answered(named, body.to_vec());
                let row: serde_json::Value = serde_json::from_slice(&row).unwrap();
                let response = &row["response"];
                assert_eq!((found, &response["body"]), (kind, &shown));
                let exact = BASE64_STANDARD.decode(response["body_base64"].as_str().unwrap()).unwrap();
                assert_eq!(exact, body, "{row}");
            }
            let (_, row) = answered(named, "{\"t\":\"caf\u{e9}\"}".into());
            assert!(!text(row).contains("base64"), "what is UTF-8 is not there twice");
        }
    }

    #[test]
    fn what_is_no_json_is_kept_and_is_an_error() {
        for body in ["", "<html>\n</html>", "data: {}\n\ndata: [DONE]\n", "{\"cut\":"] {
            let (kind, row) = answered(NAMED, body.into());
            assert!(kind == ReplyRole::Error && !row.contains(&b'\n'));
            let row: serde_json::Value = serde_json::from_slice(&row).unwrap();
            assert_eq!((&row["response"]["body"], &row["error"]["code"]), (&json!(body), &json!("not_json")));
        }
    }

    #[test]
    fn a_failure_keeps_status_body_and_message() {
        let error = RemoteError::new(ErrorKind::Unavailable, "POST http://h/").with_status(503).with_message("no room");
        let row = failed(NAMED, &Failed { error, body: Some("{\"error\":\n\"no room\"}".into()) });
        let wanted = concat!(
            r#"{"id":"br_1","custom_id":"a\n","response":{"status_code":503,"body":{"error": "no room"}},"#,
            r#""error":{"code":"http_503","message":"no room"}}"#
        );
        assert_eq!(text(row), wanted);
        let error = RemoteError::new(ErrorKind::Interrupted, "POST http://h/");
        let row = text(failed(NAMED, &Failed::from(error)));
        assert!(row.contains("service_unavailable") && !row.contains("response") && !row.contains("http://h"), "{row}");
    }

    #[test]
    fn rows_in_openais_dialect_have_every_member() {
        let named = Named { form: FULL, ..NAMED };
        let (_, row) = answered(named, b"{}".to_vec());
        let begin = r#"{"id":"batch_req_1","custom_id":"a\n","response":"#;
        let wanted = format!(r#"{begin}{{"status_code":200,"request_id":"1","body":{{}}}},"error":null}}"#);
        assert_eq!(text(row), wanted);
        let error = || RemoteError::new(ErrorKind::Refused, "POST http://h/").with_status(400).with_message("no");
        let row = failed(named, &Failed { error: error(), body: Some(r#"{"error":"no"}"#.into()) });
        let refused = r#"{"status_code":400,"request_id":"1","body":{"error":"no"}},"error":null}"#;
        assert_eq!(text(row), format!("{begin}{refused}"));
        let row = failed(named, &Failed { error: error(), body: Some("no".into()) });
        assert!(text(row).ends_with(r#""body":"no"},"error":{"code":"http_400","message":"no"}}"#));
        let row = unsendable(named, "no body");
        assert_eq!(text(row), format!(r#"{begin}null,"error":{{"code":"batch_client_error","message":"no body"}}}}"#));
    }
}
