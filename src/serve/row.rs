//! Rows of result files, in the shape of either dialect.
//!
//! In: what became of one request. Out: one row, without a newline. What always holds: the `custom_id` stands there as it was sent, escapes
//! and all, and the body of an answer is the same bytes in both dialects.

use super::dialect::Dialect;

/// The status that a request gets which its model refuses, in OpenAI's dialect.
const REFUSED_STATUS: &str = "400";

/// Whom a row answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered<'r> {
    /// What the row's id is made of.
    pub(super) id: &'r str,
    /// The JSON string that names the request, as it was sent.
    pub(super) custom_id: &'r str,
}

/// Appends the row of a request that was answered. `body` is the answer, in pieces.
pub(super) fn output(dialect: Dialect, answered: Answered<'_>, body: &[&str], row: &mut Vec<u8>) {
    begin(dialect, answered, row);
    match dialect {
        Dialect::Together => write_parts(row, &[r#","response":{"status_code":200,"body":"#]),
        Dialect::OpenAi => {
            write_parts(row, &[r#","response":{"status_code":200,"request_id":""#, answered.id, r#"","body":"#]);
        }
    }
    write_parts(row, body);
    write_parts(row, if dialect == Dialect::Together { &["}}"] } else { &[r#"},"error":null}"#] });
}

/// Appends the row of a request that was looked at and refused.
pub(super) fn refusal(dialect: Dialect, answered: Answered<'_>, message: &str, row: &mut Vec<u8>) {
    match dialect {
        Dialect::Together => failure(dialect, answered, "batch_client_error", message, row),
        Dialect::OpenAi => {
            begin(dialect, answered, row);
            let error = r#","body":{"error":{"message":"#;
            let response =
                [r#","response":{"status_code":"#, REFUSED_STATUS, r#","request_id":""#, answered.id, r#"""#];
            write_parts(row, &response);
            let kind = r#","type":"invalid_request_error","param":null,"code":null}}},"error":null}"#;
            write_parts(row, &[error, &quoted(message), kind]);
        }
    }
}

/// Appends the row of a request that nobody answered, for the reason with this code.
pub(super) fn failure(dialect: Dialect, answered: Answered<'_>, code: &str, message: &str, row: &mut Vec<u8>) {
    begin(dialect, answered, row);
    if dialect == Dialect::OpenAi {
        write_parts(row, &[r#","response":null"#]);
    }
    write_parts(row, &[r#","error":{"code":"#, &quoted(code), r#","message":"#, &quoted(message), "}}"]);
}

fn begin(dialect: Dialect, answered: Answered<'_>, row: &mut Vec<u8>) {
    let prefix = if dialect == Dialect::Together { r#"{"id":"br_"# } else { r#"{"id":"batch_req_"# };
    write_parts(row, &[prefix, answered.id, r#"","custom_id":"#, answered.custom_id]);
}

/// Formatting macros take twice the time here.
fn write_parts(row: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        row.extend_from_slice(part.as_bytes());
    }
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ANSWERED: Answered<'_> = Answered { id: "1f", custom_id: r#""a\u0062""# };

    fn row(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut row = Vec::new();
        write(&mut row);
        serde_json::from_slice(&row).unwrap()
    }

    #[test]
    fn rows_have_the_shape_of_their_dialect() {
        let (together, openai) = (Dialect::Together, Dialect::OpenAi);
        assert_eq!(
            row(|row| output(openai, ANSWERED, &["{", "}"], row)),
            json!({"id": "batch_req_1f", "custom_id": "ab", "error": null,
                   "response": {"status_code": 200, "request_id": "1f", "body": {}}})
        );
        assert_eq!(
            row(|row| refusal(openai, ANSWERED, "no", row)),
            json!({"id": "batch_req_1f", "custom_id": "ab", "error": null, "response": {
                "status_code": 400, "request_id": "1f",
                "body": {"error": {"message": "no", "type": "invalid_request_error", "param": null, "code": null}}}})
        );
        assert_eq!(
            row(|row| failure(openai, ANSWERED, "batch_expired", "late", row)),
            json!({"id": "batch_req_1f", "custom_id": "ab", "response": null,
                   "error": {"code": "batch_expired", "message": "late"}})
        );
        assert_eq!(
            row(|row| refusal(together, ANSWERED, "no", row)),
            json!({"id": "br_1f", "custom_id": "ab", "error": {"code": "batch_client_error", "message": "no"}})
        );
        assert_eq!(
            row(|row| output(together, ANSWERED, &["{}"], row)),
            json!({"id": "br_1f", "custom_id": "ab", "response": {"status_code": 200, "body": {}}})
        );
    }
}
