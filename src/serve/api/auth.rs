//! Who calls: the bearer token, and the account that it stands for.
//!
//! In: a request's head. Out: an account, or a refusal with 401.
//! Invariants: the token itself is neither kept nor written anywhere; an account's name is derived from its
//! digest. Every token is an account of its own, and sees its own files and batches only.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::serve::hex::hex;
use crate::serve::surfaces::surface::Surface;

/// The project that every account has.
pub(crate) const PROJECT_ID: &str = "proj-1";

/// The organization that every account is in.
pub(crate) const ORGANIZATION_ID: &str = "org-1";

/// Keeps account names apart from other uses of a token's digest.
const CONTEXT: &[u8] = b"batchline serve account\0";

/// Bytes of the digest that make the account's name: 24 hex digits, like the service's user ids.
const ACCOUNT_BYTES: usize = 12;

/// The account of the caller. A handler that takes one is closed to those without a token.
#[derive(Debug)]
pub(crate) struct Account(pub(crate) String);

/// Who may call.
#[derive(Debug)]
pub(crate) struct Authenticator {
    /// The one token that is accepted; `None` for any.
    pub(crate) token: Option<SecretString>,
    pub(crate) surface: &'static dyn Surface,
}

impl Authenticator {
    fn account(&self, headers: &HeaderMap) -> Result<Account, &'static str> {
        let token = token_in(headers, self.surface);
        if token.is_empty() {
            return Err("Missing API key");
        }
        let account = account(token);
        // The names are compared, not the tokens: how long it takes tells nothing about the token.
        if self.token.as_ref().is_some_and(|wanted| self::account(wanted.expose_secret().as_bytes()) != account) {
            return Err("Invalid API key provided");
        }
        Ok(Account(account))
    }
}

impl<S: Sync> FromRequestParts<S> for Account
where
    Arc<Authenticator>: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let authenticator = Arc::<Authenticator>::from_ref(state);
        let shape = authenticator.surface.error_shape(parts.uri.path());
        let refuse = |message| ApiError::object(StatusCode::UNAUTHORIZED, message).shaped(shape);
        authenticator.account(&parts.headers).map_err(refuse)
    }
}

/// The token of a call; empty if there is none.
pub(crate) fn token_in<'h>(headers: &'h HeaderMap, surface: &dyn Surface) -> &'h [u8] {
    let value = |name: &str| headers.get(name).map_or(&b""[..], |value| value.as_bytes());
    match value(header::AUTHORIZATION.as_str()).split_at_checked(b"Bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => token.trim_ascii(),
        _ => surface.key_header().map_or(b"", |name| value(name).trim_ascii()),
    }
}

fn account(token: &[u8]) -> String {
    let digest = Sha256::new().chain_update(CONTEXT).chain_update(token).finalize();
    hex(&digest[..ACCOUNT_BYTES])
}
