//! Work that no call waits for, and the end of the server that breaks it off.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The background work of one server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Background {
    tasks: TaskTracker,
    /// Cancelled when the server stops.
    pub(crate) stopping: CancellationToken,
}

/// The server is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is stopping")]
pub(crate) struct Stopping;

impl Background {
    /// Starts `work`, which the server waits for when it stops.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.tasks.spawn(work));
    }

    /// Waits for `work`, or until the server stops.
    pub(crate) async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopping> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(Stopping),
            done = work => Ok(done),
        }
    }

    /// Tells all work to stop, and waits until it has.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
