//! What the faults of a running server remember: how often each was asked, and which requests have failed once; and the
//! log of those that acted on batches.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::once::FailedOnce;
use super::trigger::Trigger;
use crate::serve::clock;
use crate::serve::store::Store;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;

/// See the module.
#[derive(Debug)]
pub(super) struct FaultState {
    seed: u64,
    /// The calls that each fault looked at so far.
    calls: Mutex<Vec<u64>>,
    /// How often a fault looked at a certain batch or file.
    looks: Mutex<HashMap<(usize, String), u64>>,
    pub(super) failed_once: FailedOnce,
    log: Option<Mutex<LocalFile>>,
}

impl FaultState {
    /// What the server of `directory` remembers from earlier, for a script with that many `faults`; and their log.
    pub(super) fn open(faults: usize, seed: u64, directory: &Path, store: &Store) -> Result<Self, FileError> {
        let log =
            if faults == 0 { None } else { Some(Mutex::new(LocalFile::append(&directory.join("faults.jsonl"))?)) };
        let number_of = |id: &str| store.batches.get(id).map(|batch| batch.number);
        Ok(Self {
            seed,
            calls: Mutex::new(vec![0; faults]),
            looks: Mutex::default(),
            failed_once: FailedOnce::open(directory.join("faults"), number_of)?,
            log,
        })
    }

    /// What the draws of a fault follow from.
    pub(super) fn seed_of(&self, trigger: &Trigger) -> u64 {
        trigger.seed(self.seed)
    }

    /// Whether a fault acts on the batch with that number.
    pub(super) fn picks_batch(&self, trigger: &Trigger, number: u64) -> bool {
        trigger.picks_batch(number, self.seed)
    }

    /// Counts one more call for a fault. Gives the call's number if the fault picks it.
    pub(super) fn pick_call(&self, trigger: &Trigger) -> Option<u64> {
        let number = {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls[trigger.index] += 1;
            calls[trigger.index]
        };
        trigger.selector.picks(number, self.seed_of(trigger)).then_some(number)
    }

    /// Counts a look of a fault at a batch or file, and gives its number.
    pub(super) fn count_look(&self, trigger: &Trigger, id: &str) -> u64 {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = looks.entry((trigger.index, id.to_owned())).or_default();
        *looks += 1;
        *looks
    }

    /// Logs that a fault acted on a batch, or on that many of its rows.
    pub(super) fn record(&self, trigger: &Trigger, batch: &str, rows: Option<u64>) -> Result<(), FileError> {
        let Some(log) = &self.log else { return Ok(()) };
        let at = clock::rfc3339(clock::now());
        let line = format!("{}\n", json!({"at": at, "batch_id": batch, "fault": trigger.fault, "rows": rows}));
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write_all(line.as_bytes()).map_err(FileError::on("write", log.path()))
    }
}

/// The names of the faults that acted on one call.
#[derive(Debug, Default)]
pub(crate) struct FaultNames(Mutex<Vec<String>>);

impl FaultNames {
    /// A fault acted on the call.
    pub(super) fn add(&self, trigger: &Trigger) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(trigger.fault.clone());
    }

    /// The names, or `None` when no fault acted.
    pub(crate) fn joined(&self) -> Option<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!names.is_empty()).then(|| names.join("+"))
    }
}
