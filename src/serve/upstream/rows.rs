//! How the upstream's answers, and its failures, look in result files.
//!
//! In: what came back for a request. Out: its row, without a line end in it, and the file it belongs to.
//! What always holds: an answer that is JSON stands in its row byte for byte, but that line ends between its tokens are spaces.
//! One that is not is kept as text, and is an error: it is no reply, but it may have been paid for.

use serde_json::json;

use crate::remote::online::Failed;
use crate::remote::{ErrorKind, RemoteError};
use crate::serve::echo::Kind;

/// A request as rows name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'l> {
    /// What makes the row's `id`.
    pub(super) row_id: &'l str,
    /// The raw JSON string that names the request.
    pub(super) custom_id: &'l str,
}

/// The row of an answer with a status of success.
pub(super) fn answered(named: Named<'_>, mut body: Vec<u8>) -> (Kind, Vec<u8>) {
    if !is_json(&body) {
        let error = json!({"code": "not_json", "message": "the upstream's answer is not JSON"});
        let body = json!(String::from_utf8_lossy(&body)).to_string();
        return (Kind::Error, row(named, Some((200, body.as_bytes())), Some(&error.to_string())));
    }
    // In JSON they can only stand between tokens.
    for byte in body.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    (Kind::Output, row(named, Some((200, body.trim_ascii())), None))
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
    row(named, Some((status, body.as_bytes())), Some(&error_member))
}

/// The row of a request that cannot be sent.
pub(super) fn unsendable(named: Named<'_>, why: &str) -> Vec<u8> {
    row(named, None, Some(&json!({"code": "batch_client_error", "message": why}).to_string()))
}

/// An error's code, and what to say where the upstream said nothing. Clients tell by the code what is worth sending again.
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

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

fn row(named: Named<'_>, response: Option<(u16, &[u8])>, error: Option<&str>) -> Vec<u8> {
    let Named { row_id, custom_id } = named;
    let mut row = format!(r#"{{"id":"br_{row_id}","custom_id":{custom_id}"#).into_bytes();
    if let Some((status, body)) = response {
        row.extend_from_slice(format!(r#","response":{{"status_code":{status},"body":"#).as_bytes());
        row.extend_from_slice(body);
        row.push(b'}');
    }
    if let Some(error) = error {
        row.extend_from_slice(format!(r#","error":{error}"#).as_bytes());
    }
    row.push(b'}');
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: Named<'_> = Named { row_id: "1", custom_id: r#""a\n""# };

    fn text(row: Vec<u8>) -> String {
        String::from_utf8(row).unwrap()
    }

    #[test]
    fn an_answer_stands_in_its_row_as_it_came() {
        let ugly = "{\"n\":123456789012345678901234567890,\r\n  \"t\" : \"\\ud800\\n\"}\n";
        let (kind, row) = answered(NAMED, ugly.into());
        assert_eq!(kind, Kind::Output);
        let wanted = concat!(
            r#"{"id":"br_1","custom_id":"a\n","response":{"status_code":200,"body":"#,
            r#"{"n":123456789012345678901234567890,    "t" : "\ud800\n"}}}"#
        );
        assert_eq!(text(row), wanted);
        let (kind, row) = answered(NAMED, b"{\"t\":\"\xff\"}".to_vec());
        assert!(kind == Kind::Output && row.contains(&0xff));
    }

    #[test]
    fn what_is_no_json_is_kept_and_is_an_error() {
        for body in ["", "<html>\n</html>", "data: {}\n\ndata: [DONE]\n", "{\"cut\":"] {
            let (kind, row) = answered(NAMED, body.into());
            assert!(kind == Kind::Error && !row.contains(&b'\n'));
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
}
