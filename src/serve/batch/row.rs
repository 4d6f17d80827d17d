//! Rows of result files.
//!
//! In: what became of one request, and how its dialect writes that. Out: one row, without a newline. Invariants: the
//! `custom_id` is there as it was sent, escapes and all, and the body of an answer is the same bytes in every dialect.

use crate::dialect::row_form::RowForm;

/// Which file a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The output file; the request is billed.
    Output,
    /// The error file; the request is not billed.
    Error,
}

/// Whom a row answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered<'r> {
    /// What the row's id is made of.
    pub(crate) id: &'r str,
    /// The JSON string that names the request, as it was sent.
    pub(crate) custom_id: &'r str,
}

/// Appends the row of a request that was answered. `body` is the answer, in pieces.
pub(crate) fn output(form: RowForm, answered: Answered<'_>, body: &[&str], row: &mut Vec<u8>) {
    begin(form, answered, row);
    write_parts(row, &[r#","response":{"status_code":200,"#]);
    if form.has_every_member {
        write_parts(row, &[r#""request_id":""#, answered.id, r#"","#]);
    }
    write_parts(row, &[r#""body":"#]);
    write_parts(row, body);
    write_parts(row, if form.has_every_member { &[r#"},"error":null}"#] } else { &["}}"] });
}

/// Appends the row of a request that was not answered, for the reason with this code.
pub(crate) fn failure(form: RowForm, answered: Answered<'_>, code: &str, message: &str, row: &mut Vec<u8>) {
    begin(form, answered, row);
    if form.has_every_member {
        write_parts(row, &[r#","response":null"#]);
    }
    write_parts(row, &[r#","error":{"code":"#, &quoted(code), r#","message":"#, &quoted(message), "}}"]);
}

/// Appends the beginning of a row: its id, and the request's.
pub(crate) fn begin(form: RowForm, answered: Answered<'_>, row: &mut Vec<u8>) {
    write_parts(row, &[r#"{"id":""#, form.prefix, answered.id, r#"","custom_id":"#, answered.custom_id]);
}

/// Formatting macros take twice the time here.
pub(crate) fn write_parts(row: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        row.extend_from_slice(part.as_bytes());
    }
}

/// `text` as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;

    pub(crate) const ANSWERED: Answered<'_> = Answered { id: "1f", custom_id: r#""a\u0062""# };

    pub(crate) fn written(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut row = Vec::new();
        write(&mut row);
        serde_json::from_slice(&row).unwrap()
    }
}
