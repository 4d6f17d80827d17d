//! Reply files to one ordered output: the last of the three phases. I/O-bound, synchronous.
//!
//! ```text
//! RemoteFile ─► Reply ─► Outcome ─► output, in order
//!    download   index    merge
//! ```
//!
//! In: files of replies in the service's order. Out: one line for each request, in input order. Nothing here knows how requests are
//! stored or how replies came here.
//!
//! What always holds: reply bytes pass through as they are, unless they are asked for in the common [`shape`]; every line of a reply file is accounted for; every request has one
//! outcome.

use std::io;
use std::path::PathBuf;

use crate::durable::FileError;
use crate::shown::Name;

pub mod form;
mod gather;
pub mod held;
pub mod held_seqs;
pub mod id_table;
pub mod index;
pub mod join;
mod json_tree;
pub mod merge;
mod near_ids;
pub mod reply;
pub mod reply_file;
pub mod reply_index;
mod reply_parts;
pub mod reply_reader;
pub mod reply_rule;
pub mod reply_text;
pub mod retry_class;
pub mod shape;
pub mod side_files;
mod stored_value;

/// Why replies cannot be brought into order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The output does not take what is written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// What stands behind a reply that is missing cannot be told.
    #[error("cannot look up request {seq} of the input")]
    Request {
        /// The request's Seq.
        seq: u64,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that was taken for a file of replies is of another kind.
    #[error("{}:{line} is not a reply: it looks like {form}", Name(path))]
    NotReplies {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What it looks like.
        form: form::Form,
    },
    /// A reply file has other bytes than those that were indexed.
    #[error("{} is not what it was when it was indexed", Name(path))]
    Altered {
        /// The file.
        path: PathBuf,
    },
    /// The index leads to more or fewer replies than were put into it.
    #[error(
        "the reply index is damaged: {outputs} outputs and {errors} errors were counted, it has {} and {}",
        merged.outputs,
        merged.errors
    )]
    Lost {
        /// Outputs that were counted.
        outputs: u64,
        /// Errors that were counted.
        errors: u64,
        /// What there is.
        merged: merge::Merged,
    },
    /// A slot leads to something that is not a reply.
    #[error("the reply index is damaged: byte {offset} of reply file {number} does not begin a reply")]
    Damaged {
        /// The file's number.
        number: u32,
        /// The place in it.
        offset: u64,
    },
}
