//! Detection of an earlier run that has paid for some of what a new run would send.
//!
//! In: the existing runs, and the new run's input. Out: the newest run with one of the same files, or the same lines,
//! at the same service, that has answers or batches in flight. Which of its answers still apply is not determined: the
//! user decides whether to send everything.

use std::path::Path;

use super::earlier_run::EarlierRun;
use super::identity::Identity;
use super::known::KnownRun;
use super::options::Options;
use crate::input::scan::Scan;
use crate::input::source::Input;
use crate::storage::identity::StoredIdentity;

/// The newest existing run that the user has to be asked about, other than the one at `target`.
pub(crate) fn find<'k>(
    known: impl Iterator<Item = &'k KnownRun>,
    options: &Options,
    (identity, scan): (&Identity, &Scan),
    target: &Path,
) -> Option<EarlierRun> {
    let files = Files::of(&options.input.inputs);
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
struct Files(Vec<StoredIdentity>);

impl Files {
    fn of(inputs: &[Input]) -> Self {
        let file = |input: &Input| match input {
            Input::File(path) => StoredIdentity::of(path).ok(),
            Input::Stdin => None,
        };
        Self(inputs.iter().filter_map(file).collect())
    }

    /// Whether the run reads one of them: the same path, also through symbolic links, or the same inode.
    fn are_among(&self, run: &KnownRun) -> bool {
        let mut parts = run.meta.parts.iter().filter_map(|part| part.identity.as_ref());
        parts.any(|then| self.0.iter().any(|now| then.is_same_place(now)))
    }
}
