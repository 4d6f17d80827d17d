//! The local Batch API server of `batchline serve`: Together's surface or OpenAI's, on a laptop, with no key.
//!
//! In: HTTP calls, as the official SDKs make them. Out: files, batches and replies, kept in one directory.
//!
//! A server speaks one [`Dialect`] to all its clients, as it was told when it was started. In Together's:
//!
//! | call | answer |
//! |---|---|
//! | `POST /files` | 302 to where the content is to be PUT, with `X-Together-File-Id`; 409 `{"file_id"}` for content it has |
//! | `PUT /storage/{id}?signature=` | 200 with an `ETag`; needs no token |
//! | `POST /files/{id}/preprocess` | the file |
//! | `POST /files/upload` | the file, sent in one go |
//! | `GET /files`, `GET /files/{id}`, `DELETE /files/{id}` | `{"data":[…]}`, the file, `{"id","object","deleted"}` |
//! | `GET /files/{id}/content` | the bytes, or one range of them |
//! | `POST /batches` | 201 `{"job":{…}}` |
//! | `GET /batches`, `GET /batches/{id}`, `POST /batches/{id}/cancel` | a bare array or `null`, the batch, the batch |
//! | `GET /v3/whoami` | who the token belongs to |
//!
//! In OpenAI's:
//!
//! | call | answer |
//! |---|---|
//! | `POST /files` | the file, sent in one go as multipart with its `purpose` |
//! | `GET /files` | a page: `{"object":"list","data","first_id","last_id","has_more"}`; takes `after`, `limit`, `order`, `purpose` |
//! | `GET /files/{id}`, `DELETE /files/{id}`, `GET /files/{id}/content` | the file, `{"id","object","deleted"}`, the bytes |
//! | `POST /batches` | the batch, with its `metadata`; 400 for an unknown file, endpoint or window |
//! | `GET /batches` | a page; takes `after` and `limit` |
//! | `GET /batches/{id}`, `POST /batches/{id}/cancel` | the batch; 409 for one that has ended |
//!
//! There a line needs `method` and `url`, a batch has one model and a window that really ends, and a request that was not done by then has a
//! row in the error file. A key may come as `api-key` instead of `Authorization`.
//!
//! Any number of `/v1` may stand before each path.
//!
//! What always holds:
//! - Without an [`upstream`], a batch answers with an **echo**, and says so. A reply follows from the bytes of its request line alone
//!   ([`echo_reply`]); the order of the rows follows from [`ServeOptions::seed`] and the batch's id.
//! - Requests and replies go to and from disk in pieces: memory does not grow with the size of files. It holds the
//!   records of all files and batches, about a kilobyte each.
//! - A kill at any moment loses nothing that a client was told. The next server on the directory executes unfinished
//!   batches from the start, with the same results, and `billing/BATCH.jsonl` has each request that was answered
//!   with an output row once: `{"batch_id","custom_id","digest"}`, the digest as in [`request_digest`]. Error rows
//!   are not billed. A power cut may lose anything: an echo can be made again, and does not wait for the disk.
//! - With an upstream, all of that is so, too, but that nothing is answered a second time because a server ended, nor lost by a
//!   power cut; see there.
//! - `access.jsonl` has one line for each call, and never a token.
//! - Web pages and calls to hosts that it is not known as get nothing ([`ServeOptions::hosts`]); clients that are slow, silent or many
//!   are kept within [`ConnectionLimits`], and what all of them keep here within [`ServeOptions::quota`].
//! - What goes wrong on purpose is what the script of [`faults`] says, and it is recorded.

mod auth;
mod batches;
pub mod connections;
mod content;
mod echo;
mod execute;
pub mod faults;
mod files;
mod guard;
mod hex;
mod input;
mod openai;
mod progress;
pub mod quota;
mod reply;
mod results;
mod row;
mod store;
mod surface;
mod surfaces;
mod together;
mod upload;
pub mod upstream;

pub(crate) mod access_log;
pub(crate) mod lifecycle;
pub(crate) mod records;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::get;
use axum::{Router, middleware};
use secrecy::SecretString;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::connections::ConnectionLimits;
pub use self::echo::request_digest;
pub use self::faults::{Faults, FaultsError};
pub use self::guard::host_name;
pub use self::quota::QuotaChoice;
pub use self::surfaces::{echo_reply, echo_reply_in};
pub use self::upstream::{Again, UpstreamOptions};

