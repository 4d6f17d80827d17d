//! Reply lines: who is answered, and how it went.
//!
//! In: what the [reader](super::reply_reader) found in one line of an output or error file. Out: the hash of its `custom_id`, whether it
//! is an output or an error, and the tokens it used. The line itself is never rewritten: what goes on is its place.

use super::retry_class::worth_retrying;
use crate::shown::is_unsafe;

/// Most characters of an error's code and message that errors are counted by; what is longer ends with `…`.
const LABEL_CHARACTERS_MAX: usize = 200;

/// Which of a batch's two files a reply stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyRole {
    /// The output file.
    Output,
    /// The error file.
    Error,
}

/// What a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// The request was answered.
    Output,
    /// The request failed, and would fail again.
    Error,
    /// The request failed, and may fare better another time.
    Retryable,
}

impl ReplyKind {
    /// Whether the request failed.
    #[must_use]
    pub fn is_error(self) -> bool {
        self != Self::Output
    }
}

/// Tokens as the service counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt: u64,
    /// Tokens of the answers.
    pub completion: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.completion = self.completion.saturating_add(other.completion);
    }
}

/// What matters of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Hash of the `custom_id` that it answers.
    pub id_hash: u128,
    /// How it went.
    pub kind: ReplyKind,
    /// Tokens that it used; none for most errors.
    pub usage: Usage,
    /// An error's code and message, cut to a length that can be counted by.
    pub error: Option<String>,
}

/// The code and the message of an error.
pub(super) type Failure = (Option<String>, Option<String>);

impl Reply {
    /// Content decides what a reply is; the file that it stands in decides only when the content says nothing.
    pub(super) fn new(
        id_hash: u128,
        role: ReplyRole,
        status: Option<u64>,
        failure: Option<Failure>,
        usage: Usage,
    ) -> Self {
        let failed = match (&failure, status) {
            (Some(_), _) => true,
            (None, Some(status)) => !(200..300).contains(&status),
            (None, None) => role == ReplyRole::Error,
        };
        if !failed {
            return Self { id_hash, kind: ReplyKind::Output, usage, error: None };
        }
        let (code, message) = failure.unwrap_or_default();
        let (code, message) = (code.as_deref(), message.as_deref());
        let kind = if worth_retrying(status, code, message) { ReplyKind::Retryable } else { ReplyKind::Error };
        let error = match (code, message, status) {
            (None, None, Some(status)) => format!("status {status}"),
            _ => label(code, message),
        };
        Self { id_hash, kind, usage, error: Some(error) }
    }
}

fn label(code: Option<&str>, message: Option<&str>) -> String {
    let whole = match (code, message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => "error without a message".to_owned(),
    };
    let mut label: String =
        whole.chars().map(|c| if is_unsafe(c) { ' ' } else { c }).take(LABEL_CHARACTERS_MAX).collect();
    if whole.chars().nth(LABEL_CHARACTERS_MAX).is_some() {
        label.push('…');
    }
    label
}
