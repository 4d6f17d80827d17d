//! To be written.

pub mod brackets;
pub(crate) mod exact;
pub(crate) mod scanner;
pub(crate) mod tree;
