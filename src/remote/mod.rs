//! Everything that talks to a provider's Batch API over HTTP; and, in [`online`], to a service that has none.
//!
//! In: a [`Provider`], a [`Token`], and single operations asked of an [`Api`]: upload a payload, create a batch,
//! look at it, list, cancel, download, delete. Out: [`RemoteFile`]s, [`Batch`]es, reply files on disk, or a
//! [`RemoteError`] that says what was tried on what. Bytes and retries are told through callbacks; nothing prints.
//!
//! What always holds:
//! - Creating a batch sends exactly one POST and never repeats it. Every other operation may be repeated without
//!   harm, and is, within the bounds named in [`retry`].
//! - The token is sent to the API's origin and nowhere else. A redirect is never followed with it.
//! - Memory does not grow with the size of a transfer. Every answer that is held in memory has a cap.
//! - Text from the service (ids, messages, addresses) is checked or cleaned before it goes anywhere, and names no
//!   local file.
//!
//! There is no state between two operations but the [`throttle`], which all of them pass. What has been asked before,
//! what it cost and what comes next is known to `run` alone.

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
