//! The runs that are there already, by what their Ledgers say of them.
//!
//! In: the places where runs are. Out: the one that is asked for, found by its input's files, and if those have changed by its lines.

use std::path::{Path, PathBuf};

use super::directory::{RunPlaces, layout};
use super::identity::Identity;
use super::ledger::{Ledger, LedgerError};
use super::meta::RunMeta;
use super::options::RunOptions;
use super::state::{Recorded, ShardState};
use crate::error::Error;
use crate::input::scan::Scan;
use crate::input::source::{FileIdentity, Input};

/// A run that is there.
#[derive(Debug)]
pub(crate) struct KnownRun {
    pub(crate) path: PathBuf,
    pub(crate) meta: RunMeta,
}

impl KnownRun {
    /// Requests of it that were answered, and that are at the service or may be. Of one whose Ledger cannot be read any further all may be
    /// there.
    pub(crate) fn paid_for(&self) -> (u64, u64) {
        self.read_paid_for().unwrap_or((0, self.meta.requests))
    }

    fn read_paid_for(&self) -> Result<(u64, u64), LedgerError> {
        let ledger = Ledger::open_unverified(&layout::ledger(&self.path))?;
        let totals = ledger.totals()?;
        let is_there = |known: &&Recorded| {
            !matches!(known.state, ShardState::Packed | ShardState::Uploaded { .. } | ShardState::Indexed { .. })
        };
        let at_service = ledger.shards()?.iter().filter(is_there).map(|known| known.shard.requests).sum();
        Ok((totals.outputs + totals.errors, at_service))
    }
}

/// The one that has paid for the most: earlier versions made several runs of what is one now.
fn furthest(runs: Vec<&KnownRun>) -> Option<&KnownRun> {
    if let [run] = runs[..] {
        return Some(run);
    }
    runs.into_iter().max_by_key(|run| {
        let (answered, at_service) = run.paid_for();
        answered + at_service
    })
}

/// All that are there.
#[derive(Debug, Default)]
pub(crate) struct KnownRuns {
    runs: Vec<KnownRun>,
    /// Those that cannot be read: somebody else's trouble, unless one turns out to be the run that is asked for.
    unreadable: Vec<PathBuf>,
}

impl KnownRuns {
    /// Looks into all places.
    pub(crate) fn look(places: &RunPlaces) -> Result<Self, Error> {
        let mut known = Self::default();
        places.runs()?.into_iter().for_each(|path| known.add(path));
        Ok(known)
    }

    /// Looks at one directory, in which there need not be a run.
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

    /// The run whose files are the same, by name, size and time, as those given: they need not be read again.
    pub(crate) fn with_unchanged_inputs(&self, options: &RunOptions, identity: &Identity) -> Option<&Path> {
        let wanted: Option<Vec<FileIdentity>> = options
            .inputs
            .iter()
            .map(|input| match input {
                Input::File(path) => FileIdentity::of(path).ok(),
                Input::Stdin => None,
            })
            .collect();
        let wanted = wanted?;
        let is_same = |run: &&KnownRun| {
            let parts = run.meta.parts.iter().map(|part| part.identity.as_ref());
            // Lines that were passed over are defects to somebody who has not asked for that.
            let says_the_same = options.skip_invalid || run.meta.lines == run.meta.requests;
            parts.eq(wanted.iter().map(Some)) && says_the_same && *identity == Identity::of_run(&run.meta)
        };
        furthest(self.runs.iter().filter(is_same).collect()).map(|run| run.path.as_path())
    }

    /// Those that can be read.
    pub(crate) fn readable(&self) -> impl Iterator<Item = &KnownRun> {
        self.runs.iter()
    }

    /// The run over the lines of this scan; or one that cannot be read and has its name.
    pub(crate) fn over_lines(&self, options: &RunOptions, identity: &Identity, scan: &Scan) -> Option<&Path> {
        let names = identity.names(scan, &options.service.identity());
        let has_its_name = |run: &&PathBuf| {
            let name = run.file_name().unwrap_or_default().to_string_lossy();
            names.iter().any(|fingerprint| directory_name(fingerprint) == name)
        };
        let readable = furthest(self.runs.iter().filter(|run| identity.is_of(&run.meta, scan)).collect());
        let readable = readable.map(|run| &run.path);
        readable.or_else(|| self.unreadable.iter().find(has_its_name)).map(PathBuf::as_path)
    }
}

/// What the directory of a run is called.
pub(crate) fn directory_name(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}
