//! Why a step failed, in a form that can be sent from one machine to another.
//!
//! In: a typed error where the step ran. Out: everything that the driver decides by and that the user reads.

use std::error::Error as StdError;

use serde::{Deserialize, Serialize};

use super::error_kind::ErrorKind;
use crate::remote;

/// Why a step failed, as the text of the original error. The texts of its causes are in
/// [`source()`](StdError::source).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    origin: Origin,
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<Cause>>,
}

/// Where a step has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// At the service, or on the connection to it.
    Service(remote::ErrorKind),
    /// At the input, which cannot be read or has changed since the check.
    Input,
    /// At local files.
    Machine,
}

/// The cause of an error, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
struct Cause {
    message: String,
    source: Option<Box<Cause>>,
}

impl Cause {
    fn of(error: &dyn StdError) -> Option<Box<Self>> {
        error.source().map(|cause| Box::new(Self { message: cause.to_string(), source: Self::of(cause) }))
    }
}

impl StepError {
    /// The error of a step that failed at `origin`, with its text and those of its causes.
    pub(crate) fn new(origin: Origin, kind: ErrorKind, error: &dyn StdError, hint: Option<String>) -> Self {
        Self { origin, kind, message: error.to_string(), hint, source: Cause::of(error) }
    }

    /// Its kind, which determines the exit code if it ends the run.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    fn remote(&self) -> Option<remote::ErrorKind> {
        if let Origin::Service(kind) = self.origin { Some(kind) } else { None }
    }

    /// Whether the same step may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        self.remote().is_some_and(remote::ErrorKind::is_transient)
    }

    /// Whether the service throttles: it is reachable, and knows when it has room.
    pub(crate) fn is_rate_limited(&self) -> bool {
        self.remote() == Some(remote::ErrorKind::RateLimited)
    }

    /// Whether retrying at the service is pointless.
    pub(crate) fn is_final(&self) -> bool {
        self.remote().is_some_and(remote::ErrorKind::is_final)
    }

    /// Whether the input is the cause.
    pub(crate) fn is_of_input(&self) -> bool {
        self.origin == Origin::Input
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{ErrorKind as Remote, RemoteError};
    use crate::run::error::Error;
    use crate::storage::durable::FileError;

    fn causes(error: &dyn StdError) -> Vec<String> {
        let mut texts = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        texts
    }

    #[test]
    fn an_error_says_the_same_and_decides_the_same_after_it_was_serialised() {
        let full = || FileError {
            action: "write",
            path: "replies/7".into(),
            source: std::io::Error::from(std::io::ErrorKind::StorageFull),
        };
        for (make, transient, is_final, of_input) in [
            (
                (&|| RemoteError::new(Remote::Unavailable, "PUT file").with_status(503).into()) as &dyn Fn() -> Error,
                true,
                false,
                false,
            ),
            (&|| RemoteError::new(Remote::Unauthorized, "GET file").into(), false, true, false),
            (&|| RemoteError::from(full()).into(), false, true, false),
            (&|| full().into(), false, false, false),
            (&|| crate::input::InputError::StdinTwice.into(), false, false, true),
        ] {
            let error = make();
            let step = StepError::from(make());
            let json = serde_json::to_string(&step).unwrap();
            let back: StepError = serde_json::from_str(&json).unwrap();
            assert_eq!(back, step);
            let ended = Error::from(back.clone());
            assert_eq!((causes(&ended), ended.kind(), ended.hint()), (causes(&error), error.kind(), error.hint()));
            assert_eq!((back.is_transient(), back.is_final(), back.is_of_input()), (transient, is_final, of_input));
        }
    }
}
