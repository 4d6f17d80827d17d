//! Where families of services differ, and the providers as rows of data. Pure: no I/O.
//!
//! In: the bytes that a service sent, or what is to be sent to it. Out: the same in the words of [`model`](crate::model).
//!
//! A [`Dialect`] is one file here and one entry of [`DIALECTS`]; `remote/` does what it says, and no other room asks which one it is.
//!
//! | part of a dialect | says | who does it |
//! | --- | --- | --- |
//! | [`routes`](Dialect::routes), [`headers`](Dialect::headers) | where each call goes, and with what | `remote/http_api.rs` |
//! | [`list`](Dialect::list) | how a list of batches comes, and its next page | `remote/list.rs` |
//! | [`upload`](Dialect::upload) | how lines get there: presigned, as a form, or inside of the create | `remote/upload/` |
//! | [`line`](line::LineFormat), of the provider's row | what a line has around its body | `input/envelope.rs` |
//! | [`create`](Dialect::create), [`created`](Dialect::created) | what a batch is asked for with, and what comes back | `remote/http_api.rs` |
//! | [`batch`](Dialect::batch) | what a batch object says | `remote/` |
//! | [`replies`](Dialect::replies) | the names in a reply line | the [reader](reply_reader) |
//! | [`errors`](Dialect::errors) | words of errors that are worth another attempt, or not | the [class](retry_class) |
//! | [`carries_tag`](Dialect::carries_tag) | whether a batch can carry whose it is | the providers' rows, `run/` |
//!
//! Invariant: what a service says is data. Whatever it is, it is read into something, or refused with a reason.

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
