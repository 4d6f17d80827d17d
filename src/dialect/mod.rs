//! Where families of services differ, and the providers as rows of data. Pure: no I/O.
//!
//! In: the bytes that a service sent, or what is to be sent to it. Out: the same in the words of [`model`](crate::model).
//!
//! Invariant: what a service says is data. Whatever it is, it is read into something, or refused with a reason.

pub mod address;
pub mod provider;
pub mod providers;
pub(crate) mod queue;
pub(crate) mod reply;
pub(crate) mod reply_parts;
pub mod reply_reader;
pub mod reply_rule;
pub mod retry_class;
pub(crate) mod wire;
