//! The relevant content of one line of an output or error file.

use serde::{Deserialize, Serialize};

/// Which of a batch's two files a reply is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The request failed, and is not retryable.
    Error,
    /// The request failed, and is retryable.
    Retryable,
}

impl ReplyKind {
    /// Whether the request failed.
    #[must_use]
    pub fn is_error(self) -> bool {
        self != Self::Output
    }
}

/// The service's token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// The relevant content of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Hash of the `custom_id` that it answers.
    pub id_hash: u128,
    /// Whether that is a string, as in requests. The number 7 may mean the request `"7"`.
    pub id_is_string: bool,
    /// Its kind.
    pub kind: ReplyKind,
    /// Tokens that it used; none for most errors.
    pub usage: Usage,
    /// An error's code and message, truncated to a label by which errors are counted.
    pub error: Option<String>,
}
