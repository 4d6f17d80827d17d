//! What every call passes before it is routed: whether it is taken at all, its line in the access log, and the faults
//! of a script.
//!
//! In: calls as they come from the wire. Out: calls whose path has no `/v1` before it, and their answers.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access_log::AccessLog;
use super::connections::{Connection, ConnectionLimits, with_deadlines};
use super::endpoint::Endpoint;
use super::error::ApiError;
use super::guard;
use crate::serve::faults::injector::{Call, FaultInjector};
use crate::serve::store::Store;
use crate::serve::surfaces::surface::Surface;

/// What calls pass through.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Where the server listens.
    pub(crate) address: SocketAddr,
    /// The names by which it is known, beside its address and those of this machine.
    pub(crate) hosts: Vec<String>,
    pub(crate) connections: ConnectionLimits,
    pub(crate) surface: &'static dyn Surface,
    pub(crate) log: AccessLog,
    pub(crate) faults: Arc<FaultInjector>,
    pub(crate) store: Arc<Store>,
}

/// The middleware around all routes. A script of faults acts here, in place of `next`, before it, or on the response
/// that it gives.
pub(crate) async fn pass(
    State(gateway): State<Arc<Gateway>>,
    Extension(Connection { handle, local }): Extension<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    // Before anything is taken off the URL, which may name a host, too.
    let admitted = guard::admit(&head, local, &gateway.hosts);
    collapse_version(&mut head.uri);
    let endpoint = Endpoint::of(&head.method, head.uri.path(), gateway.surface);
    let mut logged = gateway.log.begin(endpoint, &head.method, head.uri.path());
    let response = match admitted {
        Ok(()) => {
            let request = Request::from_parts(head, with_deadlines(body, gateway.connections));
            let (server, connection) = (gateway.address, &handle);
            let call = Call { endpoint, server, connection, names: &logged.faults };
            gateway.faults.pass(call, request, next).await
        }
        Err(refused) => {
            if !gateway.store.has_room() {
                logged.skip_log();
            }
            refused.shaped(gateway.surface.error_shape(head.uri.path())).into_response()
        }
    };
    match logged.end((!handle.is_cut()).then(|| response.status())) {
        Ok(()) => response,
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// Takes every `/v1` off the front of the path: clients send none, one or two of them, depending on their version and
/// on the base URL they were given.
fn collapse_version(uri: &mut Uri) {
    let Some(whole) = uri.path_and_query() else { return };
    let mut rest = whole.as_str();
    while let Some(shorter) = rest.strip_prefix("/v1").filter(|shorter| shorter.starts_with('/')) {
        rest = shorter;
    }
    if rest.len() == whole.as_str().len() {
        return;
    }
    if let Ok(shorter) = PathAndQuery::try_from(rest) {
        *uri = Uri::from(shorter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_versions_are_taken_off_the_path() {
        for (sent, meant) in [
            ("/v1/files", "/files"),
            ("/v1/v1/files?a=/v1/", "/files?a=/v1/"),
            ("/files/v1/content", "/files/v1/content"),
            ("/v1files", "/v1files"),
            ("/v3/whoami", "/v3/whoami"),
            ("/v1", "/v1"),
        ] {
            let mut uri: Uri = sent.parse().unwrap();
            collapse_version(&mut uri);
            assert_eq!(uri.to_string(), meant);
        }
    }
}