use self::faults::Script;
use self::progress::Progress;
use self::reply::Refused;
use self::store::Store;
use self::surface::Surface;
use self::surfaces::surface_of;
use self::upstream::Upstream;
use crate::dialect::{Dialect, TOGETHER};
use crate::model::shown::Name;
use crate::remote::{RemoteError, SetupError};
use crate::serve::access_log::Calls;
use crate::serve::faults::connection::Lines;
use crate::storage::durable::FileError;

/// Bytes that the body of a call may have, except for uploads.
const FORM_BYTES: usize = 64 << 10;

/// How long a stopping server waits for calls under way.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The project that every account has.
const PROJECT_ID: &str = "proj-1";

/// The organization that every account is in.
const ORGANIZATION_ID: &str = "org-1";

/// How a [`Server`] behaves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it keeps everything; made when it is not there. One server at a time may use it.
    pub directory: PathBuf,
    /// Where it listens; port 0 is any free port.
    pub listen: SocketAddr,
    /// What it speaks.
    pub dialect: &'static dyn Dialect,
    /// The one bearer token that it accepts. `None`: any that is not empty, each an account of its own.
    pub token: Option<SecretString>,
    /// What the order of the rows in result files follows from, together with the batch's id, and what scripted faults
    /// draw their probabilities and shares by.
    pub seed: u64,
    /// How long a batch pretends to take, apart from the time that it really takes: a fifth of it VALIDATING, the
    /// rest `IN_PROGRESS`. May be zero.
    pub batch_time: Duration,
    /// How many batches execute at once, each on a thread of its own; at least 1.
    pub workers: usize,
    /// What it accepts.
    pub limits: Limits,
    /// What goes wrong.
    pub faults: Faults,
    /// Who answers. `None`: an echo.
    pub upstream: Option<UpstreamOptions>,
    /// The names by which it is known, beside its address and those of this machine.
    pub hosts: Vec<String>,
    /// How patient it is with its clients.
    pub connections: ConnectionLimits,
    /// How much it keeps.
    pub quota: QuotaChoice,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("batchline-serve"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            dialect: TOGETHER,
            token: None,
            seed: 0,
            batch_time: Duration::from_millis(300),
            workers: 2,
            limits: Limits::default(),
            faults: Faults::default(),
            upstream: None,
            hosts: Vec::new(),
            connections: ConnectionLimits::default(),
            quota: QuotaChoice::Unlimited,
        }
    }
}

/// What the server accepts. The first three are judged when a batch is VALIDATING, and end it FAILED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in an input file.
    pub requests: u64,
    /// Bytes in an input file.
    pub bytes: u64,
    /// Bytes in a line, without its newline.
    pub line_bytes: u64,
    /// Bytes in an upload: beyond, it is refused with 413.
    pub upload_bytes: u64,
}

impl Default for Limits {
    /// Together's documented limits (whether its "MB" are of 10^6 or 2^20 bytes is not known; here they are of 10^6),
    /// and 5 GiB for an upload, beyond which its SDKs go over to uploads in parts.
    fn default() -> Self {
        Self { requests: 50_000, bytes: 100_000_000, line_bytes: 10_000_000, upload_bytes: 5 << 30 }
    }
}

/// Why a server does not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file operation in its directory failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another server uses the directory.
    #[error("{} is in use by another server", Name(directory))]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// A record in its directory cannot be read back.
    #[error("cannot read the record {}", Name(path))]
    Damaged {
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It cannot listen.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The client of the upstream cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The upstream cannot be used, or what is kept about it.
    #[error(transparent)]
    Upstream(RemoteError),
    /// Batches in the directory were begun with an upstream, and would now be answered with an echo.
    #[error("batches in {} were begun with an upstream, and none is given now", Name(directory))]
    WantsUpstream {
        /// The directory.
        directory: PathBuf,
    },
    /// The server has no side for this dialect.
    #[error("the built-in service does not speak the dialect {dialect}")]
    Unspoken {
        /// The dialect's name.
        dialect: &'static str,
    },
    /// One of its tasks panicked.
    #[error("a task of the server failed")]
    Task(#[from] tokio::task::JoinError),
}

/// A running server. Dropped, it stops in the background; [`Server::stop`] waits for that.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
    _stop_when_dropped: DropGuard,
}

