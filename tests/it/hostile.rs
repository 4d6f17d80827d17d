//! Input that is meant to hurt: it is refused by name, in bounded memory.

use std::io::{self, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::program::{MEMORY_KIB, PATIENCE, Place, wanted};

/// The length of a line that never ends, in MiB: `BATCHLINE_TEST_LINE_MIB=1024` for a real one.
const LINE_MIB: usize = 150;

#[test]
fn a_line_that_never_ends_is_refused_without_being_held() {
    let mib = wanted("BATCHLINE_TEST_LINE_MIB", LINE_MIB);
    let string: (&[u8], Vec<u8>) = (br#"{"custom_id":"a","body":{"model":"m","x":""#, b"y".repeat(1 << 20));
    let array: (&[u8], Vec<u8>) = (br#"{"custom_id":"a","body":{"model":"m","x":[1"#, b",1".repeat(1 << 19));
    let depth: (&[u8], Vec<u8>) = (b"", b"[".repeat(1 << 20));
    for (start, piece) in [string, array, depth] {
        let (said, peak_kib) = check_through_a_pipe(move |stdin| {
            stdin.write_all(start)?;
            (0..mib).try_for_each(|_| stdin.write_all(&piece))
        });
        assert!(said.contains("<stdin>:1:1: line-too-long: the line is longer than 10000000 bytes"), "{said}");
        assert!(peak_kib < MEMORY_KIB, "{peak_kib} KiB");
    }
}

#[test]
fn a_line_of_the_longest_length_is_checked_in_bounded_memory() {
    let (said, peak_kib) = check_through_a_pipe(|stdin| {
        stdin.write_all(br#"{"custom_id":"a","body":{"model":"m","x":[1"#)?;
        stdin.write_all(&b",1".repeat(4_990_000))?;
        stdin.write_all(b"]}}\n")
    });
    assert!(said.contains("1 valid request, 0 defects"), "{said}");
    assert!(peak_kib < MEMORY_KIB, "{peak_kib} KiB");
}

#[test]
fn a_million_nested_arrays_are_a_defect() {
    let open = |bracket: &str| {
        [br#"{"custom_id":"a","body":{"model":"m","x":"#.to_vec(), bracket.repeat(1_000_000).into_bytes()].concat()
    };
    let closed = [open("["), b"]".repeat(1_000_000), b"}}".to_vec()].concat();
    for line in [open("["), open("{\"a\":"), closed] {
        let (said, peak_kib) = check_through_a_pipe(move |stdin| stdin.write_all(&line));
        assert!(said.contains("<stdin>:1:") && said.contains("too-deep"), "{said}");
        assert!(peak_kib < MEMORY_KIB, "{peak_kib} KiB");
    }
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

/// Feeds `check` through a pipe; what it said, and its peak memory in KiB.
fn check_through_a_pipe(feed: impl FnOnce(&mut ChildStdin) -> io::Result<()> + Send + 'static) -> (String, u64) {
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
    let feeding = std::thread::spawn(move || feed(&mut stdin));
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
