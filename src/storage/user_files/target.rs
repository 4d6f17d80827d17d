//! The purpose of a file of the user, and why it cannot be written.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::model::shown::Name;
use crate::storage::durable::FileError;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Requests.
    Input,
    /// Replies to be merged.
    Replies,
    /// An API key.
    Key,
    /// The ordered replies.
    Output,
    /// Errors and missing requests.
    Errors,
    /// Defects.
    Report,
    /// Unmatched replies.
    Aside,
    /// One of the files of a split.
    Shard,
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Input => "the input",
            Self::Replies => "the reply file",
            Self::Key => "the key file",
            Self::Output => "the output",
            Self::Errors => "the error file",
            Self::Report => "the report",
            Self::Aside => "the file of replies set aside",
            Self::Shard => "the shard file",
        })
    }
}

/// Why a file cannot be written, or another one cannot be read, as far as that is known before the work begins.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Two names refer to one file, and at least one of them is for writing.
    #[error("{role} {} is the same file as {other} {}", Name(path), Name(other_path))]
    Clash {
        /// What would be written.
        role: Role,
        /// Where.
        path: PathBuf,
        /// What is there.
        other: Role,
        /// Under its other name.
        other_path: PathBuf,
    },
    /// There is no directory for it.
    #[error("cannot write {role} {}: there is no directory {}", Name(path), Name(directory))]
    NoDirectory {
        /// What was to be written.
        role: Role,
        /// Where.
        path: PathBuf,
        /// What is not there, or not a directory.
        directory: PathBuf,
    },
    /// A directory is in its place.
    #[error("cannot write {role} {}: it is a directory", Name(path))]
    Directory {
        /// What was to be written.
        role: Role,
        /// Where.
        path: PathBuf,
    },
    /// It, or its directory, cannot be written to.
    #[error("cannot write {role} {}", Name(path))]
    Unwritable {
        /// What was to be written.
        role: Role,
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is inside a run directory, whose files belong to the program.
    #[error("cannot write {role} {} into the run directory {}", Name(path), Name(run))]
    InsideRun {
        /// What was to be written.
        role: Role,
        /// Where.
        path: PathBuf,
        /// The run directory.
        run: PathBuf,
    },
    /// It would replace an existing result, which was not permitted.
    #[error("{role} {} exists already", Name(path))]
    Exists {
        /// What was to be written.
        role: Role,
        /// Where.
        path: PathBuf,
    },
    /// A file that is to be read does not exist.
    #[error(transparent)]
    Unreadable(FileError),
}

impl TargetError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Clash { role: Role::Errors, other: Role::Output, .. } => {
                "name another file, or omit --errors: errors are then part of the output"
            }
            Self::Clash { role: Role::Aside, .. } => "pass another --aside PREFIX",
            Self::Clash { .. } => "nothing was read or written; name another file",
            Self::NoDirectory { .. } => "create it first, or name a file elsewhere",
            Self::Directory { .. } => "name a file in it",
            Self::InsideRun { .. } => "`batchline clean` would remove it with the run; name a file elsewhere",
            Self::Exists { role: Role::Shard, .. } => {
                "pass --force to replace all shard files there, or name another directory"
            }
            Self::Exists { .. } => "pass --force to replace it",
            Self::Unwritable { .. } | Self::Unreadable(_) => return None,
        };
        Some(hint.to_owned())
    }
}
