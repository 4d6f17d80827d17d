//! Which request of a batch goes next: one that waited long enough after it failed, else the next of the input.
//!
//! In: how many requests there are, and when one of them may be tried again. Out: numbers of requests, from 1.
//! Invariants: a request is given once, and once more each time it is deferred. What is deferred takes up no memory but
//! its place here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

use crate::remote::retry::RetryPolicy;

/// First wait of a request that was refused, unless the service asks for a longer one; each is at least half as long as
/// it could be.
const REFUSED: Duration = Duration::from_secs(1);

/// The longest of these waits, which double with each refusal of the same request.
const REFUSED_MAX: Duration = Duration::from_mins(1);

/// How much later than asked a request may come again, as a share of the time: not all at once.
const SPREAD: f64 = 0.1;

/// How often a request was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tries {
    began: Instant,
    failed: u32,
    refused: u32,
}

impl Tries {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, failed: 0, refused: 0 }
    }

    /// The attempts so far.
    pub(super) fn made(&self) -> u32 {
        self.failed + self.refused
    }

    /// The request was refused because of how many there are. Gives how long it has to wait.
    pub(super) fn refused(&mut self, asked: Option<Duration>) -> Duration {
        let own = REFUSED.saturating_mul(2_u32.saturating_pow(self.refused)).min(REFUSED_MAX);
        self.refused = self.refused.saturating_add(1);
        match asked {
            Some(asked) => asked.mul_f64(1.0 + SPREAD * fastrand::f64()),
            None => own.mul_f64(0.5 + fastrand::f64() / 2.0),
        }
    }

    /// Whether it was refused so often that this is about the request.
    pub(super) fn is_refused_for_good(&self, patience: &RetryPolicy) -> bool {
        self.refused >= patience.rate_limited_attempts
    }

    /// The request failed. Gives how long it has to wait, or nothing if that was the last attempt.
    pub(super) fn failed(&mut self, asked: Option<Duration>, patience: &RetryPolicy) -> Option<Duration> {
        self.failed += 1;
        let is_last = self.failed >= patience.attempts || self.began.elapsed() >= patience.longest;
        (!is_last).then(|| patience.backoff.wait(self.failed - 1).max(asked.unwrap_or_default()))
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This request.
    Request(u64, Tries),
    /// None before this moment.
    At(Instant),
    /// None, unless one of those that are out comes back.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue<I: Iterator<Item = u64>> {
    fresh: std::iter::Peekable<I>,
    deferred: BinaryHeap<Reverse<Deferred>>,
}

/// A request that may be tried again at `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deferred {
    at: Instant,
    number: u64,
    tries: Tries,
}

impl Ord for Deferred {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Deferred {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<I: Iterator<Item = u64>> Queue<I> {
    /// The requests with these numbers, in this order.
    pub(super) fn new(numbers: impl IntoIterator<IntoIter = I>) -> Self {
        Self { fresh: numbers.into_iter().peekable(), deferred: BinaryHeap::new() }
    }

    /// Takes the request out that is next.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        match self.deferred.peek() {
            Some(Reverse(first)) if first.at <= now => {
                let Deferred { number, tries, .. } = *first;
                self.deferred.pop();
                Next::Request(number, tries)
            }
            first => match (self.fresh.next(), first) {
                (Some(number), _) => Next::Request(number, Tries::new(now)),
                (None, Some(Reverse(first))) => Next::At(first.at),
                (None, None) => Next::Nothing,
            },
        }
    }

    /// This request may be tried again at `at`.
    pub(super) fn defer(&mut self, number: u64, tries: Tries, at: Instant) {
        self.deferred.push(Reverse(Deferred { at, number, tries }));
    }

    /// Whether each request was given at least once.
    pub(super) fn all_were_given(&mut self) -> bool {
        self.fresh.peek().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waited_long_enough_goes_before_what_is_new() {
        let mut queue = Queue::new([1, 2, 5]);
        let now = Instant::now();
        let given = |next| match next {
            Next::Request(number, tries) => (number, tries),
            other => panic!("{other:?}"),
        };
        let (number, mut tries) = given(queue.next(now));
        assert_eq!((number, tries.made()), (1, 0));
        let wait = tries.refused(Some(Duration::from_secs(9)));
        queue.defer(number, tries, now + wait);
        assert_eq!(given(queue.next(now)).0, 2);
        assert!(!queue.all_were_given());
        let (number, tries) = given(queue.next(now + wait));
        assert_eq!((number, tries.made()), (1, 1));
        assert_eq!(given(queue.next(now)).0, 5);
        assert!(queue.all_were_given());
        assert_eq!(queue.next(now), Next::Nothing);
        queue.defer(1, tries, now + wait);
        assert_eq!(queue.next(now), Next::At(now + wait));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_request_waits_as_long_as_asked_or_longer_each_time() {
        let mut tries = Tries::new(Instant::now());
        for asked in [0.5, 1.0, 3600.0].map(Duration::from_secs_f64) {
            let wait = tries.refused(Some(asked));
            assert!((asked..=asked.mul_f64(1.0 + SPREAD)).contains(&wait), "{asked:?}: {wait:?}");
        }
        let mut tries = Tries::new(Instant::now());
        let waits: Vec<Duration> = (0..50).map(|_| tries.refused(None)).collect();
        assert!(waits[0] <= REFUSED && waits[0] >= REFUSED / 2 && waits[49] >= REFUSED_MAX / 2, "{waits:?}");
        let patience = RetryPolicy { rate_limited_attempts: 51, ..RetryPolicy::default() };
        assert!(!tries.is_refused_for_good(&patience));
        tries.refused(None);
        assert!(tries.is_refused_for_good(&patience));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_request_is_tried_as_often_as_patience_says() {
        let patience = RetryPolicy { attempts: 4, ..RetryPolicy::default() };
        let mut tries = Tries::new(Instant::now());
        let asked = Duration::from_secs(90);
        assert!(tries.failed(Some(asked), &patience) >= Some(asked));
        assert!(tries.failed(None, &patience).is_some() && tries.failed(None, &patience).is_some());
        assert_eq!(tries.failed(None, &patience), None);
        let mut late = Tries::new(Instant::now());
        tokio::time::advance(patience.longest).await;
        assert_eq!(late.failed(None, &patience), None);
    }
}
