//! The intents: a second record of every POST that may have created a batch, outside the Ledger.
//!
//! In: a submission, before it is sent. Out: all of them, after any crash.
//!
//! `SQLite` treats the end of a damaged write-ahead log as an unfinished transaction, so damage there silently reverts
//! the Ledger to an earlier state, and forgotten submissions would be sent, and paid for, again. This append-only file
//! detects that: one line per submission, a hash and JSON.
//!
//! Invariants: an intent is in the Ledger before it is here, and here before it is sent. So one that is only here was
//! lost from the Ledger, and one that is only there was not sent.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;

/// Length of a line's hash in hexadecimal digits, and the space after it.
const HASH_BYTES: usize = 17;

/// A POST that was about to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its row in the Ledger.
    pub submission: i64,
    /// The shard.
    pub shard: u32,
    /// The file that the batch would use.
    pub file_id: String,
    /// Whether the service already had that content.
    pub file_reused: bool,
    /// Batches that used the file before.
    pub known: Vec<String>,
    /// When it was about to be sent, by this machine's clock, in RFC 3339.
    pub intended_at: String,
}

/// The file, to append to.
#[derive(Debug)]
pub struct Intents {
    file: LocalFile,
}

impl Intents {
    /// Opens the intents beside a Ledger, new or old, to append to.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let is_new = !path.exists();
        let mut file = LocalFile::append(path)?;
        if is_new {
            durable::sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        }
        let content = LocalFile::read_whole(path)?;
        if !content.is_empty() && !content.ends_with(b"\n") {
            // A process died while writing a line: start a new one.
            file.write_all(b"\n").map_err(FileError::on("write", path))?;
        }
        Ok(Self { file })
    }

    /// Records an intent; when this returns it is on disk.
    pub fn add(&mut self, intent: &Intent) -> Result<(), FileError> {
        let json = serde_json::to_string(intent).expect("numbers and strings always serialize");
        let line = format!("{:016x} {json}\n", xxh3_64(json.as_bytes()));
        self.file.write_all(line.as_bytes()).map_err(FileError::on("write", self.file.path()))?;
        self.file.sync()
    }
}

/// All intents, and the number of unreadable lines.
pub fn read(path: &Path) -> Result<(Vec<Intent>, usize), FileError> {
    let text = LocalFile::read_whole(path)?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (intents, damaged): (Vec<_>, Vec<_>) = lines.map(read_line).partition(Option::is_some);
    Ok((intents.into_iter().flatten().collect(), damaged.len()))
}

/// The intent in a line, if its hash matches.
#[must_use]
pub fn read_line(line: &[u8]) -> Option<Intent> {
    let (hash, json) = line.split_at_checked(HASH_BYTES)?;
    let hash = u64::from_str_radix(std::str::from_utf8(hash).ok()?.strip_suffix(' ')?, 16).ok()?;
    (hash == xxh3_64(json)).then(|| serde_json::from_slice(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intents_come_back_and_a_line_that_was_cut_or_changed_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intents");
        let intent = |submission| Intent {
            submission,
            shard: 7,
            file_id: "file-1".to_owned(),
            file_reused: true,
            known: vec!["b-1".to_owned()],
            intended_at: "2026-11-25T09:00:00Z".to_owned(),
        };
        Intents::open(&path).unwrap().add(&intent(1)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        // Half of a second line, then a process that resumes.
        durable::append(&path).unwrap().write_all(&whole[..40]).unwrap();
        Intents::open(&path).unwrap().add(&intent(2)).unwrap();
        assert_eq!(read(&path).unwrap(), (vec![intent(1), intent(2)], 1));
        for at in 0..whole.len() - 1 {
            let mut changed = whole[..whole.len() - 1].to_vec();
            changed[at] ^= 1;
            assert_ne!(read_line(&changed), Some(intent(1)), "byte {at}");
        }
    }
}
