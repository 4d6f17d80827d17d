//! When a request may go to the upstream: one after the other they pass a door, and wait there for a pause to end, for
//! room and for their moment.
//!
//! In: requests that want to go, and what came of those that went. Out: a [`Turn`] for each, in the order in which they
//! came.
//!
//! A throttled request waits, and no other does: [`Rate`] sees to it that there are few. Only when nothing is let in
//! any more, or the upstream cannot be used at all, all requests pause. After the pause one request, the **probe**,
//! finds out whether that is over; if not, the next pause is longer.
//!
//! Invariants: no turn is given during a pause, or beyond the [`Window`], or more than [`AHEAD`] before its moment; one
//! probe is out at a time. Nothing here knows what a request is, or how it is sent.

mod rate;
mod share;
#[cfg(test)]
mod simulation;
mod stretch;
mod window;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use self::rate::{Rate, Verdict};
use self::window::Window;

/// How long before its moment a turn is given: time to write down that the request goes out.
const AHEAD: Duration = Duration::from_millis(20);

/// The first pause that all requests make, unless the upstream asks for a longer one; each is at least half as long as
/// it could be.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest of these pauses, which double as long as nothing is let in.
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// A probe that was not refused for so many times as long as refusals take was let in.
const SETTLED: f64 = 4.0;

/// At least this long.
const SETTLED_LEAST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Pacing {
    state: Mutex<State>,
    /// Held by the request that is next.
    door: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    window: Window,
    rate: Rate,
    out: usize,
    turns: u64,
    /// Whether the window is what the next request waits for, or did when it last had to wait.
    full: bool,
    pause: Option<Pause>,
}

/// Nobody sends, but for a probe at its end.
#[derive(Debug)]
struct Pause {
    until: Instant,
    /// Pauses before this one, without anything let in between.
    before: u32,
    /// The number of the turn that finds out whether it is over, and when it was given.
    probe: Option<(u64, Instant)>,
}

/// The right to send one request. Dropped, it makes room for another.
#[derive(Debug)]
pub(super) struct Turn<'p> {
    pacing: &'p Pacing,
    number: u64,
    stretch: u64,
    /// The moment to send, if it is not late by then.
    at: Instant,
}

/// What the next request has to wait for.
enum Wait {
    Until(Instant),
    Change,
}

impl Pacing {
    /// Lets at most so many requests out at a time.
    pub(super) fn new(most: usize) -> Self {
        let (window, rate) = (Window::new(most), Rate::new(Instant::now()));
        let state = State { window, rate, out: 0, turns: 0, full: false, pause: None };
        Self { state: Mutex::new(state), door: tokio::sync::Mutex::default(), changed: Notify::new() }
    }

    /// Waits for the turn of one more request.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let _next = self.door.lock().await;
        loop {
            let wait = {
                let mut state = self.state();
                match state.wait(Instant::now()) {
                    Some(wait) => wait,
                    None => return self.give(&mut state),
                }
            };
            match wait {
                Wait::Until(moment) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(moment) => {}
                    () = self.changed.notified() => {}
                },
                Wait::Change => self.changed.notified().await,
            }
        }
    }

    /// Whether nothing is out.
    pub(super) fn is_idle(&self) -> bool {
        self.out() == 0
    }

    /// How many turns were given and have not ended.
    pub(super) fn out(&self) -> usize {
        self.state().out
    }

    fn give(&self, state: &mut State) -> Turn<'_> {
        let now = Instant::now();
        let (at, stretch) = state.rate.send(now);
        let number = state.turns;
        if let Some(pause) = &mut state.pause {
            pause.probe = Some((number, now));
        }
        state.out += 1;
        state.turns += 1;
        Turn { pacing: self, number, stretch, at }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the next request has to wait for; nothing if it may go.
    fn wait(&mut self, now: Instant) -> Option<Wait> {
        if let Some(pause) = &self.pause {
            if now < pause.until {
                return Some(Wait::Until(pause.until));
            }
            let (_, sent) = pause.probe?;
            let settled = sent + self.rate.refusal_time().mul_f64(SETTLED).max(SETTLED_LEAST);
            if now < settled {
                return Some(Wait::Until(settled));
            }
            self.resume(now);
        }
        let early = self.rate.next().saturating_duration_since(now);
        self.full = self.out >= self.window.size();
        if self.full {
            return Some(Wait::Change);
        }
        let early = early.saturating_sub(AHEAD);
        (!early.is_zero()).then(|| Wait::Until(now + early))
    }

    /// Begins a pause, or a longer one when the turn with this number has found out that the last was not enough.
    /// `asked` is how long the upstream wants it to be. Gives how long it is from now; what went out before the pause
    /// says nothing new.
    fn pause(&mut self, number: u64, asked: Option<Duration>) -> Duration {
        let now = Instant::now();
        let before = match &self.pause {
            Some(pause) if self.is_probe(number) => pause.before + 1,
            Some(pause) => return pause.until.saturating_duration_since(now),
            None => 0,
        };
        let own = PAUSE.saturating_mul(2_u32.saturating_pow(before)).min(PAUSE_MAX);
        let wait = own.mul_f64(0.5 + fastrand::f64() / 2.0).max(asked.unwrap_or_default());
        self.pause = Some(Pause { until: now + wait, before, probe: None });
        wait
    }

    fn is_probe(&self, number: u64) -> bool {
        self.pause.as_ref().and_then(|pause| pause.probe).is_some_and(|(probe, _)| probe == number)
    }

    fn resume(&mut self, now: Instant) {
        self.pause = None;
        self.rate.resume(now);
    }
}

