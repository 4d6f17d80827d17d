//! How many requests may be at the upstream at a time.
//!
//! In: how long answers took, and which requests failed as they do when there are too many. Out: a number between 1 and
//! the most that is allowed.
//!
//! It doubles with each round of answers until the first sign of trouble, then grows by a few with each round. It falls
//! by a third when more fails than is tolerated (see [`Share`]), and in proportion when the quicker answers take
//! several times as long as they did when there were few requests: more at a time would only wait longer. The quicker
//! ones, because long answers take long anyway.
//!
//! After each fall the next round shows whether it has helped. If not, the upstream is as it is, and the window is what
//! it was.
//!
//! Invariant: what went out before a fall does not make it fall again.

use std::time::Duration;

use super::share::{Effect, Share};

/// Requests at the start.
const FIRST: f64 = 8.0;

/// What is left by an overload.
const FALL: f64 = 0.7;

/// What is left at least by slow answers.
const SLOW_FALL: f64 = 0.25;

/// Growth with each round of answers, once there was trouble: this share, and at least one.
const GROWTH: f64 = 0.05;

/// Answers that are looked at together, at least; more when the window is larger.
const LEAST: f64 = 16.0;

/// Answers that are looked at together, at most.
const MOST: f64 = 64.0;

/// One in so many answers is a quicker one: the slowest of these is compared.
const QUICKER: usize = 4;

/// How many times as long as usual stop the growth.
const STOPS: f64 = 3.0;

/// How many times as long as usual make it fall.
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
    /// The size before the last fall, to which it goes back when that was in vain.
    before: f64,
    share: Share,
    /// The usual time of the quicker answers, in seconds.
    usual: f64,
    /// How many times as long as usual they took in the last round.
    slowness: f64,
    /// The time that they took when the window fell because of it, and what it should be since.
    slow_trial: Option<(f64, f64)>,
    round: Round,
}

/// What came back since the last look.
#[derive(Debug)]
struct Round {
    /// How much must come back before the next.
    wanted: f64,
    seconds: Vec<f64>,
    came: u32,
    failed: u32,
}

impl Round {
    /// One of requests of which so many are at the upstream at a time.
    fn new(size: f64) -> Self {
        Self { wanted: size.clamp(LEAST, MOST), seconds: Vec::new(), came: 0, failed: 0 }
    }

    /// How long the quicker answers took.
    fn quicker(&mut self) -> Option<f64> {
        let place = self.seconds.len() / QUICKER;
        let seconds = &mut self.seconds;
        let (_, quicker, _) = (!seconds.is_empty()).then(|| seconds.select_nth_unstable_by(place, f64::total_cmp))?;
        Some(quicker.max(SHORT))
    }
}

impl Window {
    pub(super) fn new(most: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let most = most.max(1) as f64;
        Self {
            most,
            size: FIRST.min(most),
            doubling: true,
            fallen_at: 0,
            before: most,
            share: Share::default(),
            usual: f64::INFINITY,
            slowness: 1.0,
            slow_trial: None,
            round: Round::new(FIRST.min(most)),
        }
    }

    /// Requests that may be at the upstream.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to a few hundred")]
    pub(super) fn size(&self) -> usize {
        self.size as usize
    }

    /// The request with this number was answered after `took`; the next will have the number `next`. `full` says that
    /// the window was what held others back.
    pub(super) fn answered(&mut self, number: u64, next: u64, took: Duration, full: bool) {
        if number >= self.fallen_at {
            self.round.seconds.push(took.as_secs_f64());
        }
        if full && self.slowness <= STOPS && !self.is_on_trial() && !self.share.is_suspicious() {
            let growth = if self.doubling { 1.0 } else { (self.size * GROWTH).max(1.0) / self.size };
            self.size = (self.size + growth).min(self.most);
        }
        self.came(number, next, false);
    }

    /// The upstream was overloaded when the request with this number came.
    pub(super) fn overloaded(&mut self, number: u64, next: u64) {
        self.came(number, next, true);
    }

    /// Nothing can be sent now: one request will find out when that changes.
    pub(super) fn feel_the_way(&mut self) {
        (self.size, self.doubling) = (1.0, true);
    }

    fn is_on_trial(&self) -> bool {
        self.share.is_on_trial() || self.slow_trial.is_some()
    }

    fn came(&mut self, number: u64, next: u64, failed: bool) {
        if number < self.fallen_at {
            return;
        }
        self.round.came += 1;
        self.share.sent();
        if failed {
            self.round.failed += 1;
            self.share.refused();
        }
        if self.share.is_excessive() {
            self.judge(next);
            if number >= self.fallen_at {
                self.overload(next);
            }
        } else if f64::from(self.round.came) >= self.round.wanted {
            self.look(next);
        }
    }

