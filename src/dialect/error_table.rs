//! Known errors of a dialect, as data.

/// Which errors of a dialect are retryable; all texts in lower case. The tables of all dialects apply to all replies,
/// because gateways pass errors on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorTable {
    /// Codes that decide on their own, and whether they are retryable.
    pub codes: &'static [(&'static str, bool)],
    /// Substrings of messages that mark a fault of the service, not of the request: retryable.
    pub messages: &'static [&'static str],
    /// Codes of requests that were never tried, because the batch ended first.
    pub untried: &'static [&'static str],
    /// Substrings of the errors of batches that failed as a whole by a fault of the service, in addition to `messages`.
    pub batch_messages: &'static [&'static str],
}
