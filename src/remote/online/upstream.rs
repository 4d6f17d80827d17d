//! The service that is asked, and what all batches share about it: its client, its pace, and whether it can be used.
//!
//! In: how requests ended. Out: when all of them pause, and when the service is given up.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{self, Client};
use super::first::{FirstAnswers, Suspicion};
use super::given_up;
use super::pacing::Pacing;
use crate::dialect::address::Address;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::http::client::SetupError;
use crate::remote::retry::{Notice, Observer, RetryPolicy};
use crate::remote::token::Token;

/// Requests in flight, unless the user says otherwise.
pub const CONCURRENCY: usize = 64;

/// The most requests that can be allowed in flight.
pub const CONCURRENCY_MAX: u16 = 512;

/// Batches that send new requests at a time: while the last answers of one are awaited, the next goes on.
pub const BATCHES: usize = 2;

/// Batches that are awaited at a time, those included of which some requests wait until they may be retried.
pub const OPEN_BATCHES: usize = 32;

/// Bytes of request bodies in memory. A longer line takes all of it.
pub const BODY_BYTES: usize = 32 << 20;

/// How long a process that stops waits for requests in flight. Those that have no answer by then count as sent again
/// later.
pub const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How often a request is tried before its failure is its error.
pub const ATTEMPTS: u32 = 4;

/// How often a request is refused, while others are answered, before that is its error: its size may be what is too
/// much.
pub const REFUSALS: u32 = 20;

/// An upstream that was never reached is given up after this long, where it is given up at all: its address may be
/// wrong.
pub const FIRST_PATIENCE: Duration = Duration::from_secs(15);

/// When requests are retried whose answers said that there is no API, where the upstream is not given up.
pub(super) const SUSPECTS_AGAIN: Duration = Duration::from_secs(10);

/// Shortest time between two notices.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The upstream, and how it is treated.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Where it is.
    pub address: Address,
    /// The key, if it wants one.
    pub token: Option<Token>,
    /// Most requests in flight; at most [`CONCURRENCY_MAX`].
    pub concurrency: usize,
    /// Longest wait for an answer, or for more of one.
    pub timeout: Duration,
    /// How often a request is retried.
    pub patience: RetryPolicy,
    /// When an upstream cannot be reached for this long, or lets nothing through, it is given up. It is at once when
    /// the key is not accepted, or there is no API. `None`: it is never given up.
    pub give_up_after: Option<Duration>,
    /// Hears of pauses and failures, not more than one in ten seconds.
    pub observer: Observer,
}

impl UpstreamOptions {
    /// An upstream that is treated as the constants of [`online`](super) say.
    #[must_use]
    pub fn new(address: Address, token: Option<Token>) -> Self {
        Self {
            address,
            token,
            concurrency: CONCURRENCY,
            timeout: client::ANSWER_TIMEOUT,
            patience: RetryPolicy { attempts: ATTEMPTS, rate_limited_attempts: REFUSALS, ..RetryPolicy::default() },
            give_up_after: None,
            observer: Observer::default(),
        }
    }
}

/// An OpenAI-compatible server that is asked request by request, and how it has fared with that so far. One is shared
/// by all batches that ask it.
#[derive(Debug)]
pub struct Upstream {
    pub(super) client: Client,
    pub(super) pacing: Pacing,
    pub(super) patience: RetryPolicy,
    /// Requests in hand: in flight, before their turn, or on their way to disk.
    pub(super) in_hand: usize,
    give_up_after: Option<Duration>,
    pub(super) observer: Observer,
    /// Bytes of bodies that are free.
    pub(super) bodies: Arc<Semaphore>,
    /// Batches that may begin to send.
    batches: Arc<Semaphore>,
    /// Batches that may begin at all.
    open_batches: Arc<Semaphore>,
    pub(super) first: FirstAnswers,
    /// Since when the upstream cannot be used, or has refused everything.
    trouble_since: Mutex<Option<Instant>>,
    was_reached: AtomicBool,
    failure: Mutex<Option<RemoteError>>,
    pub(super) failed: CancellationToken,
}

/// A batch may begin.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Held until it has ended.
    _open: OwnedSemaphorePermit,
    /// Held until each of its requests was sent once.
    pub(super) turn: Option<OwnedSemaphorePermit>,
}

