//! Input that is meant to hurt: it is refused by name, in bounded memory.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::program::{PATIENCE, Place};

/// The memory that the program promises to keep to, in KiB.
const MEMORY_KIB: u64 = 256 * 1024;

#[test]
fn a_line_that_never_ends_is_refused_without_being_held() {
    let endless = |piece: &[u8]| std::iter::repeat_n(piece.to_vec(), 150).collect::<Vec<_>>();
    let string =
        [vec![br#"{"custom_id":"a","body":{"model":"m","x":""#.to_vec()], endless(&b"y".repeat(1 << 20))].concat();
    let array =
        [vec![br#"{"custom_id":"a","body":{"model":"m","x":[1"#.to_vec()], endless(&b",1".repeat(1 << 19))].concat();
    let depth = endless(&b"[".repeat(1 << 20));
    for pieces in [string, array, depth] {
        let (said, peak_kib) = check_through_a_pipe(pieces);
        assert!(said.contains("<stdin>:1:1: line-too-long: the line is longer than 10000000 bytes"), "{said}");
        assert!(peak_kib < MEMORY_KIB, "{peak_kib} KiB");
    }
}

#[test]
fn a_line_of_the_longest_length_is_checked_in_bounded_memory() {
    let start = br#"{"custom_id":"a","body":{"model":"m","x":[1"#.to_vec();
    let numbers = b",1".repeat(4_990_000);
    let (said, peak_kib) = check_through_a_pipe(vec![start, numbers, b"]}}\n".to_vec()]);
    assert!(said.contains("1 valid request, 0 defects"), "{said}");
    assert!(peak_kib < MEMORY_KIB, "{peak_kib} KiB");
}

#[test]
fn a_hundred_thousand_defects_are_counted_and_the_first_are_shown() {
    let place = Place::new();
    place.write("in.jsonl", "x\n".repeat(100_000));
    let ended = place.run("check in.jsonl --max-defects 3 --report all.jsonl").with_code(4);
    assert_eq!(ended.stderr.matches("invalid-json").count(), 3, "{}", ended.stderr);
    assert!(ended.text().contains("100,000 defects"), "{}", ended.text());
    assert_eq!(crate::requests::lines(&place.read("all.jsonl")).len(), 100_000);
}

/// Pipes the pieces into `check`; what it said, and its peak memory in KiB.
fn check_through_a_pipe(pieces: Vec<Vec<u8>>) -> (String, u64) {
    let place = Place::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_batchline"))
        .args(["check", "-"])
        .current_dir(place.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || pieces.iter().try_for_each(|piece| stdin.write_all(piece)));
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let deadline = std::time::Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "it takes too long");
        let high_water = std::fs::read_to_string(&status).unwrap_or_default();
        let line = high_water.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(peak_kib);
        std::thread::sleep(Duration::from_millis(2));
    }
    feeding.join().unwrap().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(peak_kib > 0, "the memory was never looked at");
    (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), peak_kib)
}
