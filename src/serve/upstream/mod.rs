//! Answers batches with an OpenAI-compatible server instead of an echo, so that a service without a Batch API has one.
//!
//! In: a batch whose input was checked. Out: its result files, with what the upstream answered.
//!
//! Each request is `POST {upstream}{endpoint}` with the line's `body` as it stands; the answer's body is put into the row as it
//! came, but for line ends between its tokens, which become spaces. A request that failed is a row of the error file with
//! `"error":{"code":"http_503","message":…}`, and `response.status_code` and `response.body` where there was an answer; in OpenAI's dialect
//! an answer in JSON stands for itself, without an `error` beside it.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `executor` | a batch: what is left of it, and its result files when it is done |
//! | `sender`, `queue` | its requests: which is next, and what becomes of those that come back |
//! | `request` | one attempt: from its turn to its row, or to when it is tried again |
//! | `first` | whether the first answers say that the address is right |
//! | `rows` | how answers and failures look in result files |
//! | `pacing` | when the next request may go: how many at a time, how many a second, and when nobody |
//! | `journal`, `writer` | what is on disk about requests that went out and came back |
//!
//! # What is sent, and when
//!
//! The requests of at most [`BATCHES`] batches go out together, in input order. How many are at the upstream at a time adapts to
//! how it does: up to [`UpstreamOptions::concurrency`], fewer when it is overloaded or slow.
//!
//! A request that is refused (429, 503, 529) waits as long as its answer asks for (`Retry-After`), and nobody else does. When more is
//! refused than is tolerated, the pace falls to what was let in, and grows again; refusals that do not depend on the pace do not
//! slow it down. When nothing is let in any more, everybody pauses, as long as was asked, and one request at a time finds
//! out whether that is over. A run ends when that takes longer than [`UpstreamOptions::give_up_after`].
//!
//! A request that is refused [`REFUSALS`] times while others are answered ends as an error; so does one whose answer does not come, whose
//! connection breaks, or that the upstream could not answer for another reason, after [`ATTEMPTS`]. An upstream that cannot be
//! reached, or does not accept the key, is no request's error: one request at a time finds out when that has changed. Nor is an address
//! that is wrong: [`FIRST_ANSWERS`] first answers that say so end a run.
//!
//! # What always holds
//!
//! - A request is at the upstream once at a time. Before it goes out, that it does is on disk, and before it counts as done, its row is:
//!   in `journal/BATCH.journal`, which is removed when the result files are there.
//! - After a kill or a power cut the next server on the directory goes on with what the journal has no row for. What was
//!   at the upstream in that moment is sent a second time; how many requests that were is counted ([`Again`]). Nothing else
//!   is sent twice, except on a refusal, or when an answer was lost on its way, which is counted too.
//! - With an upstream, the directory's records and files are synced as they come to be: what a client was told survives a power
//!   cut.
//! - A server that stops lets requests that are out come home for [`LAST_ANSWERS`]; a batch that is cancelled, or whose
//!   completion window ends (in OpenAI's dialect), for as long as they take, and sends no other. What is done is returned; in OpenAI's
//!   dialect a row in the error file says of each other request that it was not executed.
//! - The key goes to the upstream's address alone. A client of the server names an endpoint of
//!   [`ENDPOINTS`](crate::remote::online::ENDPOINTS), never an address.
//! - Memory does not grow with a batch, but for two bits and 16 bytes for each of its lines: bodies that are out take
//!   [`BODY_BYTES`], answers what [`online`] says, whatever their number.

mod executor;
mod first;
mod journal;
mod pacing;
mod queue;
mod request;
mod rows;
mod sender;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::first::{FIRST_ANSWERS, Hopeless};
pub use self::journal::JournalError;

pub(super) use self::executor::execute;

use self::first::{FirstAnswers, Suspicion};
use self::pacing::Pacing;
use super::error::ServeError;
use super::store::Store;
use crate::remote::{Address, ErrorKind, Notice, Observer, Online, RemoteError, RetryPolicy, Token, online};
use crate::storage::durable;
use crate::storage::durable::FileError;

/// Requests at the upstream at a time, unless the user says otherwise.
pub const CONCURRENCY: usize = 64;

/// The most requests that can be allowed at the upstream at a time.
pub const CONCURRENCY_MAX: u16 = 512;

/// Batches that send new requests at a time: while the last answers of one are awaited, the next goes on.
pub const BATCHES: usize = 2;

/// Batches that are awaited at a time, those included of which some requests wait until they may be tried again.
pub const OPEN_BATCHES: usize = 32;

