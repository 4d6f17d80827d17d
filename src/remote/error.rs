//! Errors of calls to a service, classified by what the caller can do about them.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dialect::wire::{Malformed, message_of};
use crate::model::shown::one_line;
use crate::storage::durable;
use crate::storage::durable::FileError;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// 401: the key is wrong.
    Unauthorized,
    /// 402: no credit left, or a spending limit was reached.
    PaymentRequired,
    /// 403 from the network edge in front of the API, not from the API.
    Blocked,
    /// Another status that is a permanent refusal.
    Refused,
    /// 429. When to come back is known to the throttle.
    RateLimited,
    /// 408, 425 or 5xx: the service is temporarily unavailable.
    Unavailable,
    /// The object storage behind a presigned URL failed. A new URL may help.
    Storage,
    /// No connection could be established: nothing was sent.
    Unreachable,
    /// The server's identity could not be verified, or it does not speak TLS: nothing was sent.
    Insecure,
    /// The connection broke off, or a body was shorter than announced.
    Interrupted,
    /// Nothing, or too little, was received within the time limit.
    Timeout,
    /// Too many bytes: 413, or a response above its size limit.
    TooLarge,
    /// A response that violates the protocol, or must not be followed.
    Protocol,
    /// What was received is not the content of the file: an HTML page, or data that cannot be decompressed.
    Garbled,
    /// The payload's bytes are no longer those that were promised.
    InputChanged,
    /// A file on this machine could not be read or written.
    LocalFile,
    /// The limit on open files, which connections count towards, is reached: nothing was sent.
    OutOfFiles,
    /// The service is not worth being asked any more: what it said last is the cause.
    GivenUp,
}

impl ErrorKind {
    /// Whether the same call may succeed later. That it is *safe* to repeat is another question.
    #[must_use]
    pub fn is_transient(self) -> bool {
        use ErrorKind::{Interrupted, RateLimited, Storage, Timeout, Unavailable, Unreachable};
        matches!(self, RateLimited | Unavailable | Storage | Unreachable | Interrupted | Timeout)
    }

    /// Whether the fault is this machine's: nothing that the service does will change it.
    #[must_use]
    pub fn is_local(self) -> bool {
        matches!(self, Self::LocalFile | Self::OutOfFiles)
    }

    /// Whether it makes no sense to ask again: the service does not let us in, or we cannot get out.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.is_local() || matches!(self, Self::Unauthorized | Self::Insecure)
    }
}

/// An operation on the service that failed: what was tried on what, and what came back. The cause, where there is
/// one, is the `source()`.
pub struct RemoteError(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    target: String,
    status: Option<u16>,
    message: Option<String>,
    retry_after: Option<Duration>,
    queue_full: bool,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl RemoteError {
    /// A response to `target` that is not what was requested.
    pub(super) fn malformed(target: &str) -> impl FnOnce(Malformed) -> Self {
        move |why| Self::new(ErrorKind::Protocol, target).with_message(&why.to_string())
    }

    /// An error of `kind` on `target`: a method and a URL without its query, or a path.
    #[must_use]
    pub fn new(kind: ErrorKind, target: impl Into<String>) -> Self {
        let target = target.into();
        Self(Box::new(Parts {
            kind,
            target,
            status: None,
            message: None,
            retry_after: None,
            queue_full: false,
            hint: None,
            source: None,
        }))
    }

    /// Adds the HTTP status of the response.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// Adds an explanation, shortened and stripped of control characters.
    #[must_use]
    pub fn with_message(mut self, message: &str) -> Self {
        self.0.message = Some(one_line(message)).filter(|message| !message.is_empty());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(super) fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Says whether the queue for this account is full: see [`RemoteError::is_queue_full`].
    #[must_use]
    pub fn with_queue_full(mut self, queue_full: bool) -> Self {
        self.0.queue_full = queue_full;
        self
    }

    pub(super) fn with_hint(mut self, hint: &str) -> Self {
        self.0.hint = Some(hint.to_owned());
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The HTTP status, if there was a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// What the service said, cleaned.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// How long the service asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call may succeed later. That it is *safe* to repeat is another question.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.kind.is_transient()
    }

    /// Whether the service says that the queue for this account is full: there is room again when batches have ended.
    #[must_use]
    pub fn is_queue_full(&self) -> bool {
        self.0.queue_full
    }

    /// Whether the requested object does not exist, or not any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.0.status, Some(404 | 410)) && !self.is_transient()
    }

    /// Whether the fault is this machine's: nothing that the service does will change it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.0.kind.is_local()
    }

    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        if let Some(hint) = &self.0.hint {
            return Some(hint);
        }
        Some(match self.0.kind {
            ErrorKind::Unauthorized => "check the API key: it is missing, mistyped, revoked or of another provider",
            ErrorKind::PaymentRequired => "the account has no credit left or has reached its spending limit",
            ErrorKind::Blocked => {
                "the network edge before the API turned the request away (Cloudflare's 1010 and its like): \
                 look at proxies, VPNs and the address you come from, not at the key"
            }
            ErrorKind::Insecure => {
                "the server's certificate was not accepted: look at the base URL, the system's \
                                    certificates and the clock"
            }
            ErrorKind::InputChanged => {
                "the input is not what it was when it was checked: restore it, or start a new run"
            }
            ErrorKind::OutOfFiles => durable::MORE_FILES,
            ErrorKind::LocalFile => return self.0.source.as_ref()?.downcast_ref().and_then(durable::remedy),
            _ => return None,
        })
    }
}

