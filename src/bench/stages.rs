//! The stages of a run, kept apart so that each can be measured.
//!
//! In: a run's events and steps. Out: a [`Measured`] for each stage, as soon as it has ended.
//!
//! A run does everything as soon as it can. Here it meets a service that accepts no batch before all shards are
//! uploaded, an executor that begins no download before all batches have ended and no index before all replies are
//! there, and a reader that takes no line of the output before all are indexed. Nothing else is different from any run.
//!
//! | stage | begins with | ends with |
//! | --- | --- | --- |
//! | upload | the first upload | the last upload |
//! | batch | | the last look at a batch; the service's work is not measured |
//! | download | the first download | the last reply file, synced |
//! | index | the first shard's replies | the last one's |
//! | merge | the first block of the output | the last one, not synced |
//!
//! Invariant: a stage that is measured has had each of its steps once. Whatever else happens ends the run.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::floors::{COPY, READ, warm};
use super::gauge::{Gauge, Measured};
use crate::remote::{
    Api, Batch, CreateBatch, Downloaded, ErrorKind, HttpApi, Listing, Payload, Progress, RemoteError, RemoteFile,
    Submission,
};
use crate::run::download::Fetched;
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::indexing::ShardIndexed;
use crate::run::monitor::ShardCounts;
use crate::run::step::{Step, StepResult};
use crate::run::step_error::StepError;
use crate::run::{Event, Monitor};

/// The stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Upload,
    Batch,
    Download,
    Index,
    Merge,
    End,
}

/// What the run has told so far.
#[derive(Debug, Default)]
struct Told {
    requests: u64,
    shards: usize,
    uploaded_bytes: u64,
    downloaded_bytes: u64,
    /// Steps of the present stage that have ended.
    steps: usize,
}

/// Where the stages of a run meet. See the [module](self).
pub(super) struct Stages {
    place: PathBuf,
    stop: CancellationToken,
    tell: Arc<dyn Fn(Measured) + Send + Sync>,
    trouble: mpsc::UnboundedSender<Error>,
    reached: watch::Sender<Stage>,
    gauges: [OnceCell<Gauge>; 5],
    told: Mutex<Told>,
}

impl Stages {
    /// Before the first stage. What memory is warmed with is written to `place`; waiting ends with `stop`. Returned
    /// beside it is what keeps the stages from being measured.
    pub(super) fn new(
        place: &Path,
        stop: CancellationToken,
        tell: Arc<dyn Fn(Measured) + Send + Sync>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Error>) {
        let (trouble, troubles) = mpsc::unbounded_channel();
        let reached = watch::Sender::new(Stage::Upload);
        let (gauges, told) = (Default::default(), Mutex::default());
        (Arc::new(Self { place: place.to_owned(), stop, tell, trouble, reached, gauges, told }), troubles)
    }

