//! Every small batch that a service can leave, with everything that may have been fetched of it and that the service
//! may report: the verdict on each is compared with the truth.
//!
//! In: nothing. Out: proof, by enumeration, of two promises:
//!
//! - No request that has an output at the service is sent again, unless three things are wrong at once: its output file
//!   arrived truncated and looked complete, the service does not report its size or reports less, and its counts are
//!   absent or outdated.
//! - A batch that was fetched completely, as the service's reports confirm, is settled.

use super::{Evidence, FileEvidence, SaidBytes, Verdict};
use crate::model::batch::{BatchStatus, RequestCounts};
use crate::model::reply::ReplyRole;

/// Maximum requests of a batch here. Two are needed for outdated counts to match the fetched replies by chance.
const REQUESTS_MAX: usize = 3;

/// Size of each row, in bytes.
const ROW_BYTES: u64 = 100;

/// What the service did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Output,
    /// A retryable error.
    Retryable,
    Error,
    /// An error and an output.
    Both,
    /// A row says that it was not attempted.
    Untried,
    /// No row.
    Dropped,
}

const FATES: [Fate; 6] = [Fate::Output, Fate::Retryable, Fate::Error, Fate::Both, Fate::Untried, Fate::Dropped];

impl Fate {
    fn has_output(self) -> bool {
        matches!(self, Self::Output | Self::Both)
    }

    fn has_error(self) -> bool {
        !matches!(self, Self::Output | Self::Dropped)
    }
}

/// How much of a reply file was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// It has no rows, and the batch does not name it.
    Unnamed,
    /// It has no rows; the batch names it nevertheless, and it was never written.
    NeverWritten,
    /// It cannot be fetched.
    Absent,
    /// This many of its rows.
    Rows(usize),
}

/// The reported size of an existing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Unasked,
    Unknown,
    Nothing,
    True,
    Low,
}

/// The service's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Absent,
    Zero,
    /// Outputs are outdated.
    Low,
    True,
    /// Requests that were not attempted count as failed.
    UntriedAsFailed,
    /// Failed requests count as completed, too.
    TriedAsCompleted,
    /// Requests without a row count as completed.
    High,
}

const COUNTED: [Counted; 7] = [
    Counted::Absent,
    Counted::Zero,
    Counted::Low,
    Counted::True,
    Counted::UntriedAsFailed,
    Counted::TriedAsCompleted,
    Counted::High,
];

const ENDS: [BatchStatus; 3] = [BatchStatus::Completed, BatchStatus::Expired, BatchStatus::Cancelled];

/// A batch, and what is known about it.
#[derive(Debug, Clone)]
struct World<'w> {
    fates: &'w [Fate],
    /// The output file, then the error file.
    came: [Came; 2],
    sizes: [Size; 2],
    counted: Counted,
    end: BatchStatus,
}

