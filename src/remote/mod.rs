//! Everything that talks to a provider's Batch API over HTTP; and, in [`online`], to a service that has none.
//!
//! In: a [`Profile`], a [`Token`], and single operations asked of an [`Api`]: upload a payload, create a batch,
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
//! There is no state between two operations but the [`gate`], which all of them pass. What has been asked before,
//! what it cost and what comes next is known to `run` alone.

mod answer;
mod body;
pub mod client;
mod content;
mod download;
pub mod error;
pub mod gate;
mod http_api;
mod list;
mod mark;
pub mod online;
mod openai;
mod profiles;
pub mod provider;
mod queue;
pub mod redact;
mod redirect;
pub mod retry;
pub mod service;
mod together;
pub mod token;
mod wire;

#[cfg(test)]
mod testing;

pub use client::{Address, SetupError, Timeouts};
pub use error::{ErrorKind, RemoteError};
pub use http_api::{HttpApi, Settings};
pub use mark::Mark;
pub use online::Online;
pub use provider::{Auth, Dialect, Limits, LineEnvelope, Profile, Proven, ReplyShape, profile, profile_speaking};
pub use redact::Redactor;
pub use retry::{Notice, Observer, Patience};
pub use service::{
    Api, Batch, BatchStatus, CreateBatch, Downloaded, Listing, Payload, Progress, RemoteFile, RequestCounts,
    Submission, is_valid_id,
};
pub use token::{Token, TokenError};
