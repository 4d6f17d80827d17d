//! Killed at every durable system call: a run of nine shards is cut at the n-th `fsync`, `rename`, `pwrite64`,
//! `writev`… and run again.
//!
//! In every dialect. In `cargo test` a sample; `BATCHLINE_TEST_CUTS=200` for more, `BATCHLINE_TEST_CUTS=all` for all of
//! them.

use batchline::dialect::Dialect;

use crate::program::{Place, report, skipped};
use crate::requests::{assert_same, generated};
use crate::service::{DIALECTS, Service};
use crate::tracing::{is_available, killed_at, most_by_one_thread, traced};

/// Cuts in `cargo test`, over all dialects.
const SAMPLE: usize = 30;

/// What is cut: three shards for each of three models.
const OPTIONS: &str = "run in.jsonl -o out.jsonl --shard-requests 9 --quiet";

#[test]
fn a_run_killed_at_any_durable_system_call_resumes_without_double_payment() {
    if !is_available() {
        return skipped("strace is not installed, so nothing was killed at its system calls");
    }
    let input = generated(60);
    let (mut tried, mut kills, mut kills_in_recovery) = (0, 0, 0);
    for dialect in DIALECTS {
        let cuts = sample(&all_cuts(dialect, &input));
        tried += cuts.len();
        for (number, (call, nth)) in cuts.iter().enumerate() {
            let service = Service::speaking(dialect, "--batch-time 0ms");
            let place = Place::new();
            place.write("in.jsonl", &input);
            let arguments = format!("{OPTIONS} {}", service.arguments());
            kills += usize::from(killed_at(&place, call, *nth, &arguments).run().was_killed());
            if number % 3 == 0 {
                // Recovery is cut, too, at another call.
                let (call, nth) = &cuts[(number * 7 + 1) % cuts.len()];
                kills_in_recovery += usize::from(killed_at(&place, call, *nth, &arguments).run().was_killed());
            }
            place.run(&arguments).with_code(0);
            assert_same(&place.read("out.jsonl"), &service.replies(&input));
            service.books().assert_billed_once(&input);
        }
    }
    assert!(kills * 10 >= tried * 6, "only {kills} of {tried} cuts hit");
    assert!(kills_in_recovery > 0, "recovery was never cut");
    report(&format!("{tried} cuts: {kills} kills, {kills_in_recovery} in recovery, 0 violations"));
}

/// Every call at which a run can be cut.
fn all_cuts(dialect: &'static dyn Dialect, input: &[u8]) -> Vec<(String, usize)> {
    let service = Service::speaking(dialect, "--batch-time 0ms");
    let place = Place::new();
    place.write("in.jsonl", input);
    traced(&place, &format!("{OPTIONS} {}", service.arguments())).run().with_code(0);
    let most = most_by_one_thread(&String::from_utf8_lossy(&place.read("log")));
    most.into_iter().flat_map(|(call, most)| (1..=most).map(move |nth| (call.clone(), nth))).collect()
}

/// A dialect's part of the sample.
fn sample(cuts: &[(String, usize)]) -> Vec<(String, usize)> {
    let wanted = match std::env::var("BATCHLINE_TEST_CUTS").as_deref() {
        Ok("all") => cuts.len(),
        Ok(number) => number.parse::<usize>().unwrap().div_ceil(DIALECTS.len()),
        Err(_) => SAMPLE.div_ceil(DIALECTS.len()),
    };
    // Evenly spread over all kinds of calls.
    let wanted = wanted.min(cuts.len());
    (0..wanted).map(|n| cuts[n * cuts.len() / wanted].clone()).collect()
}
