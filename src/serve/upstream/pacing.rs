//! When a request may go to the upstream: one after the other they pass a door, and wait there for the gate, for room and for
//! their moment.
//!
//! In: requests that want to go, and what came of those that went. Out: a [`Turn`] for each, in the order in which they came.
//! What always holds: no turn is given while the gate is shut, or beyond the [`Window`], or more than [`AHEAD`] before its
//! moment.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::rate::Rate;
use super::window::Window;
use crate::remote::gate::Gate;

/// How long before its moment a turn is given: time to write down that the request goes out.
const AHEAD: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Pacing {
    state: Mutex<State>,
    /// Held by the request that is next.
    door: tokio::sync::Mutex<()>,
    left: Notify,
}

#[derive(Debug)]
struct State {
    window: Window,
    rate: Rate,
    out: usize,
    turns: u64,
    /// Whether the window is what the next request waits for, or did when it last had to wait.
    full: bool,
}

/// The right to send one request. Dropped, it makes room for another.
#[derive(Debug)]
pub(super) struct Turn<'p> {
    pacing: &'p Pacing,
    number: u64,
    cycle: u64,
    /// The moment to send, if it is not late by then.
    at: Instant,
}

impl Pacing {
    /// Lets at most so many requests out at a time.
    pub(super) fn new(most: usize) -> Self {
        let state = State { window: Window::new(most), rate: Rate::new(Instant::now()), out: 0, turns: 0, full: false };
        Self { state: Mutex::new(state), door: tokio::sync::Mutex::default(), left: Notify::new() }
    }

    /// Waits for the turn of one more request.
    pub(super) async fn turn(&self, gate: &Gate) -> Turn<'_> {
        let _next = self.door.lock().await;
        loop {
            if let Some(pause) = gate.shut_for() {
                tokio::time::sleep(pause).await;
                continue;
            }
            let wait = {
                let mut state = self.state();
                let early = state.rate.next().saturating_duration_since(Instant::now());
                state.full = state.out >= state.window.size();
                if state.full {
                    None
                } else {
                    match early.saturating_sub(AHEAD) {
                        Duration::ZERO => return self.give(&mut state),
                        early => Some(early),
                    }
                }
            };
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => self.left.notified().await,
            }
        }
    }

    fn give(&self, state: &mut State) -> Turn<'_> {
        let (at, cycle) = state.rate.send(Instant::now());
        state.out += 1;
        state.turns += 1;
        Turn { pacing: self, number: state.turns - 1, cycle, at }
    }

    /// Nothing can be sent now, to nobody's fault here: one request at a time finds out when that changes.
    pub(super) fn feel_the_way(&self) {
        self.state().window.feel_the_way();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits for its moment. Gives whether it is good: by then the gate may be shut.
    pub(super) async fn moment(&self, gate: &Gate) -> bool {
        let out = self.pacing.state().rate.out(self.at, Instant::now());
        if out > Instant::now() {
            tokio::time::sleep_until(out).await;
        }
        gate.shut_for().is_none()
    }

    /// The request does not go out now.
    pub(super) fn unsent(self) {
        self.pacing.state().rate.unsent(self.cycle);
    }

    /// The request was answered, whatever the answer says.
    pub(super) fn answered(self, took: Duration) {
        let mut state = self.pacing.state();
        let (next, full) = (state.turns, state.full);
        state.window.answered(self.number, next, took, full);
    }

    /// The upstream takes no more requests for the moment.
    pub(super) fn limited(self) {
        let mut state = self.pacing.state();
        let next = state.turns;
        if state.rate.refused(Instant::now(), self.cycle) {
            state.window.overloaded(self.number, next);
        }
    }

    /// The upstream could not do it, or not in time.
    pub(super) fn overloaded(self) {
        let mut state = self.pacing.state();
        let next = state.turns;
        state.window.overloaded(self.number, next);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pacing.state().out -= 1;
        self.pacing.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_wait_for_room_and_for_the_gate() {
        let (pacing, gate) = (Pacing::new(2), Gate::default());
        let first = pacing.turn(&gate).await;
        let _second = pacing.turn(&gate).await;
        assert!(tokio::time::timeout(Duration::from_secs(60), pacing.turn(&gate)).await.is_err(), "there is no room");
        first.answered(Duration::from_secs(1));
        let third = pacing.turn(&gate).await;
        let began = Instant::now();
        gate.shut(Some(Duration::from_secs(7)));
        assert!(!third.moment(&gate).await, "it came too late");
        third.unsent();
        let fourth = pacing.turn(&gate).await;
        assert!(began.elapsed() >= Duration::from_secs(7) && fourth.moment(&gate).await);
    }

    /// How many times the ideal time it takes to get requests through a limit when many tasks try, each as often as it takes.
    #[tokio::test(start_paused = true)]
    async fn many_tasks_use_a_limit_to_the_full() {
        const REQUESTS: u32 = 2_000;
        const PER_SECOND: f64 = 100.0;
        let (pacing, gate) = (Arc::new(Pacing::new(64)), Arc::new(Gate::default()));
        // What a client may have saved up, and when that was.
        let saved = Arc::new(Mutex::new((PER_SECOND, Instant::now())));
        let began = Instant::now();
        let tasks: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let (pacing, gate, saved) = (pacing.clone(), gate.clone(), saved.clone());
                tokio::spawn(async move {
                    loop {
                        let turn = pacing.turn(&gate).await;
                        if !turn.moment(&gate).await {
                            turn.unsent();
                            continue;
                        }
                        let is_let_in = {
                            let mut saved = saved.lock().unwrap();
                            let earned = saved.1.elapsed().as_secs_f64() * PER_SECOND;
                            *saved = ((saved.0 + earned).min(PER_SECOND), Instant::now());
                            saved.0 -= if saved.0 >= 1.0 { 1.0 } else { return_soon(&gate) };
                            gate.shut_for().is_none()
                        };
                        if !is_let_in {
                            turn.limited();
                            continue;
                        }
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        turn.answered(Duration::from_millis(300));
                        return;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let ideal = f64::from(REQUESTS) / PER_SECOND - 1.0;
        let ratio = began.elapsed().as_secs_f64() / ideal;
        assert!(ratio < 1.2, "{ratio}");
    }

    /// Turns a request away for a second, at no cost to what is saved up.
    fn return_soon(gate: &Gate) -> f64 {
        gate.shut(Some(Duration::from_secs(1)));
        0.0
    }
}
