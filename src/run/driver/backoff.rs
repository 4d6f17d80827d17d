//! How long a shard's next step waits before it is retried.

use std::time::Duration;

use tokio::time::Instant;

/// How long one kind of call may keep failing before the run gives up. The run can be resumed later.
pub(super) const UNREACHABLE_MAX: Duration = Duration::from_secs(3600);

/// The backoff of a shard's next step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delay {
    /// When it first failed.
    since: Instant,
    /// When it is due again.
    until: Instant,
    /// How often it has failed.
    times: u32,
}

impl Default for Delay {
    /// Without failures.
    fn default() -> Self {
        let now = Instant::now();
        Self { since: now, until: now, times: 0 }
    }
}

impl Delay {
    /// A wait without a failure.
    pub(super) fn until_then(until: Instant) -> Self {
        Self { since: until, until, times: 0 }
    }

    /// Records a failure and waits: `first`, doubled each time, at most `most`, with random jitter so that many waits
    /// do not end at once. Returns since when it has been failing.
    pub(super) fn lengthen(&mut self, first: Duration, most: Duration) -> Instant {
        let wait = first.saturating_mul(2_u32.saturating_pow(self.times)).min(most);
        self.until = Instant::now() + wait.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.times += 1;
        self.since
    }

    /// When it is due again.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// How often it has failed.
    pub(super) fn times(&self) -> u32 {
        self.times
    }

    /// Whether it has been failing for longer than transient problems last.
    pub(super) fn is_hopeless(&self) -> bool {
        self.since.elapsed() > UNREACHABLE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_longest() {
        let (first, most) = (Duration::from_secs(2), Duration::from_secs(10));
        let mut delay = Delay::default();
        assert!(delay.is_over(Instant::now()));
        for wanted in [2, 4, 8, 10, 10] {
            delay.lengthen(first, most);
            let wait = delay.until() - Instant::now();
            let wanted = Duration::from_secs(wanted);
            assert!(wait >= wanted / 2 && wait <= wanted, "{wait:?} of {wanted:?}");
            assert!(!delay.is_over(Instant::now()));
        }
        assert_eq!(delay.times(), 5);
        tokio::time::advance(UNREACHABLE_MAX).await;
        assert!(!delay.is_hopeless());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(delay.is_hopeless());
    }
}
