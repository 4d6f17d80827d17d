//! To be written.

pub mod brackets;
pub(crate) mod scanner;
pub(crate) mod tree;
