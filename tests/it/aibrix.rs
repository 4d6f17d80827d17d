//! AIBrix's Batch API server, which nobody here wrote: OpenAI's dialect as others have read it, with real calls to a
//! server behind it.
//!
//! It is not `serve` that answers here, so what holds here does not hold because client and server make the same
//! mistake. The calls that its upstream got are the bill. `.ci/run` installs it; where it is not, its tests say so.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{PATIENCE, Place, Running, report, skipped, wait_until};
use crate::requests::{bodies, ids, lines, request};
use crate::service::Service;
use crate::upstream::{Manner, Upstream, answer};

/// The version that `.ci/run` installs. `tests/aibrix/launch.py` rests on its insides.
const VERSION: &str = "0.8.0";

/// Calls of AIBrix to its upstream at a time, for each batch.
pub(crate) const CONCURRENCY: u32 = 8;

/// An AIBrix of the test's own, with an upstream in the test's process. Dropped, both are gone.
pub(crate) struct Aibrix {
    place: Place,
    port: u16,
    running: Running,
    pub(crate) upstream: Upstream,
    concurrency: u32,
}

impl Aibrix {
    /// Starts one whose upstream takes that long for each answer; `None`, loudly, where it is not installed.
    pub(crate) fn start(latency: Duration) -> Option<Self> {
        Self::start_with(latency, CONCURRENCY)
    }

    fn start_with(latency: Duration, concurrency: u32) -> Option<Self> {
        if !home().join("installed").exists() {
            skipped(&format!("AIBrix {VERSION} is not in {}; .ci/run installs it", home().display()));
            return None;
        }
        let upstream = Upstream::start(Manner { latency, ..Manner::default() });
        // Free a moment ago; a service that is started again must be where it was.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = Place::new();
        let running = launch(&place, &upstream, port, concurrency);
        Some(Self { place, port, running, upstream, concurrency })
    }

    /// Ends it on the spot, in the midst of whatever it does, and starts it again on what it has left.
    fn kill_and_restart(&mut self) {
        self.running.kill();
        wait_until(|| !self.running.is_alive());
        self.running = launch(&self.place, &self.upstream, self.port, self.concurrency);
    }

    /// The arguments that lead a client there. It lists a batch as soon as it has taken it, so what is not there after
    /// a while never will be.
    pub(crate) fn arguments(&self) -> String {
        let url = format!("http://127.0.0.1:{}/v1", self.port);
        format!("--provider aibrix --base-url {url} --poll-interval 200ms --on-ambiguous retry-after:3s")
    }

    /// Every batch that it has accepted, as it shows them.
    pub(crate) fn batches(&self) -> Vec<Value> {
        let list: Value = serde_json::from_slice(&get(self.port, "/v1/batches?limit=100").unwrap()).unwrap();
        list["data"].as_array().unwrap().clone()
    }

    /// Insists that each request went to the upstream once.
    #[track_caller]
    fn assert_asked_once(&self, requests: &[u8]) {
        let asked = self.upstream.let_in();
        assert_eq!(asked.len(), lines(requests).len());
        assert!(asked.values().all(|times| *times == 1), "{asked:?}");
    }
}

/// Where it is installed, if it is.
fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/sdk/aibrix-{VERSION}"))
}

/// Starts the server in the place and waits until it answers.
fn launch(place: &Place, upstream: &Upstream, port: u16, concurrency: u32) -> Running {
    let (python, script) = (home().join("bin/python"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/aibrix/launch.py"));
    let url = upstream.url();
    let root = url.strip_suffix("/v1").unwrap();
    let command = format!("exec '{}' '{script}' {root} {port} {concurrency} >>said 2>&1", python.display());
    // Neither more calls at a time than it was told, nor repeated ones: so that calls can be counted.
    let program = place.shell(&command).env("LOG_PATH", "log").env("AIBRIX_BATCH_ADAPTIVE_MAX_FACTOR", "1");
    let mut running = program.env("AIBRIX_BATCH_INFERENCE_MAX_RETRIES", "0").start();
    wait_until(|| {
        assert!(running.is_alive(), "{}", String::from_utf8_lossy(&place.read("said")));
        get(port, "/healthz").is_some()
    });
    running
}

/// What the server answers, if it does, with 200.
fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).ok()?;
    let body = memchr::memmem::find(&answer, b"\r\n\r\n")? + 4;
    answer.starts_with(b"HTTP/1.1 200").then(|| answer.split_off(body))
}

