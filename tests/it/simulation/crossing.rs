//! Runs whose executor is not this process's own: every step and every result crosses as text.
//!
//! In: seeds. Out: proof that a step and its result say all that they must, whatever goes wrong.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batchline::run::error::StepError;
use batchline::run::executor::Executor;
use batchline::run::step::{Step, StepResult};
use batchline::{CancellationToken, Error, ErrorKind, OutputTarget, Outputs, Run, Shape, Silent};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::directory;
use super::scenario::{Mode, Scenario};
use super::service::Service;

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
    let run = Run::open(scenario.options.clone(), Arc::new(Silent), CancellationToken::new()).await?;
    let written = Arc::new(Mutex::new(Vec::new()));
    let output = OutputTarget::Writer(Box::new(Written(written.clone())));
    let outputs = Outputs { output, errors: None, shape: Shape::Native };
    let api = Service { world, dies_at: 0, dies_at_create: 0, death: CancellationToken::new() };
    let over_json = |executor| OverJson { executor, crossed: crossed.clone() };
    let summary = run.execute_on(api, outputs, over_json).await?;
    if !summary.held_shards.is_empty() {
        return Ok(None);
    }
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
