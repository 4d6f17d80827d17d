//! How many requests a second the upstream takes, learnt from when it refused.
//!
//! In: each request sent, and each that was turned away. Out: the moment at which the next may go out.
//!
//! Nothing is held back until the upstream limits us for the first time. From then on time falls into **cycles**: a
//! pause, then a time of sending that ends with the next refusal. What was let in during a whole cycle, its pause included,
//! is less than the upstream would have taken; what is let in while sending is more, because a limiter saves up some
//! requests during the pause. The pace is set between the two, and grows: fast far below the pace of the last refusal,
//! slowly near it, faster again when there has been no refusal for long.
//!
//! What always holds: a refusal counts for the cycle in which its request was sent, so that a burst of them slows down once.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time of sending that a pace is measured by.
const MEASURED: Duration = Duration::from_millis(10);

/// How far below a pace that was refused the next one begins.
const BELOW: f64 = 0.95;

/// The share of the pace of the last refusal from which on it is approached slowly.
const NEAR: f64 = 0.9;

/// Growth in a second, far below the pace of the last refusal.
const FAST_GROWTH: f64 = 0.25;

/// Growth in a second near it.
const SLOW_GROWTH: f64 = 0.005;

/// Growth in a second after [`LONG`].
const LATE_GROWTH: f64 = 0.05;

/// Without a refusal for this long, limits may have changed.
const LONG: Duration = Duration::from_secs(30);

/// The lowest pace, in requests a second: one in ten seconds.
const LOWEST: f64 = 0.1;

/// See the module.
#[derive(Debug)]
pub(super) struct Rate {
    /// Requests a second; `None` until the upstream has limited us.
    pace: Option<f64>,
    /// The pace at which we were limited last.
    refused_at: f64,
    /// When the next request may go out.
    next: Instant,
    /// Requests that have their moment and are not out yet.
    due: u32,
    /// When the last one went out.
    last_out: Option<Instant>,
    grown: Instant,
    current: Cycle,
    last: Option<Cycle>,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    number: u64,
    /// Its first request.
    began: Instant,
    sent: u64,
    refused: u64,
}

