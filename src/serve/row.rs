//! Rows of result files.
//!
//! In: what became of one request, and how its dialect writes that. Out: one row, without a newline. Invariants: the `custom_id` stands
//! there as it was sent, escapes and all, and the body of an answer is the same bytes in every dialect.

pub(super) use crate::dialect::row_form::RowForm;

/// Whom a row answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered<'r> {
    /// What the row's id is made of.
    pub(super) id: &'r str,
    /// The JSON string that names the request, as it was sent.
    pub(super) custom_id: &'r str,
}

/// Appends the row of a request that was answered. `body` is the answer, in pieces.
pub(super) fn output(form: RowForm, answered: Answered<'_>, body: &[&str], row: &mut Vec<u8>) {
    begin(form, answered, row);
    write_parts(row, &[r#","response":{"status_code":200,"#]);
    if form.has_every_member {
        write_parts(row, &[r#""request_id":""#, answered.id, r#"","#]);
    }
    write_parts(row, &[r#""body":"#]);
    write_parts(row, body);
    write_parts(row, if form.has_every_member { &[r#"},"error":null}"#] } else { &["}}"] });
}

/// Appends the row of a request that nobody answered, for the reason with this code.
pub(super) fn failure(form: RowForm, answered: Answered<'_>, code: &str, message: &str, row: &mut Vec<u8>) {
    begin(form, answered, row);
    if form.has_every_member {
        write_parts(row, &[r#","response":null"#]);
    }
    write_parts(row, &[r#","error":{"code":"#, &quoted(code), r#","message":"#, &quoted(message), "}}"]);
}

/// Appends the beginning of a row: its id, and the request's.
pub(super) fn begin(form: RowForm, answered: Answered<'_>, row: &mut Vec<u8>) {
    write_parts(row, &[r#"{"id":""#, form.prefix, answered.id, r#"","custom_id":"#, answered.custom_id]);
}

/// Formatting macros take twice the time here.
pub(super) fn write_parts(row: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        row.extend_from_slice(part.as_bytes());
    }
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::Value;

    use super::*;

    pub(in crate::serve) const ANSWERED: Answered<'_> = Answered { id: "1f", custom_id: r#""a\u0062""# };

    pub(in crate::serve) fn written(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut row = Vec::new();
        write(&mut row);
        serde_json::from_slice(&row).unwrap()
    }
}
