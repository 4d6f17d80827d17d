//! Where steps run.
//!
//! In: a [`Step`]. Out: its [`StepResult`], or why it could not be done. [`LocalExecutor`] is this process; a cluster
//! is another implementation, and nothing else.

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

/// Does steps. How many are under way at a time is for the driver to decide.
pub(crate) trait Executor: Send + Sync + 'static {
    /// Does a step. May be called for any number of steps at a time; one whose future is dropped may be finished all
    /// the same.
    fn execute(&self, step: Step) -> impl Future<Output = Result<StepResult, StepError>> + Send;
}

/// Does steps in this process: transfers as tasks, the rest on threads that may block.
pub(crate) struct LocalExecutor<A: Api> {
    api: Arc<A>,
    files: Arc<Files>,
    uploaded: TransferMeter,
    downloaded: TransferMeter,
}

impl<A: Api> LocalExecutor<A> {
    /// An executor that works on `files` and tells the monitor how far transfers are.
    pub(crate) fn new(api: Arc<A>, files: Arc<Files>, monitor: &Arc<dyn Monitor>) -> Self {
        let uploaded = TransferMeter::new(monitor.clone(), |bytes| Event::Uploaded { bytes });
        let downloaded = TransferMeter::new(monitor.clone(), |bytes| Event::Downloaded { bytes });
        Self { api, files, uploaded, downloaded }
    }

    /// Works on a thread that may block.
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
