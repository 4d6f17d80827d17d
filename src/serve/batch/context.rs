//! What all batches of a server are executed with.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::serve::faults::injector::FaultInjector;
use crate::serve::limits::Limits;
use crate::serve::store::Store;
use crate::serve::surfaces::surface::Surface;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct BatchContext {
    pub(crate) store: Arc<Store>,
    pub(crate) faults: Arc<FaultInjector>,
    /// How lines are read and rows are written.
    pub(crate) surface: &'static dyn Surface,
    pub(crate) limits: Limits,
    /// What the order of rows follows from, together with the batch's id.
    pub(crate) seed: u64,
    /// Cancelled when the server stops.
    pub(crate) stopping: CancellationToken,
}
