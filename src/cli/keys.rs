//! API keys: from a file that was named, else from the environment.
//!
//! Invariant: a key that was set for one service goes to no other, unless it can be taken to be meant.

use std::path::Path;

use batchline::dialect::providers::PROVIDERS;
use batchline::remote::{Address, Token};
use batchline::run::error::Error;

use super::exit::Failure;

/// The key of an OpenAI-compatible service, where it has no variable of its own.
const OPENAI_KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// The key of `serve`'s upstream.
pub(crate) const UPSTREAM_KEY_VARIABLE: &str = "BATCHLINE_UPSTREAM_KEY";

/// The key of a service that is asked request by request: from a file, else from its variable, else OpenAI's, but that
/// one only over https or to this machine: having it in the environment does not mean that it may go to some other
/// server.
pub(crate) fn online_token(address: &Address, file: Option<&Path>, name: &str) -> Result<Option<Token>, Failure> {
    let openai = || variable(OPENAI_KEY_VARIABLE).filter(|_| address.is_https() || address.is_loopback());
    let token = match file {
        Some(path) => Some(Token::from_file(path)),
        None => variable(name).or_else(openai).map(|value| Token::new(&value)),
    };
    token.transpose().map_err(|error| configuration(error.to_string(), None))
}

/// A setting is missing or wrong.
pub(crate) fn configuration(what: String, hint: Option<String>) -> Failure {
    Failure::Run(Error::Configuration { what, hint })
}

/// The environment variables that a key may be in.
pub(crate) fn key_variables() -> impl Iterator<Item = &'static str> {
    PROVIDERS.iter().map(|row| row.key_variable).chain([OPENAI_KEY_VARIABLE, UPSTREAM_KEY_VARIABLE])
}

/// An environment variable that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