/// What all calls and batches share.
#[derive(Debug)]
struct Shared {
    store: Store,
    calls: Calls,
    faults: Script,
    address: SocketAddr,
    surface: &'static dyn Surface,
    token: Option<SecretString>,
    seed: u64,
    batch_time: Duration,
    limits: Limits,
    workers: Arc<Semaphore>,
    /// The lives of batches.
    tasks: TaskTracker,
    stopping: CancellationToken,
    running: Mutex<HashMap<String, Arc<Progress>>>,
    upstream: Option<Arc<Upstream>>,
    hosts: Vec<String>,
    connections: ConnectionLimits,
}

impl Shared {
    /// The progress of the batches that have not ended.
    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Opens the directory, listens, and goes on with the batches that have not ended. To be called within a tokio
    /// runtime, on which the server then runs.
    pub async fn start(options: ServeOptions) -> Result<Self, ServeError> {
        let ServeOptions { directory, listen, dialect, token, seed, batch_time, workers, limits, .. } = options;
        let ServeOptions { faults, upstream, hosts, connections, quota, .. } = options;
        let surface = surface_of(dialect).ok_or_else(|| ServeError::Unspoken { dialect: dialect.name() })?;
        // An upstream takes time of its own.
        let batch_time = if upstream.is_some() { Duration::ZERO } else { batch_time };
        let opened = tokio::task::spawn_blocking(move || {
            let store = Store::open(&directory, upstream.is_some(), quota)?;
            let faults = Script::open(faults, (surface, seed), &directory, &store)?;
            let upstream = match upstream {
                Some(upstream) => Some(Arc::new(Upstream::open(upstream, &directory, &store)?)),
                None => Upstream::refuse_echo(&directory, &store).map(|()| None)?,
            };
            let calls = Calls::open(&directory, store.quota())?;
            Ok::<_, ServeError>((store, calls, faults, upstream))
        });
        let (store, calls, faults, upstream) = opened.await??;
        let listener = TcpListener::bind(listen).await;
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| ServeError::Listen { address: listen, source })?;

        let stopping = CancellationToken::new();
        let shared = Arc::new(Shared {
            store,
            calls,
            faults,
            address,
            surface,
            token,
            seed,
            batch_time,
            limits,
            workers: Arc::new(Semaphore::new(workers.max(1))),
            tasks: TaskTracker::new(),
            stopping: stopping.clone(),
            running: Mutex::default(),
            upstream,
            hosts,
            connections,
        });
        for batch in shared.store.batches.select(|batch| !batch.status.is_terminal()) {
            lifecycle::resume(&shared, &batch);
        }
        let serving = connections::serve(Lines(listener), router(&shared), connections, stopping.clone());
        let serving = tokio::spawn(serving);
        Ok(Self { address, shared, serving, _stop_when_dropped: stopping.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for clients on this machine: `http://HOST:PORT/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        format!("http://{address}/v1")
    }

    /// Waits until the server cannot go on with its batches, and says why. They stay where they are: a server started later
    /// on the same directory goes on with them. Only servers with an upstream come to that.
    pub async fn failed(&self) -> ServeError {
        match &self.shared.upstream {
            Some(upstream) => upstream.failed().await,
            None => std::future::pending().await,
        }
    }

    /// What the upstream was sent twice for the batches that have ended, in the directory's whole life.
    #[must_use]
    pub fn sent_again(&self) -> Again {
        let mut again = Again::default();
        for batch in self.shared.store.batches.select(|_| true) {
            again += batch.again;
        }
        again
    }

    /// Takes no more calls, lets those under way end within 5 seconds, and breaks off the batches that have not
    /// ended; a server started later on the same directory goes on with them.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        if let Ok(served) = tokio::time::timeout(STOP_PATIENCE, &mut self.serving).await {
            return Ok(served?);
        }
        self.serving.abort();
        Ok(())
    }
}

/// All routes, within the middleware that every call passes before it is routed.
fn router(shared: &Arc<Shared>) -> Router {
    let routes = shared
        .surface
        .routes()
        .route("/files/{id}/content", get(content::download))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(shared.clone());
    // The middleware rewrites the path, so it must come before routing: hence a router around the router.
    Router::new().fallback_service(routes).layer(middleware::from_fn_with_state(shared.clone(), access_log::pass))
}

async fn no_route(method: Method, uri: Uri) -> Refused {
    Refused::object(StatusCode::NOT_FOUND, format!("no such route: {method} {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Refused {
    Refused::object(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed: {method} {}", uri.path()))
}
