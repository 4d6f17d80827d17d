//! When a call is repeated, how often, and how long between.
//!
//! In: the errors of one operation's attempts. Out: a wait before the next, or the error back when it is final.
//! Only operations that are safe to repeat use this; creating a batch does not (see [`super::service::Submission`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{ErrorKind, RemoteError};

/// How often one operation is tried before its error is given back.
pub const ATTEMPTS: u32 = 6;

/// How often one operation is tried when all that stands against it is a rate limit: its waits are at the throttle, and
/// giving up would lose the turn.
pub const RATE_LIMITED_ATTEMPTS: u32 = 100;

/// After this time no further attempt is begun, however few there were. Time at the throttle and in transfers counts.
pub const LONGEST_TRYING: Duration = Duration::from_hours(4);

/// The waits between attempts.
pub const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_mins(1) };

/// Exponential waits with full jitter: between nothing and twice as much each time.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// The longest of all waits.
    pub longest: Duration,
}

impl Backoff {
    /// A wait after `failures` earlier ones.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Duration {
        let most = self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.longest);
        most.mul_f64(fastrand::f64())
    }
}

/// How patient the operations are. The default is made of the constants of this module.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Attempts in all.
    pub attempts: u32,
    /// Attempts in all when each was turned away by a rate limit.
    pub rate_limited_attempts: u32,
    /// No attempt begins later than this after the first.
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

/// Something that happened on the way and is no error of the operation.
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
    /// The service asked for a pause, or limited us without saying for how long: all calls wait.
    Paused {
        /// For how long.
        wait: Duration,
    },
    /// The service accepted, with a remark.
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

/// Hears the notices. Called on the task that makes the call: it must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&Notice<'_>) + Send + Sync>);

impl Observer {
    /// An observer that calls `hear`.
    pub fn new(hear: impl Fn(&Notice<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    pub(crate) fn tell(&self, notice: &Notice<'_>) {
        (self.0)(notice);
    }
}

impl Default for Observer {
    /// Hears nothing.
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

    /// Forgets the failures so far: the operation has come on so much that they do not count against it any more.
    pub(super) fn renew(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt after `error`, or gives it back when it is final.
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
        // A rate limit is waited for at the throttle, together with everybody else.
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
