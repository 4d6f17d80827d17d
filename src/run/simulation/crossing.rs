//! Runs whose executor is not this process's own: every step and every result crosses as text.
//!
//! In: seeds. Out: proof that a step and its result say all that they must, whatever goes wrong.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::directory;
use super::life::{Mode, Scenario};
use super::service::Service;
use crate::input::recheck::Recheck;
use crate::results::normalize::Shape;
use crate::results::reply_index::ReplyIndex;
use crate::run::directory::layout;
use crate::run::driver::{Driver, DriverInputs};
use crate::run::error::{Error, ErrorKind};
use crate::run::executor::{Executor, LocalExecutor};
use crate::run::files::Files;
use crate::run::monitor::{Monitor, Silent};
use crate::run::open::{self, Prepared};
use crate::run::output::{Ending, Merger, OpenOutputs};
use crate::run::step::{Step, StepResult};
use crate::run::step_error::StepError;
use crate::run::{OutputTarget, Outputs};

/// Seeds that are played. Among them every kind of step succeeds, and one fails.
const SEEDS: u64 = 40;

/// Of those, the runs that finish in one process, at least: the others hold something, or give up.
const FINISHED: u64 = 10;

/// The kinds of steps that have crossed, and whether they succeeded.
type Crossed = Arc<Mutex<BTreeSet<(&'static str, bool)>>>;

/// Lets every step and every result cross to another executor as JSON, and back.
struct OverJson<E> {
    executor: E,
    crossed: Crossed,
}

fn over_json<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> T {
    let json = serde_json::to_string(value).expect("it can be written");
    let back = serde_json::from_str(&json).expect("it can be read");
    assert_eq!(*value, back, "{json}");
    back
}

impl<E: Executor> Executor for OverJson<E> {
    async fn execute(&self, step: Step) -> Result<StepResult, StepError> {
        let kind = match &step {
            Step::Upload(_) => "upload",
            Step::Download(_) => "download",
            Step::Index(_) => "index",
            Step::PackRound(_) => "pack round",
        };
        let result = over_json(&self.executor.execute(over_json(&step)).await);
        self.crossed.lock().unwrap_or_else(PoisonError::into_inner).insert((kind, result.is_ok()));
        result
    }
}

/// Keeps what is written.
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plays a seed without crashes; the lines of its output, unless something is held in the end.
async fn play(scenario: &Scenario, crossed: &Crossed) -> Result<Option<String>, Error> {
    let world = scenario.world();
    world.lock().unwrap_or_else(PoisonError::into_inner).begin_life(Duration::ZERO);
    let (options, monitor): (_, Arc<dyn Monitor>) = (scenario.options.clone(), Arc::new(Silent));
    let Prepared { directory, ledger, source, requests, ids, line, .. } = open::prepare(&options, &Silent)?;
    let run = directory.path().to_owned();
    let packed = ledger.shards()?.into_iter().map(|row| row.shard);
    let files = Arc::new(Files {
        recheck: Recheck::new(source.clone(), requests.clone(), ids, &run, packed),
        replies: ReplyIndex::open_or_create(&layout::replies_index(&run), requests.len())?,
        run,
        source,
        requests,
        ids,
        envelope: line.envelope,
        threads: 1,
        memory_bytes: 8 << 20,
        redactor: options.service.redactor.clone(),
    });
    let written = Arc::new(Mutex::new(Vec::new()));
    let output = OutputTarget::Writer(Box::new(Written(written.clone())));
    let outputs = OpenOutputs::open(Outputs { output, errors: None, shape: Shape::Native })?;
    let merger = Merger::start(files.clone(), [].into(), line, outputs, monitor.clone());
    let api = Arc::new(Service { world, dies_at: 0, dies_at_create: 0, death: CancellationToken::new() });
    let executor = LocalExecutor::new(api.clone(), files.clone(), &monitor);
    let executor = Arc::new(OverJson { executor, crossed: crossed.clone() });
    let (stop, lines) = (CancellationToken::new(), files.requests.len());
    let inputs = DriverInputs { api, executor, files, ledger, options, monitor, merger, stop };
    let (held, ledger, merger) = Driver::new(inputs)?.drive().await?;
    if !held.is_empty() {
        return Ok(None);
    }
    let totals = ledger.totals()?;
    merger.finish(Some(Ending { lines, held: None, counted: (totals.outputs, totals.errors) }))?;
    let written = std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Some(String::from_utf8_lossy(&written).into_owned()))
}

#[test]
fn runs_whose_steps_and_results_cross_as_json_answer_every_request() {
    let (crossed, mut finished) = (Crossed::default(), 0);
    for seed in 0..SEEDS {
        let directory = directory();
        let scenario = Scenario::new(seed, Mode::Liveness, directory.path());
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let played = runtime.expect("a runtime can be made").block_on(play(&scenario, &crossed));
        let text = match played {
            Ok(Some(text)) => text,
            // What is held, or was given up, is resumed by another process: the campaigns look at those.
            Ok(None) => continue,
            Err(error) if error.kind() == ErrorKind::Provider => continue,
            Err(error) => panic!("seed {seed}: {error}: {:?}", std::error::Error::source(&error)),
        };
        finished += 1;
        assert_eq!(text.lines().count() as u64, scenario.requests, "seed {seed}");
        for (seq, line) in text.lines().enumerate() {
            assert!(line.contains(&format!("\"r-{seq}\"")), "seed {seed}: {line}");
        }
    }
    assert!(finished >= FINISHED, "{finished} of {SEEDS} runs have finished");
    let crossed = crossed.lock().unwrap_or_else(PoisonError::into_inner);
    for kind in [("upload", true), ("upload", false), ("download", true), ("index", true), ("pack round", true)] {
        assert!(crossed.contains(&kind), "never: {kind:?}; seen: {crossed:?}");
    }
}
