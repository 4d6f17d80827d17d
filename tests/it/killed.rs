//! SIGKILL at random moments: run again until done, the output is the one of a run that nobody disturbed, and each request is billed once.
//!
//! In `cargo test` twenty for each kind of service; `BATCHLINE_TEST_KILLS=200` for more.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use crate::program::{MEMORY_KIB, Place, report, wait_until, wanted};
use crate::requests::{assert_same, generated, replies};
use crate::service::{Books, Service};

/// Kills in `cargo test` that must hit a living run, for each kind of service. Of four, at least one must hit it between its first batch
/// and its output, and one while it goes on from an earlier kill: else the moments were badly chosen.
const KILLS: usize = 20;

const REQUESTS: u64 = 3_000;

/// Twelve shards: four for each of three models.
const SHARDS: usize = 12;

#[test]
fn kills_beside_a_service_cost_neither_a_reply_nor_a_second_bill() {
    survive_kills(Beside::start);
}

#[test]
fn kills_together_with_the_service_inside_cost_neither_a_reply_nor_a_second_bill() {
    survive_kills(|| Inside);
}

/// Where the service is that answers a run.
trait Answering {
    fn arguments(&self) -> String;
    fn books(&self, place: &Place) -> Books;
}

/// In a process of its own, which lives on.
struct Beside(Service);

impl Beside {
    fn start() -> Self {
        Self(Service::start_with("--batch-time 50ms"))
    }
}

impl Answering for Beside {
    fn arguments(&self) -> String {
        self.0.arguments()
    }

    fn books(&self, _: &Place) -> Books {
        self.0.books()
    }
}

/// In the run's own process: it dies with it.
struct Inside;

impl Answering for Inside {
    fn arguments(&self) -> String {
        "--provider local --poll-interval 50ms".to_owned()
    }

    fn books(&self, place: &Place) -> Books {
        Books::inside(&place.run_directory())
    }
}

/// Runs as often as it takes for [`KILLS`] kills; each run is killed and run again, and killed while it goes on, until it is done.
fn survive_kills<A: Answering>(answering: impl Fn() -> A) {
    let seed = fastrand::u64(..);
    // Shown when the test fails. The moments follow from the seed; what they hit does not.
    println!("seed {seed}");
    let (mut rng, requests) = (Rng::with_seed(seed), generated(REQUESTS));
    let undisturbed = one_run(&answering(), &requests, |_| None);
    println!("undisturbed it takes {:?}", undisturbed.took);
    let wanted = wanted("BATCHLINE_TEST_KILLS", KILLS);
    let (mut kills, mut amid, mut in_recovery, mut peak) = (0, 0, 0, 0);
    while kills < wanted {
        let run = one_run(&answering(), &requests, |so_far| {
            (kills + so_far < wanted).then(|| undisturbed.took.mul_f64(rng.f64()))
        });
        kills += run.kills;
        amid += run.kills_amid;
        in_recovery += run.kills_in_recovery;
        peak = run.peak_kib.max(peak);
        assert_same(&run.output, &undisturbed.output);
    }
    report(&format!(
        "{kills} kills, {amid} between the first batch and the output, {in_recovery} in recovery, peak memory {peak} KiB, 0 violations"
    ));
    assert!(amid * 4 >= kills, "only {amid} of {kills} kills hit a run that had begun to submit");
    assert!(in_recovery * 4 >= kills, "only {in_recovery} of {kills} kills hit a run that went on");
    assert!(peak < MEMORY_KIB, "{peak} KiB");
}

/// How many shards a killed run left in each state: it can be looked at, whatever the moment.
fn states(place: &Place) -> Value {
    let status = place.run("status --json").with_code(0);
    serde_json::from_slice::<Value>(&status.stdout).unwrap()["shards_by_state"].clone()
}

/// A run that was brought to its end.
struct Done {
    output: Vec<u8>,
    took: Duration,
    kills: usize,
    kills_amid: usize,
    kills_in_recovery: usize,
    peak_kib: u64,
}

/// Runs `requests` until the run is done. `moment` says after what time the next kill comes, given the kills so far.
fn one_run(service: &impl Answering, requests: &[u8], mut moment: impl FnMut(usize) -> Option<Duration>) -> Done {
    let place = Place::new();
    place.write("in.jsonl", requests);
    let command = format!("run in.jsonl {} --shard-requests 250 -o out.jsonl", service.arguments());
    let (begun, mut kills, mut kills_amid, mut kills_in_recovery, mut peak_kib) = (Instant::now(), 0, 0, 0, 0);
    loop {
        let goes_on = !place.runs().is_empty();
        let mut running = place.program(&command).start();
        let started = Instant::now();
        let moment = moment(kills);
        wait_until(|| {
            peak_kib = running.peak_kib().unwrap_or(0).max(peak_kib);
            moment.is_some_and(|moment| started.elapsed() >= moment) || !running.is_alive()
        });
        if moment.is_some() {
            running.kill();
        }
        let ended = running.end();
        if !ended.was_killed() {
            ended.with_code(0);
            break;
        }
        kills += 1;
        kills_in_recovery += usize::from(goes_on);
        if place.has("out.jsonl") {
            // The kill came between the rename and the end.
            assert_same(&place.read("out.jsonl"), &replies(requests));
        } else if !place.runs().is_empty() && service.books(&place).calls("create_batch") > 0 {
            kills_amid += 1;
            println!("killed at {}", states(&place));
        }
    }
    let books = service.books(&place);
    books.assert_billed_once(requests);
    assert!(books.calls("create_batch") >= SHARDS);
    let output = place.read("out.jsonl");
    assert_same(&output, &replies(requests));
    Done { output, took: begun.elapsed(), kills, kills_amid, kills_in_recovery, peak_kib }
}
