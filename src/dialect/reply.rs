//! From the members of a reply line to a [`Reply`]: which request it answers, and its kind.
//!
//! In: the `Parts` that the [reader](super::reply_reader) found in one line of an output or error file. Out: the hash
//! of its `custom_id`, whether it is an output or an error by the [rule](super::reply_rule), and the tokens it used.
//! The line itself is never rewritten: later stages get its position.

use std::borrow::Cow;

use super::reply_parts::Parts;
use super::reply_rule::{Failure, NO_ANSWER, NO_ANSWER_MESSAGE, Why};
use super::retry_class::{ErrorWords, worth_retrying};
use crate::json::tree::{Scalar, Tree};
use crate::model::custom_id::IdHasher;
use crate::model::reply::{Reply, ReplyKind, ReplyRole};
use crate::model::shown::is_unsafe;

/// Maximum characters of the label by which errors are counted (code and message); longer ones end with `…`.
const LABEL_CHARACTERS_MAX: usize = 200;

/// Builds the reply; `None` if the parts identify no request.
pub(crate) fn reply_of<'l, T: Tree<'l>>(parts: &Parts<'l, T>, role: ReplyRole, ids: IdHasher) -> Option<Reply> {
    let id = parts.id.as_ref()?;
    let (id_hash, id_is_string) = (ids.hash(&id.text), id.is_string);
    let usage = parts.usage();
    let Some(why) = parts.why_error(role) else {
        return Some(Reply { id_hash, id_is_string, kind: ReplyKind::Output, usage, error: None });
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
    Some(Reply { id_hash, id_is_string, kind, usage, error: Some(failure.label(failing)) })
}

/// The texts of an error.
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
