//! Bytes to shards: the first of the three phases. CPU-bound, synchronous, rayon.
//!
//! ```text
//! Source ─► Chunk ─► Request │ Defect ─► Shard
//!    read     check      (unique)   pack
//! ```
//!
//! In: files and pipes. Out: [`Shard`](crate::model::shard::Shard)s, a [request index](request_index) on disk, and
//! [`Defect`](crate::model::defect::Defect)s as data. Nothing here depends on services or replies.
//!
//! Invariants: the input is read once ([`scan`](scan::scan)); memory does not grow with it; no request is in two
//! shards.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::shown::Name;
use crate::storage::durable::FileError;

pub mod check;
mod chunk;
pub mod embeddings;
pub mod envelope;
mod grammar;
pub mod line_table;
pub mod pack;
pub mod recheck;
pub mod request_index;
pub mod scan;
pub mod shard_lines;
pub mod shard_reader;
pub mod source;
pub mod unique;

/// Why the input cannot be read. Invalid lines are not errors but [`Defect`](crate::model::defect::Defect)s.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// An input is a directory.
    #[error("cannot read {}: it is a directory", Name(path))]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// A pipe broke, or compressed data is damaged or cut off.
    #[error("cannot read {}", Name(Path::new(name)))]
    Unreadable {
        /// The input, as the user named it.
        name: String,
        /// What the reader or the decompressor said.
        source: io::Error,
    },
    /// A file has become shorter while it was read.
    #[error("{} became shorter while it was being read", Name(Path::new(name)))]
    Shrunk {
        /// The input, as the user named it.
        name: String,
    },
    /// A line is not what it was when it was checked.
    #[error("{}:{line} changed while it was being read", Name(Path::new(file)))]
    Changed {
        /// The input, as the user named it.
        file: String,
        /// The line, counted from 1.
        line: u64,
    },
    /// A line is not what it was when it was checked, although the file's metadata is unchanged.
    #[error("{}:{}", Name(Path::new(file)), lines_altered(*first, *last))]
    Altered {
        /// The input, as the user named it.
        file: String,
        /// The first line that it may be, counted from 1.
        first: u64,
        /// The last one.
        last: u64,
    },
    /// Standard input was named twice.
    #[error("standard input can be read only once")]
    StdinTwice,
    /// Standard input is a terminal: nothing was piped in.
    #[error("no input: name a file, or pipe requests into standard input")]
    StdinIsTerminal,
    /// The inputs together are larger than offsets can represent.
    #[error("the inputs have {bytes} bytes; at most {} can be handled in one run", unique::SOURCE_BYTES_MAX)]
    SourceTooLarge {
        /// Size of all inputs.
        bytes: u64,
    },
    /// Too many duplicate ids to report.
    #[error("more than {} lines repeat an earlier custom_id", unique::DUPLICATES_MAX)]
    TooManyDuplicates,
}

/// Where a line has changed, and that it has.
fn lines_altered(first: u64, last: u64) -> String {
    if first == last {
        format!("{first} is not what it was when it was checked")
    } else {
        format!("{first}-{last} are not what they were when they were checked")
    }
}
