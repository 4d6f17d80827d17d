//! To be written.

pub mod address;
pub mod provider;
pub(crate) mod providers;
pub(crate) mod reply;
pub(crate) mod reply_parts;
pub mod reply_reader;
pub mod reply_rule;
pub mod retry_class;
pub(crate) mod wire;
