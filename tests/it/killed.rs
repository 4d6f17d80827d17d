//! SIGKILL at random moments: re-run until done, the output is that of an undisturbed run, and each request is billed
//! once.
//!
//! In every dialect. `cargo test` takes twenty for each place of the service; `BATCHLINE_TEST_KILLS=200` takes more.

use std::time::{Duration, Instant};

use batchline::dialect::Dialect;
use fastrand::Rng;
use serde_json::Value;

use crate::program::{MEMORY_KIB, Place, report, wait_until, wanted};
use crate::requests::{assert_same, generated, replies_in};
use crate::service::{Books, DIALECTS, Service};

/// Kills in `cargo test` that must hit a living run, for each place of the service, over all dialects. Of four, at
/// least one must hit it between its first batch and its output, and one while it resumes after an earlier kill: else
/// the moments were badly chosen.
const KILLS: usize = 20;

const REQUESTS: u64 = 3_000;

/// Twelve shards: four for each of three models.
const SHARDS: usize = 12;

#[test]
fn kills_beside_a_service_cost_neither_a_reply_nor_a_second_bill() {
    survive_kills(|dialect| Answering::Beside(Service::speaking(dialect, "--batch-time 50ms")));
}

#[test]
fn kills_together_with_the_service_inside_cost_neither_a_reply_nor_a_second_bill() {
    survive_kills(Answering::Inside);
}

/// Where the service is that answers a run.
enum Answering {
    /// In a separate process, which is not killed.
    Beside(Service),
    /// In the run's own process: it dies with it.
    Inside(&'static dyn Dialect),
}

impl Answering {
    fn arguments(&self) -> String {
        match self {
            Self::Beside(service) => service.arguments(),
            Self::Inside(dialect) => format!("--provider local --dialect {} --poll-interval 50ms", dialect.name()),
        }
    }

    fn books(&self, place: &Place) -> Books {
        match self {
            Self::Beside(service) => service.books(),
            Self::Inside(_) => Books::inside(&place.run_directory()),
        }
    }
}

/// Repeats until there were [`KILLS`] kills; each run is killed and re-run, and killed while it resumes, until it is
/// done.
fn survive_kills(answering: impl Fn(&'static dyn Dialect) -> Answering) {
    let seed = fastrand::u64(..);
    // Shown when the test fails. The moments follow from the seed; what they hit does not.
    println!("seed {seed}");
    let (mut rng, requests) = (Rng::with_seed(seed), generated(REQUESTS));
    let wanted = wanted("BATCHLINE_TEST_KILLS", KILLS).div_ceil(DIALECTS.len());
    let (mut kills, mut amid, mut in_recovery, mut peak) = (0, 0, 0, 0);
    for dialect in DIALECTS {
        let output = replies_in(dialect, &requests);
        let undisturbed = one_run(&answering(dialect), &requests, &output, |_| None);
        println!("{dialect}: undisturbed it takes {:?}", undisturbed.took);
        let mut of_dialect = 0;
        while of_dialect < wanted {
            let run = one_run(&answering(dialect), &requests, &output, |so_far| {
                (of_dialect + so_far < wanted).then(|| undisturbed.took.mul_f64(rng.f64()))
            });
            of_dialect += run.kills;
            amid += run.kills_amid;
            in_recovery += run.kills_in_recovery;
            peak = run.peak_kib.max(peak);
        }
        kills += of_dialect;
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
    took: Duration,
    kills: usize,
    kills_amid: usize,
    kills_in_recovery: usize,
    peak_kib: u64,
}

/// Runs `requests` until the run is done and has given `output`. `moment` says after what time the next kill comes,
/// given the kills so far.
fn one_run(
    service: &Answering,
    requests: &[u8],
    output: &[u8],
    mut moment: impl FnMut(usize) -> Option<Duration>,
) -> Done {
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
            assert_same(&place.read("out.jsonl"), output);
        } else if !place.runs().is_empty() && service.books(&place).calls("create_batch") > 0 {
            kills_amid += 1;
            println!("killed at {}", states(&place));
        }
    }
    let books = service.books(&place);
    books.assert_billed_once(requests);
    // A kill of the service may come between a batch and the line that logs its call; one create is under way at a
    // time.
    assert!(books.calls("create_batch") + kills >= SHARDS);
    assert_same(&place.read("out.jsonl"), output);
    Done { took: begun.elapsed(), kills, kills_amid, kills_in_recovery, peak_kib }
}
