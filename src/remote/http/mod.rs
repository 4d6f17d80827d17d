//! An [`Api`](super::Api) for a provider's Batch API, over HTTP.
//!
//! In: a provider, its address, a token. Out: batches, lists, reply files on disk. The only state between operations is
//! the [`throttle`], which all of them pass.

pub mod api;
mod body;
pub mod client;
mod content;
mod create;
mod download;
mod list;
mod redirect;
pub(super) mod response;
pub mod throttle;
mod upload;

#[cfg(test)]
mod other_dialect;
#[cfg(test)]
pub(super) mod testing;

pub use api::{HttpApi, Settings};
pub use client::SetupError;
