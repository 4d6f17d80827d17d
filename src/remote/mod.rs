//! Everything that talks to a service: the [`Api`] that a run asks for each single operation, and what reaches one.
//!
//! | in | is |
//! | --- | --- |
//! | [`service`] | the [`Api`], and the types of its calls |
//! | `http/` | an [`Api`] for a provider's Batch API over HTTP |
//! | `online/` | an [`Api`] for a service that has none: it is asked request by request |
//!
//! The last two, and all that they depend on, are built with the feature `http`.
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
//! Only `run` knows what was requested before, what it cost and what comes next.

pub mod error;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod online;
pub mod redact;
pub mod retry;
pub mod service;
pub mod timeouts;
pub mod token;

#[cfg(feature = "http")]
pub use crate::dialect::address::{Address, AddressError};
pub use crate::dialect::provider::{Auth, Confidence, Limits, Provider, ReplyShape};
pub use crate::dialect::providers::{provider, provider_speaking};
pub use crate::dialect::{DIALECTS, Dialect, OPENAI, TOGETHER};
pub use crate::model::batch::{Batch, BatchStatus, CreateBatch, RequestCounts, is_valid_id};
pub use crate::model::tag::BatchTag;
pub use error::{ErrorKind, RemoteError};
#[cfg(feature = "http")]
pub use http::{HttpApi, Settings, SetupError};
#[cfg(feature = "http")]
pub use online::OnlineApi;
pub use redact::Redactor;
pub use retry::{Notice, Observer, RetryPolicy};
pub use service::{Again, Api, Downloaded, Lines, Listing, Payload, Progress, RemoteFile, Submission};
pub use timeouts::Timeouts;
pub use token::{Token, TokenError};
