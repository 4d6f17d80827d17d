//! How many requests a second the upstream takes, learnt from what it refuses.
//!
//! In: each request sent, and each that was refused. Out: the moment at which the next may go out.
//!
//! Nothing is held back until more is refused than is tolerated (see [`Share`]). Then the pace falls to what was let
//! in: additive increase, multiplicative decrease (AIMD), but by the measured share. Where that does not make the
//! refusals fewer, they are not our doing, and the pace is what it was. It grows with time: fast far below the pace
//! that was too much, slowly near it, faster again when nothing has happened for long.
//!
//! What is let in is measured in stretches of one pace (see [`Stretch`]), together with the stretch before while the
//! current one is short.
//!
//! Invariants: a refusal counts for the pace at which its request was sent, so that a burst of them slows down once.
//! The pace does not fall below what was let in, nor below [`LOWEST`].

use std::time::Duration;

use tokio::time::Instant;

use super::share::{Effect, Share};
use super::stretch::{Measured, SHORTEST, Stretch};

/// Requests that must have been let in for their number to mean something.
const MEASURED: f64 = 16.0;

/// As many refusals as this with nothing let in mean that nothing is let in any more.
const CLOSED: f64 = 5.0;

/// How far below what was let in the next pace begins.
const BELOW: f64 = 0.98;

/// The part of the pace that is left at most when hardly anything is let in, so that it cannot be measured how much.
const HASTY_FALL: f64 = 0.5;

/// The part that is left at least.
const DEEP_FALL: f64 = 0.125;

/// The share of the pace that was too much from which on it is approached slowly.
const NEAR: f64 = 0.9;

/// Growth in a second, far below the pace that was too much: it doubles in half a second.
const FAST_GROWTH: f64 = 1.4;

/// The most by which it grows from one request to the next there: with few requests a second little is known of what
/// they did.
const FAST_STEP: f64 = 0.1;

/// Growth in a second near it.
const SLOW_GROWTH: f64 = 0.08;

/// The most by which it grows from one request to the next there.
const SLOW_STEP: f64 = 0.0025;

/// Without an excess for this long growth doubles, and again each time: limits may have changed.
const LONG: Duration = Duration::from_secs(1);

/// How often it doubles at most.
const DOUBLINGS: f64 = 5.0;

/// So many requests after the last refusal it may grow fast.
const CALM: u32 = 8;

/// So many requests after it, twice as fast.
const LONG_CALM: u32 = 64;

/// A pace this many times what is sent in truth is not what holds requests back.
const IDLE: f64 = 2.0;

/// Where this share is refused, it does not matter how few were let in.
const MOST: f64 = 0.8;

/// From refusals above this share nothing is learnt about where the limit is.
const SHALLOW: f64 = 0.5;

/// Being late by this much is made up for: timers are no better.
const LATE: Duration = Duration::from_millis(5);

/// The lowest pace, in requests a second: one in ten seconds.
const LOWEST: f64 = 0.1;

/// The pace after a pause, where nothing is known.
const FIRST: f64 = 8.0;

/// The share of what was let in before a pause with which it goes on after it.
const RESUMED: f64 = 0.5;

/// Weight of the latest refusal in the time that refusals take.
const WEIGHT: f64 = 0.2;

