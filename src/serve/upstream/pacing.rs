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
const AHEAD: Duration = Duration::from_millis(50);

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
    /// The moment to send.
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
        if self.at > Instant::now() {
            tokio::time::sleep_until(self.at).await;
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
