//! Recognizes errors that mean that the service's queue for this account is full: backpressure, not a failure.
//!
//! In: an error in JSON, of a call or of a batch. Out: whether it says so. Services limit the tokens or batches that
//! may be enqueued, and reject what exceeds the quota: at once, or by a batch that fails before any of its requests was
//! tried.

use serde_json::Value;

/// Codes, in lower case, that mean it whatever the message is.
const CODES: [&str; 7] = [
    // OpenAI and Azure, of a batch.
    "token_limit_exceeded",
    "enqueued_token_limit_exceeded",
    "batch_limit_exceeded",
    "batch_queue_full",
    "max_batches_exceeded",
    "queue_full",
    "too_many_batches",
];

/// Substrings of messages, in lower case, that mean it where the code does not.
const MESSAGES: [&str; 11] = [
    // OpenAI: "Enqueued token limit reached for M"; Azure: "The number of enqueued tokens has surpassed the configured
    // limit".
    "enqueued token",
    "tokens enqueued",
    "too many batches",
    "too many active batch",
    "too many concurrent batch",
    "too many pending batch",
    "limit of concurrent batch",
    "maximum number of batches",
    "maximum number of concurrent batch",
    "maximum number of active batch",
    "batch queue is full",
];

/// Maximum depth to which an error is searched.
const DEPTH_MAX: u32 = 4;

/// Whether an error, or one of a list of errors, means that the queue is full.
pub(crate) fn is_full(error: &Value) -> bool {
    says_full(error, DEPTH_MAX)
}

fn says_full(error: &Value, depth: u32) -> bool {
    match error {
        _ if depth == 0 => false,
        Value::String(text) => has_words(text),
        Value::Array(items) => items.iter().any(|item| says_full(item, depth - 1)),
        Value::Object(members) => {
            // A single line with too many tokens is an error of that line, whatever the code.
            let is_of_line = members.get("line").is_some_and(Value::is_number);
            let named = |name: &str| members.get(name).and_then(Value::as_str);
            let has_code = ["code", "type"].into_iter().filter_map(named).any(is_code);
            let inside = ["error", "errors", "data", "message", "msg", "detail"];
            let mut inner = inside.iter().filter_map(|name| members.get(*name));
            !is_of_line && has_code || inner.any(|inner| says_full(inner, depth - 1))
        }
        _ => false,
    }
}

fn is_code(code: &str) -> bool {
    CODES.contains(&code.to_ascii_lowercase().as_str())
}

fn has_words(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    MESSAGES.iter().any(|known| message.contains(known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_queue_is_distinguished_from_other_errors() {
        let openai = "Enqueued token limit reached for gpt-4o-mini in organization org-1. Limit: 2,000,000 enqueued tokens. Please try \
                      again once some in_progress batches have been completed.";
        let azure = "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'm'. Please either \
                     increase the limit or try again once the current jobs have finished.";
        for full in [
            json!({"object": "list", "data": [{"code": "token_limit_exceeded", "message": openai, "line": null, "param": null}]}),
            json!({"data": [{"code": "token_limit_exceeded", "message": "no words that are known", "line": null}]}),
            json!([{"code": null, "message": azure}]),
            json!({"error": {"message": openai, "type": "invalid_request_error", "code": null}}),
            json!({"error": {"message": "no", "code": "Too_Many_Batches"}}),
            json!({"error": "Too many batches in flight"}),
            json!({"detail": [{"msg": "You have reached the maximum number of concurrent batches (100)"}]}),
            json!(openai),
        ] {
            assert!(is_full(&full), "{full}");
        }
        for other in [
            json!(null),
            json!({}),
            json!({"data": [{"code": "token_limit_exceeded", "message": "This line has too many tokens", "line": 3}]}),
            json!({"data": [{"code": "invalid_url", "message": "the URL is wrong", "line": 1}]}),
            json!({"error": {"message": "Rate limit reached for requests", "code": "rate_limit_exceeded"}}),
            json!({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
            json!({"error": {"message": "This model's maximum context length is 8192 tokens", "code": "context_length_exceeded"}}),
            json!("Internal server error"),
            json!({"error": {"error": {"error": {"error": {"error": {"code": "queue_full"}}}}}}),
        ] {
            assert!(!is_full(&other), "{other}");
        }
    }
}
