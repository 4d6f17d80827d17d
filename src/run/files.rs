//! What the steps of a run operate on, on the machine that runs them: the input, the indexes, the run directory.
//!
//! Invariant: a [`Files`] has the same content for every step of a run, wherever it is opened.

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::sync::Arc;

use super::directory::layout;
use crate::input::envelope::Envelope;
use crate::input::line_table::LineTable;
use crate::input::recheck::Recheck;
use crate::input::request_index::RequestIndex;
use crate::input::shard_reader::ShardReader;
use crate::input::source::Source;
use crate::model::custom_id::IdHasher;
use crate::model::shard::Shard;
use crate::remote::{Lines, Payload, Redactor};
use crate::results::index;
use crate::results::reply_index::{ReplyIndex, Slot};
use crate::run::error::Error;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Files {
    /// The run directory.
    pub(crate) run: PathBuf,
    pub(crate) source: Arc<Source>,
    pub(crate) requests: Arc<RequestIndex>,
    /// Verifies that the input is unchanged since the check.
    pub(crate) recheck: Recheck,
    pub(crate) replies: ReplyIndex,
    pub(crate) ids: IdHasher,
    /// The envelope of uploaded lines.
    pub(crate) envelope: Envelope,
    pub(crate) threads: usize,
    /// Memory for reply files, in bytes.
    pub(crate) memory_bytes: usize,
    /// Removes keys from texts of replies that are shown or recorded.
    pub(crate) redactor: Redactor,
}

impl Files {
    /// The kind under which an error reply is counted.
    pub(crate) fn error_label(&self, slot: Slot) -> Result<String, Error> {
        let path = layout::reply_file(&self.run, slot.file);
        Ok(self.redactor.beginning(&index::error_label(&path, slot, self.ids)?).into_owned())
    }

    /// The error that the run directory, or the input, does not match the Ledger.
    pub(crate) fn damaged(&self, what: String) -> Error {
        let hint = "restore the directory or the input; nothing is submitted meanwhile".to_owned();
        Error::Directory { path: self.run.clone(), what, hint }
    }
}

/// The requests of a shard, as an upload reads them.
pub(crate) struct ShardPayload {
    pub(crate) files: Arc<Files>,
    pub(crate) shard: Shard,
}

impl Payload for ShardPayload {
    fn name(&self) -> String {
        format!("shard-{:06}.jsonl", self.shard.number)
    }

    fn bytes(&self) -> u64 {
        self.shard.bytes
    }

    fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        let Files { source, requests, envelope, .. } = &*self.files;
        let reader = ShardReader::open(source.clone(), requests.clone(), self.shard.clone(), &self.files.run);
        Ok(Box::new(reader.map_err(|error| error.source)?.with_envelope(*envelope)))
    }

    fn lines(&self) -> io::Result<Arc<dyn Lines>> {
        let Files { run, source, requests, envelope, .. } = &*self.files;
        let table = LineTable::read(source.clone(), requests.clone(), &self.shard, *envelope, run)?;
        Ok(Arc::new(ShardLines(table)))
    }
}

/// The same, line by line.
struct ShardLines(LineTable);

impl Lines for ShardLines {
    fn count(&self) -> u64 {
        self.0.count()
    }

    fn read(&self, number: u64, line: &mut Vec<u8>) -> io::Result<()> {
        self.0.line(number, line)
    }
}