impl Cycle {
    #[expect(clippy::cast_precision_loss, reason = "nobody sends 2^52 requests")]
    fn admitted(&self) -> f64 {
        self.sent.saturating_sub(self.refused) as f64
    }
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pace: None,
            refused_at: f64::INFINITY,
            next: now,
            due: 0,
            last_out: None,
            grown: now,
            current: Cycle { number: 0, began: now, sent: 0, refused: 0 },
            last: None,
        }
    }

    /// When the next request may go out.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// A request goes out at [`Rate::next`], or at `now` if that is past. Gives that moment, and the number of the cycle.
    pub(super) fn send(&mut self, now: Instant) -> (Instant, u64) {
        let at = self.next.max(now);
        if self.current.sent == 0 {
            self.current.began = at;
        }
        self.current.sent += 1;
        self.due += 1;
        self.grow(now);
        self.next = match self.pace {
            Some(pace) => at + Duration::from_secs_f64(1.0 / pace),
            None => at,
        };
        (at, self.current.number)
    }

    /// When a request that had its moment at `at` goes out in truth. Many that are late together, because a disk was slow, do
    /// not make up for it together: to the upstream that would be a burst.
    pub(super) fn out(&mut self, at: Instant, now: Instant) -> Instant {
        self.due = self.due.saturating_sub(1);
        let Some(pace) = self.pace else { return at.max(now) };
        let apart = Duration::from_secs_f64(1.0 / pace);
        let out = at.max(now).max(self.last_out.map_or(now, |last| last + apart));
        self.last_out = Some(out);
        self.next = self.next.max(out + apart * (self.due + 1));
        out
    }

    /// A request of this cycle did not go out after all.
    pub(super) fn unsent(&mut self, cycle: u64) {
        let cycles = self.last.iter_mut().chain([&mut self.current]);
        for known in cycles.filter(|known| known.number == cycle) {
            known.sent = known.sent.saturating_sub(1);
        }
    }

    /// A request of this cycle was turned away. Gives whether that ends the cycle.
    pub(super) fn refused(&mut self, now: Instant, cycle: u64) -> bool {
        if let Some(last) = self.last.as_mut().filter(|last| last.number == cycle) {
            last.refused += 1;
        }
        if cycle != self.current.number {
            return false;
        }
        self.current.refused += 1;
        let sending = now.saturating_duration_since(self.current.began).max(MEASURED);
        let most = self.current.admitted() / sending.as_secs_f64();
        let whole = self.last.map(|last| {
            let took = self.current.began.saturating_duration_since(last.began).max(MEASURED);
            last.admitted() / took.as_secs_f64()
        });
        let pace = match (whole, self.pace) {
            (Some(least), _) => (least * most).sqrt().min(most * BELOW),
            (None, pace) => pace.unwrap_or(most).min(most) / 2.0,
        };
        self.pace = Some(pace.max(LOWEST));
        self.refused_at = most;
        (self.next, self.grown, self.last_out) = (now, now, None);
        self.last = Some(self.current);
        self.current = Cycle { number: self.current.number + 1, began: now, sent: 0, refused: 0 };
        true
    }

    /// The pace grows with the time in which requests go out.
    fn grow(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.grown).min(Duration::from_secs(1)).as_secs_f64();
        self.grown = now;
        let Some(pace) = &mut self.pace else { return };
        let growth = if *pace < self.refused_at * NEAR {
            FAST_GROWTH
        } else if now.saturating_duration_since(self.current.began) < LONG {
            SLOW_GROWTH
        } else {
            LATE_GROWTH
        };
        *pace *= 1.0 + growth * passed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limiter that saves up `burst` requests and takes `per_second`.
    pub(super) struct Bucket {
        per_second: f64,
        burst: f64,
        saved: f64,
        at: Instant,
    }

    impl Bucket {
        fn takes(&mut self, now: Instant) -> bool {
            let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
            self.at = self.at.max(now);
            self.saved = (self.saved + earned).min(self.burst);
            let takes = self.saved >= 1.0;
            if takes {
                self.saved -= 1.0;
            }
            takes
        }
    }

    /// How many times the ideal time it takes to get `requests` through, when each refusal costs a pause.
    fn cost(per_second: f64, burst: f64, pause: Duration, requests: u32) -> f64 {
        let start = Instant::now();
        let mut bucket = Bucket { per_second, burst, saved: burst, at: start };
        let (mut rate, mut now, mut done) = (Rate::new(start), start, 0);
        while done < requests {
            let (at, cycle) = rate.send(now);
            // A request takes some time to be sent, however fast we may be.
            now = at + Duration::from_micros(200);
            if bucket.takes(now) {
                done += 1;
            } else {
                rate.refused(now, cycle);
                now += pause;
            }
        }
        now.duration_since(start).as_secs_f64() * per_second / f64::from(requests)
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_found_and_kept_close_to() {
        for (per_second, burst, pause, requests, most) in [
            (200.0, 200.0, 1000, 10_000, 1.05),
            (200.0, 20.0, 1000, 10_000, 1.2),
            (100.0, 1.0, 1000, 10_000, 1.3),
            (500.0, 50.0, 200, 10_000, 1.15),
            (10.0, 600.0, 30_000, 10_000, 1.05),
            (2.0, 1.0, 2000, 500, 1.25),
        ] {
            let cost = cost(per_second, burst, Duration::from_millis(pause), requests);
            assert!(cost < most, "{per_second}/s, {burst} saved up, pauses of {pause} ms: {cost} times the ideal time");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_together_goes_out_one_by_one() {
        let mut rate = Rate::new(Instant::now());
        rate.pace = Some(10.0);
        let start = Instant::now();
        let due: Vec<Instant> = (0..4).map(|_| rate.send(start).0).collect();
        let late = start + Duration::from_secs(2);
        let out: Vec<_> = due.into_iter().map(|at| rate.out(at, late).duration_since(late).as_millis()).collect();
        assert_eq!(out, [0, 100, 200, 300]);
        assert_eq!(rate.next().duration_since(late).as_millis(), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_refusals_slows_down_once() {
        let mut rate = Rate::new(Instant::now());
        let sent: Vec<u64> = (0..100).map(|_| rate.send(Instant::now()).1).collect();
        tokio::time::advance(Duration::from_secs(1)).await;
        let ends = sent[50..].iter().filter(|cycle| rate.refused(Instant::now(), **cycle)).count();
        assert_eq!((ends, rate.pace), (1, Some(99.0 / 2.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_lifted_is_noticed() {
        let mut rate = Rate::new(Instant::now());
        let (_, cycle) = rate.send(Instant::now());
        rate.refused(Instant::now(), cycle);
        let mut now = Instant::now();
        let end = now + Duration::from_mins(5);
        while now < end {
            now = rate.send(now).0;
        }
        assert!(rate.pace.is_some_and(|pace| pace > 10.0), "{:?}", rate.pace);
    }
}
