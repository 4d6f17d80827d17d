//! Bytes at rest: durable writes, lines, records of fixed width, ordered work on ranges, and the files of the user.
//!
//! In: paths, ranges and bytes. Out: the same bytes, whole or not at all.
//!
//! Invariants: what is written appears whole, by a rename, or grows by appends that survive a crash; no file of the user's is overwritten
//! by accident; memory is a named number of bytes, whatever the size of a file.

pub(crate) mod aligned;
pub mod durable;
pub mod lines;
pub mod ordered;
pub mod partitions;
pub(crate) mod path_text;
pub mod user_files;
pub(crate) mod zstd;