    /// More fails than is tolerated.
    fn overload(&mut self, next: u64) {
        if !self.share.is_unclear() {
            self.before = self.size;
        }
        self.share.slowed(f64::from(self.round.failed) / f64::from(self.round.came));
        self.fall(next, FALL);
    }

    /// Finds out whether fewer requests at a time have made failures fewer, if that is to be found out.
    fn judge(&mut self, next: u64) {
        if !self.share.is_on_trial() {
            return;
        }
        match self.share.after_slowing(f64::from(self.round.failed) / f64::from(self.round.came)) {
            Effect::Nothing => self.go_back(next),
            Effect::Unclear => self.overload(next),
            Effect::Helped | Effect::Worse => {}
        }
    }

    /// Looks at a round of answers.
    fn look(&mut self, next: u64) {
        if self.share.is_on_trial() && !self.share.is_decided(f64::from(self.round.came)) {
            return;
        }
        self.judge(next);
        let came = f64::from(self.round.came);
        if came > 0.0 {
            self.share.usual(f64::from(self.round.failed) / came, came);
        }
        let quicker = self.round.quicker();
        self.round = Round::new(self.size);
        let Some(quicker) = quicker else { return };
        if let Some((slow, wanted)) = self.slow_trial.take()
            && quicker > slow.midpoint(wanted)
        {
            // They are longer, that is all.
            self.usual = quicker;
            self.slowness = 1.0;
            return self.go_back(next);
        }
        self.usual = (self.usual * (1.0 + FORGETTING * came / self.size)).min(quicker);
        self.slowness = quicker / self.usual;
        self.doubling &= self.slowness <= STOPS;
        if self.slowness > TURNS && self.size > 1.0 {
            let left = (STOPS / self.slowness).max(SLOW_FALL);
            self.before = self.size;
            self.slow_trial = Some((quicker, quicker * left));
            self.fall(next, left);
        }
    }

    fn fall(&mut self, next: u64, left: f64) {
        self.size = (self.size * left).max(1.0);
        (self.fallen_at, self.doubling) = (next, false);
        self.round = Round::new(self.size);
    }

    /// The last fall was in vain.
    fn go_back(&mut self, next: u64) {
        self.size = self.size.max(self.before);
        self.fallen_at = next;
        self.round = Round::new(self.size);
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

    /// The same, and every `nth` fails.
    fn failing_round(window: &mut Window, number: &mut u64, nth: u64) {
        let size = window.size() as u64;
        let next = *number + size;
        while *number < next {
            if number.is_multiple_of(nth) {
                window.overloaded(*number, next);
            } else {
                window.answered(*number, next, QUICK, true);
            }
            *number += 1;
        }
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
        number += 50;
        (0..3).for_each(|_| round(&mut window, &mut number, QUICK));
        assert!((71..=85).contains(&window.size()), "{}", window.size());
    }

    #[test]
    fn a_share_of_failures_that_does_not_depend_on_it_changes_nothing() {
        for nth in [50, 20, 5] {
            let (mut window, mut number) = (Window::new(64), 0);
            let mut least = 64;
            for count in 0..200 {
                failing_round(&mut window, &mut number, nth);
                least = least.min(if count < 100 { 64 } else { window.size() });
            }
            assert!(least >= 44, "every {nth}th: {least}");
        }
    }

    #[test]
    fn an_upstream_that_fails_when_it_has_more_than_it_can_take_is_given_less() {
        let (mut window, mut number) = (Window::new(512), 0);
        let (mut sum, mut failed) = (0, 0);
        for count in 0..300 {
            let size = window.size() as u64;
            for one in 0..size {
                if one >= 40 {
                    window.overloaded(number + one, number + size);
                } else {
                    window.answered(number + one, number + size, QUICK, true);
                }
            }
            number += size;
            if count >= 100 {
                (sum, failed) = (sum + size, failed + size.saturating_sub(40));
            }
        }
        assert!((30..50).contains(&(sum / 200)) && failed < sum / 8, "{sum} {failed}");
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
    fn answers_that_take_longer_whatever_their_number_are_waited_for() {
        let (mut window, mut number) = (Window::new(64), 0);
        (0..10).for_each(|_| round(&mut window, &mut number, QUICK));
        (0..10).for_each(|_| round(&mut window, &mut number, QUICK * 20));
        assert_eq!(window.size(), 64);
        // Some long ones among many short ones are no sign at all.
        for count in 0..2000 {
            window.answered(number, number + 64, if count % 8 == 0 { QUICK * 50 } else { QUICK }, true);
            number += 1;
        }
        assert_eq!(window.size(), 64);
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
