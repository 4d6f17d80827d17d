//! Who calls: the bearer token, and the account that it stands for.
//!
//! In: a request's head. Out: an account, or a refusal with 401.
//! What always holds: the token itself is neither kept nor written anywhere; an account's name is derived from its
//! digest. Every token is an account of its own, and sees its own files and batches only.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::Shared;
use super::hex::hex;
use super::reply::Refused;
use super::surface::Surface;

/// Keeps account names apart from other uses of a token's digest.
const CONTEXT: &[u8] = b"batchline serve account\0";

/// Bytes of the digest that make the account's name: 24 hex digits, like the service's user ids.
const ACCOUNT_BYTES: usize = 12;

/// The account of the caller. A handler that takes one is closed to those without a token.
#[derive(Debug)]
pub(super) struct Account(pub(super) String);

impl FromRequestParts<Arc<Shared>> for Account {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refused> {
        let refuse = |message: &str| {
            let refused = Refused::object(StatusCode::UNAUTHORIZED, message);
            Err(refused.shaped_for(parts.uri.path(), shared.surface))
        };
        let token = token_in(&parts.headers, shared.surface);
        if token.is_empty() {
            return refuse("Missing API key");
        }
        let account = account(token);
        // The names are compared, not the tokens: how long it takes tells nothing about the token.
        if shared.token.as_ref().is_some_and(|wanted| self::account(wanted.expose_secret().as_bytes()) != account) {
            return refuse("Invalid API key provided");
        }
        Ok(Self(account))
    }
}

/// The token of a call; empty if there is none.
pub(super) fn token_in<'h>(headers: &'h HeaderMap, surface: &dyn Surface) -> &'h [u8] {
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
