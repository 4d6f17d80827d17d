//! `--provider online` and `serve --upstream`: a service without a Batch API is asked request by request, with the same
//! promises.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Ended, Place, wait_until};
use crate::requests::{ids, lines, request};
use crate::service::Service;
use crate::upstream::{Manner, Upstream, answer};

/// A key that stands nowhere by chance.
const CANARY: &str = "canary-8c1f6a0b2e9d4735-upstream";

/// Requests that are at the service at a time, at most.
const CONCURRENCY: u64 = 32;

pub(crate) fn requests(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| (request(&format!("r-{number}"), "m") + "\n").into_bytes()).collect()
}

/// The files that a run at a service without a Batch API keeps about its batches, by their ending.
fn files_of(place: &Place, ending: &str) -> Vec<PathBuf> {
    let directory = place.run_directory().join("online");
    let paths = crate::program::names_in(&directory).into_iter().map(|name| directory.join(name));
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

/// The last line that was said in JSON: the summary.
#[track_caller]
pub(crate) fn summary(ended: &Ended) -> Value {
    let last = ended.stderr.lines().last().unwrap();
    let summary: Value = serde_json::from_str(last).unwrap();
    assert_eq!(summary["kind"], "summary", "{summary}");
    summary
}

/// Insists on an answer to each request, in order.
#[track_caller]
pub(crate) fn assert_answered(output: &[u8], requests: &[u8]) {
    assert_eq!(ids(output), ids(requests));
    for line in lines(output) {
        let row: Value = serde_json::from_slice(line).unwrap();
        let wanted = answer(&format!("Say {}.", row["custom_id"].as_str().unwrap()));
        assert_eq!((&row["response"]["status_code"], &row["response"]["body"]), (&json!(200), &wanted));
    }
}

#[test]
fn answers_come_back_in_order_and_each_failure_in_its_place() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner::default()));
    let names = ["a", "FAIL400", "b", "ONCE503", "PROSE", "c"];
    let input: String = names.iter().map(|name| request(name, "m") + "\n").collect();
    place.write("in.jsonl", &input);
    let ended = place.run(&format!("run in.jsonl --provider online --base-url {} -o out.jsonl --json", upstream.url()));
    let ended = ended.with_code(6);
    let rows: Vec<Value> =
        lines(&place.read("out.jsonl")).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    let told: Vec<_> = rows.iter().map(|row| (&row["custom_id"], &row["error"]["code"])).collect();
    let (null, bad, prose) = (Value::Null, json!("http_400"), json!("not_json"));
    let codes = [&null, &bad, &null, &null, &prose, &null];
    assert_eq!(told, names.map(Value::from).iter().zip(codes).collect::<Vec<_>>());
    assert_eq!(rows[1]["error"]["message"], "this message is not liked");
    assert_eq!(rows[1]["response"]["status_code"], 400);
    assert_eq!(rows[3]["response"]["body"], answer("Say ONCE503."));
    assert_eq!(rows[4]["response"]["body"], "no JSON,\nbut prose");
    let summary = summary(&ended);
    assert_eq!((&summary["outputs"], &summary["errors"]), (&json!(4), &json!(2)));
    assert_eq!(summary["completion_tokens"], 28);
    assert_eq!(summary["sent_again"], json!({}), "nothing that may have been answered");
    // Once each, but for the one that was told to come again.
    assert_eq!(upstream.total(), 7);
    let left = |ending: &str| files_of(&place, ending).len();
    assert_eq!((left("journal"), left("json"), left("jsonl")), (0, 1, 2), "one batch, which has ended");
    // Again: nothing is sent.
    place.run(&format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url())).with_code(6);
    assert_eq!(upstream.total(), 7);
}

/// What a run against a rate limit is like.
struct Limited {
    requests: usize,
    per_second: f64,
    burst: f64,
}

impl Limited {
    /// Seconds for it seven, unless the environment asks for the real thing: `REQUESTS:PER_SECOND:BURST`.
    fn chosen() -> Self {
        let Ok(wanted) = std::env::var("BATCHLINE_TEST_ONLINE") else {
            return Self { requests: 1_500, per_second: 300.0, burst: 300.0 };
        };
        let numbers: Vec<f64> = wanted.split(':').map(|number| number.parse().unwrap()).collect();
        let [requests, per_second, burst] = numbers[..] else { panic!("{wanted} is not REQUESTS:PER_SECOND:BURST") };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of requests")]
        Self { requests: requests as usize, per_second, burst }
    }

    fn start(&self) -> Upstream {
        let Self { per_second, burst, .. } = *self;
        Upstream::start(Manner { per_second, burst, latency: Duration::from_millis(50), ..Manner::default() })
    }

    /// The time that a client needs that never asks too early nor too late.
    fn ideal(&self) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        let beyond = self.requests as f64 - self.burst;
        Duration::from_secs_f64(beyond / self.per_second)
    }
}