impl Upstream {
    /// Makes the client of an upstream; nothing is sent yet.
    ///
    /// # Errors
    /// As for every client: a token does not cross a network in the clear.
    pub fn new(options: UpstreamOptions) -> Result<Self, SetupError> {
        let UpstreamOptions { address, token, concurrency, timeout, patience, give_up_after, observer } = options;
        let observer = calm(observer);
        let concurrency = concurrency.clamp(1, usize::from(CONCURRENCY_MAX));
        Ok(Self {
            client: Client::new(address, token, timeout, observer.clone())?,
            pacing: Pacing::new(concurrency),
            patience,
            in_hand: concurrency * 2,
            give_up_after,
            observer,
            bodies: Arc::new(Semaphore::new(BODY_BYTES)),
            batches: Arc::new(Semaphore::new(BATCHES)),
            open_batches: Arc::new(Semaphore::new(OPEN_BATCHES)),
            first: FirstAnswers::new(false),
            trouble_since: Mutex::default(),
            was_reached: AtomicBool::new(false),
            failure: Mutex::default(),
            failed: CancellationToken::new(),
        })
    }

    /// Waits until one more batch may begin. `None` where it is to send nothing any more: it need not wait for that.
    pub(crate) async fn admit(&self) -> Option<Admission> {
        let open = self.open_batches.clone().acquire_owned().await.ok()?;
        let turn = self.batches.clone().acquire_owned().await.ok()?;
        Some(Admission { _open: open, turn: Some(turn) })
    }

    /// There were answers in an earlier process: the address is right.
    pub(crate) fn prove(&self) {
        self.first.prove();
    }

    /// Waits until no batch can go on, and says why. Told once.
    pub(crate) async fn failed(&self) -> RemoteError {
        self.failed.cancelled().await;
        let error = self.failure().take();
        match error {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// No batch can go on. They stay where they are.
    pub(crate) fn fail(&self, error: RemoteError) {
        self.failure().get_or_insert(error);
        self.failed.cancel();
    }

    /// The upstream answered, and not with a refusal: whatever was wrong with it is over.
    pub(super) fn reached(&self) {
        *self.trouble_since() = None;
        self.was_reached.store(true, Relaxed);
    }

    /// The upstream cannot be used, by no request at all; all of them pause for `wait`.
    pub(super) fn trouble(&self, error: RemoteError, wait: Duration) {
        let since = *self.trouble_since().get_or_insert_with(Instant::now);
        self.observer.tell(&Notice::Retrying { error: &error, attempt: 1, wait });
        let Some(patience) = self.give_up_after else { return };
        let patience = if self.was_reached.load(Relaxed) { patience } else { patience.min(FIRST_PATIENCE) };
        let may_pass = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::OutOfFiles);
        if !may_pass || since.elapsed() >= patience {
            self.fail(error);
        }
    }

    /// The upstream refused a request; `pause` is how long all of them pause, if that is why. Gives whether patience
    /// has come to an end.
    pub(super) fn refused(&self, pause: Option<Duration>) -> bool {
        let since = *self.trouble_since().get_or_insert_with(Instant::now);
        if let Some(wait) = pause {
            self.observer.tell(&Notice::Paused { wait });
        }
        self.give_up_after.is_some_and(|patience| since.elapsed() >= patience)
    }

    /// The upstream has let nothing through for too long, and said this in the end.
    pub(super) fn give_up(&self, error: RemoteError) {
        self.fail(given_up::refuses(self.client.address(), self.give_up_after.unwrap_or_default(), error));
    }

    /// The account at the upstream has nothing left; all requests pause for `wait`.
    pub(super) fn spent(&self, error: RemoteError, wait: Duration) {
        self.observer.tell(&Notice::Retrying { error: &error, attempt: 1, wait });
        if self.give_up_after.is_some() {
            self.fail(given_up::spent(self.client.address(), error));
        }
    }

    /// Whether an answer that raises this suspicion is held back.
    pub(super) fn suspects(&self, suspicion: Suspicion) -> bool {
        // Where the upstream is never given up, a batch must not wait for ever because of what its own requests ask
        // for.
        let counts = suspicion == Suspicion::Strong || self.give_up_after.is_some();
        counts && !self.first.is_proven()
    }

    /// So many answers said that there is no API, as `error` does.
    pub(super) fn condemn(&self, answers: usize, error: RemoteError) {
        self.observer.tell(&Notice::Retrying { error: &error, attempt: 1, wait: SUSPECTS_AGAIN });
        if self.give_up_after.is_some() {
            self.fail(given_up::wrong_address(self.client.address(), answers, error));
        }
    }

    fn trouble_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.trouble_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<RemoteError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An observer that is told less: hundreds of requests have the same to say.
fn calm(observer: Observer) -> Observer {
    let last = Mutex::new(None::<Instant>);
    Observer::new(move |notice| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= TOLD_EVERY) {
            *last = Some(Instant::now());
            observer.tell(notice);
        }
    })
}