impl Turn<'_> {
    /// Waits for its moment. Gives whether it is good: by then there may be a pause.
    pub(super) async fn moment(&self) -> bool {
        let out = self.pacing.state().rate.out(self.at, Instant::now());
        if out > Instant::now() {
            tokio::time::sleep_until(out).await;
        }
        let state = self.pacing.state();
        state.pause.is_none() || state.is_probe(self.number)
    }

    /// The request does not go out now.
    pub(super) fn unsent(self) {
        self.pacing.state().rate.unsent(self.stretch);
    }

    /// The request was answered, whatever the answer says.
    pub(super) fn answered(self, took: Duration) {
        let mut state = self.pacing.state();
        let (next, full) = (state.turns, state.full);
        state.window.answered(self.number, next, took, full);
        self.let_in(&mut state);
    }

    /// The upstream refused the request, `took` after it went out, because of how many there are; `asked` is when this
    /// one may come again. Gives how long all requests pause, if this is why they do.
    pub(super) fn refused(self, took: Duration, asked: Option<Duration>) -> Option<Duration> {
        let mut state = self.pacing.state();
        if state.is_probe(self.number) {
            return Some(state.pause(self.number, asked));
        }
        let verdict = state.rate.refused(Instant::now(), self.stretch, took);
        (verdict == Verdict::Closed && state.pause.is_none()).then(|| state.pause(self.number, asked))
    }

    /// The upstream could not do it, or not in time.
    pub(super) fn overloaded(self) {
        let mut state = self.pacing.state();
        let next = state.turns;
        state.window.overloaded(self.number, next);
        self.let_in(&mut state);
    }

    /// The upstream cannot be used now, whatever is sent: all requests pause. Gives for how long.
    pub(super) fn useless(self) -> Duration {
        let mut state = self.pacing.state();
        state.rate.unsent(self.stretch);
        state.window.feel_the_way();
        state.pause(self.number, None)
    }

    fn let_in(&self, state: &mut State) {
        if state.is_probe(self.number) {
            state.resume(Instant::now());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.pacing.state();
        state.out -= 1;
        if state.is_probe(self.number) {
            // Nobody knows what came of it: the next one finds out.
            if let Some(pause) = &mut state.pause {
                pause.probe = None;
            }
        }
        self.pacing.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(10);

    /// Lets `count` requests be refused at once; gives the longest pause that this brings about.
    async fn refuse(pacing: &Pacing, count: usize, asked: Option<Duration>) -> Option<Duration> {
        let mut longest = None;
        for _ in 0..count {
            let turn = pacing.turn().await;
            if turn.moment().await {
                tokio::time::sleep(QUICK).await;
                longest = longest.max(turn.refused(QUICK, asked));
            } else {
                turn.unsent();
            }
            if longest.is_some() {
                break;
            }
        }
        longest
    }

    #[tokio::test(start_paused = true)]
    async fn turns_wait_for_room() {
        let pacing = Pacing::new(2);
        let first = pacing.turn().await;
        let _second = pacing.turn().await;
        assert!(tokio::time::timeout(Duration::from_secs(60), pacing.turn()).await.is_err(), "there is no room");
        first.answered(Duration::from_secs(1));
        pacing.turn().await.unsent();
    }

    #[tokio::test(start_paused = true)]
    async fn one_refusal_delays_no_other_request() {
        let pacing = Pacing::new(64);
        assert_eq!(refuse(&pacing, 1, Some(Duration::from_secs(3600))).await, None);
        let began = Instant::now();
        for _ in 0..100 {
            let turn = pacing.turn().await;
            assert!(turn.moment().await);
            turn.answered(QUICK);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_is_let_in_all_requests_pause_as_long_as_was_asked_and_one_finds_out() {
        let pacing = Pacing::new(64);
        let (early, began) = (pacing.turn().await, Instant::now());
        let asked = Duration::from_secs(40);
        assert_eq!(refuse(&pacing, 1000, Some(asked)).await, Some(asked));
        assert!(!early.moment().await, "it came too late");
        early.unsent();
        let probe = pacing.turn().await;
        assert!(began.elapsed() >= asked && probe.moment().await);
        assert!(tokio::time::timeout(SETTLED_LEAST / 2, pacing.turn()).await.is_err(), "one is enough");
        assert_eq!(probe.refused(QUICK, Some(asked * 2)), Some(asked * 2));
        let probe = pacing.turn().await;
        assert!(began.elapsed() >= asked * 3);
        // It waits for an answer: what is not refused by now was let in.
        let began = Instant::now();
        let next = pacing.turn().await;
        assert!(began.elapsed() <= SETTLED_LEAST * 2 && next.moment().await);
        drop((probe, next));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_something_is_let_in() {
        let pacing = Pacing::new(64);
        let mut pauses = vec![refuse(&pacing, 1000, None).await.unwrap()];
        for _ in 0..9 {
            pauses.push(pacing.turn().await.refused(QUICK, None).unwrap());
        }
        assert!(pauses[0] <= PAUSE && pauses[9] >= PAUSE_MAX / 2, "{pauses:?}");
        pacing.turn().await.answered(QUICK);
        let pause = refuse(&pacing, 1000, None).await.unwrap();
        assert!(pause <= PAUSE, "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_useless_upstream_is_felt_for_by_one_and_a_lost_probe_is_made_up_for() {
        let pacing = Pacing::new(64);
        let others = [pacing.turn().await, pacing.turn().await];
        let pause = pacing.turn().await.useless();
        assert!(pause <= PAUSE);
        for other in others {
            assert!(other.useless() <= pause, "it says nothing new");
        }
        drop(pacing.turn().await);
        let again = pacing.turn().await;
        assert!(again.moment().await);
        assert!(again.useless() >= PAUSE);
    }
}
