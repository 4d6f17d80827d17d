//! How many requests may be at the upstream at a time.
//!
//! In: how long answers took, and signs that it was too much. Out: a number between 1 and the most that is allowed.
//!
//! It doubles with each round of answers until the first sign of trouble, then grows by a few with each round, and falls by a
//! third when the upstream is overloaded. Answers that take several times as long as they did when there were few of them
//! stop the growth, and then turn it around: more at a time would only wait longer.
//!
//! What always holds: what went out before a fall does not make it fall again.

use std::time::Duration;

/// Requests at the start.
const FIRST: f64 = 8.0;

/// What is left by an overload.
const FALL: f64 = 0.7;

/// What is left by a round of slow answers.
const SLOW_FALL: f64 = 0.9;

/// Growth with each round of answers, once there was trouble: this share, and at least one.
const GROWTH: f64 = 0.05;

/// Weight of one answer in the smoothed time of answers.
const WEIGHT: f64 = 0.1;

/// How many times as long as usual stop the growth.
const STOPS: f64 = 3.0;

/// How many times as long as usual turn it around.
const TURNS: f64 = 4.0;

/// How fast the usual time gives way to a longer one, with each round of answers.
const FORGETTING: f64 = 0.005;

/// Shorter times than this are all the same, in seconds.
const SHORT: f64 = 0.1;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    most: f64,
    size: f64,
    doubling: bool,
    /// Requests from this number on went out after the last fall.
    fallen_at: u64,
    smoothed: Option<f64>,
    usual: f64,
}

impl Window {
    pub(super) fn new(most: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let most = most.max(1) as f64;
        Self { most, size: FIRST.min(most), doubling: true, fallen_at: 0, smoothed: None, usual: f64::INFINITY }
    }

    /// Requests that may be at the upstream.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to a few hundred")]
    pub(super) fn size(&self) -> usize {
        self.size as usize
    }

    /// The request with this number was answered after `took`; the next will have the number `next`. `full` says that the
    /// window was what held others back.
    pub(super) fn answered(&mut self, number: u64, next: u64, took: Duration, full: bool) {
        let took = took.as_secs_f64().max(SHORT);
        let smoothed = self.smoothed.map_or(took, |smoothed| smoothed + (took - smoothed) * WEIGHT);
        self.smoothed = Some(smoothed);
        self.usual = (self.usual * (1.0 + FORGETTING / self.size)).min(smoothed);
        if smoothed > self.usual * STOPS {
            self.doubling = false;
            if smoothed > self.usual * TURNS {
                self.fall(number, next, SLOW_FALL);
            }
        } else if full {
            let growth = if self.doubling { 1.0 } else { (self.size * GROWTH).max(1.0) / self.size };
            self.size = (self.size + growth).min(self.most);
        }
    }

    /// The upstream was overloaded when the request with this number came.
    pub(super) fn overloaded(&mut self, number: u64, next: u64) {
        self.fall(number, next, FALL);
    }

    /// Nothing can be sent now: one request will find out when that changes.
    pub(super) fn feel_the_way(&mut self) {
        (self.size, self.doubling) = (1.0, true);
    }

    fn fall(&mut self, number: u64, next: u64, left: f64) {
        if number >= self.fallen_at {
            self.size = (self.size * left).max(1.0);
            (self.fallen_at, self.doubling) = (next, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(200);

    /// Lets as many requests as fit be answered, each after `took`.
    fn round(window: &mut Window, number: &mut u64, took: Duration) {
        let size = window.size() as u64;
        for one in 0..size {
            window.answered(*number + one, *number + size, took, true);
        }
        *number += size;
    }

    #[test]
    fn it_doubles_up_to_the_most_and_falls_once_for_a_burst() {
        let (mut window, mut number) = (Window::new(100), 0);
        for expected in [8, 16, 32, 64, 100, 100] {
            assert_eq!(window.size(), expected);
            round(&mut window, &mut number, QUICK);
        }
        for late in 0..50 {
            window.overloaded(number + late, number + 50);
        }
        assert_eq!(window.size(), 70);
        round(&mut window, &mut number, QUICK);
        assert!((71..=75).contains(&window.size()), "{}", window.size());
    }

    #[test]
    fn slow_answers_stop_the_growth_and_slower_ones_turn_it_around() {
        let (mut window, mut number) = (Window::new(1000), 0);
        for _ in 0..3 {
            round(&mut window, &mut number, QUICK);
        }
        // An upstream that works on 64 at a time, and lets the others wait.
        let mut largest = 0;
        for _ in 0..60 {
            let waits = QUICK.mul_f64((f64::from(u32::try_from(window.size()).unwrap()) / 64.0).max(1.0));
            round(&mut window, &mut number, waits);
            largest = largest.max(window.size());
        }
        assert!((128..400).contains(&largest), "{largest}");
    }

    #[test]
    fn it_does_not_grow_while_something_else_holds_requests_back_and_is_never_empty() {
        let mut window = Window::new(100);
        for number in 0..100 {
            window.answered(number, number + 1, QUICK, false);
        }
        assert_eq!(window.size(), 8);
        for number in 100..200 {
            window.overloaded(number, number + 1);
        }
        assert_eq!(window.size(), 1);
        assert_eq!(Window::new(0).size(), 1);
    }
}
