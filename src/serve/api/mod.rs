//! What calls pass through, and what the dialects' calls share.
//!
//! [`connections`] take calls in, the [`gateway`] lets them through to the routes of a [`surface`](super::surfaces),
//! and their handlers take what they need of the [`state`].

pub(crate) mod access_log;
pub(crate) mod auth;
pub(crate) mod batches;
pub(crate) mod connections;
pub(crate) mod download;
pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod gateway;
pub(crate) mod guard;
pub(crate) mod state;
pub(crate) mod upload;
