//! `bench`: every stage of a real run has its row, and nothing is left behind, however it ends.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::program::{Place, Running, names_in, wait_until};

/// The stages, each with its floor.
const STAGES: [(&str, Option<&str>); 8] = [
    ("read", None),
    ("copy", None),
    ("check", Some("read")),
    ("plan", Some("read")),
    ("upload", Some("copy")),
    ("download", Some("copy")),
    ("index", Some("read")),
    ("merge", Some("copy")),
];

/// A place with an empty directory to measure in.
fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("bench")).unwrap();
    place
}

fn assert_nothing_left(place: &Place) {
    assert_eq!(names_in(&place.path("bench")), Vec::<String>::new());
}

/// The local service that a bench has started.
fn service_of(bench: &Running) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", bench.id());
    let mut child = None;
    wait_until(|| {
        let children = std::fs::read_to_string(&children).unwrap_or_default();
        child = children.trim().parse().ok().and_then(Pid::from_raw);
        child.is_some()
    });
    child.unwrap()
}

#[test]
fn each_stage_has_a_row_with_all_bytes_and_requests() {
    // More shards than there are uploads, downloads or indexes at a time.
    for models in ["--model a", "--model a --model b --model c --model d --model e --model f --model g"] {
        let place = place();
        let ended = place.run(&format!("bench -n 2000 --runs 2 --json -d bench {models}")).with_code(0);
        let text = ended.text();
        let rows: Vec<Value> = text.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        let told: Vec<_> = rows.iter().map(|row| (row["stage"].as_str().unwrap(), row["floor"].as_str())).collect();
        assert_eq!(told, STAGES);
        let [input, replies] = [&rows[0]["bytes"], &rows[5]["bytes"]];
        for (row, bytes) in rows.iter().zip([input, input, input, input, input, replies, replies, replies]) {
            assert_eq!(&row["bytes"], bytes, "{row}");
            let requests = if row["floor"].is_null() { 0 } else { 2000 };
            assert_eq!(row["requests"], requests, "{row}");
            assert!(row["seconds"].as_f64() > Some(0.0) && row["cpu_seconds"].as_f64() > Some(0.0), "{row}");
        }
        assert!(replies.as_u64() > Some(0), "{text}");
        assert_nothing_left(&place);
    }
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    for (stage, signal, code) in [("read", Signal::INT, 130), ("plan", Signal::TERM, 143), ("merge", Signal::INT, 130)]
    {
        let place = place();
        let bench = place.program("bench --bytes 20MB --runs 100 -d bench").start();
        wait_until(|| bench.stderr_so_far().contains(stage));
        bench.signal(signal);
        bench.end().with_code(code);
        assert_nothing_left(&place);
    }
}

#[test]
fn a_service_that_dies_ends_it_and_nothing_is_left() {
    for stage in ["check", "upload"] {
        let place = place();
        let bench = place.program("bench --bytes 20MB --runs 100 -d bench").start();
        let service = service_of(&bench);
        wait_until(|| bench.stderr_so_far().contains(stage));
        kill_process(service, Signal::KILL).unwrap();
        bench.end().with_code(5);
        assert_nothing_left(&place);
    }
}