/// Bytes of request bodies in memory. A line longer than this does not exist: see [`Limits`](super::Limits).
pub const BODY_BYTES: usize = 32 << 20;

/// How long a server that stops waits for requests that are out. Those that do not come home count as sent again later.
pub const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How often a request is tried before its failure is its error.
pub const ATTEMPTS: u32 = 4;

/// How often a request is refused, while others are answered, before that is its error: its size may be what is too much.
pub const REFUSALS: u32 = 20;

/// An upstream that was never reached is given up after this long, where it is given up at all: its address may be wrong.
pub const FIRST_PATIENCE: Duration = Duration::from_secs(15);

/// When requests are tried again whose answers said that there is no API, where the upstream is not given up.
const SUSPECTS_AGAIN: Duration = Duration::from_secs(10);

/// The directory of journals, in the server's. It stays, and tells that the server has had an upstream.
const JOURNALS: &str = "journal";

/// Shortest time between two notices.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The upstream, and how it is treated.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Where it is.
    pub address: Address,
    /// The key, if it wants one.
    pub token: Option<Token>,
    /// Most requests at a time; at most [`CONCURRENCY_MAX`].
    pub concurrency: usize,
    /// Longest wait for an answer, or for more of one.
    pub timeout: Duration,
    /// How often a request is tried again.
    pub patience: RetryPolicy,
    /// When an upstream cannot be reached for this long, or lets nothing through, the server gives up: see
    /// [`Server::failed`](super::Server::failed). At once it does so when the key is not accepted, or there is no API. `None`: it goes on
    /// trying.
    pub give_up_after: Option<Duration>,
    /// Hears of pauses and failures, not more than one in ten seconds.
    pub observer: Observer,
}

impl UpstreamOptions {
    /// An upstream that is treated as the constants of this module say.
    #[must_use]
    pub fn new(address: Address, token: Option<Token>) -> Self {
        Self {
            address,
            token,
            concurrency: CONCURRENCY,
            timeout: online::ANSWER_TIMEOUT,
            patience: RetryPolicy { attempts: ATTEMPTS, rate_limited_attempts: REFUSALS, ..RetryPolicy::default() },
            give_up_after: None,
            observer: Observer::default(),
        }
    }
}

/// Requests that were sent a second time although the first may have been answered, and so paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Because they were at the upstream when the process ended, or just about to go there: the next process cannot tell.
    pub crashed: u64,
    /// Because the connection broke, or no answer came in time.
    pub lost: u64,
}

