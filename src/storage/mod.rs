//! To be written.

pub(crate) mod aligned;
pub mod durable;
pub mod lines;
pub mod ordered;
pub mod partitions;
pub(crate) mod path_text;
pub mod user_files;
