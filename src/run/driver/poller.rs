//! When the service's list of batches is requested, and what is remembered from one list to the next.
//!
//! Invariant: at most one list request is in flight.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::UNREACHABLE_MAX;

/// Look-ups that must show a batch as ended without any file before that is accepted: files can appear after the end.
const FILELESS_LOOKS: u32 = 3;

/// The minimum time between the first and the last of them, if unanswered requests would be sent again.
const FILELESS_TIME: Duration = Duration::from_secs(120);

/// Minimum interval between lists, per batch in the last one: the list of 20,000 has ten megabytes.
const TIME_PER_BATCH: Duration = Duration::from_micros(200);

/// Maximum unknown statuses that are reported.
const UNKNOWN_STATUSES_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Poller {
    /// The poll interval of the options.
    interval: Duration,
    next: Instant,
    /// When the last list was asked for.
    begun: Instant,
    /// Number of batches in the last list.
    listed: u32,
    is_under_way: bool,
    /// Since when the service has not answered any call about batches.
    unreachable_since: Option<Instant>,
    /// Since when the list has been unavailable.
    listless_since: Option<Instant>,
    /// How often a batch was seen as ended without any file.
    fileless: HashMap<u32, (Instant, u32)>,
    /// Unknown statuses that have been reported.
    unknown_statuses: BTreeSet<String>,
}

/// How long the list has been unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WithoutList {
    /// Whether this is the first failure since the last list.
    pub(super) is_new: bool,
    /// Whether all other calls have failed, too, for longer than transient problems last.
    pub(super) is_silent: bool,
    /// Whether the list has been unavailable for as long.
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

    /// Whether a list is due; it then counts as in flight.
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

    /// When the next list is due; `None` while one is in flight.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.is_under_way).then_some(self.next)
    }

    /// A list request has ended; with the number of batches, if it succeeded.
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
        // Jitter of ±10 %, so that many runs do not poll in step.
        let interval = self.interval.max(apart).mul_f64(0.9 + fastrand::f64() / 5.0);
        self.next = Instant::now() + interval;
    }

    /// The service has answered a call about a batch.
    pub(super) fn heard(&mut self) {
        self.unreachable_since = None;
    }

    /// A list request has failed.
    pub(super) fn without_list(&mut self) -> WithoutList {
        let is_long = |since: Instant| since.elapsed() > UNREACHABLE_MAX;
        let is_silent = is_long(*self.unreachable_since.get_or_insert_with(Instant::now));
        let is_new = self.listless_since.is_none();
        let is_hopeless = is_long(*self.listless_since.get_or_insert_with(Instant::now));
        WithoutList { is_new, is_silent, is_hopeless }
    }

    /// A batch was seen as ended without any file. Returns whether that is accepted now: after some look-ups and, where
    /// unanswered requests are sent again (`is_sent_again`), after some time, at most `settle`.
    pub(super) fn believes_fileless(&mut self, shard: u32, is_sent_again: bool, settle: Duration) -> bool {
        let (since, looks) = self.fileless.entry(shard).or_insert((Instant::now(), 0));
        *looks += 1;
        *looks >= FILELESS_LOOKS && (!is_sent_again || since.elapsed() >= FILELESS_TIME.min(settle))
    }

    /// Whether an unknown status is to be reported: once.
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
