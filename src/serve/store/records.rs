//! Records kept in memory and, one JSON file each, on disk.
//!
//! In: records. Out: the same records, also after a kill and a restart.
//! Invariants: memory and disk change together, under one lock, so no reader sees a record that a restart
//! would not bring back; a record's file is published by rename, so a kill leaves the old record or the new one.
//!
//! A change writes about a kilobyte and, but for a lasting store, does not wait for the disk, so it is done where it is
//! asked for, also on the threads that serve calls.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::serve::error::ServeError;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::{directory, durable};

/// What a [`RecordStore`] holds.
pub(crate) trait Record: Serialize + DeserializeOwned + Clone {
    /// The name it is kept under; nothing but ASCII letters, digits and `-`, for it becomes a file name.
    fn id(&self) -> &str;
}

/// The records of one kind, by id.
#[derive(Debug)]
pub(crate) struct RecordStore<R> {
    directory: PathBuf,
    /// Whether a record is synced before any reader sees it.
    lasting: bool,
    records: Mutex<HashMap<String, Arc<R>>>,
}

impl<R: Record> RecordStore<R> {
    /// Reads back every record in `directory`, which is made when it is not there, and removes what a kill left
    /// half-written.
    pub(crate) fn open(directory: &Path, lasting: bool) -> Result<Self, ServeError> {
        durable::create_directory(directory)?;
        let mut records = HashMap::new();
        for path in directory::entries(directory)? {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("part") => durable::remove_file(&path)?,
                Some("json") => {
                    let bytes = LocalFile::read_whole(&path)?;
                    let record: R =
                        serde_json::from_slice(&bytes).map_err(|source| ServeError::Damaged { path, source })?;
                    records.insert(record.id().to_owned(), Arc::new(record));
                }
                _ => {}
            }
        }
        Ok(Self { directory: directory.to_owned(), lasting, records: Mutex::new(records) })
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The record of that id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<R>> {
        self.lock().get(id).cloned()
    }

    /// The records that `wanted` picks, in no order.
    pub(crate) fn select(&self, wanted: impl Fn(&R) -> bool) -> Vec<Arc<R>> {
        self.lock().values().filter(|record| wanted(record)).cloned().collect()
    }

    /// Keeps a record, in place of an older one of its id.
    pub(crate) fn put(&self, record: R) -> Result<Arc<R>, FileError> {
        self.publish(&mut self.lock(), record)
    }

    /// Changes a record in one step that nothing else comes between. `change` says whether to keep its changes.
    /// Gives the record as it is afterwards, or `None` when there is none of that id.
    pub(crate) fn update(&self, id: &str, change: impl FnOnce(&mut R) -> bool) -> Result<Option<Arc<R>>, FileError> {
        let mut records = self.lock();
        let Some(current) = records.get(id) else { return Ok(None) };
        let mut changed = R::clone(current);
        if !change(&mut changed) {
            return Ok(Some(current.clone()));
        }
        self.publish(&mut records, changed).map(Some)
    }

    /// Forgets a record.
    pub(crate) fn remove(&self, id: &str) -> Result<Option<Arc<R>>, FileError> {
        let mut records = self.lock();
        if records.contains_key(id) {
            durable::remove_file(&self.path(id))?;
        }
        Ok(records.remove(id))
    }

    fn publish(&self, records: &mut HashMap<String, Arc<R>>, record: R) -> Result<Arc<R>, FileError> {
        let path = self.path(record.id());
        let bytes = serde_json::to_vec(&record).map_err(|error| FileError::on("encode", &path)(error.into()))?;
        if self.lasting {
            durable::publish_bytes(&path, &bytes)?;
        } else {
            durable::publish_bytes_unsynced(&path, &bytes)?;
        }
        let record = Arc::new(record);
        records.insert(record.id().to_owned(), record.clone());
        Ok(record)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// The lock guards a map that no code leaves half-changed, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<R>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        id: String,
        text: String,
    }

    impl Record for Note {
        fn id(&self) -> &str {
            &self.id
        }
    }

    fn note(text: &str) -> Note {
        Note { id: "n".into(), text: text.into() }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_last_changed() {
        let directory = tempfile::tempdir().unwrap();
        let store = RecordStore::open(directory.path(), false).unwrap();
        store.put(note("a")).unwrap();
        store
            .update("n", |note| {
                note.text = "b".into();
                true
            })
            .unwrap();
        store
            .update("n", |note| {
                note.text = "c".into();
                false
            })
            .unwrap();
        assert_eq!(store.update("other", |_: &mut Note| true).unwrap(), None);
        drop(store);
        let store: RecordStore<Note> = RecordStore::open(directory.path(), false).unwrap();
        assert_eq!(*store.get("n").unwrap(), note("b"));
        assert!(store.remove("n").unwrap().is_some());
        assert!(RecordStore::<Note>::open(directory.path(), false).unwrap().get("n").is_none());
    }

    #[test]
    fn half_written_files_are_removed_and_damaged_ones_reported() {
        let directory = tempfile::tempdir().unwrap();
        let half = directory.path().join(".n.json.1.part");
        durable::publish_bytes_unsynced(&half, b"{").unwrap();
        RecordStore::<Note>::open(directory.path(), false).unwrap();
        assert!(!half.exists());
        durable::publish_bytes_unsynced(&directory.path().join("n.json"), b"{").unwrap();
        assert!(matches!(RecordStore::<Note>::open(directory.path(), false), Err(ServeError::Damaged { .. })));
    }
}
