//! Bytes at rest: ranged reads, sinks, durable writes, lines, records of fixed width, ordered work on ranges, and the
//! files of the user. The only room that opens files: a test holds that.
//!
//! In: paths, ranges and bytes. Out: the same bytes, whole or not at all.
//!
//! Invariants: what is written appears whole, by a rename, or grows by appends that survive a crash; no file of the
//! user's is overwritten by accident; memory is a named number of bytes, whatever the size of a file.

pub(crate) mod aligned;
pub mod directory;
pub mod durable;
pub mod identity;
pub mod lines;
pub mod local_file;
pub mod lock;
pub mod ordered;
pub mod partitions;
pub(crate) mod path_text;
pub mod read_at;
pub mod records;
pub mod sink;
pub mod user_files;
pub(crate) mod zstd;
