//! Reply files to one ordered output: the last of the three phases. I/O-bound, synchronous.
//!
//! ```text
//! RemoteFile ─► Reply ─► Outcome ─► output, in order
//!    download   index    merge
//! ```
//!
//! In: reply files in the service's order. Out: one line per request, in input order. Nothing here depends on how
//! requests are stored or how replies were received.
//!
//! Invariants: reply bytes are passed through unchanged, unless they are [normalized](normalize); every line of a reply
//! file is accounted for; every request has one outcome.

use std::io;
use std::path::PathBuf;

use crate::model::shown::Name;
use crate::storage::durable::FileError;

mod alignment;
pub mod form;
mod gather;
pub mod held_seqs;
pub mod id_table;
pub mod index;
pub mod join;
pub mod merge;
mod near_ids;
pub mod normalize;
mod rearrange;
pub mod reply_cache;
pub mod reply_file;
pub mod reply_index;
pub mod reply_text;
pub mod side_files;
mod stored_value;
mod window;
mod window_replies;

/// Why replies cannot be brought into order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The reason for a missing reply cannot be determined.
    #[error("cannot look up request {seq} of the input")]
    Request {
        /// The request's Seq.
        seq: u64,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that was passed as a reply file is of another kind.
    #[error("{}:{line} is not a reply: it looks like {form}", Name(path))]
    NotReplies {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The detected format.
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
