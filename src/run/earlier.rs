//! An earlier run that has paid for some of what a new one is about to send.
//!
//! In: the runs that are there, and what the new one reads. Out: the newest of those over one of the same files, or the same lines, at the
//! same service, that has had answers or waits for some. Which single answers the new one could take over is not looked at: whether all is
//! to be sent is for its user to say.

use std::path::{Path, PathBuf};

use super::identity::Identity;
use super::known::KnownRun;
use super::options::RunOptions;
use crate::input::scan::Scan;
use crate::input::source::{FileIdentity, Input};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierRun {
    /// Its directory.
    pub directory: PathBuf,
    /// Its inputs, as they were named.
    pub inputs: Vec<String>,
    /// How many requests it has.
    pub requests: u64,
    /// Those of them that were answered.
    pub answered: u64,
    /// Those that are, or may be, at the service.
    pub at_service: u64,
    /// How many requests the new run would send.
    pub sends: u64,
}

/// The newest of the known runs that the user has to be asked about, but for the one at `target`.
pub(crate) fn find<'k>(
    known: impl Iterator<Item = &'k KnownRun>,
    options: &RunOptions,
    (identity, scan): (&Identity, &Scan),
    target: &Path,
) -> Option<EarlierRun> {
    let files = Files::of(&options.inputs);
    let mut runs: Vec<&KnownRun> = known
        .filter(|run| run.path != target && *identity == Identity::of_run(&run.meta))
        .filter(|run| files.are_among(run) || identity.is_of(&run.meta, scan))
        .collect();
    runs.sort_by_key(|run| run.meta.created_at.parse::<jiff::Timestamp>().ok());
    for run in runs.into_iter().rev() {
        let (answered, at_service) = run.paid_for();
        if answered + at_service > 0 {
            return Some(EarlierRun {
                directory: run.path.clone(),
                inputs: run.meta.input_names(),
                requests: run.meta.requests,
                answered,
                at_service,
                sends: scan.requests,
            });
        }
    }
    None
}

/// The files that a run reads.
struct Files(Vec<FileIdentity>);

impl Files {
    fn of(inputs: &[Input]) -> Self {
        let file = |input: &Input| match input {
            Input::File(path) => FileIdentity::of(path).ok(),
            Input::Stdin => None,
        };
        Self(inputs.iter().filter_map(file).collect())
    }

    /// Whether one of them was read by that run: the same file by its path, whatever leads there, or by its place on the disk.
    fn are_among(&self, run: &KnownRun) -> bool {
        let real = |file: &FileIdentity| std::fs::canonicalize(&file.path).ok();
        let same = |one: &FileIdentity, other: &FileIdentity| {
            one.path == other.path
                || (one.device, one.inode) == (other.device, other.inode)
                || real(one).is_some_and(|path| real(other) == Some(path))
        };
        let mut parts = run.meta.parts.iter().filter_map(|part| part.identity.as_ref());
        parts.any(|then| self.0.iter().any(|now| same(then, now)))
    }
}
