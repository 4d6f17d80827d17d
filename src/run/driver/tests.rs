//! The driver beside an executor that is not this process's own: everything that goes to it and comes back is text.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{Driver, DriverInputs};
use crate::dialect::providers::provider;
use crate::input::check::LineLimits;
use crate::input::envelope::Envelope;
use crate::input::recheck::Recheck;
use crate::input::source::Input;
use crate::model::shard::ShardLimits;
use crate::remote::{Address, HttpApi, Settings, Token};
use crate::results::normalize::Shape;
use crate::results::reply_index::ReplyIndex;
use crate::run::directory::layout;
use crate::run::executor::{Executor, LocalExecutor};
use crate::run::files::Files;
use crate::run::monitor::{Monitor, Silent};
use crate::run::open;
use crate::run::options::SETTLE;
use crate::run::output::{Ending, Merger, OpenOutputs};
use crate::run::step::{Step, StepResult};
use crate::run::step_error::StepError;
use crate::run::{OnAmbiguous, OnEarlier, OutputTarget, Outputs, RunOptions, RunPlaces, ServiceChoice};
use crate::serve::{Faults, ServeOptions, Server};

/// Requests of the run, in shards of three.
const REQUESTS: usize = 10;

/// Lets every step and every result cross to another executor as JSON, and back.
struct OverJson<E> {
    executor: E,
    crossed: Arc<Mutex<Vec<String>>>,
}

fn over_json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> (T, String) {
    let json = serde_json::to_string(value).unwrap();
    let back = serde_json::from_str(&json).unwrap();
    assert_eq!(*value, back, "{json}");
    (back, json)
}

impl<E: Executor> Executor for OverJson<E> {
    async fn execute(&self, step: Step) -> Result<StepResult, StepError> {
        let (step, sent) = over_json(&step);
        let (result, back) = over_json(&self.executor.execute(step).await);
        let name = |json: &str| json.split('"').nth(1).unwrap_or_default().to_owned();
        let failed = if result.is_err() { " failed" } else { "" };
        assert!(!back.is_empty());
        self.crossed.lock().unwrap().push(name(&sent) + failed);
        result
    }
}

fn options(directory: &Path, server: &Server) -> RunOptions {
    let provider = provider("local").unwrap();
    let lines: String = (0..REQUESTS)
        .map(|seq| format!("{{\"custom_id\":\"r-{seq}\",\"body\":{{\"model\":\"m\",\"messages\":[]}}}}\n"))
        .collect();
    std::fs::write(directory.join("input.jsonl"), lines).unwrap();
    RunOptions {
        inputs: vec![Input::File(directory.join("input.jsonl"))],
        places: RunPlaces { home: directory.join("runs"), others: Vec::new() },
        directory: None,
        service: ServiceChoice::At { provider, address: Address::parse(&server.base_url()).unwrap(), token: None },
        endpoint: provider.endpoint().to_owned(),
        completion_window: "24h".to_owned(),
        line: LineLimits {
            line_bytes: 1 << 20,
            custom_id_characters: 64,
            envelope: Envelope::of(provider.line, provider.endpoint()).unwrap(),
            assign_ids: false,
            inputs: None,
        },
        shard: ShardLimits { requests: 3, bytes: 1 << 20, inputs: None },
        on_earlier: OnEarlier::Ask,
        skip_invalid: false,
        allow_empty: false,
        report: None,
        max_defects: 0,
        threads: 1,
        memory_bytes: 64 << 20,
        uploads: 2,
        poll_interval: Duration::from_millis(20),
        on_ambiguous: OnAmbiguous::Hold,
        max_in_flight_batches: None,
        rounds: 2,
        settle: SETTLE,
        delete_remote: false,
    }
}

struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_steps_and_results_cross_as_json_answers_every_request() {
    let directory = tempfile::tempdir().unwrap();
    // The first batch loses a row, so that there is a second round.
    let script = "[[fault]]\ndo = 'drop_rows'\nrows = [2]\nnth = 1\n";
    let server = Server::start(ServeOptions {
        directory: directory.path().join("served"),
        batch_time: Duration::ZERO,
        faults: Faults::parse(Path::new("script.toml"), script).unwrap(),
        ..ServeOptions::default()
    });
    let server = server.await.unwrap();
    let options = options(directory.path(), &server);
    let monitor: Arc<dyn Monitor> = Arc::new(Silent);
    let prepared = open::prepare(&options, &Silent).unwrap();
    let run = prepared.directory.path().to_owned();
    let packed = prepared.ledger.shards().unwrap().into_iter().map(|row| row.shard);
    let (source, requests, ids) = (prepared.source.clone(), prepared.requests.clone(), prepared.ids);
    let files = Arc::new(Files {
        recheck: Recheck::new(source.clone(), requests.clone(), ids, &run, packed),
        replies: ReplyIndex::open_or_create(&layout::replies_index(&run), requests.len()).unwrap(),
        run,
        source,
        requests,
        ids,
        envelope: prepared.line.envelope,
        threads: 1,
        memory_bytes: 8 << 20,
        redactor: options.service.redactor(),
    });
    let written = Arc::new(Mutex::new(Vec::new()));
    let output = OutputTarget::Writer(Box::new(Written(written.clone())));
    let outputs = OpenOutputs::open(Outputs { output, errors: None, shape: Shape::Native }).unwrap();
    let merger = Merger::start(files.clone(), [].into(), prepared.line, outputs, monitor.clone());
    let ServiceChoice::At { provider, address, .. } = options.service.clone() else { panic!() };
    let api = Arc::new(HttpApi::new(provider, address, Token::new("any").ok(), Settings::default()).unwrap());
    let executor = LocalExecutor::new(api.clone(), files.clone(), &monitor);
    let crossed = Arc::new(Mutex::new(Vec::new()));
    let executor = Arc::new(OverJson { executor, crossed: crossed.clone() });
    let stop = CancellationToken::new();
    let (ledger, lines) = (prepared.ledger, files.requests.len());
    let inputs = DriverInputs { api, executor, files, ledger, options, monitor, merger, stop };

    let (held, ledger, merger) = Driver::new(inputs).unwrap().drive().await.unwrap();

    assert_eq!(held, []);
    let totals = ledger.totals().unwrap();
    assert_eq!((totals.outputs, totals.errors), (REQUESTS as u64, 0));
    let ending = Ending { lines, held: None, counted: (totals.outputs, totals.errors) };
    let merged = tokio::task::spawn_blocking(move || merger.finish(Some(ending))).await.unwrap().unwrap().merged;
    assert_eq!(merged.outputs, REQUESTS as u64);
    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    for (seq, line) in text.lines().enumerate() {
        assert!(line.contains(&format!("\"r-{seq}\"")), "{line}");
    }
    let mut crossed = crossed.lock().unwrap().clone();
    crossed.sort_unstable();
    crossed.dedup();
    assert_eq!(crossed, ["Download", "Index", "PackRound", "Upload"]);
    server.stop().await.unwrap();
}
