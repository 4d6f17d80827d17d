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
//! | `executor` | a batch: which requests are left, and when it is done |
//! | `request` | one request: from its turn to its row, through refusals and lost answers |
//! | `rows` | how answers and failures look in result files |
//! | `pacing`, `window`, `rate` | when the next request may go, how many at a time, how many a second |
//! | `journal`, `writer` | what is on disk about requests that went out and came back |
//!
//! # What is sent, and when
//!
//! The requests of at most [`BATCHES`] batches go out together, in input order. How many are at the upstream at a time adapts to
//! how it does: up to [`UpstreamOptions::concurrency`], fewer when it is overloaded or slow. When it limits us, everybody
//! makes the pause it asks for, and the pace after that follows from what it took before. A refusal for now, an answer
//! that does not come and a connection that breaks are tried again as [`UpstreamOptions::patience`] says, then are the
//! request's error. An upstream that cannot be reached, or does not accept the key, is no request's error: one request at a
//! time finds out when that has changed.
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
mod journal;
mod pacing;
mod rate;
mod request;
mod rows;
mod window;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::journal::JournalError;

pub(super) use self::executor::execute;

use self::pacing::Pacing;
use super::ServeError;
use super::store::Store;
use crate::durable::{self, FileError};
use crate::remote::{Address, ErrorKind, Notice, Observer, Online, Patience, RemoteError, Token, online};

/// Requests at the upstream at a time, unless the user says otherwise.
pub const CONCURRENCY: usize = 64;

/// The most requests that can be allowed at the upstream at a time.
pub const CONCURRENCY_MAX: u16 = 512;

/// Batches that send requests at a time: while the last answers of one are awaited, the next goes on.
pub const BATCHES: usize = 2;

/// Bytes of request bodies in memory. A line longer than this does not exist: see [`Limits`](super::Limits).
pub const BODY_BYTES: usize = 32 << 20;

/// How long a server that stops waits for requests that are out. Those that do not come home count as sent again later.
pub const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How often a request is tried before its failure is its error.
pub const ATTEMPTS: u32 = 4;

/// An upstream that was never reached is given up after this long, where it is given up at all: its address may be wrong.
pub const FIRST_PATIENCE: Duration = Duration::from_secs(15);

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
    pub patience: Patience,
    /// When an upstream cannot be reached for this long, or does not accept the key, the server gives up: see
    /// [`Server::failed`](super::Server::failed). `None`: it goes on trying.
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
            patience: Patience { attempts: ATTEMPTS, ..Patience::default() },
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
    patience: Patience,
    /// Requests in hand: at the upstream, before their turn, or on their way to disk.
    in_hand: usize,
    give_up_after: Option<Duration>,
    observer: Observer,
    journals: PathBuf,
    /// Bytes of bodies that are free.
    bodies: Arc<Semaphore>,
    /// Batches that may begin to send.
    batches: Semaphore,
    /// Since when the upstream cannot be used.
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
            batches: Semaphore::new(BATCHES),
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

    /// The upstream answered: whatever was wrong with it is over.
    fn reached(&self) {
        *self.trouble_since() = None;
        self.was_reached.store(true, Relaxed);
    }

    /// The upstream cannot be used, by no request at all.
    fn trouble(&self, error: RemoteError) {
        let since = *self.trouble_since().get_or_insert_with(Instant::now);
        self.pacing.feel_the_way();
        let wait = self.online.gate().shut(None);
        self.observer.tell(&Notice::Retrying { error: &error, attempt: 1, wait });
        let Some(patience) = self.give_up_after else { return };
        let patience = if self.was_reached.load(Relaxed) { patience } else { patience.min(FIRST_PATIENCE) };
        if error.kind() != ErrorKind::Unreachable || since.elapsed() >= patience {
            self.fail(ServeError::Upstream(error));
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