impl World<'_> {
    fn count(&self, is: impl Fn(Fate) -> bool) -> u64 {
        self.fates.iter().filter(|fate| is(**fate)).count() as u64
    }

    /// Which requests have a fetched row, in the output file and in the error file.
    fn rows_here(&self) -> Vec<(Fate, bool, bool)> {
        let mut left = self.came.map(|came| if let Came::Rows(rows) = came { rows } else { 0 });
        let mut take = |file: usize, has: bool| {
            let takes = has && left[file] > 0;
            left[file] -= usize::from(takes);
            takes
        };
        let rows = self.fates.iter().map(|fate| (*fate, take(0, fate.has_output()), take(1, fate.has_error())));
        rows.collect()
    }

    fn counts(&self) -> Option<RequestCounts> {
        let total = self.fates.len() as u64;
        let completed = self.count(Fate::has_output);
        let failed = self.count(|fate| matches!(fate, Fate::Retryable | Fate::Error));
        let (completed, failed) = match self.counted {
            Counted::Absent => return None,
            Counted::Zero => (0, 0),
            Counted::Low => (completed / 2, failed),
            Counted::True => (completed, failed),
            Counted::UntriedAsFailed => (completed, failed + self.count(|fate| fate == Fate::Untried)),
            Counted::TriedAsCompleted => (completed + failed, failed),
            Counted::High => (completed + self.count(|fate| fate == Fate::Dropped), failed),
        };
        Some(RequestCounts { total, completed, failed })
    }

    fn file(&self, file: usize) -> Option<FileEvidence> {
        let role = [ReplyRole::Output, ReplyRole::Error][file];
        let rows = [self.count(Fate::has_output), self.count(Fate::has_error)][file];
        let here = match self.came[file] {
            Came::Unnamed => return None,
            Came::NeverWritten | Came::Absent => None,
            Came::Rows(rows) => Some(rows as u64 * ROW_BYTES),
        };
        let said = match self.sizes[file] {
            Size::Unasked => SaidBytes::Unasked,
            Size::Unknown => SaidBytes::Unknown,
            Size::True if self.came[file] != Came::NeverWritten => SaidBytes::Bytes(rows * ROW_BYTES),
            // Not, by chance, the size of some of its rows.
            Size::Low if self.came[file] != Came::NeverWritten => SaidBytes::Bytes(rows * ROW_BYTES / 2 + 1),
            Size::Nothing | Size::True | Size::Low => SaidBytes::Nothing,
        };
        Some(FileEvidence { role, here, said })
    }

    fn evidence(&self) -> Evidence {
        let rows = self.rows_here();
        let count = |is: &dyn Fn(&(Fate, bool, bool)) -> bool| rows.iter().filter(|row| is(row)).count() as u64;
        let is_error = |row: &(Fate, bool, bool)| !row.1 && row.2;
        Evidence {
            requests: self.fates.len() as u64,
            answered: count(&|row| row.1 || row.2),
            outputs: count(&|row| row.1),
            retryable: count(&|row| is_error(row) && row.0 != Fate::Error),
            untried: count(&|row| is_error(row) && row.0 == Fate::Untried),
            strays: 0,
            status: self.end.clone(),
            counts: self.counts(),
            files: (0..2).filter_map(|file| self.file(file)).collect(),
        }
    }

    /// Whether a request that has an output would be sent again.
    fn pays_twice(&self) -> bool {
        let is_again = |(fate, output, error): (Fate, bool, bool)| !output && (!error || fate != Fate::Error);
        self.rows_here().into_iter().any(|row| row.0.has_output() && is_again(row))
    }

    /// Whether the output file arrived truncated as if it were complete, and every report that could show it is absent
    /// or too low.
    fn nobody_could_tell(&self) -> bool {
        let is_cut = matches!(self.came[0], Came::Rows(rows) if (rows as u64) < self.count(Fate::has_output));
        let says_size = matches!(self.sizes[0], Size::True | Size::Unknown | Size::Unasked);
        is_cut && !says_size && matches!(self.counted, Counted::Absent | Counted::Zero | Counted::Low)
    }

    /// Whether everything was fetched, and the service's reports confirm it.
    fn is_proven(&self) -> bool {
        let rows = [self.count(Fate::has_output), self.count(Fate::has_error)];
        let is_here = |file: usize| match self.came[file] {
            Came::Rows(here) => here as u64 == rows[file],
            Came::Unnamed | Came::NeverWritten => true,
            Came::Absent => false,
        };
        let is_written = |file: usize| matches!(self.came[file], Came::Rows(_));
        let sized =
            |file: usize| self.sizes[file] == Size::True && is_written(file) || self.came[file] == Came::Unnamed;
        let unsized_is_known = self.sizes.iter().all(|size| !matches!(size, Size::Unasked | Size::Unknown));
        // Some services count requests that they did not attempt as failed. Where a row says that a request was not
        // attempted, counts are interpreted that way.
        let has_untried = self.count(|fate| fate == Fate::Untried) > 0;
        let is_counted = self.counted == if has_untried { Counted::UntriedAsFailed } else { Counted::True };
        let is_counted = is_counted && self.count(|fate| !matches!(fate, Fate::Untried | Fate::Dropped)) > 0;
        // Only counts that leave no room for a file that was never written show that it is empty.
        let leaves_no_room =
            self.came[0] != Came::NeverWritten || self.count(|fate| matches!(fate, Fate::Untried | Fate::Dropped)) == 0;
        let says_more = matches!(self.counted, Counted::High | Counted::TriedAsCompleted);
        let is_sized = sized(0) && sized(1) && rows.iter().any(|rows| *rows > 0) && !says_more;
        is_here(0) && is_here(1) && (is_sized || is_counted && unsized_is_known && leaves_no_room)
    }
}

/// The ways in which a file with this many rows can have been fetched.
fn ways(rows: u64) -> Vec<Came> {
    if rows == 0 {
        return vec![Came::Unnamed, Came::NeverWritten];
    }
    let rows = usize::try_from(rows).unwrap();
    (0..=rows).map(Came::Rows).chain([Came::Absent]).collect()
}

/// Enumerates every world.
fn each_world(mut look: impl FnMut(&World<'_>)) {
    const SIZES: [Size; 4] = [Size::Unknown, Size::Nothing, Size::True, Size::Low];
    let pairs = SIZES.into_iter().flat_map(|first| SIZES.map(|second| [first, second]));
    let sizes: Vec<[Size; 2]> = pairs.chain([[Size::Unasked; 2]]).collect();
    for requests in 1..=REQUESTS_MAX {
        for number in 0..FATES.len().pow(u32::try_from(requests).unwrap()) {
            let digits = (0..requests).scan(number, |rest, _| {
                let digit = *rest % FATES.len();
                *rest /= FATES.len();
                Some(FATES[digit])
            });
            let fates: Vec<Fate> = digits.collect();
            let rows = |has: fn(Fate) -> bool| fates.iter().filter(|fate| has(**fate)).count() as u64;
            for output in ways(rows(Fate::has_output)) {
                for error in ways(rows(Fate::has_error)) {
                    for sizes in &sizes {
                        for counted in COUNTED {
                            for end in ENDS {
                                let came = [output, error];
                                look(&World { fates: &fates, came, sizes: *sizes, counted, end });
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn in_no_world_is_an_answer_asked_for_again_unless_every_witness_fails() {
    let (mut worlds, mut spared, mut beyond) = (0_u64, 0_u64, 0_u64);
    each_world(|world| {
        worlds += 1;
        if !world.pays_twice() {
            return;
        }
        let verdict = world.evidence().judge();
        if world.nobody_could_tell() {
            beyond += u64::from(verdict == Verdict::Settled);
            return;
        }
        assert_ne!(verdict, Verdict::Settled, "an answer is asked for again: {world:?}\n{:?}", world.evidence());
        spared += 1;
    });
    assert!(worlds > 500_000 && spared > 100_000 && beyond > 0, "{worlds} worlds, {spared} spared, {beyond} beyond");
}

#[test]
fn what_is_all_here_and_is_said_to_be_is_settled() {
    let mut settled = 0_u64;
    each_world(|world| {
        if world.is_proven() {
            let evidence = world.evidence();
            assert_eq!(evidence.judge(), Verdict::Settled, "{world:?}\n{evidence:?}");
            settled += 1;
        }
    });
    assert!(settled > 10_000, "{settled}");
}
