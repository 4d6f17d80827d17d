//! Checks a batch's input file as OpenAI does: to the first line that is unfit, which is named with a code.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_128;

use crate::json::exact::{Object, string};
use crate::serve::batch::input::{self, Checked, Refusal};
use crate::serve::batch::request::NO_SUCH_MODEL;
use crate::serve::limits::Limits;
use crate::storage::read_at::ReadAt;

/// Checks every line of `file` for a batch of `endpoint`.
pub(crate) fn check(file: &dyn ReadAt, limits: &Limits, endpoint: &str) -> Result<Checked, Refusal> {
    input::check_size(file, limits)?;
    let (mut checked, mut ids) = (Checked { model: None, requests: 0 }, HashSet::new());
    input::each_line(file, limits, |number, _, line| {
        checked.requests = number;
        let unfit = |Fault { code, param, message }: Fault| Refusal::Line { line: number, code, param, message };
        let (id, model) = request(line, endpoint).map_err(unfit)?;
        if !ids.insert(id) {
            return Err(unfit(fault("duplicate_custom_id", "custom_id", "The custom_id was used by an earlier line.")));
        }
        match &checked.model {
            None => checked.model = Some(model),
            Some(first) if *first == model => {}
            Some(first) => {
                let message = format!("The model {model:?} is not that of the first line, {first:?}.");
                return Err(unfit(Fault { code: "mismatched_model", param: Some("body.model"), message }));
            }
        }
        Ok(())
    })?;
    Ok(checked)
}

/// What is wrong with a line.
struct Fault {
    code: &'static str,
    param: Option<&'static str>,
    message: String,
}

fn fault(code: &'static str, param: &'static str, message: &str) -> Fault {
    Fault { code, param: Some(param), message: message.to_owned() }
}

/// A digest of the id of a request, and its model.
fn request(line: &[u8], endpoint: &str) -> Result<(u128, String), Fault> {
    let broken = |message: String| Fault { code: "invalid_json_line", param: None, message };
    let text =
        simdutf8::compat::from_utf8(line).map_err(|error| broken(format!("This line is not UTF-8: {error}.")))?;
    let object =
        Object::read(text).map_err(|error| broken(format!("This line is not parseable as a JSON object: {error}.")))?;
    let [custom_id, method, url, body] = object.last(["custom_id", "method", "url", "body"]);
    let missing = |param| fault("missing_required_parameter", param, "Missing required parameter, or not a string.");
    let text = |value: Option<&str>, param| {
        let decoded = value.and_then(string).map(std::borrow::Cow::into_owned);
        decoded.ok_or_else(|| missing(param))
    };
    let custom_id = custom_id.filter(|id| id.starts_with('"')).ok_or_else(|| missing("custom_id"))?;
    // An id with half of a surrogate pair has no decoded form.
    let decoded = string(custom_id).unwrap_or(custom_id.into());
    if text(method, "method")? != "POST" {
        return Err(fault("invalid_request", "method", "The method must be POST."));
    }
    if text(url, "url")? != endpoint {
        return Err(fault("invalid_url", "url", &format!("The URL does not match the batch's endpoint {endpoint}.")));
    }
    let body = body.and_then(|body| Object::read(body).ok()).ok_or_else(|| missing("body"))?;
    let [model, stream] = body.last(["model", "stream"]);
    let model = text(model, "body.model")?;
    if model.starts_with(NO_SUCH_MODEL) {
        return Err(fault("model_not_found", "body.model", &format!("The model {model:?} does not exist.")));
    }
    if stream == Some("true") {
        return Err(fault("streaming_unsupported", "body.stream", "Batches cannot stream."));
    }
    Ok((xxh3_128(decoded.as_bytes()), model))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::storage::local_file::LocalFile;

    const GOOD: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}"#;

    fn checked(content: &str) -> Result<Checked, (u64, &'static str)> {
        let mut file = LocalFile::scratch(&std::env::temp_dir()).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        check(&file, &Limits::default(), "/v1/chat/completions").map_err(|refusal| match refusal {
            Refusal::Line { line, code, .. } => (line, code),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn the_first_unfit_line_is_named_with_its_code() {
        let other = GOOD.replace(r#""a""#, r#""b""#);
        assert_eq!(checked(&format!("{GOOD}\n{other}")), Ok(Checked { model: Some("m".into()), requests: 2 }));
        for (line, code) in [
            ("", "invalid_json_line"),
            ("[]", "invalid_json_line"),
            (GOOD, "duplicate_custom_id"),
            (&GOOD.replace("\"a\"", "\"\\u0061\""), "duplicate_custom_id"),
            (&other.replace(r#""custom_id":"b","#, ""), "missing_required_parameter"),
            (&other.replace(r#""custom_id":"b""#, r#""custom_id":7"#), "missing_required_parameter"),
            (&other.replace(r#""method":"POST","#, ""), "missing_required_parameter"),
            (&other.replace("POST", "GET"), "invalid_request"),
            (&other.replace("/v1/chat", "/chat"), "invalid_url"),
            (&other.replace(r#"{"model":"m"}"#, "3"), "missing_required_parameter"),
            (&other.replace(r#""model":"m""#, ""), "missing_required_parameter"),
            (&other.replace(r#""m""#, r#""n""#), "mismatched_model"),
            (&other.replace(r#""m""#, r#""nonexistent/m""#), "model_not_found"),
            (&other.replace(r#""m""#, r#""m","stream":true"#), "streaming_unsupported"),
        ] {
            assert_eq!(checked(&format!("{GOOD}\n{line}\n")), Err((2, code)), "{line}");
        }
    }
}
