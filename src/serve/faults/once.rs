//! The requests that had their one error.
//!
//! In: digests of requests, batch by batch. Out: whether a batch is the first to have a request.
//! Invariants: a batch that is executed again after a kill gets the same answers as the first time; a request
//! costs 24 bytes of memory, and 16 of disk in `faults/BATCH.seen`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::{directory, durable};

#[derive(Debug)]
pub(super) struct FailedOnce {
    directory: PathBuf,
    /// The first batch of each request.
    first: Mutex<HashMap<u128, u64>>,
}

impl FailedOnce {
    /// Reads back what is in `directory`; `number_of` gives a batch's number.
    pub(super) fn open(directory: PathBuf, number_of: impl Fn(&str) -> Option<u64>) -> Result<Self, FileError> {
        let mut first = HashMap::new();
        if directory.is_dir() {
            for path in directory::entries(&directory)? {
                let batch = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".seen"));
                if let Some(number) = batch.and_then(&number_of) {
                    read(&path, number, &mut first)?;
                }
            }
        }
        Ok(Self { directory, first: Mutex::new(first) })
    }

    /// Whether no batch but that one had the request before.
    pub(super) fn is_first_in(&self, request: u128, batch: u64) -> bool {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get(&request).is_none_or(|first| *first == batch)
    }

    /// Keeps the requests that had their error in a batch.
    pub(super) fn keep(&self, batch_id: &str, batch: u64, requests: &[u128]) -> Result<(), FileError> {
        durable::create_directory(&self.directory)?;
        let bytes: Vec<u8> = requests.iter().flat_map(|request| request.to_le_bytes()).collect();
        durable::publish_bytes_unsynced(&self.directory.join(format!("{batch_id}.seen")), &bytes)?;
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        for request in requests {
            first.entry(*request).or_insert(batch);
        }
        Ok(())
    }
}

fn read(path: &Path, batch: u64, first: &mut HashMap<u128, u64>) -> Result<(), FileError> {
    let bytes = LocalFile::read_whole(path)?;
    for request in bytes.as_chunks().0 {
        let earliest = first.entry(u128::from_le_bytes(*request)).or_insert(batch);
        *earliest = batch.min(*earliest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_first_in_one_batch_only_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("faults");
        let number_of = |id: &str| id.strip_prefix("batch-")?.parse().ok();
        let seen = FailedOnce::open(path.clone(), number_of).unwrap();
        assert!(seen.is_first_in(5, 1));
        seen.keep("batch-1", 1, &[5, 6]).unwrap();
        for seen in [seen, FailedOnce::open(path, number_of).unwrap()] {
            assert!(seen.is_first_in(5, 1) && !seen.is_first_in(5, 2) && seen.is_first_in(7, 2));
        }
    }
}
