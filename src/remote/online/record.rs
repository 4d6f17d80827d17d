//! Batches on disk: their records, and their reply files.
//!
//! ```text
//! online/BATCH.json             the batch: the file that it was created from, its endpoint, and how it ended
//! online/BATCH.journal          what was sent and answered, while it has not ended
//! online/BATCH.output.jsonl     its replies, once it has
//! online/BATCH.error.jsonl
//! ```
//!
//! Invariant: a record says how its batch ended only when the reply files are whole and on disk.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::work::Work;
use crate::model::reply::ReplyRole;
use crate::remote::error::RemoteError;
use crate::remote::service::Again;
use crate::storage::directory;
use crate::storage::durable::{self, FileError, PendingFile};
use crate::storage::local_file::LocalFile;

/// Bytes written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A batch on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) input_file_id: String,
    pub(super) endpoint: String,
    /// In microseconds since 1970, as every time here.
    pub(super) created_at: i64,
    pub(super) end: Option<End>,
}

/// How a batch ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) at: i64,
    pub(super) is_cancelled: bool,
    pub(super) outputs: u64,
    pub(super) errors: u64,
    pub(super) again: Again,
}

impl Record {
    /// The ids of the output file and of the error file, as far as they are there.
    pub(super) fn files(&self, batch: &str) -> [Option<String>; 2] {
        let counts = self.end.as_ref().map_or([0, 0], |end| [end.outputs, end.errors]);
        [(ReplyRole::Output, counts[0]), (ReplyRole::Error, counts[1])]
            .map(|(role, rows)| (rows > 0).then(|| reply_name(batch, role)))
    }

    /// Writes it, whole and synced.
    pub(super) fn keep(&self, path: &Path) -> Result<(), RemoteError> {
        let text = serde_json::to_vec(self).map_err(|error| FileError::on("write", path)(error.into()))?;
        Ok(durable::publish_bytes(path, &text)?)
    }
}

/// The batch of a file: it has one.
pub(super) fn batch_id(file_id: &str) -> String {
    format!("batch-{}", file_id.strip_prefix("file-").unwrap_or(file_id))
}

/// A reply file's name in the directory, which is its id.
fn reply_name(batch: &str, role: ReplyRole) -> String {
    format!("{batch}.{}.jsonl", if role == ReplyRole::Output { "output" } else { "error" })
}

/// Reads the records of all batches in a directory, by their ids.
pub(super) fn read_all(directory: &Path) -> Result<BTreeMap<String, Record>, RemoteError> {
    let mut records = BTreeMap::new();
    for path in directory::entries(directory)? {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
        let Some(id) = name.filter(|name| name.starts_with("batch-")) else { continue };
        let text = LocalFile::read_whole(&path)?;
        let record = serde_json::from_slice(&text).map_err(|error| FileError::on("read", &path)(error.into()))?;
        records.insert(id.to_owned(), record);
    }
    Ok(records)
}

/// Writes the rows of a batch into its reply files; one without rows does not exist. Gives what was sent twice, and how
/// many rows each has.
pub(super) fn publish(work: &Work, directory: &Path, batch: &str) -> Result<(Again, [u64; 2]), RemoteError> {
    let roles = [ReplyRole::Output, ReplyRole::Error];
    let mut files = Vec::new();
    for role in roles {
        let pending = PendingFile::create(&directory.join(reply_name(batch, role)))?;
        files.push((BufWriter::with_capacity(BUFFER_BYTES, pending), 0));
    }
    let again = work.each_row(|role, _, row| {
        let (file, rows) = &mut files[usize::from(role == ReplyRole::Error)];
        *rows += 1;
        let written = file.write_all(row).and_then(|()| file.write_all(b"\n"));
        written.map_err(|error| RemoteError::from(FileError::on("write", file.get_ref().target())(error)))
    })?;
    let mut counts = [0, 0];
    for ((file, rows), count) in files.into_iter().zip(&mut counts) {
        *count = rows;
        let target = file.get_ref().target().to_owned();
        let pending = file.into_inner().map_err(|error| FileError::on("write", &target)(error.into_error()))?;
        if rows > 0 {
            pending.publish()?;
        }
    }
    Ok((again, counts))
}
