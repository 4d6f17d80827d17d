//! Why a service is not worth being asked any more. Nothing was recorded for the requests that found out.

use std::fmt::Display;
use std::time::Duration;

use crate::remote::error::{ErrorKind, RemoteError};

/// The address is wrong: `answers` first answers say so, the last of them `source`.
pub(super) fn wrong_address(address: &impl Display, answers: usize, source: RemoteError) -> RemoteError {
    let all =
        if answers == 1 { "the only answer says".to_owned() } else { format!("the first {answers} answers all say") };
    let what = format!("{all} that there is no API at {address}");
    let hint = format!(
        "check the base URL: requests go to {address} and the endpoint, as in {address}/chat/completions; and that the models that \
         the requests name are there. Nothing is recorded: run the same command to resume"
    );
    given_up(what, &hint, source)
}

/// It has let nothing through for `patience`.
pub(super) fn refuses(address: &impl Display, patience: Duration, source: RemoteError) -> RemoteError {
    let hint = "a rate limit or quota is used up: wait, or have it raised, and run the same command to resume; --patience TIME sets \
                how long a run waits for it";
    given_up(format!("{address} has let nothing through for {patience:?}"), hint, source)
}

/// The account has nothing left.
pub(super) fn spent(address: &impl Display, source: RemoteError) -> RemoteError {
    let hint = "no waiting helps: look at the plan and the credit of the account, then run the same command to resume";
    given_up(format!("the account's quota at {address} is used up"), hint, source)
}

fn given_up(what: String, hint: &str, source: RemoteError) -> RemoteError {
    RemoteError::new(ErrorKind::GivenUp, what).with_hint(hint).with_source(source)
}
