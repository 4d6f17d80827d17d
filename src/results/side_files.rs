//! Unmatched replies, kept for the user.
//!
//! In: replies without a place in the index. Out: one file per reason, only if there are such replies.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::reply_text::ReplyText;
use crate::storage::durable::FileError;
use crate::storage::sink::Sink;
use crate::storage::user_files::{create_private, open_output};

/// Why a reply is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// Its id matches no request.
    Unknown,
    /// Another reply to the same request, with other content, was kept.
    Conflict,
    /// No id can be found in it.
    Unreadable,
}

impl Aside {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Conflict, Self::Unreadable];

    fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Conflict => "conflicts",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The files beside one set of replies: `PREFIX-unknown.jsonl` and so on.
#[derive(Debug)]
pub struct SideFiles {
    prefix: PathBuf,
    files: [Option<Box<dyn Sink>>; 3],
    open: fn(&Path) -> Result<Box<dyn Sink>, FileError>,
}

impl SideFiles {
    /// Files whose names begin with `prefix`, private to their owner. Nothing is created yet.
    #[must_use]
    pub fn new(prefix: &Path) -> Self {
        Self { prefix: prefix.to_owned(), files: [None, None, None], open: create_private }
    }

    /// The same for files that the user asked for.
    #[must_use]
    pub fn shared(prefix: &Path) -> Self {
        Self { open: open_output, ..Self::new(prefix) }
    }

    /// Keeps a reply, or an unreadable line, verbatim.
    pub(super) fn keep(&mut self, aside: Aside, text: &ReplyText) -> Result<(), FileError> {
        let path = self.path(aside);
        let pending = match &mut self.files[aside as usize] {
            Some(pending) => pending,
            none => none.insert((self.open)(&path)?),
        };
        text.each_piece(|piece| pending.write_all(piece).map_err(FileError::on("write", &path)))?;
        pending.write_all(b"\n").map_err(FileError::on("write", &path))
    }

    /// Publishes the files, replacing those of an earlier attempt. Returns their paths.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, FileError> {
        let mut paths = Vec::new();
        for aside in Aside::ALL {
            if let Some(sink) = self.files[aside as usize].take() {
                sink.finish()?;
                paths.push(self.path(aside));
            }
        }
        Ok(paths)
    }

    /// The file for lines of a kind.
    #[must_use]
    pub fn path(&self, aside: Aside) -> PathBuf {
        let mut name = self.prefix.as_os_str().to_owned();
        name.push(format!("-{}.jsonl", aside.name()));
        name.into()
    }
}
