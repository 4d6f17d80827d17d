//! Where steps run.
//!
//! In: a [`Step`]. Out: its [`StepResult`], or why it failed. [`LocalExecutor`] runs steps in this process; a cluster
//! would be another implementation, which [`Run::execute_on`](crate::run::Run::execute_on) takes.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::download;
use super::files::{Files, ShardPayload};
use super::indexing;
use super::monitor::{Event, Monitor};
use super::rounds;
use super::step::{Step, StepResult};
use super::step_error::StepError;
use super::transfer_meter::TransferMeter;
use crate::remote::Api;
use crate::run::error::Error;

/// Runs steps. The driver decides how many run concurrently.
pub trait Executor: Send + Sync + 'static {
    /// Runs a step. May be called concurrently; a step whose future is dropped may still be completed.
    fn execute(&self, step: Step) -> impl Future<Output = Result<StepResult, StepError>> + Send;
}

/// Runs steps in this process: transfers as tasks, the rest on threads that may block.
pub struct LocalExecutor<A: Api> {
    api: Arc<A>,
    files: Arc<Files>,
    uploaded: TransferMeter,
    downloaded: TransferMeter,
}

impl<A: Api> fmt::Debug for LocalExecutor<A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LocalExecutor").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<A: Api> LocalExecutor<A> {
    /// An executor that operates on `files` and reports the progress of transfers to the monitor.
    pub(crate) fn new(api: Arc<A>, files: Arc<Files>, monitor: &Arc<dyn Monitor>) -> Self {
        let uploaded = TransferMeter::new(monitor.clone(), |bytes| Event::Uploaded { bytes });
        let downloaded = TransferMeter::new(monitor.clone(), |bytes| Event::Downloaded { bytes });
        Self { api, files, uploaded, downloaded }
    }

    /// Runs `work` on a thread that may block.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, StepError> {
        let files = self.files.clone();
        let working = tokio::task::spawn_blocking(move || work(&files));
        match working.await {
            Ok(done) => Ok(done?),
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // The runtime is shutting down, and so is the run.
            Err(_) => Err(Error::Interrupted.into()),
        }
    }
}

impl<A: Api> Executor for LocalExecutor<A> {
    async fn execute(&self, step: Step) -> Result<StepResult, StepError> {
        Ok(match step {
            Step::Upload(shard) => {
                let payload = ShardPayload { files: self.files.clone(), shard };
                let file = self.api.upload(Arc::new(payload), self.uploaded.begin()).await?;
                StepResult::Uploaded { file_id: file.id, reused: file.reused }
            }
            Step::Download(task) => {
                let progress = || self.downloaded.begin();
                StepResult::Downloaded(download::download(&*self.api, &self.files.run, task, progress).await?)
            }
            Step::Index(task) => StepResult::Indexed(self.on_thread(move |files| indexing::index(files, &task)).await?),
            Step::PackRound(plan) => {
                StepResult::RoundPacked(self.on_thread(move |files| rounds::pack(files, &plan)).await?)
            }
        })
    }
}