impl From<FileError> for RemoteError {
    fn from(error: FileError) -> Self {
        Self::new(ErrorKind::LocalFile, error.to_string()).with_source(error.source)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = &self.0;
        let what = match parts.kind {
            ErrorKind::Unauthorized => "the key was not accepted",
            ErrorKind::PaymentRequired => "payment is required",
            ErrorKind::Blocked => "blocked before reaching the API",
            ErrorKind::Refused => "refused",
            ErrorKind::RateLimited => "rate limited",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Storage => "the object storage failed",
            ErrorKind::Unreachable => "could not connect",
            ErrorKind::Insecure => "could not connect securely",
            ErrorKind::Interrupted => "the connection broke off",
            ErrorKind::Timeout => "timed out",
            ErrorKind::TooLarge => "too large",
            ErrorKind::Protocol => "unexpected response",
            ErrorKind::Garbled => "the download is not the content of the file",
            ErrorKind::InputChanged => "the input changed",
            ErrorKind::LocalFile | ErrorKind::GivenUp => "",
            ErrorKind::OutOfFiles => "no connection could be opened",
        };
        formatter.write_str(&parts.target)?;
        if !what.is_empty() {
            write!(formatter, ": {what}")?;
        }
        if let Some(status) = parts.status {
            write!(formatter, " (HTTP {status})")?;
        }
        match &parts.message {
            Some(message) => write!(formatter, ": {message}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RemoteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RemoteError").field("says", &self.to_string()).field("source", &self.0.source).finish()
    }
}

impl StdError for RemoteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The message in an error body of any format: `{"error": "text"}`, `{"error": {"message"}}`, `{"detail": …}`,
/// `{"message": …}`, plain text, an XML error of a store (its message), or a page of HTML (its title). Empty if there
/// is none.
pub(super) fn message_in(body: &[u8]) -> String {
    let text = if let Ok(value) = serde_json::from_slice::<Value>(body) {
        message_of(&value).unwrap_or_else(|| value.to_string())
    } else {
        let text = String::from_utf8_lossy(body);
        if text.trim_start().starts_with('<') { message_in_tags(&text) } else { text.into_owned() }
    };
    one_line(&text)
}

/// The message of an XML error, or the title of an HTML page.
fn message_in_tags(text: &str) -> String {
    if let Some(message) = within(text, "error").and_then(|error| within(error, "message")) {
        return message.trim().to_owned();
    }
    let title = within(text, "title");
    title.map_or_else(|| "a page of HTML".to_owned(), |title| format!("a page of HTML, titled {:?}", title.trim()))
}

/// The text between the tags of this name, which is in lower case.
fn within<'t>(text: &'t str, tag: &str) -> Option<&'t str> {
    let lower = text.to_ascii_lowercase();
    let start = lower.find(&format!("<{tag}>"))? + tag.len() + "<>".len();
    let end = lower[start..].find(&format!("</{tag}>"))?;
    Some(&text[start..start + end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shown::MESSAGE_CHARACTERS;

    #[test]
    fn the_message_is_found_in_every_format() {
        for (body, message) in [
            (r#"{"error":"Job not found","request_id":"r"}"#, "Job not found"),
            (r#"{"error":{"message":"File x not found","type":"not_found"}}"#, "File x not found"),
            (r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#, "field required"),
            (r#"{"message":"no"}"#, "no"),
            (r#"{"odd":1}"#, r#"{"odd":1}"#),
            ("plain \u{1b}[31mred\u{7}\r\ntext", "plain [31mred text"),
            ("error code: 1010", "error code: 1010"),
            ("<html><head><TITLE>502 Bad Gateway</title>", "a page of HTML, titled \"502 Bad Gateway\""),
            ("<!doctype html>", "a page of HTML"),
            ("<?xml version=\"1.0\"?>\n<Error><Code>Full</Code><Message> no room </Message></Error>", "no room"),
            ("<Error><Code>Full</Code></Error>", "a page of HTML"),
            ("<html><title>t</title><message>m</message>", "a page of HTML, titled \"t\""),
            ("<Error><Message></Error></Message>", "a page of HTML"),
            ("", ""),
        ] {
            assert_eq!(message_in(body.as_bytes()), message, "{body}");
        }
        assert_eq!(message_in(b"\xff\xfe bad"), "\u{fffd}\u{fffd} bad");
    }

    #[test]
    fn a_long_message_is_truncated() {
        let message = message_in("x".repeat(100_000).as_bytes());
        assert_eq!(message.chars().count(), MESSAGE_CHARACTERS + 1);
    }

    #[test]
    fn an_error_says_what_was_tried_on_what() {
        let error = RemoteError::new(ErrorKind::Refused, "POST https://api.example/v1/batches")
            .with_status(400)
            .with_message("no such\nfile");
        assert_eq!(error.to_string(), "POST https://api.example/v1/batches: refused (HTTP 400): no such file");
        assert!(!error.is_transient());
    }
}
