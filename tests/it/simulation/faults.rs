//! What can go wrong at the simulated service, and how often it does.
//!
//! In: a seed. Out: for each chance to go wrong, whether it does. Each seed plays some of the faults only, those more
//! often, so that rare combinations come up, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use batchline::dialect::Dialect;
use batchline::dialect::upload::UploadPlan;

/// One way to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A create is accepted and its answer lost.
    CreateLost,
    /// A create is accepted; the answer takes a minute.
    CreateSlow,
    /// A create is not accepted, and its answer lost.
    CreateNotSent,
    /// A create ends as a gateway's error, and is accepted later.
    CreateLate,
    /// A create is answered by 429.
    CreateTurnedAway,
    /// A create is answered by 429, and accepted all the same.
    CreateRefusedAccepted,
    /// A create is answered with another shard's batch.
    CreateMixedUp,
    /// A create is turned away because the queue is full.
    CreateNoRoom,
    /// The connection for a create does not come about.
    CreateUnreachable,
    /// A create is refused, because the file is not visible yet.
    FileNotVisible,
    /// The process dies while a create is on its way, which is accepted all the same.
    CreateOutlives,
    /// The list cannot be had.
    ListError,
    /// The list is empty.
    ListEmpty,
    /// A batch appears in the list some time after it was created.
    ListLag,
    /// A batch does not appear in the list for as long as there are faults.
    ListLie,
    /// The list leaves out batches at random.
    ListOmits,
    /// The list has batches twice.
    ListDuplicates,
    /// The list shows a batch that has ended as being at work.
    ListStale,
    /// The list does not say which file a batch uses; its tag tells whose it is.
    ListAnonymous,
    /// The list leaves out a batch's tag.
    ListUnmarked,
    /// The list has a batch that another run has marked, for a shard of the same number.
    ListStranger,
    /// The list has a batch without an id.
    ListUnnamed,
    /// The list shows a batch at work for as long as there are faults, and nothing else of it.
    ListFrozen,
    /// A look at a batch fails.
    LookError,
    /// A look at a batch finds none.
    LookNotFound,
    /// Looks at a batch find none for as long as there are faults.
    LookVanished,
    /// A batch has a status that nobody knows.
    LookUnknownStatus,
    /// A batch that has ended is at work again.
    LookRegress,
    /// A batch has ended and its files are not there yet.
    FilesLate,
    /// A batch names a file of errors that was never written.
    FileNeverWritten,
    /// A batch ends before all of its requests were tried.
    EndExpired,
    /// A batch fails by the service's fault.
    EndFailed,
    /// A batch fails before it does anything, because the queue is full.
    EndNoRoom,
    /// A batch fails by its own fault.
    EndRefused,
    /// Somebody cancels a batch.
    EndCancelled,
    /// A request stands in neither reply file.
    RowDropped,
    /// A reply stands there twice.
    RowDuplicated,
    /// Two different replies answer one request.
    RowConflict,
    /// A request has an output and an error.
    RowInBoth,
    /// A reply answers nobody.
    RowUnknown,
    /// A request fails by the service's fault.
    RowRetryable,
    /// A reply that strict parsers refuse.
    RowUgly,
    /// A line without an id.
    RowUnreadable,
    /// An upload fails.
    UploadError,
    /// An upload returns a file that the service had already.
    UploadReused,
    /// Another run has batches that use the file.
    UploadForeign,
    /// A download fails.
    DownloadError,
    /// A download is cut at the end of a line, which nothing shows; like each of those that follow, for a while.
    DownloadCut,
    /// A download is cut inside of a line.
    DownloadCutInside,
    /// What is downloaded is empty.
    DownloadEmpty,
    /// What is downloaded is a page, or cannot be unpacked.
    DownloadGarbled,
    /// What is downloaded is an error object, under a status that says success.
    DownloadJunk,
    /// Fewer bytes are downloaded than were announced.
    DownloadShort,
    /// The file is not there.
    DownloadGone,
    /// The service does not count what its batches have tried.
    CountsAbsent,
    /// It counts requests as answered that stand in neither reply file.
    CountsDropped,
    /// Its counts are not up to date.
    CountsLow,
    /// It cannot say now how large a file is.
    SizeError,
    /// It never says how large a file is.
    SizeAbsent,
    /// It says that a file is smaller than it is.
    SizeLow,
    /// A cancellation fails.
    CancelError,
}

