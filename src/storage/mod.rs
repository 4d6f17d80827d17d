//! Bytes at rest: ranged reads, sinks, durable writes, lines, fixed-width records, ordered work on ranges, and the
//! files of the user. The only module that opens files, which a test enforces.
//!
//! In: paths, ranges and bytes. Out: the same bytes, complete or absent.
//!
//! Invariants: files appear complete, by a rename, or grow by appends that survive a crash; no file of the user is
//! overwritten by accident; memory is bounded by named constants, whatever the size of a file.

pub(crate) mod aligned;
pub mod directory;
pub mod durable;
pub mod fault_hook;
pub mod identity;
pub mod line_hash;
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
