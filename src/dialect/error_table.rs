//! Words of errors, as data.

/// What the errors of a dialect say of another attempt, in words in lower case. All dialects' tables hold for all replies, because gateways
/// pass errors on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorTable {
    /// Codes that decide alone, and whether another attempt is worth it.
    pub codes: &'static [(&'static str, bool)],
    /// Pieces of messages that tell the service's own trouble from the request's.
    pub messages: &'static [&'static str],
    /// Codes of requests that a batch ended before it came to them.
    pub untried: &'static [&'static str],
    /// Pieces of the errors of batches that failed as a whole by the service's own trouble, besides `messages`.
    pub batch_messages: &'static [&'static str],
}
