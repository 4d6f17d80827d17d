//! A deterministic simulation of whole runs: the real driver, Ledger, indexes and merge against a service that lies.
//!
//! In: seeds. Out: proof, as far as thousands of runs prove something, of the two promises, each judged by the
//! service's own record:
//!
//! - *Safety*, with faults for ever: no shard is accepted twice, no row is lost or swapped, nothing that the service
//!   has answered is paid for again, whether the answer has come or not.
//! - *Liveness*, with faults that stop: the run finishes, and every request is answered as it deserves.
//!
//! The seeds are shared out among the dialects.
//!
//! ```text
//! cargo test simulation                                   some hundred seeds
//! BATCHLINE_SIM_SEEDS=20000 cargo test simulation         more
//! BATCHLINE_SIM_SEED=1234 cargo test simulation           one, with all that happened in it
//! ```
//!
//! | file | what it knows |
//! | --- | --- |
//! | `faults` | what can go wrong, and how often |
//! | `world` | the service's state and its record |
//! | `rows` | reply files |
//! | `ends` | how batches end, and what they leave |
//! | `service` | the service as the driver sees it |
//! | `scenario` | what a seed plays |
//! | `life` | processes, and how they die |
//! | `cut` | the durable change that is a process's last |
//! | `oracle` | what must hold |
//! | `crossing` | runs whose steps are done elsewhere |
#![expect(clippy::unchecked_time_subtraction, reason = "simulated time goes forward only")]

mod crossing;
mod cut;
mod ends;
mod faults;
mod life;
mod oracle;
mod rows;
mod scenario;
mod service;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use batchline::report::HeldReason;

use cut::{Counted, Cut, Then};
use faults::Fault;
use oracle::Oracle;
use scenario::{Mode, Scenario, To};

/// Seeds of a campaign, unless the environment says otherwise.
const SEEDS: u64 = 350;

/// Seeds whose first process is cut off at every durable change, with where their output goes.
const PREFIX_SEEDS: [(u64, To); 2] = [(2, To::Pipe), (9, To::File)];

/// Failures of a campaign that are told in one line each.
const FAILURES_TOLD: usize = 40;

/// What a campaign has seen.
#[derive(Debug, Default)]
struct Tally {
    fired: BTreeMap<Fault, u64>,
    seen: BTreeMap<&'static str, u64>,
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Where runs are kept: in memory where that can be had, because every change is synced.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory can be made")
}

/// Plays one seed and judges it.
fn play(seed: u64, mode: Mode, change: impl FnOnce(&mut Scenario)) -> Result<Tally, String> {
    let directory = directory();
    let mut scenario = Scenario::new(seed, mode, directory.path());
    change(&mut scenario);
    let world = scenario.world();
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let ended = scenario.play(&world);
        let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
        Oracle::new(&scenario, &world, &ended).judge();
        if let Some(summary) = &ended.summary {
            world.count("finished");
            for held in &summary.held_shards {
                world.count(match held.reason {
                    HeldReason::UnresolvedSubmission | HeldReason::LostBatch => "held",
                    HeldReason::NotSubmitted => "not submitted",
                    HeldReason::IncompleteAnswer => "incomplete",
                });
            }
        }
    }));
    let world = world.lock().unwrap_or_else(PoisonError::into_inner);
    match judged {
        Ok(()) => Ok(Tally { fired: world.faults.fired.clone(), seen: world.seen.clone() }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("{}\n{mode:?}, seed {seed}: {}", world.log.join("\n"), text.unwrap_or_default()))
        }
    }
}

