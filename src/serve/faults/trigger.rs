//! When one fault of a script acts.
//!
//! In: the number of a call or a batch, and what the call is about. Out: yes or no.

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::selector::Selector;
use crate::serve::store::Store;

/// When one fault acts, and how it is called.
#[derive(Clone, Debug)]
pub(super) struct Trigger {
    /// Its place in the script, from 0.
    pub(super) index: usize,
    /// What its `do` says: the name in the logs.
    pub(super) fault: String,
    /// Which of the calls, or batches, that it counts.
    pub(super) selector: Selector,
    /// The batches that it is about, by number; `None` for all.
    pub(super) batches: Option<Vec<u64>>,
    /// The files that it is about; `None` for all.
    pub(super) file: Option<FileRole>,
}

/// What a file is to a batch.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileRole {
    Input,
    Output,
    Error,
}

impl Trigger {
    /// What its draws follow from, in a server with this seed.
    pub(super) fn seed(&self, server: u64) -> u64 {
        xxh3_64_with_seed(&self.index.to_le_bytes(), server)
    }

    /// Whether it acts on the batch with that number.
    pub(super) fn picks_batch(&self, number: u64, server_seed: u64) -> bool {
        self.includes(number) && self.selector.picks(number, self.seed(server_seed))
    }

    /// Whether it acts on calls with this path, as far as `batch` and `file` go.
    pub(super) fn admits(&self, store: &Store, path: &str) -> bool {
        if self.batches.is_none() && self.file.is_none() {
            return true;
        }
        let Some(id) = id_in(path) else { return false };
        if let Some(batch) = store.batches.get(id) {
            return self.file.is_none() && self.includes(batch.number);
        }
        let wants = |role| self.file.is_none_or(|wanted| wanted == role);
        let is = |named: &Option<String>| named.as_deref() == Some(id);
        let users = store.batches.select(|batch| {
            self.includes(batch.number)
                && (wants(FileRole::Output) && is(&batch.output_file_id)
                    || wants(FileRole::Error) && is(&batch.error_file_id)
                    || wants(FileRole::Input) && batch.input_file_id == id)
        });
        !users.is_empty()
    }

    /// Whether it acts on what is shown of a batch.
    pub(super) fn is_about(&self, store: &Store, batch: &str) -> bool {
        self.batches.is_none() || store.batches.get(batch).is_some_and(|batch| self.includes(batch.number))
    }

    fn includes(&self, batch: u64) -> bool {
        self.batches.as_ref().is_none_or(|batches| batches.contains(&batch))
    }
}

/// The id of the file or batch that a path names.
pub(super) fn id_in(path: &str) -> Option<&str> {
    let mut segments = path.trim_start_matches('/').split('/');
    matches!(segments.next(), Some("files" | "batches" | "storage")).then(|| segments.next())?
}
