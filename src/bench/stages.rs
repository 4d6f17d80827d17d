//! The stages of a run, kept apart so that each can be measured.
//!
//! In: a run's events and steps. Out: a [`Measured`] for each stage, as soon as it has ended.
//!
//! A run does everything as soon as it can. This one meets an executor that keeps back the files of all shards until
//! the last one is uploaded, begins no download before all batches have ended and no index before all replies are
//! there, and a reader that takes no line of the output before all are indexed. Nothing else is different from any run.
//!
//! | stage | begins with | ends with |
//! | --- | --- | --- |
//! | upload | the first upload | the last upload |
//! | download | the first download | the last reply file, synced |
//! | index | the first shard's replies | the last one's |
//! | merge | the first block of the output | the last one, not synced |
//!
//! Invariant: a stage that is measured has had each of its steps once. A run that waits, retries or repeats is given
//! up.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::floors::{COPY, READ, warm};
use super::gauge::{Gauge, Measured};
use crate::generate::Generated;
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::monitor::ShardCounts;
use crate::run::options::UPLOADS;
use crate::run::step::{Step, StepResult};
use crate::run::step_error::StepError;
use crate::run::{Event, Monitor};

/// The stages, in order. What the service does in between is its affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Upload,
    AtService,
    Download,
    Index,
    Merge,
    End,
}

/// Where the stages of a run meet. See the [module](self).
pub(super) struct Stages {
    place: PathBuf,
    input: Generated,
    tell: Arc<dyn Fn(Measured) + Send + Sync>,
    trouble: mpsc::UnboundedSender<String>,
    stop: CancellationToken,
    uploads: Semaphore,
    reached: watch::Sender<Stage>,
    gauges: [OnceCell<Gauge>; 5],
    shards: AtomicUsize,
    /// Steps of the present stage that have ended.
    steps: AtomicUsize,
    downloaded_bytes: AtomicU64,
    merged_bytes: AtomicU64,
}

impl Stages {
    /// Before the first stage of the run of `input`. What warms the memory is written to `place`; `trouble` is told why
    /// the run is to be given up. Whoever waits for a stage ends with `stop`.
    pub(super) fn new(
        place: &Path,
        input: Generated,
        tell: Arc<dyn Fn(Measured) + Send + Sync>,
        trouble: mpsc::UnboundedSender<String>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            place: place.to_owned(),
            input,
            tell,
            trouble,
            stop,
            uploads: Semaphore::new(UPLOADS),
            reached: watch::Sender::new(Stage::Upload),
            gauges: Default::default(),
            shards: AtomicUsize::default(),
            steps: AtomicUsize::default(),
            downloaded_bytes: AtomicU64::default(),
            merged_bytes: AtomicU64::default(),
        }
    }

    /// Whether all stages were measured.
    pub(super) fn are_over(&self) -> bool {
        *self.reached.borrow() == Stage::End
    }

    /// Waits until a stage may begin; an error if it never will.
    async fn reach(&self, stage: Stage) -> Result<(), Error> {
        let mut reached = self.reached.subscribe();
        tokio::select! {
            _ = reached.wait_for(|reached| *reached >= stage) => Ok(()),
            () = self.stop.cancelled() => Err(Error::Interrupted),
        }
    }

    /// The same; whoever comes first begins to measure it.
    async fn enter(&self, stage: Stage) -> Result<(), Error> {
        self.reach(stage).await?;
        let begin = || async {
            if matches!(stage, Stage::Download | Stage::Merge) {
                warm(&self.place, self.input.bytes)?;
            }
            Ok(Gauge::start())
        };
        self.gauges[stage as usize].get_or_try_init(begin).await.map(drop)
    }

    /// A step of this stage has ended; the last one ends the stage.
    fn leave(&self, stage: Stage) {
        if self.steps.fetch_add(1, Relaxed) + 1 == self.shards.load(Relaxed) {
            self.steps.store(0, Relaxed);
            self.end(stage);
        }
    }

    /// A stage has ended: the next one may begin.
    fn end(&self, stage: Stage) {
        let Some(gauge) = self.gauges[stage as usize].get() else { return };
        let Generated { bytes: uploaded_bytes, requests } = self.input;
        let [downloaded_bytes, merged_bytes] =
            [&self.downloaded_bytes, &self.merged_bytes].map(|sum| sum.load(Relaxed));
        let (name, floor, bytes, next) = match stage {
            Stage::Upload => ("upload", COPY, uploaded_bytes, Stage::AtService),
            Stage::Download => ("download", COPY, downloaded_bytes, Stage::Index),
            Stage::Index => ("index", READ, downloaded_bytes, Stage::Merge),
            Stage::Merge => ("merge", COPY, merged_bytes, Stage::End),
            Stage::AtService | Stage::End => return,
        };
        (self.tell)(gauge.stop(name, Some(floor), (bytes, requests)));
        self.reached.send_replace(next);
    }
}

impl Monitor for Stages {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { shards, .. } => self.shards.store(shards, Relaxed),
            Event::Shards(ShardCounts { ended, .. }) if *ended == self.shards.load(Relaxed) => {
                self.reached.send_if_modified(|reached| {
                    let is_next = *reached == Stage::AtService;
                    *reached = if is_next { Stage::Download } else { *reached };
                    is_next
                });
            }
            // Transfers tell this side by side.
            Event::Downloaded { bytes } => drop(self.downloaded_bytes.fetch_max(bytes, Relaxed)),
            Event::Merged(merged) => self.merged_bytes.store(merged.bytes, Relaxed),
            // The receiver is gone once the run is.
            Event::Note(note) => drop(self.trouble.send(note.to_string())),
            Event::Warning(incident) => drop(self.trouble.send(incident.to_string())),
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
            Step::PackRound(_) => return self.executor.execute(step).await,
        };
        let upload = if stage == Stage::Upload { self.stages.uploads.acquire().await.ok() } else { None };
        self.stages.enter(stage).await?;
        let result = self.executor.execute(step).await?;
        drop(upload);
        self.stages.leave(stage);
        if stage == Stage::Upload {
            self.stages.reach(Stage::AtService).await?;
        }
        Ok(result)
    }
}

/// Takes no line of the output before all replies are indexed.
pub(super) struct LateReader<W> {
    output: W,
    stages: Arc<Stages>,
    /// Where the stages wait: lines are written by a thread of the run's own.
    runtime: Handle,
    has_begun: bool,
}

impl<W> LateReader<W> {
    /// Writes to `output`. To be called within a runtime.
    pub(super) fn new(output: W, stages: Arc<Stages>) -> Self {
        Self { output, stages, runtime: Handle::current(), has_begun: false }
    }
}

impl<W: Write> Write for LateReader<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.has_begun {
            self.runtime.block_on(self.stages.enter(Stage::Merge)).map_err(io::Error::other)?;
            self.has_begun = true;
        }
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl<W> Drop for LateReader<W> {
    /// The run has written all that it will.
    fn drop(&mut self) {
        self.stages.end(Stage::Merge);
    }
}
