//! The simulated service: what it has, what it took money for, and how time passes there.
//!
//! In: what the [`Service`](super::service::Service) is asked. Out: files and batches, and a record for the oracle of
//! all that was accepted and given out. The service outlives the processes that talk to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use batchline::api::{BatchStatus, BatchTag, RequestCounts};
use batchline::dialect::Dialect;
use jiff::Timestamp;
use tokio::time::Instant;

use super::faults::{Fault, Faults};
use super::rows::ReplyLines;

/// How long after its answer a create may take effect.
pub(super) const LATE_CREATE_MAX: Duration = Duration::from_secs(3000);

/// How long after its creation the list may not show a batch.
const LIST_LAG_MAX: Duration = Duration::from_secs(1200);

/// A file with requests.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) content: Arc<Vec<u8>>,
    /// The shards of this run that it was returned for.
    pub(super) shards: BTreeSet<u32>,
}

/// A batch.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what may be wrong with a batch, each apart from the others")]
pub(super) struct StoredBatch {
    pub(super) file: usize,
    /// Whose it is, where the dialect has metadata.
    pub(super) tag: Option<BatchTag>,
    /// Whether it is another run's.
    pub(super) foreign: bool,
    pub(super) created: Duration,
    /// From when on the list shows it.
    pub(super) listed: Duration,
    /// Until when the list shows it at work, whatever it does.
    pub(super) frozen: Duration,
    /// Until when nobody finds it who asks for it.
    pub(super) vanished: Duration,
    pub(super) ends: Duration,
    pub(super) end: (BatchStatus, Option<&'static str>),
    /// From when on the batch names its files.
    pub(super) files_shown: Duration,
    /// Whether it fails for want of room.
    pub(super) lacks_room: bool,
    /// Whether it names a file of errors even if there are none.
    pub(super) names_absent_file: bool,
    pub(super) cancel_asked: bool,
    /// What it left, once it has ended.
    pub(super) left: Option<Left>,
}

/// What a batch left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) status: BatchStatus,
    pub(super) error: Option<String>,
    /// Numbers of the output and the error file.
    pub(super) files: [Option<usize>; 2],
    /// What the service counts, where the dialect has counts.
    pub(super) counts: Option<RequestCounts>,
}

/// What the service says of the size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    Truth,
    Nothing,
    TooLittle,
}

/// A reply file, and how it was given out.
#[derive(Debug)]
pub(super) struct StoredReplies {
    pub(super) lines: ReplyLines,
    /// How many lines the longest download had.
    pub(super) given: Option<usize>,
    /// What is wrong with its downloads, and until when.
    pub(super) trouble: Option<(Fault, Duration)>,
    pub(super) says: Says,
    /// Whether something tells when a download that looks whole is not: its size, the batch's counts, or that the batch
    /// has completed and nobody says anything.
    pub(super) is_witnessed: bool,
}

/// How long a trouble of downloads lasts at most: ten minutes.
const TROUBLE_MAX: Duration = Duration::from_secs(600);

/// A list as it was given out.
#[derive(Debug)]
pub(super) struct GivenList {
    pub(super) at: Duration,
    pub(super) life: u32,
    pub(super) batches: BTreeSet<usize>,
}

/// A create that was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    pub(super) file: usize,
    pub(super) batch: usize,
    pub(super) at: Duration,
    pub(super) life: u32,
    /// Whether the answer said so.
    pub(super) answered: bool,
    /// Whether the answer said that it was not.
    pub(super) refused: bool,
}

/// The service's whole state.
#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) dialect: &'static dyn Dialect,
    /// The time of day at the beginning. The Ledger's clock is the real one, and the two are compared.
    epoch: Timestamp,
    pub(super) faults: Faults,
    /// What time it was when the present process began, and what its clock said.
    begun: (Duration, Option<Instant>),
    /// What time it was when the service was asked last.
    pub(super) last_seen: Duration,
    pub(super) life: u32,
    pub(super) files: Vec<StoredFile>,
    pub(super) batches: Vec<StoredBatch>,
    pub(super) replies: Vec<StoredReplies>,
    pub(super) accepted: Vec<Accepted>,
    pub(super) listings: Vec<GivenList>,
    /// When it was seen first that this process cannot change anything any more.
    pub(super) broken: Option<Duration>,
    /// Calls so far in this process's life.
    pub(super) calls: u64,
    /// Creates so far in this process's life, each counted before and after its effect.
    pub(super) creates: u64,
    /// What happened, for people who look into a failure.
    pub(super) log: Vec<String>,
    /// Events that the campaign wants to have seen.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

impl World {
    /// What time it is when the first process begins.
    pub(super) const BEGINNING: Duration = Duration::from_secs(1_000_000);

