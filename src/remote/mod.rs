//! Everything that talks to a provider's Batch API over HTTP; and, in [`online`], to a service that has none.
//!
//! In: a [`Provider`], a [`Token`], and single operations of an [`Api`]: upload a payload, create a batch, get it,
//! list, cancel, download, delete. Out: [`RemoteFile`]s, [`Batch`]es, reply files on disk, or a [`RemoteError`] that
//! says what was tried on what. Transferred bytes and retries are reported through callbacks; nothing is printed.
//!
//! Invariants:
//! - Creating a batch sends exactly one POST, which is never retried. Every other operation is idempotent, and is
//!   retried within the limits in [`retry`].
//! - The token is sent to the API's origin and nowhere else. A redirect is never followed with it.
//! - Memory does not grow with the size of a transfer. Every response that is held in memory has a size limit.
//! - Text from the service (ids, messages, addresses) is validated or sanitized before it is used, and never names a
//!   local file.
//!
//! The only state between operations is the [`throttle`], which all of them pass. Only `run` knows what was requested
//! before, what it cost and what comes next.

mod body;
pub mod client;
mod content;
mod create;
mod download;
pub mod error;
mod http_api;
mod list;
pub mod online;
pub mod redact;
mod redirect;
mod response;
pub mod retry;
pub mod service;
pub mod timeouts;
pub mod token;
mod upload;

#[cfg(test)]
mod other_dialect;
#[cfg(test)]
mod testing;
pub mod throttle;

pub use crate::dialect::address::{Address, AddressError};
pub use crate::dialect::provider::{Auth, Confidence, Limits, Provider, ReplyShape};
pub use crate::dialect::providers::{provider, provider_speaking};
pub use crate::dialect::{DIALECTS, Dialect, OPENAI, TOGETHER};
pub use crate::model::batch::{Batch, BatchStatus, CreateBatch, RequestCounts, is_valid_id};
pub use crate::model::tag::BatchTag;
pub use client::SetupError;
pub use error::{ErrorKind, RemoteError};
pub use http_api::{HttpApi, Settings};
pub use online::OnlineApi;
pub use redact::Redactor;
pub use retry::{Notice, Observer, RetryPolicy};
pub use service::{Again, Api, Downloaded, Lines, Listing, Payload, Progress, RemoteFile, Submission};
pub use timeouts::Timeouts;
pub use token::{Token, TokenError};
