//! A stretch of sending, and what it shows of what is let in.
//!
//! In: how many requests went out at one pace, how many of them were refused, and how long a refusal takes to come
//! back. Out: requests and refusals in a time. Requests that went out so recently that a refusal could not be back yet
//! are left out.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time that a pace is measured by.
pub(super) const SHORTEST: Duration = Duration::from_millis(250);

/// Requests that make a stretch.
const SENT: u32 = 64;

/// After this time fewer make one, too.
const LONG: Duration = Duration::from_secs(4);

/// As many as this.
const LONG_SENT: u32 = 32;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) number: u64,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) sent: u32,
    pub(super) refused: u32,
}

/// What a stretch of sending has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) sent: f64,
    pub(super) refused: f64,
}

impl Measured {
    /// What a stretch shows at `now`, when a refusal takes so many seconds to come back.
    pub(super) fn of(stretch: &Stretch, now: Instant, refusal_time: f64) -> Self {
        let seconds = stretch.lasted(now).as_secs_f64().max(0.001);
        let known = ((seconds - refusal_time) / seconds).max(0.5);
        Self {
            seconds: seconds * known,
            sent: (f64::from(stretch.sent) * known).max(f64::from(stretch.refused)),
            refused: f64::from(stretch.refused),
        }
    }

    pub(super) fn admitted(&self) -> f64 {
        (self.sent - self.refused).max(0.0)
    }

    pub(super) fn share(&self) -> f64 {
        if self.sent > 0.0 { (self.refused / self.sent).min(1.0) } else { 0.0 }
    }
}

impl Stretch {
    pub(super) fn new(number: u64, now: Instant) -> Self {
        Self { number, began: now, ended: now, sent: 0, refused: 0 }
    }

    pub(super) fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    pub(super) fn share(&self) -> f64 {
        f64::from(self.refused) / f64::from(self.sent.max(1))
    }

    pub(super) fn is_whole(&self, now: Instant) -> bool {
        let lasted = self.lasted(now);
        (lasted >= SHORTEST && self.sent >= SENT) || (lasted >= LONG && self.sent >= LONG_SENT)
    }
}