    pub(super) fn new(seed: u64, dialect: &'static dyn Dialect, faults: Faults) -> Self {
        Self {
            seed,
            dialect,
            epoch: Timestamp::now(),
            faults,
            begun: (Self::BEGINNING, None),
            last_seen: Self::BEGINNING,
            life: 0,
            files: Vec::new(),
            batches: Vec::new(),
            replies: Vec::new(),
            accepted: Vec::new(),
            listings: Vec::new(),
            broken: None,
            calls: 0,
            creates: 0,
            log: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// A process begins, some time after the last one ended. To be called on its runtime.
    pub(super) fn begin_life(&mut self, pause: Duration) {
        self.begun = (self.last_seen + pause, Some(Instant::now()));
        self.last_seen = self.begun.0;
        self.life += 1;
        (self.calls, self.creates, self.broken) = (0, 0, None);
        let life = self.life;
        self.note(format!("life {life} begins"));
    }

    /// What time it is. To be called on the runtime of the process.
    pub(super) fn now(&mut self) -> Duration {
        let (time, clock) = self.begun;
        self.last_seen = time + clock.map_or(Duration::ZERO, |clock| clock.elapsed());
        self.last_seen
    }

    /// The time of day at some time.
    pub(super) fn time_of_day(&self, at: Duration) -> Timestamp {
        if at < Self::BEGINNING { self.epoch - (Self::BEGINNING - at) } else { self.epoch + (at - Self::BEGINNING) }
    }

    /// How long until there are no faults any more and the list shows all there is.
    pub(super) fn until_all_is_well(&self) -> Duration {
        self.faults.until.saturating_sub(self.last_seen) + LATE_CREATE_MAX + LIST_LAG_MAX + TROUBLE_MAX
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.log.push(format!("{:>10.3} {}", (self.last_seen - Self::BEGINNING).as_secs_f64(), text.into()));
    }

    pub(super) fn happens(&mut self, fault: Fault) -> bool {
        let happens = self.faults.happens(fault, self.last_seen);
        if happens {
            self.note(format!("{fault:?}"));
        }
        happens
    }

    /// The process has begun a create. One whose intent it could not write down is never begun.
    pub(super) fn create_begins(&mut self) {
        let broken = self.broken.filter(|broken| *broken < self.last_seen);
        assert_eq!(broken, None, "a create begins although the intent to do so cannot be on disk");
    }

    pub(super) fn count(&mut self, event: &'static str) {
        *self.seen.entry(event).or_default() += 1;
    }

    /// Creates a batch, which begins to exist after `delay`.
    pub(super) fn create(&mut self, file: usize, tag: Option<BatchTag>, foreign: bool, delay: Duration) -> usize {
        let created = self.last_seen + delay;
        let mut listed = created;
        if self.happens(Fault::ListLag) {
            listed += self.faults.seconds(1, LIST_LAG_MAX.as_secs());
        }
        if !foreign && self.happens(Fault::ListLie) {
            listed = self.faults.until;
        }
        let mut as_long_as_there_are = |fault| if self.happens(fault) { self.faults.until } else { Duration::ZERO };
        let frozen = as_long_as_there_are(Fault::ListFrozen);
        let vanished = as_long_as_there_are(Fault::LookVanished);
        let lacks_room = !foreign && self.happens(Fault::EndNoRoom);
        let ends = created + self.faults.seconds(1, if lacks_room { 30 } else { 3000 });
        let end = if lacks_room {
            (BatchStatus::Failed, Some("Enqueued token limit reached"))
        } else if self.happens(Fault::EndExpired) {
            (BatchStatus::Expired, None)
        } else if self.happens(Fault::EndFailed) {
            (BatchStatus::Failed, Some("Internal Server Error"))
        } else if self.happens(Fault::EndRefused) {
            (BatchStatus::Failed, Some("Invalid model ID: no such model"))
        } else if self.happens(Fault::EndCancelled) {
            (BatchStatus::Cancelled, None)
        } else {
            (BatchStatus::Completed, None)
        };
        let late = if self.happens(Fault::FilesLate) { self.faults.seconds(1, 60) } else { Duration::ZERO };
        let files_shown = ends + late;
        let names_absent_file = self.happens(Fault::FileNeverWritten);
        self.batches.push(StoredBatch {
            file,
            tag,
            foreign,
            created,
            listed,
            frozen,
            vanished,
            ends,
            end,
            files_shown,
            lacks_room,
            names_absent_file,
            cancel_asked: false,
            left: None,
        });
        self.batches.len() - 1
    }

    /// Takes a create of this run: from here on its requests are paid for.
    pub(super) fn accept(&mut self, file: usize, tag: Option<BatchTag>, delay: Duration) -> usize {
        let tag = tag.filter(|_| self.dialect.carries_tag());
        let batch = self.create(file, tag, false, delay);
        self.accepted.push(Accepted {
            file,
            batch,
            at: self.last_seen,
            life: self.life,
            answered: false,
            refused: false,
        });
        self.note(format!("accepted: batch {batch} of file {file} (shards {:?})", self.files[file].shards));
        batch
    }

    /// The answer that a create was accepted is on its way.
    pub(super) fn answered(&mut self, batch: usize) {
        if let Some(accepted) = self.accepted.iter_mut().find(|accepted| accepted.batch == batch) {
            accepted.answered = true;
        }
    }

    /// Asks a batch to end soon.
    pub(super) fn cancel(&mut self, batch: usize) {
        let ends = self.last_seen + self.faults.seconds(1, 60);
        let batch = &mut self.batches[batch];
        batch.cancel_asked = true;
        if batch.left.is_none() && ends < batch.ends {
            batch.ends = ends;
            batch.files_shown = ends;
            batch.end = (BatchStatus::Cancelled, None);
        }
    }

    /// What is wrong with a download of a reply file.
    pub(super) fn trouble_of(&mut self, file: usize) -> Option<Fault> {
        let now = self.last_seen;
        if let Some((fault, _)) = self.replies[file].trouble.filter(|(_, until)| now < *until) {
            return Some(fault);
        }
        let is_witnessed = self.replies[file].is_witnessed;
        let may = |fault: &Fault| is_witnessed || !fault.looks_whole();
        let fault = Fault::OF_DOWNLOADS.into_iter().filter(may).find(|fault| self.happens(*fault))?;
        let until = now + self.faults.seconds(1, TROUBLE_MAX.as_secs());
        self.replies[file].trouble = Some((fault, until));
        Some(fault)
    }
}