#[test]
fn a_rate_limit_is_used_to_the_full() {
    let (place, limited) = (Place::new(), Limited::chosen());
    let (upstream, input) = (limited.start(), requests(limited.requests));
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl --json", upstream.url());
    let begun = Instant::now();
    let running = place.program(&command).start();
    let mut running = Some(running);
    while running.as_mut().unwrap().is_alive() {
        assert!(begun.elapsed() < limited.ideal() * 3 + Duration::from_secs(30), "it takes for ever");
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = begun.elapsed();
    let ended = running.take().unwrap().end().with_code(0);
    let ratio = took.as_secs_f64() / limited.ideal().as_secs_f64();
    println!(
        "{} requests in {took:.2?}: {ratio:.3} times the ideal {:.2?}; {} turned away, at most {} at a time",
        limited.requests,
        limited.ideal(),
        upstream.turned_away(),
        upstream.most_out()
    );
    assert_answered(&place.read("out.jsonl"), &input);
    assert_eq!((upstream.total(), upstream.twice_at_a_time()), (limited.requests as u64, 0));
    assert_eq!(summary(&ended)["sent_again"], json!({}));
    // Starting, checking and merging do not grow with the limit.
    let most = limited.ideal().mul_f64(1.2).max(limited.ideal() + Duration::from_secs(4));
    assert!(took <= most, "{took:?} where {most:?} is enough");
}

#[test]
fn kills_cost_what_was_in_flight_and_it_is_said_how_much_that_was() {
    const KILLS: u64 = 3;
    let (place, limited) = (Place::new(), Limited::chosen());
    let (upstream, input) = (limited.start(), requests(limited.requests));
    place.write("in.jsonl", &input);
    let command = format!(
        "run in.jsonl --provider online --base-url {} --concurrency {CONCURRENCY} -o out.jsonl --json",
        upstream.url()
    );
    let mut sent_before = 0;
    for kill in 1..=KILLS {
        let mut running = place.program(&command).start();
        // Somewhere in the midst of it, by how far it has come.
        let until = limited.requests as u64 * kill / (KILLS + 1);
        let begun = Instant::now();
        while upstream.total() < until {
            assert!(running.is_alive() && begun.elapsed() < limited.ideal() * 3 + Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(3));
        }
        running.kill();
        assert!(running.end().was_killed());
        assert!(upstream.total() > sent_before);
        sent_before = upstream.total();
    }
    let mut running = place.program(&command).start();
    let begun = Instant::now();
    while running.is_alive() {
        assert!(begun.elapsed() < limited.ideal() * 3 + Duration::from_secs(30), "it takes for ever");
        std::thread::sleep(Duration::from_millis(10));
    }
    let ended = running.end().with_code(0);
    assert_answered(&place.read("out.jsonl"), &input);
    let counts = upstream.let_in();
    let twice = upstream.total() - limited.requests as u64;
    let said = summary(&ended)["sent_again"]["at the service when the process ended"].as_u64().unwrap_or(0);
    println!("{KILLS} kills: {twice} requests were let in twice, and {said} are said to have been in flight");
    assert!(counts.values().all(|times| u64::from(*times) <= 1 + KILLS));
    assert!(twice <= said, "{twice} were let in again, {said} were said");
    assert!(twice > 0, "the kills hit nothing");
    assert!(said <= KILLS * CONCURRENCY, "{said} in flight");
    assert!(upstream.most_out() as u64 <= CONCURRENCY);
    assert_eq!(counts.len(), limited.requests);
}

#[test]
fn a_torn_journal_is_gone_on_with_and_a_damaged_one_is_refused() {
    let (place, upstream) =
        (Place::new(), Upstream::start(Manner { latency: Duration::from_millis(100), ..Manner::default() }));
    let input = requests(300);
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url());
    let mut running = place.program(&command).start();
    wait_until(|| upstream.total() > 100);
    running.kill();
    assert!(running.end().was_killed());
    let journal = files_of(&place, "journal").remove(0);
    let whole = std::fs::read(&journal).unwrap();
    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    std::fs::write(&journal, damaged).unwrap();
    let sent = upstream.total();
    place.run(&command).with_code(8).saying("is damaged at byte 0");
    assert_eq!(upstream.total(), sent);
    std::fs::write(&journal, &whole[..whole.len() - 3]).unwrap();
    place.run(&command).with_code(0).saying("at the service when the process ended");
    assert_answered(&place.read("out.jsonl"), &input);
}

#[test]
fn neither_the_input_nor_the_replies_are_on_disk_twice() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner { latency: Duration::ZERO, ..Manner::default() }));
    // An answer repeats the last message alone.
    let system = format!(r#""messages":[{{"role":"system","content":"{}"}},"#, "x".repeat(10_000));
    let line = |number| {
        let line = request(&format!("r-{number}"), "m").replace("Say", &"say ".repeat(1_500));
        line.replace(r#""messages":["#, &system) + "\n"
    };
    let input: String = (0..300).map(line).collect();
    place.write("in.jsonl", &input);
    place.run(&format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url())).with_code(0);
    let replies = place.read("out.jsonl").len();
    assert!(replies > 1_000_000 && input.len() > 2 * replies, "{replies} bytes of replies");
    let on_disk = disk_usage(&place.run_directory(), &mut BTreeSet::new());
    // What the Ledger and the indexes take does not depend on how long the lines are.
    assert!(on_disk < replies as u64 * 13 / 10 + (300 << 10), "{on_disk} bytes for {replies} of replies");
}