fn requests(names: impl Iterator<Item = String>) -> Vec<u8> {
    names.flat_map(|name| (request(&name, "m") + "\n").into_bytes()).collect()
}

/// Insists on an answer to each request, in order.
#[track_caller]
fn assert_answered(output: &[u8], requests: &[u8]) {
    assert_eq!(ids(output), ids(requests));
    let wanted: Vec<Value> = ids(requests).iter().map(|id| answer(&format!("Say {id}."))).collect();
    assert_eq!(bodies(output), wanted);
}

#[test]
fn the_same_input_has_the_same_answers_as_in_togethers_dialect() {
    let Some(aibrix) = Aibrix::start(Duration::from_millis(5)) else { return };
    let input = requests((0..300).map(|number| format!("r-{number}")));
    let place = Place::new();
    place.write("in.jsonl", &input);
    place
        .run(&format!("run in.jsonl {} --shard-requests 70 -o out.jsonl --json", aibrix.arguments()))
        .with_code(0)
        .saying(r#""prompt_tokens":1500"#)
        .saying(r#""completion_tokens":2100"#);
    assert_answered(&place.read("out.jsonl"), &input);
    aibrix.assert_asked_once(&input);
    assert_eq!(aibrix.batches().len(), 5);
    // The same behind `serve`, in Together's words.
    let upstream = Upstream::start(Manner::default());
    let service = Service::start_with(&format!("--upstream {}", upstream.url()));
    place
        .run(&format!("run in.jsonl {} --shard-requests 70 -o together.jsonl --json", service.arguments()))
        .with_code(0)
        .saying(r#""prompt_tokens":1500"#)
        .saying(r#""completion_tokens":2100"#);
    assert_eq!(bodies(&place.read("together.jsonl")), bodies(&place.read("out.jsonl")));
    assert_eq!(upstream.let_in(), aibrix.upstream.let_in());
}

#[test]
fn only_rows_that_failed_by_the_servers_fault_are_resent() {
    let Some(aibrix) = Aibrix::start(Duration::from_millis(5)) else { return };
    let names = ["a", "ONCE503-b", "FAIL400-c", "d", "ONCE503-e"].map(str::to_owned);
    let (place, input) = (Place::new(), requests(names.into_iter()));
    place.write("in.jsonl", &input);
    let ended = place.run(&format!("run in.jsonl {} -o out.jsonl", aibrix.arguments())).with_code(6);
    ended.saying("4 outputs, 1 error, 0 missing").saying("sent again: 2 ×").saying("all endpoints failed");
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(&input));
    let error: Value = serde_json::from_slice(lines(&output)[2]).unwrap();
    assert_eq!((&error["error"]["code"], &error["response"]), (&json!("inference_failed"), &Value::Null));
    assert_eq!((aibrix.upstream.total(), aibrix.batches().len()), (7, 2));
}

#[test]
fn a_rejected_batch_ends_the_run_with_the_reason() {
    let Some(aibrix) = Aibrix::start(Duration::ZERO) else { return };
    let place = Place::new();
    place.write("in.jsonl", requests(["a".to_owned()].into_iter()));
    let run = |options: &str| place.run(&format!("run in.jsonl {} {options}", aibrix.arguments()));
    run("--completion-window 1fortnight").with_code(5).saying("HTTP 422").saying("Completion window");
    // By its own name it is not even asked for an endpoint that it has not got.
    run("--endpoint /v1/responses").with_code(2).saying("aibrix has no batches for");
    let unnamed = aibrix.arguments().replace("--provider aibrix", "--dialect openai");
    let refused = place.run(&format!("run in.jsonl {unnamed} --endpoint /v1/responses")).with_code(5);
    refused.saying("HTTP 422").saying("/v1/embeddings");
    assert_eq!((aibrix.batches().len(), aibrix.upstream.total()), (0, 0));
    // The run of before goes on with a window that is one.
    run("--completion-window 1h30min").with_code(0);
    assert_eq!(aibrix.batches().len(), 1);
}

#[test]
fn a_restarting_server_is_waited_for() {
    const KILLS: u64 = 2;
    let Some(mut aibrix) = Aibrix::start(Duration::from_millis(50)) else { return };
    let (place, input) = (Place::new(), requests((0..400).map(|number| format!("r-{number}"))));
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl {} --shard-requests 100 -o out.jsonl", aibrix.arguments());
    let mut running = place.program(&command).start();
    for kill in 1..=KILLS {
        wait_until(|| aibrix.upstream.total() >= 400 * kill / (KILLS + 1));
        assert!(running.is_alive());
        aibrix.kill_and_restart();
    }
    running.end().with_code(0);
    assert_answered(&place.read("out.jsonl"), &input);
    // Killed, it asks again what it has not written down, and forgets rows of batches that it calls completed. Our
    // program sends those again, and nothing else.
    let batches = aibrix.batches();
    let counts = |round: std::ops::Range<u64>, of: &str| -> u64 {
        let shard = |batch: &Value| batch["metadata"]["batchline_shard"].as_str().unwrap().parse::<u64>().unwrap();
        let batches = batches.iter().filter(|batch| round.contains(&shard(batch)));
        batches.map(|batch| batch["request_counts"][of].as_u64().unwrap()).sum()
    };
    let forgotten = 400 - counts(0..4, "completed");
    assert_eq!((counts(0..4, "total"), counts(4..u64::MAX, "total")), (400, forgotten));
    report(&format!(
        "AIBrix was killed {KILLS} times: it asked {} of 400 requests again; it forgot {forgotten} rows, which alone were sent again",
        aibrix.upstream.total() - 400 - forgotten
    ));
}

/// The shortest window that there is.
const WINDOW: Duration = Duration::from_secs(60);

#[test]
fn only_requests_expired_by_a_real_window_are_resent() {
    // Two answers at a time, each in nine seconds: some fourteen in a minute.
    let Some(aibrix) = Aibrix::start_with(Duration::from_millis(5), 2) else { return };
    let names =
        ["FAIL400", "quick"].into_iter().map(str::to_owned).chain((0..22).map(|number| format!("SLOW9-{number}")));
    let (place, input) = (Place::new(), requests(names));
    place.write("in.jsonl", &input);
    let begun = Instant::now();
    let command = format!("run in.jsonl {} --completion-window 1m -o out.jsonl", aibrix.arguments());
    let mut running = place.program(&command).start();
    while aibrix.batches().iter().all(|batch| batch["status"] != "expired") {
        assert!(running.is_alive() && begun.elapsed() < WINDOW + PATIENCE, "{}", running.stderr_so_far());
        std::thread::sleep(Duration::from_millis(100));
    }
    aibrix.upstream.hurry();
    running.end().with_code(6).saying("ended as expired").saying("23 outputs, 1 error, 0 missing");
    assert!(begun.elapsed() >= WINDOW);
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(&input));
    // Also the one that failed: its reply is in the file of a batch that expired, and an answer.
    aibrix.assert_asked_once(&input);
    let batches = aibrix.batches();
    let [second, first] = [0, 1].map(|at| &batches[at]["request_counts"]);
    let in_time = first["completed"].as_u64().unwrap() + 1;
    assert_eq!((batches.len(), &first["total"], &first["failed"]), (2, &json!(24), &json!(1)));
    assert!((10..24).contains(&in_time), "{in_time} of 24 in a minute");
    assert_eq!(second["total"], 24 - in_time);
}
