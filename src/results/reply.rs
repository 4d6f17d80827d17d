//! Reply lines: who is answered, and how it went.
//!
//! In: the `Parts` that the [reader](super::reply_reader) found in one line of an output or error file. Out: the hash of its `custom_id`,
//! whether it is an output or an error by the [rule](super::reply_rule), and the tokens it used. The line itself is never rewritten: what
//! goes on is its place.

use std::borrow::Cow;

use super::json_tree::{Scalar, Tree};
use super::reply_parts::Parts;
use super::reply_rule::{Failure, NO_ANSWER, NO_ANSWER_MESSAGE, Why};
use super::retry_class::{ErrorWords, worth_retrying};
use crate::custom_id::IdHasher;
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
    /// Whether that is a string, as requests have it. The number 7 may mean the request `"7"`.
    pub id_is_string: bool,
    /// How it went.
    pub kind: ReplyKind,
    /// Tokens that it used; none for most errors.
    pub usage: Usage,
    /// An error's code and message, cut to a length that can be counted by.
    pub error: Option<String>,
}

impl Reply {
    /// `None` if the parts do not say whom they answer.
    pub(super) fn of<'l, T: Tree<'l>>(parts: &Parts<'l, T>, role: ReplyRole, ids: IdHasher) -> Option<Self> {
        let id = parts.id.as_ref()?;
        let (id_hash, id_is_string) = (ids.hash(&id.text), id.is_string);
        let usage = parts.usage();
        let Some(why) = parts.why_error(role) else {
            return Some(Self { id_hash, id_is_string, kind: ReplyKind::Output, usage, error: None });
        };
        let status = parts.status();
        let failure = match &why {
            Why::Said(error) => Words::of(Failure::of(*error)),
            Why::Ended(kind) => Words { code: Some(kind.clone()), ..Words::default() },
            Why::Silent => {
                Words { code: Some(NO_ANSWER.into()), message: Some(NO_ANSWER_MESSAGE.into()), ..Words::default() }
            }
            Why::Status | Why::File => Words::default(),
        };
        let kind = if failure.worth_retrying(status) { ReplyKind::Retryable } else { ReplyKind::Error };
        let failing = status.filter(|status| !(200..300).contains(status));
        Some(Self { id_hash, id_is_string, kind, usage, error: Some(failure.label(failing)) })
    }
}

/// What an error says, as text.
#[derive(Default)]
struct Words<'l> {
    code: Option<Cow<'l, str>>,
    kind: Option<Cow<'l, str>>,
    message: Option<Cow<'l, str>>,
}

impl<'l> Words<'l> {
    fn of<T: Tree<'l>>(failure: Failure<T>) -> Self {
        let code = failure.code.and_then(|code| match code.scalar() {
            Scalar::Text(code) => Some(code),
            Scalar::Integer(code) => Some(code.to_string().into()),
            _ => None,
        });
        let text = |value: Option<T>| value.and_then(Tree::text);
        Self { code, kind: text(failure.kind), message: text(failure.message) }
    }

    fn worth_retrying(&self, status: Option<u64>) -> bool {
        let Self { code, kind, message } = self;
        worth_retrying(status, ErrorWords { code: code.as_deref(), kind: kind.as_deref(), message: message.as_deref() })
    }

    fn label(&self, status: Option<u64>) -> String {
        let whole = match (&self.code, &self.message, &self.kind, status) {
            (Some(code), Some(message), ..) => format!("{code}: {message}"),
            (Some(only), None, ..) | (None, Some(only), ..) | (None, None, Some(only), _) => only.to_string(),
            (None, None, None, Some(status)) => format!("status {status}"),
            (None, None, None, None) => "error without a message".to_owned(),
        };
        let mut label: String =
            whole.chars().map(|c| if is_unsafe(c) { ' ' } else { c }).take(LABEL_CHARACTERS_MAX).collect();
        if whole.chars().nth(LABEL_CHARACTERS_MAX).is_some() {
            label.push('…');
        }
        label
    }
}
