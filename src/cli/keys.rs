//! API keys: from the file that an option names, else from the environment.
//!
//! Invariant: a key that was set for one service is not sent to another; OpenAI's key is the exception, see
//! [`online_token`].

use std::path::Path;

use batchline::dialect::providers::PROVIDERS;
use batchline::remote::{Address, Token};
use batchline::run::error::Error;

use super::exit::Failure;

/// The key of an OpenAI-compatible service whose own variable is not set.
const OPENAI_KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// The key of `serve`'s upstream.
pub(crate) const UPSTREAM_KEY_VARIABLE: &str = "BATCHLINE_UPSTREAM_KEY";

/// The key of a service without a Batch API: from a file, else from its variable, else OpenAI's. The latter is used
/// only over https or on this machine: a key in the environment is not permission to send it to any server.
pub(crate) fn online_token(address: &Address, file: Option<&Path>, name: &str) -> Result<Option<Token>, Failure> {
    let openai = || variable(OPENAI_KEY_VARIABLE).filter(|_| address.is_https() || address.is_loopback());
    let token = match file {
        Some(path) => Some(Token::from_file(path)),
        None => variable(name).or_else(openai).map(|value| Token::new(&value)),
    };
    token.transpose().map_err(|error| configuration(error.to_string(), None))
}

/// The failure that a setting is missing or wrong.
pub(crate) fn configuration(what: String, hint: Option<String>) -> Failure {
    Failure::Run(Error::Configuration { what, hint })
}

/// The environment variables that may hold a key.
pub(crate) fn key_variables() -> impl Iterator<Item = &'static str> {
    PROVIDERS.iter().map(|row| row.key_variable).chain([OPENAI_KEY_VARIABLE, UPSTREAM_KEY_VARIABLE])
}

/// The value of an environment variable, unless it is unset or blank.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
