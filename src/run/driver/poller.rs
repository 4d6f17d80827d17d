//! When the service's list of batches is asked for, and what is remembered from one look to the next.
//!
//! Invariant: at most one list is under way.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::UNREACHABLE_MAX;

/// Looks that must find a batch ended and without any file before that is believed: files can show later than the end.
const FILELESS_LOOKS: u32 = 3;

/// And how long they must have found it so, where what it has not answered is sent again.
const FILELESS_TIME: Duration = Duration::from_secs(120);

/// Time between two lists, at least, for each batch that the last one had: the list of 20,000 has ten megabytes.
const TIME_PER_BATCH: Duration = Duration::from_micros(200);

/// Most unknown statuses that are told.
const UNKNOWN_STATUSES_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Poller {
    /// Time between two lists, by the options.
    interval: Duration,
    next: Instant,
    /// When the last list was asked for.
    begun: Instant,
    /// Batches that the last list had.
    listed: u32,
    is_under_way: bool,
    /// Since when the service has not answered anything about batches.
    unreachable_since: Option<Instant>,
    /// Since when there is no list.
    listless_since: Option<Instant>,
    /// How often a batch was seen ended without naming any file.
    fileless: HashMap<u32, (Instant, u32)>,
    /// Statuses that are not known here, as far as they have been told.
    unknown_statuses: BTreeSet<String>,
}

/// How long there has been no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WithoutList {
    /// Whether this is the first time since there was one.
    pub(super) is_new: bool,
    /// Whether nothing else was heard from the service either, for longer than any trouble that passes.
    pub(super) is_silent: bool,
    /// Whether there has been no list for as long.
    pub(super) is_hopeless: bool,
}

impl Poller {
    /// The first list is due at once.
    pub(super) fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            interval,
            next: now,
            begun: now,
            listed: 0,
            is_under_way: false,
            unreachable_since: None,
            listless_since: None,
            fileless: HashMap::new(),
            unknown_statuses: BTreeSet::new(),
        }
    }

    /// Whether it is time for a list; it is under way then.
    pub(super) fn begin(&mut self) -> bool {
        let now = Instant::now();
        if self.is_under_way || now < self.next {
            return false;
        }
        (self.is_under_way, self.begun) = (true, now);
        true
    }

    /// When the last list was asked for.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// When the next list is due; `None` while one is under way.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.is_under_way).then_some(self.next)
    }

    /// A list has ended; with how many batches, if it could be had.
    pub(super) fn ended(&mut self, listed: Option<usize>) {
        self.is_under_way = false;
        if let Some(listed) = listed {
            self.listed = u32::try_from(listed).unwrap_or(u32::MAX);
            (self.unreachable_since, self.listless_since) = (None, None);
        }
        self.schedule();
    }

    /// The next list is due after a whole interval from now.
    pub(super) fn schedule(&mut self) {
        let apart = TIME_PER_BATCH * self.listed;
        // Between 90 and 110 per cent, so that many runs do not ask in step.
        let interval = self.interval.max(apart).mul_f64(0.9 + fastrand::f64() / 5.0);
        self.next = Instant::now() + interval;
    }

    /// The service has answered something about a batch.
    pub(super) fn heard(&mut self) {
        self.unreachable_since = None;
    }

    /// A list could not be had.
    pub(super) fn without_list(&mut self) -> WithoutList {
        let is_long = |since: Instant| since.elapsed() > UNREACHABLE_MAX;
        let is_silent = is_long(*self.unreachable_since.get_or_insert_with(Instant::now));
        let is_new = self.listless_since.is_none();
        let is_hopeless = is_long(*self.listless_since.get_or_insert_with(Instant::now));
        WithoutList { is_new, is_silent, is_hopeless }
    }

    /// A batch was seen ended without any file. Whether that is believed now: after some looks, and where what it has
    /// not answered `is_sent_again` after some time, too, which is at most `settle`.
    pub(super) fn believes_fileless(&mut self, shard: u32, is_sent_again: bool, settle: Duration) -> bool {
        let (since, looks) = self.fileless.entry(shard).or_insert((Instant::now(), 0));
        *looks += 1;
        *looks >= FILELESS_LOOKS && (!is_sent_again || since.elapsed() >= FILELESS_TIME.min(settle))
    }

    /// Whether a status that is not known here is to be told: once.
    pub(super) fn is_news(&mut self, status: &str) -> bool {
        !status.is_empty()
            && self.unknown_statuses.len() < UNKNOWN_STATUSES_MAX
            && self.unknown_statuses.insert(status.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn lists_come_one_after_the_other_and_large_ones_less_often() {
        let mut poller = Poller::new(INTERVAL);
        assert!(poller.begin(), "the first at once");
        assert!(!poller.begin() && poller.next().is_none());
        for (listed, wanted) in [(10, INTERVAL), (1_000_000, Duration::from_secs(200))] {
            poller.ended(Some(listed));
            let wait = poller.next().expect("none is under way") - Instant::now();
            assert!(wait >= wanted.mul_f64(0.9) && wait <= wanted.mul_f64(1.1), "{listed}: {wait:?}");
            assert!(!poller.begin());
            tokio::time::advance(wait).await;
            assert!(poller.begin());
            assert_eq!(poller.begun(), Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_answers_single_looks_is_not_silent() {
        let mut poller = Poller::new(INTERVAL);
        let passing = WithoutList { is_new: false, is_silent: false, is_hopeless: false };
        assert_eq!(poller.without_list(), WithoutList { is_new: true, ..passing });
        tokio::time::advance(UNREACHABLE_MAX).await;
        assert_eq!(poller.without_list(), passing);
        poller.heard();
        tokio::time::advance(INTERVAL).await;
        assert_eq!(poller.without_list(), WithoutList { is_hopeless: true, ..passing });
        tokio::time::advance(UNREACHABLE_MAX + INTERVAL).await;
        assert_eq!(poller.without_list(), WithoutList { is_silent: true, is_hopeless: true, ..passing });
        poller.ended(Some(0));
        assert_eq!(poller.without_list(), WithoutList { is_new: true, ..passing });
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_without_files_is_believed_after_looks_and_time() {
        let mut poller = Poller::new(INTERVAL);
        let mut looks = |shard, is_sent_again| {
            [(); 4].map(|()| poller.believes_fileless(shard, is_sent_again, Duration::from_secs(600)))
        };
        assert_eq!(looks(0, false), [false, false, true, true]);
        assert_eq!(looks(1, true), [false; 4]);
        tokio::time::advance(FILELESS_TIME).await;
        assert!(poller.believes_fileless(1, true, Duration::from_secs(600)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_status_is_told_once_and_not_without_end() {
        let mut poller = Poller::new(INTERVAL);
        assert!(!poller.is_news("") && poller.is_news("AGGREGATING") && !poller.is_news("AGGREGATING"));
        let told = (0..100).filter(|number| poller.is_news(&number.to_string())).count();
        assert_eq!(told, UNKNOWN_STATUSES_MAX - 1);
    }
}
