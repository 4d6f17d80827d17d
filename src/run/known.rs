//! Lookup of existing runs.
//!
//! In: the directories that hold runs. Out: the run to resume, found by its input files if they are unchanged,
//! otherwise by its lines.

use std::path::{Path, PathBuf};

use super::directory::{RunPlaces, layout};
use super::identity::Identity;
use super::meta::RunMeta;
use super::options::Options;
use crate::input::scan::Scan;
use crate::input::source::Input;
use crate::ledger::{Ledger, LedgerError};
use crate::model::shard_state::{ShardRow, ShardState};
use crate::run::error::Error;
use crate::storage::identity::StoredIdentity;

/// An existing run.
#[derive(Debug)]
pub(crate) struct KnownRun {
    pub(crate) path: PathBuf,
    pub(crate) meta: RunMeta,
}

impl KnownRun {
    /// How many of its requests were answered, and how many are, or may be, at the service. All of them may be if the
    /// Ledger is damaged.
    pub(crate) fn paid_for(&self) -> (u64, u64) {
        self.read_paid_for().unwrap_or((0, self.meta.requests))
    }

    fn read_paid_for(&self) -> Result<(u64, u64), LedgerError> {
        let ledger = Ledger::open_unverified(&layout::ledger(&self.path))?;
        let totals = ledger.totals()?;
        let is_there = |known: &&ShardRow| {
            !matches!(known.state, ShardState::Packed | ShardState::Uploaded { .. } | ShardState::Indexed { .. })
        };
        let at_service = ledger.shards()?.iter().filter(is_there).map(|known| known.shard.requests).sum();
        Ok((totals.outputs + totals.errors, at_service))
    }
}

/// The run that has paid for the most requests. Earlier versions could make several runs of what is one run now.
fn furthest(runs: Vec<&KnownRun>) -> Option<&KnownRun> {
    if let [run] = runs[..] {
        return Some(run);
    }
    runs.into_iter().max_by_key(|run| {
        let (answered, at_service) = run.paid_for();
        answered + at_service
    })
}

/// All existing runs.
#[derive(Debug, Default)]
pub(crate) struct KnownRuns {
    runs: Vec<KnownRun>,
    /// Directories whose Ledger cannot be read. They are skipped, unless one has the name of the run that is wanted.
    unreadable: Vec<PathBuf>,
}

impl KnownRuns {
    /// Reads the runs in all places.
    pub(crate) fn look(places: &RunPlaces) -> Result<Self, Error> {
        let mut known = Self::default();
        places.runs()?.into_iter().for_each(|path| known.add(path));
        Ok(known)
    }

    /// Reads the run in one directory, if it holds one.
    pub(crate) fn look_at(directory: &Path) -> Self {
        let mut known = Self::default();
        if layout::ledger(directory).is_file() {
            known.add(directory.to_owned());
        }
        known
    }

    fn add(&mut self, path: PathBuf) {
        match RunMeta::peek(&path) {
            Ok(meta) => self.runs.push(KnownRun { path, meta }),
            Err(_) => self.unreadable.push(path),
        }
    }

    /// The run whose input files are unchanged by path, inode, size and modification time: they need not be read again.
    pub(crate) fn with_unchanged_inputs(&self, options: &Options, identity: &Identity) -> Option<&Path> {
        let wanted: Option<Vec<StoredIdentity>> = options
            .input
            .inputs
            .iter()
            .map(|input| match input {
                Input::File(path) => StoredIdentity::of(path).ok(),
                Input::Stdin => None,
            })
            .collect();
        let wanted = wanted?;
        let is_same = |run: &&KnownRun| {
            let parts = run.meta.parts.iter().map(|part| part.identity.as_ref());
            // Without --skip-invalid, lines that were skipped then are defects now.
            let accepts_lines = options.input.skip_invalid || run.meta.lines == run.meta.requests;
            parts.eq(wanted.iter().map(Some)) && accepts_lines && *identity == Identity::of_run(&run.meta)
        };
        furthest(self.runs.iter().filter(is_same).collect()).map(|run| run.path.as_path())
    }

    /// All runs whose Ledgers can be read.
    pub(crate) fn readable(&self) -> impl Iterator<Item = &KnownRun> {
        self.runs.iter()
    }

    /// The run with the lines of this scan; or an unreadable one that has its name.
    pub(crate) fn with_lines(&self, options: &Options, identity: &Identity, scan: &Scan) -> Option<&Path> {
        let names = identity.names(scan, &options.service.identity.to_string());
        let has_its_name = |run: &&PathBuf| {
            let name = run.file_name().unwrap_or_default().to_string_lossy();
            names.iter().any(|fingerprint| directory_name(fingerprint) == name)
        };
        let readable = furthest(self.runs.iter().filter(|run| identity.is_of(&run.meta, scan)).collect());
        let readable = readable.map(|run| &run.path);
        readable.or_else(|| self.unreadable.iter().find(has_its_name)).map(PathBuf::as_path)
    }
}

/// The name of a run's directory.
pub(crate) fn directory_name(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}