/// Bytes in all files below a directory, each counted once however many names it has.
fn disk_usage(directory: &Path, seen: &mut BTreeSet<u64>) -> u64 {
    let usage = |path: PathBuf| {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            disk_usage(&path, seen)
        } else if seen.insert(metadata.ino()) {
            metadata.len()
        } else {
            0
        }
    };
    crate::program::names_in(directory).into_iter().map(|name| directory.join(name)).map(usage).sum()
}

#[test]
fn an_interrupted_run_waits_for_what_is_out_and_sends_nothing_again() {
    let (place, upstream) =
        (Place::new(), Upstream::start(Manner { latency: Duration::from_millis(300), ..Manner::default() }));
    let input = requests(400);
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl --json", upstream.url());
    let running = place.program(&command).start();
    wait_until(|| upstream.total() > 50);
    running.signal(rustix::process::Signal::INT);
    running.end().with_code(130);
    let ended = place.run(&command).with_code(0);
    assert_answered(&place.read("out.jsonl"), &input);
    assert_eq!((upstream.total(), &summary(&ended)["sent_again"]), (400, &json!({})));
}

#[test]
fn a_key_goes_to_the_service_alone_and_a_wrong_one_ends_the_run_at_once() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner { key: Some(CANARY), ..Manner::default() }));
    let input = requests(20);
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url());
    let wrong = place.program(&command).env("BATCHLINE_ONLINE_KEY", "wrong-one-4711").run().with_code(3);
    assert!(!wrong.stderr.contains("wrong-one-4711"), "{}", wrong.stderr);
    wrong.saying("the key was not accepted").saying("hint: check the API key");
    assert_eq!(upstream.total(), 0);
    // The same run is resumed with the right key.
    let ended = place.program(&command).env("OPENAI_API_KEY", CANARY).run().with_code(0);
    assert!(!ended.stderr.contains(CANARY));
    assert_answered(&place.read("out.jsonl"), &input);
    assert_eq!(upstream.total(), 20);
    assert!(upstream.keys().contains(&format!("Bearer {CANARY}")));
    crate::secrets::assert_nowhere_below(&place.path(""), CANARY);
}

#[test]
fn a_service_that_is_not_there_ends_the_run_with_a_reason() {
    let place = Place::new();
    place.write("in.jsonl", requests(3));
    // Nobody listens on port 1; a port that was just given back would soon be another test's.
    let running = place.program("run in.jsonl --provider online --base-url http://127.0.0.1:1/v1").start();
    // The waits between attempts are random: mostly twenty seconds together, now and then more than a minute.
    let ended = running.end_within(Duration::from_mins(3)).with_code(5);
    ended.saying("could not connect");
}

#[test]
fn serve_answers_with_an_upstream_and_keeps_its_key_to_itself() {
    let upstream = Upstream::start(Manner { key: Some(CANARY), ..Manner::default() });
    let (place, service_place) = (Place::new(), Place::new());
    crate::secrets::write_private(&service_place.path("key"), CANARY);
    let arguments = format!("--upstream {} --upstream-key-file key --upstream-concurrency 4", upstream.url());
    let service = Service::start_in(service_place, &arguments);
    let input = requests(100);
    place.write("in.jsonl", &input);
    place.run(&format!("run in.jsonl {} -o out.jsonl", service.arguments())).with_code(0);
    assert_answered(&place.read("out.jsonl"), &input);
    service.books().assert_billed_once(&input);
    assert!(upstream.most_out() <= 4);
    // The client's own key does not get there.
    assert!(upstream.keys().iter().all(|key| *key == format!("Bearer {CANARY}")));
}

#[test]
fn a_cancelled_batch_sends_nothing_more_and_returns_what_it_has() {
    let upstream = Upstream::start(Manner { latency: Duration::from_millis(200), ..Manner::default() });
    let place = Place::new();
    let service = Service::start_with(&format!("--upstream {} --upstream-concurrency 2", upstream.url()));
    let input = requests(500);
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl {} -o out.jsonl --json", service.arguments());
    let running = place.program(&command).start();
    wait_until(|| upstream.total() >= 10);
    place.run(&format!("cancel --base-url {}", service.base_url())).with_code(0);
    let ended = running.end().with_code(6);
    let (summary, sent) = (summary(&ended), upstream.total());
    assert!(sent < 400, "{sent}");
    assert_eq!(summary["outputs"], sent, "what was sent was answered, and has come home");
    assert_eq!(summary["missing"], 500 - sent);
}

#[test]
fn a_server_with_a_key_of_somebody_else_is_not_open_to_everybody() {
    let place = Place::new();
    let serve = |arguments: &str| {
        let command = format!("serve --listen 0.0.0.0:0 --upstream http://127.0.0.1:9/v1 {arguments}");
        place.program(&command).env("BATCHLINE_UPSTREAM_KEY", CANARY)
    };
    let refused = serve("").run().with_code(3).saying("anyone who can reach 0.0.0.0:0 could use this server");
    assert!(!refused.stderr.contains(CANARY));
}