impl Fault {
    /// All of them.
    pub(super) const ALL: [Self; 61] = [
        Self::CreateLost,
        Self::CreateSlow,
        Self::CreateNotSent,
        Self::CreateLate,
        Self::CreateTurnedAway,
        Self::CreateRefusedAccepted,
        Self::CreateMixedUp,
        Self::CreateNoRoom,
        Self::CreateUnreachable,
        Self::FileNotVisible,
        Self::CreateOutlives,
        Self::ListError,
        Self::ListEmpty,
        Self::ListLag,
        Self::ListLie,
        Self::ListOmits,
        Self::ListDuplicates,
        Self::ListStale,
        Self::ListAnonymous,
        Self::ListUnmarked,
        Self::ListStranger,
        Self::ListUnnamed,
        Self::ListFrozen,
        Self::LookError,
        Self::LookNotFound,
        Self::LookVanished,
        Self::LookUnknownStatus,
        Self::LookRegress,
        Self::FilesLate,
        Self::FileNeverWritten,
        Self::EndExpired,
        Self::EndFailed,
        Self::EndNoRoom,
        Self::EndRefused,
        Self::EndCancelled,
        Self::RowDropped,
        Self::RowDuplicated,
        Self::RowConflict,
        Self::RowInBoth,
        Self::RowUnknown,
        Self::RowRetryable,
        Self::RowUgly,
        Self::RowUnreadable,
        Self::UploadError,
        Self::UploadReused,
        Self::UploadForeign,
        Self::DownloadError,
        Self::DownloadCut,
        Self::DownloadCutInside,
        Self::DownloadEmpty,
        Self::DownloadGarbled,
        Self::DownloadJunk,
        Self::DownloadShort,
        Self::DownloadGone,
        Self::CountsAbsent,
        Self::CountsDropped,
        Self::CountsLow,
        Self::SizeError,
        Self::SizeAbsent,
        Self::SizeLow,
        Self::CancelError,
    ];

    /// Troubles of downloads that last for a while.
    pub(super) const OF_DOWNLOADS: [Self; 7] = [
        Self::DownloadCut,
        Self::DownloadCutInside,
        Self::DownloadEmpty,
        Self::DownloadGarbled,
        Self::DownloadJunk,
        Self::DownloadShort,
        Self::DownloadGone,
    ];

    /// Whether the download looks whole, so that only what the service says beside it can tell.
    pub(super) fn looks_whole(self) -> bool {
        matches!(self, Self::DownloadCut | Self::DownloadCutInside | Self::DownloadEmpty | Self::DownloadJunk)
    }

    /// How often it happens where it can, in seeds that play it.
    fn probability(self) -> f64 {
        match self {
            Self::CreateLost | Self::CreateNotSent | Self::CreateLate | Self::CreateTurnedAway => 0.25,
            Self::CreateOutlives | Self::UploadReused | Self::UploadForeign | Self::FilesLate => 0.5,
            Self::EndRefused | Self::EndCancelled | Self::UploadError => 0.1,
            Self::LookVanished | Self::CreateMixedUp => 0.05,
            _ => 0.2,
        }
    }

    /// Whether services of this dialect can go wrong like this.
    fn is_of(self, dialect: &dyn Dialect) -> bool {
        match self {
            // Together's service knows content again; OpenAI's keeps metadata, and names files that are not there.
            Self::UploadReused | Self::UploadForeign => matches!(dialect.upload(), UploadPlan::Presigned(_)),
            Self::ListAnonymous
            | Self::ListUnmarked
            | Self::ListStranger
            | Self::FileNeverWritten
            | Self::CountsAbsent
            | Self::CountsDropped
            | Self::CountsLow => dialect.carries_tag(),
            _ => true,
        }
    }

    /// Whether it keeps a request from ever being answered, although nothing is wrong with the request.
    pub(super) fn is_decision(self) -> bool {
        matches!(self, Self::EndRefused | Self::EndCancelled)
    }
}

/// Decides what goes wrong.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) rng: fastrand::Rng,
    played: BTreeSet<Fault>,
    /// From when on nothing goes wrong any more.
    pub(super) until: Duration,
    /// How often each has happened.
    pub(super) fired: BTreeMap<Fault, u64>,
}

impl Faults {
    /// The faults of a seed. Those that stop after a time leave every request answerable.
    pub(super) fn new(seed: u64, dialect: &dyn Dialect, until: Option<Duration>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let share = [0.1, 0.3, 0.6, 1.0][rng.usize(..4)];
        let may = |fault: &Fault| fault.is_of(dialect) && (until.is_none() || !fault.is_decision());
        let played = Fault::ALL.into_iter().filter(may).filter(|_| rng.f64() < share).collect();
        Self { rng, played, until: until.unwrap_or(Duration::MAX), fired: BTreeMap::new() }
    }

    /// Whether a fault happens now.
    pub(super) fn happens(&mut self, fault: Fault, now: Duration) -> bool {
        let happens = now < self.until && self.played.contains(&fault) && self.rng.f64() < fault.probability();
        if happens {
            *self.fired.entry(fault).or_default() += 1;
        }
        happens
    }

    /// A time between two numbers of seconds.
    pub(super) fn seconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from * 1000..=to * 1000))
    }
}
