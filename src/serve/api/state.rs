//! What the handlers of calls are given: each names the parts that it needs.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::FromRef;

use super::auth::Authenticator;
use super::upload::Uploads;
use crate::serve::batch::lifecycle::Lifecycle;
use crate::serve::store::Store;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct ApiState {
    /// Where the server listens.
    pub(crate) address: SocketAddr,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) store: Arc<Store>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) uploads: Uploads,
}

impl FromRef<ApiState> for SocketAddr {
    fn from_ref(state: &ApiState) -> Self {
        state.address
    }
}

impl FromRef<ApiState> for Arc<Authenticator> {
    fn from_ref(state: &ApiState) -> Self {
        state.authenticator.clone()
    }
}

impl FromRef<ApiState> for Arc<Store> {
    fn from_ref(state: &ApiState) -> Self {
        state.store.clone()
    }
}

impl FromRef<ApiState> for Arc<Lifecycle> {
    fn from_ref(state: &ApiState) -> Self {
        state.lifecycle.clone()
    }
}

impl FromRef<ApiState> for Uploads {
    fn from_ref(state: &ApiState) -> Self {
        state.uploads.clone()
    }
}
