//! Whether the address of the upstream is right: what its first answers say about that.
//!
//! In: each answer that says that there is nothing to be had here, and each success. Out: whether to go on.
//!
//! A base URL with a slip in it answers, too: with 404, with a web page, with something that is not JSON. As long as
//! nothing was answered as it should be, such answers are **suspects**: they are held back, and are the rows of their
//! requests only when an answer shows that the address is right. After [`FIRST_ANSWERS`] of them no other request goes
//! out until those that are out have come back: a model takes longer over its answer than a server over a 404. If they
//! say nothing else, the address is wrong, and no request has been used up.
//!
//! Invariants: nothing is held back once there was a success, in this process or an earlier one. What is held back is
//! at most as much as is at the upstream at a time and [`FIRST_ANSWERS`], none of it larger than [`SUSPECT_BYTES`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::client::{Failed, SMALL_ANSWER_BYTES, Said};
use super::rows;
use crate::remote::error::ErrorKind;

/// So many first answers that are none, without a success among them, mean that the address is wrong.
pub const FIRST_ANSWERS: usize = 20;

/// A longer answer is no suspect: pages that say that there is nothing here are short.
pub(super) const SUSPECT_BYTES: usize = SMALL_ANSWER_BYTES;

/// How sure an answer makes us that the address is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// An API may say that about a request, too: it has no such model, or not for us.
    Weak,
    /// No API says that: a web page, or a 404 that is not JSON.
    Strong,
}

/// What an answer with a status of success looks like; `None` if it is as it should be.
pub(super) fn of_answer(said: &Said<'_>) -> Option<Suspicion> {
    if said.body.len() > SUSPECT_BYTES || rows::is_json(&said.body) {
        return None;
    }
    Some(if is_page(&said.body) { Suspicion::Strong } else { Suspicion::Weak })
}

/// What a failure looks like; `None` if it says that there is an API.
pub(super) fn of_failure(failed: &Failed) -> Option<Suspicion> {
    let status = failed.error.status()?;
    let is_of_the_kind = matches!(failed.error.kind(), ErrorKind::Refused | ErrorKind::Blocked | ErrorKind::Protocol);
    let body = failed.body.as_deref().unwrap_or_default().as_bytes();
    if !is_of_the_kind || !(is_page(body) || matches!(status, 300..=399 | 403 | 404 | 405 | 410)) {
        return None;
    }
    Some(if is_page(body) || !rows::is_json(body) { Suspicion::Strong } else { Suspicion::Weak })
}

fn is_page(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"<")
}

/// See the module.
#[derive(Debug)]
pub(super) struct FirstAnswers(Mutex<State>);

#[derive(Debug)]
struct State {
    is_proven: bool,
    suspects: usize,
}

impl FirstAnswers {
    /// `is_proven` says that there were successes before.
    pub(super) fn new(is_proven: bool) -> Self {
        Self(Mutex::new(State { is_proven, suspects: 0 }))
    }

    /// Whether the address is right.
    pub(super) fn is_proven(&self) -> bool {
        self.state().is_proven
    }

    /// There was a success.
    pub(super) fn prove(&self) {
        self.state().is_proven = true;
    }

    /// There was a suspect.
    pub(super) fn suspect(&self) {
        self.state().suspects += 1;
    }

    /// Whether so much speaks against the address that nothing is sent until it is settled.
    pub(super) fn is_doubtful(&self) -> bool {
        let state = self.state();
        !state.is_proven && state.suspects >= FIRST_ANSWERS
    }

    /// Suspects are counted anew.
    pub(super) fn start_over(&self) {
        self.state().suspects = 0;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::error::RemoteError;

    fn failed(status: u16, kind: ErrorKind, body: &str) -> Option<Suspicion> {
        let error = RemoteError::new(kind, "POST http://h/").with_status(status);
        of_failure(&Failed { error, body: Some(body.to_owned()) })
    }

    #[test]
    fn what_is_said_where_there_is_no_api_is_suspicious() {
        let strong = Some(Suspicion::Strong);
        for body in ["", "404 page not found", "<!doctype html><title>Welcome</title>"] {
            assert_eq!(failed(404, ErrorKind::Refused, body), strong, "{body}");
            assert_eq!(failed(403, ErrorKind::Blocked, body), strong, "{body}");
        }
        assert_eq!(failed(302, ErrorKind::Protocol, ""), strong);
        assert_eq!(failed(400, ErrorKind::Refused, "<html>"), strong);
        for status in [403, 404, 405] {
            assert_eq!(failed(status, ErrorKind::Refused, r#"{"detail":"Not Found"}"#), Some(Suspicion::Weak));
        }
        assert_eq!(failed(400, ErrorKind::Refused, r#"{"error":"too long"}"#), None);
        assert_eq!(failed(404, ErrorKind::Unavailable, ""), None, "it may pass");
        assert_eq!(of_failure(&RemoteError::new(ErrorKind::Timeout, "POST http://h/").into()), None);
    }

    #[test]
    fn a_number_of_suspects_without_a_success_is_enough() {
        let suspect = |first: &FirstAnswers| {
            first.suspect();
            first.is_doubtful()
        };
        let first = FirstAnswers::new(false);
        assert!((1..FIRST_ANSWERS).all(|_| !suspect(&first)) && suspect(&first));
        first.start_over();
        assert!((1..FIRST_ANSWERS).all(|_| !suspect(&first)) && suspect(&first));
        first.prove();
        assert!(!first.is_doubtful() && !suspect(&first));
        assert!((0..100).all(|_| !suspect(&FirstAnswers::new(true))));
    }
}
