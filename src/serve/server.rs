//! A running server: its parts, put together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::get;
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::api::access_log::AccessLog;
use super::api::auth::Authenticator;
use super::api::error::ApiError;
use super::api::gateway::{self, Gateway};
use super::api::state::ApiState;
use super::api::upload::Uploads;
use super::api::{connections, download};
use super::background::Background;
use super::batch::context::BatchContext;
use super::batch::lifecycle::Lifecycle;
use super::error::ServeError;
use super::faults::connection::CuttableListener;
use super::faults::injector::FaultInjector;
use super::limits::FORM_BYTES;
use super::options::ServeOptions;
use super::store::Store;
use super::surfaces::side_of;
use super::upstream::{Again, Upstream};

/// How long a stopping server waits for calls under way.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A running server. Dropped, it stops in the background; [`Server::stop`] waits for that.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    store: Arc<Store>,
    upstream: Option<Arc<Upstream>>,
    background: Background,
    serving: JoinHandle<()>,
    _stop_when_dropped: DropGuard,
}

impl Server {
    /// Opens the directory, listens, and resumes the batches that have not ended. To be called within a tokio runtime,
    /// on which the server then runs.
    pub async fn start(options: ServeOptions) -> Result<Self, ServeError> {
        let ServeOptions { directory, listen, dialect, token, seed, batch_time, workers, limits, .. } = options;
        let ServeOptions { faults, upstream, hosts, connections, quota, .. } = options;
        let side = side_of(dialect).ok_or_else(|| ServeError::Unspoken { dialect: dialect.name() })?;
        let surface = side.surface;
        // An upstream takes time of its own.
        let batch_time = if upstream.is_some() { Duration::ZERO } else { batch_time };
        let background = Background::default();
        let for_faults = background.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let store = Arc::new(Store::open(&directory, upstream.is_some(), quota)?);
            let faults = FaultInjector::open(faults, seed, &directory, (&store, surface), for_faults)?;
            let upstream = match upstream {
                Some(upstream) => Some(Arc::new(Upstream::open(upstream, &directory, &store)?)),
                None => Upstream::refuse_echo(&directory, &store).map(|()| None)?,
            };
            let log = AccessLog::open(&directory, store.quota())?;
            Ok::<_, ServeError>((store, Arc::new(faults), upstream, log))
        });
        let (store, faults, upstream, log) = opened.await??;
        let listener = TcpListener::bind(listen).await;
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| ServeError::Listen { address: listen, source })?;

        let (stopping, store_of_batches) = (background.stopping.clone(), store.clone());
        let context = BatchContext { store: store_of_batches, faults: faults.clone(), surface, limits, seed, stopping };
        let lifecycle = Arc::new(Lifecycle::new(context, batch_time, workers, upstream.clone(), background.clone()));
        lifecycle.resume();
        let state = ApiState {
            address,
            authenticator: Arc::new(Authenticator { token, surface }),
            store: store.clone(),
            lifecycle,
            uploads: Uploads::new(store.clone(), limits.upload_bytes),
        };
        let gateway = Gateway { address, hosts, connections, surface, log, faults, store: store.clone() };
        let router = router((side.routes)(), state, gateway);
        let stopping = background.stopping.clone();
        let serving =
            tokio::spawn(connections::serve(CuttableListener(listener), router, connections, stopping.clone()));
        Ok(Self { address, store, upstream, background, serving, _stop_when_dropped: stopping.drop_guard() })
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

    /// Waits until the server cannot continue with its batches, and says why. They stay where they are: a server
    /// started later on the same directory resumes them. Only servers with an upstream come to that.
    pub async fn failed(&self) -> ServeError {
        match &self.upstream {
            Some(upstream) => upstream.failed().await,
            None => std::future::pending().await,
        }
    }

    /// What the upstream was sent twice for the batches that have ended, in the directory's whole life.
    #[must_use]
    pub fn sent_again(&self) -> Again {
        let mut again = Again::default();
        for batch in self.store.batches.select(|_| true) {
            again += batch.again;
        }
        again
    }

    /// Takes no more calls, lets those under way end within 5 seconds, and interrupts the batches that have not ended;
    /// a server started later on the same directory resumes them.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        self.background.stop().await;
        if let Ok(served) = tokio::time::timeout(STOP_PATIENCE, &mut self.serving).await {
            return Ok(served?);
        }
        self.serving.abort();
        Ok(())
    }
}

/// All routes, behind the gateway that every call passes before it is routed.
fn router(routes: Router<ApiState>, state: ApiState, gateway: Gateway) -> Router {
    let routes = routes
        .route("/files/{id}/content", get(download::download))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(state);
    // The gateway rewrites the path, so it must come before routing: hence a router around the router.
    let gateway = middleware::from_fn_with_state(Arc::new(gateway), gateway::pass);
    Router::new().fallback_service(routes).layer(gateway)
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    ApiError::object(StatusCode::NOT_FOUND, format!("no such route: {method} {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::object(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed: {method} {}", uri.path()))
}