impl std::ops::AddAssign for Again {
    fn add_assign(&mut self, other: Self) {
        self.crashed += other.crashed;
        self.lost += other.lost;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Upstream {
    online: Online,
    pacing: Pacing,
    patience: RetryPolicy,
    /// Requests in hand: at the upstream, before their turn, or on their way to disk.
    in_hand: usize,
    give_up_after: Option<Duration>,
    observer: Observer,
    journals: PathBuf,
    /// Bytes of bodies that are free.
    bodies: Arc<Semaphore>,
    /// Batches that may begin to send.
    batches: Arc<Semaphore>,
    /// Batches that may begin at all.
    open_batches: Semaphore,
    first: FirstAnswers,
    /// Since when the upstream cannot be used, or has refused everything.
    trouble_since: Mutex<Option<Instant>>,
    was_reached: AtomicBool,
    failure: Mutex<Option<ServeError>>,
    failed: CancellationToken,
}

impl Upstream {
    /// Makes the client of an upstream, and room for journals in the server's directory.
    pub(super) fn open(options: UpstreamOptions, directory: &Path, store: &Store) -> Result<Self, ServeError> {
        let UpstreamOptions { address, token, concurrency, timeout, patience, give_up_after, observer } = options;
        let observer = calm(observer);
        let concurrency = concurrency.clamp(1, usize::from(CONCURRENCY_MAX));
        let journals = directory.join(JOURNALS);
        durable::create_directory(&journals)?;
        let upstream = Self {
            online: Online::new(address, token, timeout, observer.clone())?,
            pacing: Pacing::new(concurrency),
            patience,
            in_hand: concurrency * 2,
            give_up_after,
            observer,
            journals,
            bodies: Arc::new(Semaphore::new(BODY_BYTES)),
            batches: Arc::new(Semaphore::new(BATCHES)),
            open_batches: Semaphore::new(OPEN_BATCHES),
            first: FirstAnswers::new(!store.batches.select(|batch| batch.details.outputs > 0).is_empty()),
            trouble_since: Mutex::default(),
            was_reached: AtomicBool::new(false),
            failure: Mutex::default(),
            failed: CancellationToken::new(),
        };
        upstream.remove_leftovers(store)?;
        Ok(upstream)
    }

    /// Refuses to answer with an echo what was to be answered by an upstream.
    pub(super) fn refuse_echo(directory: &Path, store: &Store) -> Result<(), ServeError> {
        let unfinished = || !store.batches.select(|batch| !batch.status.is_terminal()).is_empty();
        if directory.join(JOURNALS).exists() && unfinished() {
            return Err(ServeError::WantsUpstream { directory: directory.to_owned() });
        }
        Ok(())
    }

    /// Removes the journals of batches that ended: a kill came before.
    fn remove_leftovers(&self, store: &Store) -> Result<(), FileError> {
        for batch in store.batches.select(|batch| batch.status.is_terminal()) {
            self.forget(&batch.id)?;
        }
        Ok(())
    }

    fn journal_path(&self, batch: &str) -> PathBuf {
        self.journals.join(format!("{batch}.journal"))
    }

    /// Removes the journal of a batch whose end is recorded.
    pub(super) fn forget(&self, batch: &str) -> Result<(), FileError> {
        durable::remove_file(&self.journal_path(batch))
    }

    /// Waits until the server cannot go on, and says why.
    pub(super) async fn failed(&self) -> ServeError {
        self.failed.cancelled().await;
        let error = self.failure().take();
        match error {
            Some(error) => error,
            // Told already.
            None => std::future::pending().await,
        }
    }

    /// The server cannot go on. Batches stay where they are.
    pub(super) fn fail(&self, error: ServeError) {
        self.failure().get_or_insert(error);
        self.failed.cancel();
    }

    /// The upstream answered, and not with a refusal: whatever was wrong with it is over.
    fn reached(&self) {
        *self.trouble_since() = None;
        self.was_reached.store(true, Relaxed);
    }

    /// The upstream cannot be used, by no request at all; everybody pauses for `wait`.
    fn trouble(&self, error: RemoteError, wait: Duration) {
        let since = *self.trouble_since().get_or_insert_with(Instant::now);
        self.observer.tell(&Notice::Retrying { error: &error, attempt: 1, wait });
        let Some(patience) = self.give_up_after else { return };
        let patience = if self.was_reached.load(Relaxed) { patience } else { patience.min(FIRST_PATIENCE) };
        let may_pass = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::OutOfFiles);
        if !may_pass || since.elapsed() >= patience {
            self.fail(ServeError::Upstream(error));
        }
    }

    /// The upstream refused a request; `pause` is how long everybody pauses, if that is why. Gives whether patience has come to an end.
    fn refused(&self, pause: Option<Duration>) -> bool {
        let since = *self.trouble_since().get_or_insert_with(Instant::now);
        if let Some(wait) = pause {
            self.observer.tell(&Notice::Paused { wait });
        }
        self.give_up_after.is_some_and(|patience| since.elapsed() >= patience)
    }

    /// The upstream has let nothing through for too long, and said this in the end.
    fn give_up(&self, error: RemoteError) {
        let patience = self.give_up_after.unwrap_or_default();
        self.fail(Hopeless::refuses(self.online.address(), patience, error).into());
    }

    /// The account at the upstream has nothing left; everybody pauses for `wait`.
    fn spent(&self, error: RemoteError, wait: Duration) {
        self.observer.tell(&Notice::Retrying { error: &error, attempt: 1, wait });
        if self.give_up_after.is_some() {
            self.fail(Hopeless::spent(self.online.address(), error).into());
        }
    }

    /// Whether an answer that raises this suspicion is held back.
    fn suspects(&self, suspicion: Suspicion) -> bool {
        // Where nobody gives up, a batch must not wait for ever because of what its own requests ask for.
        let counts = suspicion == Suspicion::Strong || self.give_up_after.is_some();
        counts && !self.first.is_proven()
    }

    /// So many answers said that there is no API, as `error` does.
    fn condemn(&self, answers: usize, error: RemoteError) {
        self.observer.tell(&Notice::Retrying { error: &error, attempt: 1, wait: SUSPECTS_AGAIN });
        if self.give_up_after.is_some() {
            self.fail(Hopeless::wrong_address(self.online.address(), answers, error).into());
        }
    }

    fn trouble_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.trouble_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<ServeError>> {
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
