//! The throttle that every call to the API passes: when the service asks for a pause, all calls pause together.
//!
//! In: the responses' headers about when to retry. Out: a delay before each call. If a service says nothing usable, a
//! default backoff is used, which grows each time it throttles again, and is reset by the first success.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use crate::remote::retry::Backoff;

/// Maximum pause, whatever the service asks for.
pub const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// After a pause, the start of the waiting calls is spread over this time.
pub const SPREAD: Duration = Duration::from_secs(1);

/// The default backoff, when the service throttles without saying for how long.
const OWN_PAUSE: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_mins(1) };

/// `x-ratelimit-reset` at or above this many seconds is a point in time (Unix time, 2001 or later), not a duration.
const EPOCH_FROM: f64 = 1e9;

/// See the module.
#[derive(Debug, Default)]
pub struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paused_until: Option<Instant>,
    limited_in_a_row: u32,
}

impl Throttle {
    /// Waits until calls may be sent. Returns at once while there is no pause.
    pub async fn wait(&self) {
        let mut waited = false;
        loop {
            let until = self.state().paused_until.filter(|until| *until > Instant::now());
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None if waited => {
                    tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
                    waited = false; // Another call may have started a pause in the meantime: check again.
                    continue;
                }
                None => return,
            }
            waited = true;
        }
    }

    /// Pauses all calls, for as long as the service asked or else for a default backoff. Never shortens a pause.
    /// Returns how long it lasts from now. Calls that were in flight when it began carry no new information: the
    /// default backoff grows only with those that are sent after the last pause.
    pub fn pause(&self, asked: Option<Duration>) -> Duration {
        let mut state = self.state();
        let now = Instant::now();
        let left = state.paused_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero());
        let own = || left.unwrap_or_else(|| OWN_PAUSE.wait(state.limited_in_a_row));
        let pause = asked.unwrap_or_else(own).min(LONGEST_PAUSE);
        if left.is_none() {
            state.limited_in_a_row = state.limited_in_a_row.saturating_add(1);
        }
        let until = now + pause;
        state.paused_until = state.paused_until.max(Some(until));
        pause
    }

    /// How long the pause lasts from now; `None` without one.
    #[must_use]
    pub fn paused_for(&self) -> Option<Duration> {
        let until = self.state().paused_until?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Records that the service accepted a call, which resets the backoff.
    pub fn succeeded(&self) {
        self.state().limited_in_a_row = 0;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a response asks to wait: `retry-after-ms`, else `retry-after` (seconds or a date), else
/// `x-ratelimit-reset`. The first valid one counts; malformed, zero, negative and past values do not. At most
/// [`LONGEST_PAUSE`]. Dates are compared with the response's own `Date`, because clocks differ.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |name: &str| text(name).and_then(|text| text.parse::<f64>().ok());
    let date = |name| text(name).and_then(|text| httpdate::parse_http_date(text).ok());
    let now = || date(DATE.as_str()).unwrap_or_else(SystemTime::now);

    let milliseconds = number("retry-after-ms").map(|value| value / 1000.0).and_then(span);
    let seconds = || number(RETRY_AFTER.as_str()).and_then(span);
    let moment =
        || date(RETRY_AFTER.as_str())?.duration_since(now()).ok().map(|wait| wait.as_secs_f64()).and_then(span);
    let reset = || {
        let value = number("x-ratelimit-reset")?;
        if value < EPOCH_FROM {
            return span(value);
        }
        span(value - now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    };
    milliseconds.or_else(seconds).or_else(moment).or_else(reset)
}

/// A number of seconds as a pause, if it is one.
fn span(seconds: f64) -> Option<Duration> {
    (seconds.is_finite() && seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_PAUSE.as_secs_f64())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        pairs.collect()
    }

    #[test]
    fn every_kind_of_retry_after_is_read() {
        let date = ("date", "Sun, 22 Nov 2026 09:00:00 GMT");
        for (pairs, seconds) in [
            (vec![("retry-after-ms", "1500"), ("retry-after", "9")], 1.5),
            (vec![("retry-after-ms", "soon"), ("retry-after", "9")], 9.0),
            (vec![("retry-after", " 0.25 ")], 0.25),
            (vec![date, ("retry-after", "Sun, 22 Nov 2026 09:00:42 GMT")], 42.0),
            (vec![("x-ratelimit-reset", "7")], 7.0),
            (vec![("retry-after", "garbage"), ("x-ratelimit-reset", "7")], 7.0),
            (vec![date, ("x-ratelimit-reset", "1795338010")], 10.0),
            (vec![("retry-after", "1000000000")], 3600.0),
            (vec![("retry-after", "1e300")], 3600.0),
        ] {
            assert_eq!(retry_after(&headers(&pairs)), Some(Duration::from_secs_f64(seconds)), "{pairs:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_answer() {
        for value in ["", "-1", "0", "NaN", "inf", "soon", "Sun, 22 Nov 2020 09:00:00 GMT", "\u{fc}ber"] {
            let pairs = [("date", "Sun, 22 Nov 2026 09:00:00 GMT"), ("retry-after", value)];
            assert_eq!(retry_after(&headers(&pairs)), None, "{value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_wait_for_the_longest_pause_asked() {
        let throttle = Throttle::default();
        let start = Instant::now();
        throttle.wait().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "without a pause calls go out at once");
        throttle.pause(Some(Duration::from_secs(40)));
        throttle.pause(Some(Duration::from_secs(10)));
        tokio::join!(throttle.wait(), throttle.wait());
        assert!(start.elapsed() >= Duration::from_secs(40));
        assert!(start.elapsed() <= Duration::from_secs(41) + SPREAD);
        assert_eq!(throttle.pause(Some(Duration::MAX)), LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_asked_for_while_others_start_holds_them_too() {
        let throttle = Throttle::default();
        let start = Instant::now();
        throttle.pause(Some(Duration::from_secs(5)));
        let again = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            throttle.pause(Some(Duration::from_secs(30)));
        };
        tokio::join!(throttle.wait(), again);
        assert!(start.elapsed() >= Duration::from_secs(35));
    }

    #[tokio::test(start_paused = true)]
    async fn own_pauses_grow_and_are_forgotten_after_a_success() {
        let throttle = Throttle::default();
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            longest = longest.max(throttle.pause(None));
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
        assert!(longest > Duration::from_secs(30));
        throttle.succeeded();
        assert!(throttle.pause(None) <= OWN_PAUSE.first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_limits_is_one() {
        let throttle = Throttle::default();
        for _ in 0..100 {
            assert!(throttle.pause(None) <= OWN_PAUSE.first);
        }
        assert!(throttle.paused_for().is_some_and(|left| left <= OWN_PAUSE.first));
    }
}