/// Plays many seeds on all cores and adds up what they have seen.
fn campaign(mode: Mode) -> Option<Tally> {
    if let Some(seed) = variable("BATCHLINE_SIM_SEED") {
        play(seed, mode, |_| ()).unwrap_or_else(|failure| panic!("{failure}"));
        return None;
    }
    let seeds = variable("BATCHLINE_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, tally, failures) = (AtomicU64::new(0), Mutex::new(Tally::default()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    match play(seed, mode, |_| ()) {
                        Ok(played) => {
                            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                            played
                                .fired
                                .iter()
                                .for_each(|(fault, times)| *tally.fired.entry(*fault).or_default() += times);
                            played
                                .seen
                                .iter()
                                .for_each(|(event, times)| *tally.seen.entry(event).or_default() += times);
                        }
                        Err(failure) => {
                            failures.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, failure);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, failure)) = failures.first_key_value() {
        let last = |failure: &String| failure.rsplit("seed ").next().unwrap_or_default().to_owned();
        let told: Vec<String> = failures.values().take(FAILURES_TOLD).map(last).collect();
        panic!(
            "{failure}\n{} of {seeds} seeds failed, among them:\n{}\nsee BATCHLINE_SIM_SEED={seed}",
            failures.len(),
            told.join("\n")
        );
    }
    Some(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn assert_seen(tally: &Tally, events: &[&str], faults: impl Iterator<Item = Fault>) {
    println!("{tally:?}");
    for event in events {
        assert!(tally.seen.contains_key(event), "never: {event}; seen: {tally:?}");
    }
    for fault in faults {
        assert!(tally.fired.contains_key(&fault), "never: {fault:?}; seen: {tally:?}");
    }
}

#[test]
fn with_faults_for_ever_nothing_is_paid_twice_lost_or_swapped() {
    let Some(tally) = campaign(Mode::Safety) else { return };
    let events = [
        "adopted",
        "died",
        "died during recovery",
        "file failed",
        "finished",
        "gave up",
        "held",
        "incomplete",
        "interrupted",
        "ledger failed",
        "mixed up",
        "no room",
        "not shown",
        "second batch cancelled",
    ];
    assert_seen(&tally, &events, Fault::ALL.into_iter());
}

#[test]
fn when_faults_stop_every_run_finishes() {
    let Some(tally) = campaign(Mode::Liveness) else { return };
    let events = [
        "accepted as it is",
        "adopted",
        "died",
        "died during recovery",
        "file failed",
        "finished",
        "interrupted",
        "ledger failed",
    ];
    assert_seen(&tally, &events, Fault::ALL.into_iter().filter(|fault| !fault.is_decision()));
}

/// Cuts off the first process of a few seeds at every durable change in turn.
fn cut_everywhere(then: Then) {
    for (seed, to) in PREFIX_SEEDS {
        for changes in 0_u64.. {
            let cut = |scenario: &mut Scenario| {
                (scenario.deaths, scenario.to) = (0, to);
                scenario.cuts = vec![Cut { changes, counted: Counted::All, then }];
            };
            let tally =
                play(seed, Mode::Liveness, cut).unwrap_or_else(|failure| panic!("{failure}, {changes} changes"));
            if !tally.seen.contains_key("cut") {
                println!("seed {seed}: {changes} changes");
                assert!(changes > 100, "a run of only {changes} changes proves little");
                break;
            }
        }
    }
}

#[test]
fn killed_at_any_durable_change_the_run_finishes() {
    cut_everywhere(Then::Dies);
}

#[test]
fn with_a_disk_that_fails_from_any_durable_change_on_the_run_ends_and_is_resumed() {
    cut_everywhere(Then::Fails);
}

#[test]
fn a_seed_plays_the_same_way_each_time() {
    for seed in 0..5 {
        let [one, other] = [(); 2].map(|()| {
            let directory = directory();
            let scenario = Scenario::new(seed, Mode::Safety, directory.path());
            let world = scenario.world();
            let ended = scenario.play(&world);
            let log = std::mem::take(&mut world.lock().unwrap_or_else(PoisonError::into_inner).log);
            // Some lines name the run, which is in another place each time.
            let place = ended.run.display().to_string();
            let log: Vec<String> = log.iter().map(|line| line.replace(&place, "RUN")).collect();
            (log, String::from_utf8_lossy(&ended.output).replace(&place, "RUN"))
        });
        assert_eq!(one, other);
    }
}
