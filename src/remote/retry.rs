//! Retries: when, how often, and with which backoff.
//!
//! In: the errors of one operation's attempts. Out: a delay before the next attempt, or the error if it is final.
//!
//! Invariants: only idempotent operations are retried; creating a batch is not (see [`super::service::Submission`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{ErrorKind, RemoteError};

/// Maximum attempts of an operation before its error is returned.
pub const ATTEMPTS: u32 = 6;

/// Maximum attempts of an operation that only fails because of a rate limit: it waits at the throttle, and giving up
/// would lose its turn.
pub const RATE_LIMITED_ATTEMPTS: u32 = 100;

/// After this time no further attempt is started, however few there were. Time at the throttle and in transfers counts.
pub const LONGEST_TRYING: Duration = Duration::from_hours(4);

/// The backoff between attempts.
pub const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_mins(1) };

/// Exponential backoff with full jitter: a random delay up to a maximum that doubles each time.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The maximum of the first delay.
    pub first: Duration,
    /// The maximum of all delays.
    pub longest: Duration,
}

impl Backoff {
    /// A random delay after `failures` earlier ones.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Duration {
        let most = self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.longest);
        most.mul_f64(fastrand::f64())
    }
}

/// The retry policy of operations. The default consists of the constants of this module.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Maximum attempts in total.
    pub attempts: u32,
    /// Maximum attempts in total if each was rejected by a rate limit.
    pub rate_limited_attempts: u32,
    /// No attempt starts later than this after the first.
    pub longest: Duration,
    /// The waits between.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: ATTEMPTS,
            rate_limited_attempts: RATE_LIMITED_ATTEMPTS,
            longest: LONGEST_TRYING,
            backoff: BACKOFF,
        }
    }
}

/// An event during an operation that is not an error of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// An attempt failed; another follows.
    Retrying {
        /// Why the attempt failed.
        error: &'a RemoteError,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// How long until the next one, apart from waiting at the throttle.
        wait: Duration,
    },
    /// The service throttles us, with or without saying for how long: all calls wait.
    Paused {
        /// For how long.
        wait: Duration,
    },
    /// The service accepted, with a warning.
    Warning {
        /// Its words, cleaned.
        text: &'a str,
    },
}

impl fmt::Display for Notice<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retrying { error, attempt, wait } => {
                write!(formatter, "{error}; attempt {} follows in {:.1} s", attempt + 1, wait.as_secs_f64())
            }
            Self::Paused { wait } => write!(formatter, "the service asks for a pause of {:.1} s", wait.as_secs_f64()),
            Self::Warning { text } => write!(formatter, "the service remarks: {text}"),
        }
    }
}

/// Receives the notices. Called on the task that makes the call: it must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&Notice<'_>) + Send + Sync>);

impl Observer {
    /// An observer that calls the callback `hear`.
    pub fn new(hear: impl Fn(&Notice<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    pub(crate) fn tell(&self, notice: &Notice<'_>) {
        (self.0)(notice);
    }
}

impl Default for Observer {
    /// Ignores all notices.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observer")
    }
}

/// The attempts of one operation.
///
/// ```text
/// let mut attempts = Attempts::new(retry, observer);
/// loop {
///     match operation().await {
///         Ok(value) => return Ok(value),
///         Err(error) => attempts.after(error).await?,
///     }
/// }
/// ```
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    retry: &'a RetryPolicy,
    observer: &'a Observer,
    begun: Instant,
    failed: u32,
    rate_limited: u32,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(retry: &'a RetryPolicy, observer: &'a Observer) -> Self {
        Self { retry, observer, begun: Instant::now(), failed: 0, rate_limited: 0 }
    }

    /// Resets the count of failures: the operation has made enough progress.
    pub(super) fn renew(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt after `error`, or returns it if it is final.
    pub(crate) async fn after(&mut self, error: RemoteError) -> Result<(), RemoteError> {
        let (count, most) = if error.kind() == ErrorKind::RateLimited {
            (&mut self.rate_limited, self.retry.rate_limited_attempts)
        } else {
            (&mut self.failed, self.retry.attempts)
        };
        *count += 1;
        if !error.is_transient() || *count >= most || self.begun.elapsed() >= self.retry.longest {
            return Err(error);
        }
        // A rate limit is waited for at the throttle, together with all other calls.
        let wait = if error.kind() == ErrorKind::RateLimited {
            Duration::ZERO
        } else {
            self.retry.backoff.wait(*count - 1).max(error.retry_after().unwrap_or_default())
        };
        self.observer.tell(&Notice::Retrying { error: &error, attempt: self.failed + self.rate_limited, wait });
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn unavailable() -> RemoteError {
        RemoteError::new(ErrorKind::Unavailable, "GET http://127.0.0.1/")
    }

    #[test]
    fn waits_double_up_to_their_cap_and_are_spread_below_it() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(8) };
        for (failures, most) in [(0, 1), (1, 2), (3, 8), (9, 8), (u32::MAX, 8)] {
            let waits: Vec<_> = (0..500).map(|_| backoff.wait(failures)).collect();
            assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(most)));
            assert!(waits.iter().any(|wait| *wait > Duration::from_secs(most) / 2));
            assert!(waits.iter().any(|wait| *wait < Duration::from_secs(most) / 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_with_the_error_and_each_retry_is_told() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        let observer = Observer::new(move |notice| {
            if let Notice::Retrying { attempt, .. } = notice {
                ears.lock().unwrap().push(*attempt);
            }
        });
        let retry = RetryPolicy::default();
        let mut attempts = Attempts::new(&retry, &observer);
        let mut made = 1;
        while attempts.after(unavailable()).await.is_ok() {
            made += 1;
        }
        assert_eq!(made, ATTEMPTS);
        assert_eq!(*heard.lock().unwrap(), (1..ATTEMPTS).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_final_or_too_late_is_not_repeated() {
        let (retry, observer) = (RetryPolicy::default(), Observer::default());
        let refused = RemoteError::new(ErrorKind::Refused, "GET /");
        assert!(Attempts::new(&retry, &observer).after(refused).await.is_err());
        let mut attempts = Attempts::new(&retry, &observer);
        tokio::time::sleep(LONGEST_TRYING).await;
        assert!(attempts.after(unavailable()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_asked_by_the_service_is_kept() {
        let (retry, observer) = (RetryPolicy::default(), Observer::default());
        let start = Instant::now();
        let error = unavailable().with_retry_after(Some(Duration::from_secs(90)));
        Attempts::new(&retry, &observer).after(error).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limits_do_not_use_up_the_attempts() {
        let (retry, observer) = (RetryPolicy::default(), Observer::default());
        let mut attempts = Attempts::new(&retry, &observer);
        for _ in 0..ATTEMPTS * 3 {
            attempts.after(RemoteError::new(ErrorKind::RateLimited, "GET /")).await.unwrap();
        }
    }
}
