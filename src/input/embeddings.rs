//! Counts the inputs of a request for embeddings, which some services limit instead of requests.
//!
//! In: a line that is a request. Out: the number of texts, or token lists, in its `body.input`.

use crate::json::exact::{Object, elements};

/// The number of inputs of a line, and the column where they begin, in bytes from 1. A text or a token list is one
/// input; a list of texts or of token lists is as many as it has elements. Anything else counts as one, however the
/// service treats it.
pub(super) fn count(line: &str, is_body: bool) -> (u64, usize) {
    let found = || {
        let object = Object::read(line).ok()?;
        let body = if is_body { object.clone() } else { Object::read(object.first("body")?).ok()? };
        let input = body.first("input")?;
        Some((of(input), object.column_of(input)))
    };
    found().unwrap_or((1, 1))
}

/// The inputs of a line of bytes that is known to be a request.
#[must_use]
pub fn inputs(line: &[u8], is_body: bool) -> u64 {
    std::str::from_utf8(line).map_or(1, |line| count(line, is_body).0)
}

fn of(input: &str) -> u64 {
    let is_list = |text: &str| text.starts_with(['"', '[']);
    match elements(input) {
        Ok(list) if list.first().is_some_and(|first| is_list(first)) => list.len() as u64,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn inputs_are_counted_as_services_count_them() {
        for (input, inputs) in [
            (json!("a text"), 1),
            (json!(["one", "two", "three"]), 3),
            (json!([1, 2, 3, 4]), 1),
            (json!([[1, 2], [3], []]), 3),
            (json!([]), 1),
            (json!(null), 1),
            (json!({"text": "x"}), 1),
        ] {
            let line = json!({"custom_id": "a", "body": {"model": "m", "input": input}}).to_string();
            let (count, column) = count(&line, false);
            assert_eq!(count, inputs, "{line}");
            assert!(line[column - 1..].starts_with(&input.to_string()), "{line}");
            let body = json!({"input": input, "model": "m"}).to_string();
            assert_eq!(super::inputs(body.as_bytes(), true), inputs, "{body}");
        }
        assert_eq!(count(r#"{"custom_id":"a","body":{"model":"m"}}"#, false), (1, 1));
    }

    proptest! {
        #[test]
        fn any_list_of_texts_has_as_many_inputs_as_texts(texts in prop::collection::vec(any::<String>(), 1..20), pretty: bool) {
            let line = json!({"custom_id": "a", "body": {"input": texts, "model": "m"}});
            let line = if pretty { serde_json::to_string_pretty(&line).unwrap() } else { line.to_string() };
            let read: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(inputs(line.as_bytes(), false), read["body"]["input"].as_array().unwrap().len() as u64);
        }
    }
}