    /// Whether all stages were measured.
    pub(super) fn are_over(&self) -> bool {
        *self.reached.borrow() == Stage::End
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a stage may begin.
    async fn reach(&self, stage: Stage) {
        let mut reached = self.reached.subscribe();
        tokio::select! {
            _ = reached.wait_for(|reached| *reached >= stage) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// The same; whoever comes first begins to measure it.
    async fn enter(&self, stage: Stage) -> Result<(), Error> {
        self.reach(stage).await;
        let begin = || async {
            if matches!(stage, Stage::Download | Stage::Merge) {
                warm(&self.place, self.told().uploaded_bytes)?;
            }
            Ok(Gauge::start())
        };
        self.gauges[stage as usize].get_or_try_init(begin).await.map(drop)
    }

    /// A step of this stage has ended; the last one ends the stage.
    fn leave(&self, stage: Stage) {
        let mut told = self.told();
        told.steps += 1;
        if told.steps == told.shards {
            told.steps = 0;
            let bytes = if stage == Stage::Upload { told.uploaded_bytes } else { told.downloaded_bytes };
            drop(told);
            self.end(stage, bytes);
        }
    }

    /// A stage has ended: the next one may begin.
    fn end(&self, stage: Stage, bytes: u64) {
        let Some(gauge) = self.gauges[stage as usize].get() else { return };
        let (name, floor, next) = match stage {
            Stage::Upload => ("upload", COPY, Stage::Batch),
            Stage::Download => ("download", COPY, Stage::Index),
            Stage::Index => ("index", READ, Stage::Merge),
            Stage::Merge => ("merge", COPY, Stage::End),
            Stage::Batch | Stage::End => return,
        };
        (self.tell)(gauge.stop(name, Some(floor), (bytes, self.told().requests)));
        self.reached.send_replace(next);
    }

    /// The service did not do what it should, so that no stage can be measured any more.
    fn give_up(&self, why: String) {
        self.fail(RemoteError::new(ErrorKind::GivenUp, why).into());
    }

    fn fail(&self, error: Error) {
        // Only the first is waited for.
        let _ = self.trouble.send(error);
    }
}

impl Monitor for Stages {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { requests, shards, bytes, .. } => {
                *self.told() = Told { requests, shards, uploaded_bytes: bytes, ..Told::default() };
            }
            Event::Shards(ShardCounts { ended, .. }) if *ended == self.told().shards => {
                self.reached.send_if_modified(|reached| {
                    let is_new = *reached == Stage::Batch;
                    *reached = if is_new { Stage::Download } else { *reached };
                    is_new
                });
            }
            // It waits, retries or begins another round.
            Event::Note(note) => self.give_up(note.to_string()),
            Event::Warning(incident) => self.give_up(incident.to_string()),
            _ => {}
        }
    }
}

/// Begins a step only once all steps of the stages before have ended.
pub(super) struct Apart<E> {
    pub(super) executor: E,
    pub(super) stages: Arc<Stages>,
}

impl<E: Executor> Executor for Apart<E> {
    async fn execute(&self, step: Step) -> Result<StepResult, StepError> {
        let stage = match step {
            Step::Upload(_) => Stage::Upload,
            Step::Download(_) => Stage::Download,
            Step::Index(_) => Stage::Index,
            // It would send again what has no output. Nothing is left for it if all goes well.
            Step::PackRound(_) => Stage::End,
        };
        if stage < Stage::End {
            self.stages.enter(stage).await?;
        }
        let result = self.executor.execute(step).await;
        match &result {
            Ok(
                StepResult::Uploaded { .. }
                | StepResult::Downloaded(Fetched { trouble: None, .. })
                | StepResult::Indexed(ShardIndexed::Whole(_)),
            ) => self.stages.leave(stage),
            Ok(result) => self.stages.give_up(format!("a step is to be repeated: {result:?}")),
            Err(error) => self.stages.fail(error.clone().into()),
        }
        result
    }
}

/// The service, which accepts no batch before all shards are uploaded.
pub(super) struct Patient {
    pub(super) api: HttpApi,
    pub(super) stages: Arc<Stages>,
}

impl Api for Patient {
    async fn ready(&self) {
        self.stages.reach(Stage::Batch).await;
        self.api.ready().await;
    }

    async fn upload(&self, payload: Arc<dyn Payload>, progress: Progress) -> Result<RemoteFile, RemoteError> {
        self.api.upload(payload, progress).await
    }

    async fn create(&self, request: &CreateBatch, lines: Arc<dyn Payload>) -> Submission {
        self.api.create(request, lines).await
    }

    async fn batch(&self, id: &str) -> Result<Batch, RemoteError> {
        self.api.batch(id).await
    }

    async fn batches(&self) -> Result<Listing, RemoteError> {
        self.api.batches().await
    }

    async fn cancel(&self, id: &str) -> Result<Batch, RemoteError> {
        self.api.cancel(id).await
    }

    async fn download(&self, file_id: &str, target: &Path, progress: Progress) -> Result<Downloaded, RemoteError> {
        let downloaded = self.api.download(file_id, target, progress).await?;
        self.stages.told().downloaded_bytes += downloaded.bytes;
        Ok(downloaded)
    }

    async fn file_bytes(&self, file_id: &str) -> Result<Option<u64>, RemoteError> {
        self.api.file_bytes(file_id).await
    }

    async fn delete_file(&self, id: &str) -> Result<(), RemoteError> {
        self.api.delete_file(id).await
    }
}

/// Takes no line of the output before all replies are indexed.
pub(super) struct LateReader<W> {
    output: W,
    stages: Arc<Stages>,
    /// Where the stages wait: lines are written by a thread of the run's own.
    runtime: Handle,
    /// Taken so far.
    bytes: u64,
}

impl<W> LateReader<W> {
    /// Writes to `output`. To be called within a runtime.
    pub(super) fn new(output: W, stages: Arc<Stages>) -> Self {
        Self { output, stages, runtime: Handle::current(), bytes: 0 }
    }
}

impl<W: Write> Write for LateReader<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes == 0 {
            self.runtime.block_on(self.stages.enter(Stage::Merge)).map_err(io::Error::other)?;
        }
        let written = self.output.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl<W> Drop for LateReader<W> {
    /// The run has written all that it will.
    fn drop(&mut self) {
        self.stages.end(Stage::Merge, self.bytes);
    }
}