/// What a refusal means for those who send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Tolerated,
    /// The pace has changed.
    Adapted,
    /// Nothing is let in any more.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rate {
    /// Requests a second; `None` while nothing is known to be too much.
    pace: Option<f64>,
    /// The pace at which more was refused than is tolerated.
    refused_at: f64,
    /// The pace before the last fall, to which it goes back when that was in vain.
    before: Option<f64>,
    /// What was let in a second when no more was refused than is tolerated, if that was after the last fall.
    calm: Option<f64>,
    /// The pace after a pause.
    resumed: f64,
    /// When the next request may go out.
    next: Instant,
    /// Requests that have their moment and are not out yet.
    due: u32,
    /// When the last one went out.
    last_out: Option<Instant>,
    grown: Instant,
    /// When there was an excess last.
    excess_at: Instant,
    share: Share,
    /// Requests sent since the last refusal.
    since_refusal: u32,
    /// How long a refusal takes to come back, smoothed, in seconds.
    refusal_time: f64,
    current: Stretch,
    last: Option<Stretch>,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pace: None,
            refused_at: f64::INFINITY,
            before: None,
            calm: None,
            resumed: FIRST,
            next: now,
            due: 0,
            last_out: None,
            grown: now,
            excess_at: now,
            share: Share::default(),
            since_refusal: 0,
            refusal_time: 0.0,
            current: Stretch::new(0, now),
            last: None,
        }
    }

    /// When the next request may go out.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// How long a refusal takes to come back.
    pub(super) fn refusal_time(&self) -> Duration {
        Duration::from_secs_f64(self.refusal_time)
    }

    /// A request goes out at [`Rate::next`], or at `now` if that is past. Gives that moment, and the number of its
    /// stretch.
    pub(super) fn send(&mut self, now: Instant) -> (Instant, u64) {
        let at = self.next.max(now);
        self.roll(at);
        if self.current.sent == 0 {
            self.current.began = at;
        }
        self.current.sent += 1;
        self.share.sent();
        self.since_refusal = self.since_refusal.saturating_add(1);
        self.due += 1;
        self.grow(now);
        self.next = match self.pace {
            Some(pace) => at + Duration::from_secs_f64(1.0 / pace),
            None => at,
        };
        (at, self.current.number)
    }

    /// When a request that had its moment at `at` goes out in truth. Many that are late together, because a disk was
    /// slow, do not make up for it together: to the upstream that would be a burst.
    pub(super) fn out(&mut self, at: Instant, now: Instant) -> Instant {
        self.due = self.due.saturating_sub(1);
        let Some(pace) = self.pace else { return at.max(now) };
        if now.saturating_duration_since(at) <= LATE {
            self.last_out = Some(at);
            return at.max(now);
        }
        let apart = Duration::from_secs_f64(1.0 / pace);
        let out = at.max(now).max(self.last_out.map_or(now, |last| last + apart));
        self.last_out = Some(out);
        self.next = self.next.max(out + apart * (self.due + 1));
        out
    }

    /// A request of this stretch did not go out after all.
    pub(super) fn unsent(&mut self, stretch: u64) {
        let stretches = self.last.iter_mut().chain([&mut self.current]);
        for known in stretches.filter(|known| known.number == stretch) {
            known.sent = known.sent.saturating_sub(1);
        }
    }

    /// A request of this stretch was refused, `took` after it went out.
    pub(super) fn refused(&mut self, now: Instant, stretch: u64, took: Duration) -> Verdict {
        self.refusal_time += (took.as_secs_f64() - self.refusal_time) * WEIGHT;
        if let Some(last) = self.last.as_mut().filter(|last| last.number == stretch) {
            last.refused += 1;
        } else if stretch == self.current.number {
            self.current.refused += 1;
        } else {
            return Verdict::Tolerated;
        }
        self.share.refused();
        self.since_refusal = 0;
        self.adapt(now)
    }

    /// After a pause requests go out again.
    pub(super) fn resume(&mut self, now: Instant) {
        let pace = self.resumed;
        self.refused_at = f64::INFINITY;
        (self.before, self.calm) = (None, None);
        self.share.forget();
        self.set(Some(pace), now);
    }

    /// Finds the pace that fits, if more is refused than is tolerated.
    fn adapt(&mut self, now: Instant) -> Verdict {
        if !self.share.is_excessive() {
            return Verdict::Tolerated;
        }
        let measured = self.measure(now);
        let is_long = self.lasted_in_all(now) >= SHORTEST;
        if is_long && measured.admitted() < 1.0 && measured.refused >= CLOSED {
            self.resumed *= HASTY_FALL;
            self.share.forget();
            self.set(self.pace, now);
            return Verdict::Closed;
        }
        if is_long && (measured.admitted() >= MEASURED || self.calm.is_some()) {
            if !self.judge(measured, now) {
                self.slow_down(measured, now);
            }
        } else if self.share.is_flagrant() || (is_long && measured.share() > MOST) {
            let sending = self.pace.unwrap_or(measured.sent / SHORTEST.as_secs_f64());
            let let_in = measured.admitted() / measured.seconds;
            (self.before, self.calm) = (None, None);
            self.share.forget();
            self.fall((let_in * 2.0).clamp(sending * DEEP_FALL, sending * HASTY_FALL), now);
        } else {
            return Verdict::Tolerated;
        }
        Verdict::Adapted
    }

    /// Lets the pace fall to what was let in.
    fn slow_down(&mut self, measured: Measured, now: Instant) {
        let sending = measured.sent / measured.seconds;
        // The pace may have grown since it was measured.
        let now_sending = self.pace.map_or(sending, |pace| pace.min(sending * IDLE)).max(sending);
        let let_in = now_sending * (1.0 - measured.share());
        // Without a pace what was sent in that time says nothing about how fast it was in the end.
        if self.pace.is_some() && measured.share() - self.share.background() < SHALLOW {
            self.refused_at = now_sending;
        }
        if !self.share.is_unclear() {
            self.before = self.pace.or(Some(f64::INFINITY));
        }
        self.share.slowed(measured.share());
        let calm = self.calm.take().unwrap_or_default();
        self.fall(let_in.max(calm) * BELOW, now);
    }

    fn fall(&mut self, pace: f64, now: Instant) {
        self.excess_at = now;
        self.set(Some(pace.min(self.pace.unwrap_or(f64::INFINITY))), now);
    }

    /// Compares the share that was refused after the last fall, if it is on trial, with the one before it. Gives
    /// whether the pace has changed.
    fn judge(&mut self, measured: Measured, now: Instant) -> bool {
        if !self.share.is_on_trial() {
            return false;
        }
        match self.share.after_slowing(measured.share()) {
            Effect::Nothing => {
                self.refused_at = f64::INFINITY;
                let before = self.before.take().filter(|pace| pace.is_finite());
                self.set(before, now);
                true
            }
            Effect::Unclear => {
                self.slow_down(measured, now);
                true
            }
            Effect::Helped | Effect::Worse => false,
        }
    }

    /// From now on another pace is what counts.
    fn set(&mut self, pace: Option<f64>, now: Instant) {
        self.pace = pace.map(|pace| pace.max(LOWEST));
        (self.next, self.grown, self.last_out, self.last) = (now, now, None, None);
        self.current = Stretch::new(self.current.number + 1, now);
    }

    /// Ends the current stretch when it is whole, and learns from it.
    fn roll(&mut self, now: Instant) {
        let measured = Measured::of(&self.current, now, self.refusal_time);
        let is_decided = self.current.lasted(now) >= SHORTEST && self.share.is_decided(measured.sent);
        if !is_decided && !self.current.is_whole(now) || self.judge(measured, now) {
            return;
        }
        self.share.usual(measured.share(), measured.sent);
        if measured.share() <= self.share.tolerated() {
            self.calm = Some(measured.admitted() / measured.seconds);
        }
        self.resumed = (self.resumed * 0.9).max(measured.admitted() / measured.seconds * RESUMED);
        self.current.ended = now;
        self.last = Some(self.current);
        self.current = Stretch::new(self.current.number + 1, now);
    }

    /// How long this pace has been measured.
    fn lasted_in_all(&self, now: Instant) -> Duration {
        self.last.as_ref().unwrap_or(&self.current).lasted(now)
    }

    /// What the current stretch shows, with the one before it while it is short itself.
    fn measure(&self, now: Instant) -> Measured {
        let current = Measured::of(&self.current, now, self.refusal_time);
        match &self.last {
            Some(last) if self.current.lasted(now) < SHORTEST => {
                let last = Measured::of(last, last.ended, 0.0);
                Measured {
                    seconds: last.seconds + current.seconds,
                    sent: last.sent + current.sent,
                    refused: last.refused + current.refused,
                }
            }
            _ => current,
        }
    }

    /// The pace grows with the time in which it is what holds requests back.
    fn grow(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.grown).min(Duration::from_secs(1)).as_secs_f64();
        self.grown = now;
        let is_calm = self.since_refusal >= CALM || self.current.share() <= self.share.tolerated() * 2.0;
        let Some(pace) = self.pace.as_mut().filter(|_| self.next > now) else { return };
        if self.share.is_on_trial() || self.share.is_suspicious() {
            return;
        }
        let calm = (now.saturating_duration_since(self.excess_at).as_secs_f64() / LONG.as_secs_f64()).min(DOUBLINGS);
        let growth = if is_calm && *pace < self.refused_at * NEAR {
            let faster = if self.since_refusal >= LONG_CALM { 2.0 } else { 1.0 };
            (FAST_GROWTH * faster * passed).min(FAST_STEP)
        } else {
            (SLOW_GROWTH * calm.floor().exp2() * passed).min(SLOW_STEP)
        };
        *pace *= 1.0 + growth;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACK: Duration = Duration::from_millis(5);

    /// Sends as fast as it may for so long, or until nothing is let in; what `refuses` says of the time since the start
    /// is refused.
    fn send(rate: &mut Rate, time: Duration, mut refuses: impl FnMut(Duration) -> bool) -> Vec<Verdict> {
        let start = rate.next();
        let (mut now, mut verdicts) = (start, Vec::new());
        while now < start + time && verdicts.last() != Some(&Verdict::Closed) {
            let (at, stretch) = rate.send(now.checked_sub(Duration::from_micros(10)).unwrap());
            // A request takes some time to be sent, however fast we may be.
            now = at + Duration::from_millis(1);
            if refuses(now - start) {
                verdicts.push(rate.refused(now, stretch, BACK));
            }
            now = now.max(rate.next());
        }
        verdicts
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_together_goes_out_one_by_one() {
        let mut rate = Rate::new(Instant::now());
        rate.pace = Some(10.0);
        let start = Instant::now();
        let due: Vec<Instant> = (0..4).map(|_| rate.send(start).0).collect();
        let late = start + Duration::from_secs(2);
        let out: Vec<_> = due.into_iter().map(|at| rate.out(at, late).duration_since(late).as_millis()).collect();
        assert!(out.iter().zip([0, 100, 200, 300]).all(|(out, wanted)| out.abs_diff(wanted) <= 5), "{out:?}");
        assert!(rate.next().duration_since(late).as_millis().abs_diff(400) <= 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_refusals_slows_down_once() {
        let mut rate = Rate::new(Instant::now());
        let sent: Vec<u64> = (0..100).map(|_| rate.send(Instant::now()).1).collect();
        tokio::time::advance(Duration::from_secs(1)).await;
        let verdicts: Vec<Verdict> =
            sent[50..].iter().map(|stretch| rate.refused(Instant::now(), *stretch, BACK)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Adapted).count(), 1);
        // Nobody knows yet what becomes of the others: they were not refused so far.
        assert!(rate.pace.is_some_and(|pace| (45.0..100.0).contains(&pace)), "{:?}", rate.pace);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_refusals_change_nothing_and_nothing_let_in_closes() {
        let mut rate = Rate::new(Instant::now());
        let mut sent = 0;
        let verdicts = send(&mut rate, Duration::from_secs(10), |_| {
            sent += 1;
            sent % 40 == 0
        });
        assert!(verdicts.len() > 100 && verdicts.iter().all(|verdict| *verdict == Verdict::Tolerated));
        assert_eq!(rate.pace, None);
        let verdicts = send(&mut rate, Duration::from_secs(2), |_| true);
        assert!(verdicts.last() == Some(&Verdict::Closed) && verdicts.len() < 150, "{verdicts:?}");
        rate.resume(rate.next());
        assert!(rate.pace.is_some_and(|pace| pace >= 100.0), "half of what was let in before: {:?}", rate.pace);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_falls_to_what_is_let_in_and_a_limit_that_is_lifted_is_noticed() {
        let mut rate = Rate::new(Instant::now());
        let mut let_in = 0.0;
        send(&mut rate, Duration::from_secs(20), |passed| {
            let refuses = let_in >= passed.as_secs_f64() * 100.0;
            let_in += f64::from(u8::from(!refuses));
            refuses
        });
        assert!(rate.pace.is_some_and(|pace| (80.0..130.0).contains(&pace)), "{:?}", rate.pace);
        send(&mut rate, Duration::from_secs(15), |_| false);
        assert!(rate.pace.is_some_and(|pace| pace > 500.0), "{:?}", rate.pace);
    }
}
