//! Which errors are retryable.
//!
//! In: the texts of an error reply. Out: whether to retry its request. The first of these that is known decides:
//!
//! | what | retryable |
//! | --- | --- |
//! | the code | as the table of codes says |
//! | the status | 408, 425, 429 and 5xx are, other 4xx are not |
//! | the type, which some services use in place of a code | as the table of codes says |
//! | a code that is a number | as a status |
//! | the message | if it contains an entry of the table of messages |
//!
//! Together marks every failed row `batch_client_error`, its own faults included, so the message decides where the code
//! is not known (observed in 2026: "Internal Server Error" in 17,701 of 20,000 rows of one batch). Anything unknown is
//! taken for a fault of the request: a retry would cost money and change nothing.

use super::dialects::DIALECTS;
use super::error_table::ErrorTable;
use super::reply_rule::NO_ANSWER;

/// Codes that many services use.
const CODES: [(&str, bool); 17] = [
    // Anthropic's types of results, and of errors.
    ("expired", true),
    ("canceled", false),
    ("cancelled", false),
    ("api_error", true),
    ("rate_limit_error", true),
    ("timeout_error", true),
    // Ours.
    (NO_ANSWER, true),
    ("timeout", true),
    ("request_timeout", true),
    ("server_error", true),
    ("internal_error", true),
    ("internal_server_error", true),
    ("service_unavailable", true),
    ("overloaded_error", true),
    ("rate_limit_exceeded", true),
    ("dynamic_request_limited", true),
    ("dynamic_token_limited", true),
];

/// Substrings of messages that many services write.
const MESSAGES: [&str; 12] = [
    "internal server error",
    "internal error",
    "service unavailable",
    "temporarily unavailable",
    "bad gateway",
    "gateway timeout",
    "timed out",
    "timeout",
    "overloaded",
    "too many requests",
    "rate limit",
    "connection reset",
];

/// The texts of an error; missing ones are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorWords<'e> {
    /// `code`.
    pub code: Option<&'e str>,
    /// `type`.
    pub kind: Option<&'e str>,
    /// `message`.
    pub message: Option<&'e str>,
}

/// Whether a request that failed like this is to be retried.
#[must_use]
pub fn worth_retrying(status: Option<u64>, words: ErrorWords<'_>) -> bool {
    let ErrorWords { code, kind, message } = words;
    let by_message = || Some(is_service_trouble(&message?.to_ascii_lowercase()));
    of_code(code)
        .or_else(|| of_status(status?))
        .or_else(|| of_code(kind))
        .or_else(|| of_status(code?.trim().parse().ok()?))
        .or_else(by_message)
        .unwrap_or(false)
}

fn of_code(code: Option<&str>) -> Option<bool> {
    let code = code?.to_ascii_lowercase();
    let mut known = CODES.iter().chain(tables().flat_map(|table| table.codes));
    known.find(|(known, _)| *known == code).map(|(_, worth)| *worth)
}

/// Whether a message, in lower case, is about a fault of the service.
fn is_service_trouble(message: &str) -> bool {
    MESSAGES.iter().chain(tables().flat_map(|table| table.messages)).any(|known| message.contains(known))
}

fn tables() -> impl Iterator<Item = ErrorTable> {
    DIALECTS.iter().map(|dialect| dialect.errors())
}

fn of_status(status: u64) -> Option<bool> {
    match status {
        408 | 425 | 429 | 500..=599 => Some(true),
        400..=499 => Some(false),
        _ => None,
    }
}

/// Whether the error with this label means that the request was never tried.
#[must_use]
pub fn is_untried(label: &str) -> bool {
    tables()
        .flat_map(|table| table.untried)
        .any(|code| label.strip_prefix(code).is_some_and(|rest| rest.is_empty() || rest.starts_with(": ")))
}

/// Whether to retry the requests of a batch that failed as a whole with this error.
#[must_use]
pub fn failed_batch_worth_retrying(error: Option<&str>) -> bool {
    let error = error.unwrap_or_default().to_ascii_lowercase();
    is_service_trouble(&error) || tables().flat_map(|table| table.batch_messages).any(|known| error.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worth_retrying(status: Option<u64>, code: Option<&str>, message: Option<&str>) -> bool {
        super::worth_retrying(status, ErrorWords { code, kind: None, message })
    }

    #[test]
    fn observed_errors_are_classified() {
        let client = Some("batch_client_error");
        for message in ["Internal Server Error", "Internal server error", "Request timed out"] {
            assert!(worth_retrying(None, client, Some(message)), "{message}");
        }
        for message in [
            "missing 'model' field in body or not a string",
            "Maximum four stop sequences allowed",
            "Selected function was not found in the tools list",
            "tools[0]: missing field 'function'",
            "One of the image(s) could not be processed (possibly corrupt)",
            "cannot identify image file",
            "Invalid JSON data: ... messages[0]: data did not match any variant of untagged enum MessageContent",
            "Content-Type must be multipart/form-data",
            "error reading input file",
            "Unable to access model nonexistent/model-xyz. Please visit https://api.together.ai/models/...",
        ] {
            assert!(!worth_retrying(None, client, Some(message)), "{message}");
        }
        for (aibrix, worth) in [
            ("[all_endpoints_failed] all endpoints failed status=500 (http://h: HTTP 500)", true),
            ("[transport_error] http://h: transport error", true),
            ("[http_error] http://h: HTTP 400 status=400", false),
        ] {
            assert_eq!(worth_retrying(None, Some("inference_failed"), Some(aibrix)), worth, "{aibrix}");
        }
        assert!(worth_retrying(Some(503), None, None) && worth_retrying(Some(429), None, None));
        assert!(!worth_retrying(Some(422), None, Some("the upstream timeout parameter is invalid")));
        assert!(
            worth_retrying(None, Some("batch_expired"), None) && !worth_retrying(None, Some("batch_cancelled"), None)
        );
        assert!(!worth_retrying(None, None, None));
        assert!(
            worth_retrying(Some(200), Some("429"), None) && !worth_retrying(Some(200), Some("400"), Some("timeout"))
        );
        let of_kind =
            |status, kind| super::worth_retrying(status, ErrorWords { kind: Some(kind), ..ErrorWords::default() });
        assert!(of_kind(None, "overloaded_error") && !of_kind(None, "invalid_request_error"));
        assert!(!of_kind(Some(400), "overloaded_error"), "the status is nearer to what happened");
    }

    #[test]
    fn untried_requests_are_recognized() {
        for label in ["batch_expired: This request could not be executed", "batch_cancelled", "batch_expired: too late"]
        {
            assert!(is_untried(label), "{label}");
        }
        for label in ["batch_expired_differently", "server_error: batch_expired", "error without a message", ""] {
            assert!(!is_untried(label), "{label}");
        }
    }

    #[test]
    fn failed_batches_are_retried_only_for_faults_of_the_service() {
        assert!(failed_batch_worth_retrying(Some("Failed to download input file: ... 404 ...")));
        assert!(!failed_batch_worth_retrying(Some("Invalid model ID: Unable to access non-serverless model x")));
        assert!(!failed_batch_worth_retrying(Some("Failed to calculate tokens: input format error: Line 2")));
        assert!(!failed_batch_worth_retrying(None));
    }
}
