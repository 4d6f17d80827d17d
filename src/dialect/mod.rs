//! Where protocol families differ, and the providers as rows of data. Pure: no I/O.
//!
//! In: bytes from a service, or a request to it. Out: the same as types of [`model`](crate::model), or as bytes to
//! send.
//!
//! A [`Dialect`] is one file here and one entry of [`DIALECTS`]. `remote/` interprets it, and no other module branches
//! on which dialect it is.
//!
//! | part of a dialect | describes | used by |
//! | --- | --- | --- |
//! | [`routes`](Dialect::routes), [`headers`](Dialect::headers) | where each call goes, and with what | `remote/http_api.rs` |
//! | [`list`](Dialect::list) | the format of a list of batches, and its pagination | `remote/list.rs` |
//! | [`upload`](Dialect::upload) | how lines are uploaded: presigned, as a form, or inside the create request | `remote/upload/` |
//! | [`line`](line::LineFormat), of the provider's row | what a line has around its body | `input/envelope.rs` |
//! | [`create`](Dialect::create), [`created`](Dialect::created) | the request that creates a batch, and its response | `remote/http_api.rs` |
//! | [`batch`](Dialect::batch) | the format of a batch object | `remote/` |
//! | [`replies`](Dialect::replies) | the member names in a reply line | the [reader](reply_reader) |
//! | [`errors`](Dialect::errors) | which errors are retryable | the [retry class](retry_class) |
//! | [`carries_tag`](Dialect::carries_tag) | whether a batch can carry a tag that identifies its owner | the providers' rows, `run/` |
//!
//! Invariants: what a service sends is untrusted data. It is parsed, or rejected with a reason; it never causes a
//! panic.

#[cfg(feature = "http")]
pub mod address;
mod dialects;
mod error_table;
pub mod line;
mod openai;
mod protocol;
pub mod provider;
pub mod providers;
pub(crate) mod queue;
pub(crate) mod reply;
pub(crate) mod reply_parts;
pub mod reply_reader;
pub mod reply_rule;
pub mod retry_class;
pub mod route;
pub(crate) mod row_form;
mod together;
pub mod upload;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod another;

pub use self::dialects::{DIALECTS, OPENAI, TOGETHER, named};
pub use self::error_table::ErrorTable;
pub use self::protocol::{Created, Dialect};
pub use self::reply_parts::ReplyNames;
pub use self::wire::{BatchObject, Malformed};
