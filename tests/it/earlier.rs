//! Runs left by earlier versions of the program: they are found and resumed.

use std::path::Path;

use crate::places::{ledger, place_with, set_meta};
use crate::program::{Place, names_in, wait_until};
use crate::requests::{assert_same, generated, replies};
use crate::service::Service;

const LOCAL: &str = "--provider local --poll-interval 50ms";

/// Names the only run of a place as earlier versions did, which told more spellings apart. `lines` is the hash of its
/// lines.
fn name_as_earlier_versions_did(place: &Place, lines: u128, service: &str, skip_invalid: bool) {
    let run = place.run_directory();
    let fingerprint = record_as_earlier_versions_did(&run, lines, service, skip_invalid);
    std::fs::rename(&run, run.with_file_name(&fingerprint[..16])).unwrap();
}

/// Makes its Ledger say what those of earlier versions said; the fingerprint that it has now.
fn record_as_earlier_versions_did(run: &Path, lines: u128, service: &str, skip_invalid: bool) -> String {
    let named = format!("{lines:032x}\n{service}\n/v1/chat/completions\n{skip_invalid}");
    let fingerprint = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(named.as_bytes()));
    let ledger = rusqlite::Connection::open(run.join("ledger.sqlite")).unwrap();
    set_meta(&ledger, "fingerprint", &fingerprint);
    set_meta(&ledger, "service", service);
    set_meta(&ledger, "skip_invalid", &skip_invalid.to_string());
    ledger.execute("DELETE FROM meta WHERE key = 'begun_in'", []).unwrap();
    fingerprint
}

/// The hash of these lines, each with its blanks, as earlier versions had it.
fn hash_of(lines: &[&[u8]]) -> u128 {
    let hashes: Vec<u8> = lines.iter().flat_map(|line| xxhash_rust::xxh3::xxh3_64(line).to_le_bytes()).collect();
    xxhash_rust::xxh3::xxh3_128(&hashes)
}

#[test]
fn runs_that_an_earlier_version_left_in_the_working_directory_are_found_there_and_new_ones_go_home() {
    let (service, requests) = (Service::start(), generated(60));
    let place = place_with(&requests, "elsewhere");
    let home = place.path("home");
    let with_home = |command: &str| place.program(command).env("BATCHLINE_HOME", home.to_str().unwrap());
    let command = format!("run in.jsonl {} --shard-requests 9 --uploads 1 -o out.jsonl", service.arguments());
    // As earlier versions had it.
    let mut begun = place.program(&command).start();
    wait_until(|| service.books().accepted() >= 2);
    begun.kill();
    begun.end();
    let left = place.run_directory();

    with_home(&command).run().with_code(0).saying("resuming 60 requests").saying(".batchline/");
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
    let piped = with_home(&format!("run {}", service.arguments())).input(requests.clone()).run();
    piped.with_code(0).saying("already complete");
    assert_eq!(names_in(&home), [""; 0]);
    let name = left.file_name().unwrap().to_str().unwrap();
    assert!(with_home("ls").run().with_code(0).text().contains(name));
    assert_eq!(with_home("ls").within(place.path("elsewhere")).run().with_code(0).text(), "");

    place.write("other.jsonl", generated(7));
    with_home(&format!("run other.jsonl {} -o other", service.arguments())).run().with_code(0);
    assert_eq!((names_in(&home).len(), place.runs()), (1, vec![left]));
    assert_eq!(with_home("ls").run().with_code(0).text().lines().count(), 2);
}

#[test]
fn a_run_that_an_earlier_version_named_after_a_spelling_is_found_by_all_others() {
    let requests = generated(9);
    let hash = hash_of(&crate::requests::lines(&requests));
    let together = "https://api.together.xyz/v1";
    for (provider, recorded, asked) in [
        (
            "together",
            format!("together {together}"),
            vec!["", "--base-url https://api.together.ai", "--base-url https://API.together.xyz:443/v1/"],
        ),
        (
            "local",
            "local http://localhost:9/v1".to_owned(),
            vec!["--base-url http://127.0.0.1:9", "--base-url http://localhost:9/v1"],
        ),
    ] {
        for skip_invalid in [false, true] {
            // Nobody is asked anything by a run that is done, so any service will do to make one.
            let (place, service) = (place_with(&requests, "elsewhere"), Service::start());
            place.run(&format!("run in.jsonl {} -o out.jsonl", service.arguments())).with_code(0);
            name_as_earlier_versions_did(&place, hash, &recorded, skip_invalid);
            for options in &asked {
                for skipping in ["", "--skip-invalid"] {
                    let options = format!("--provider {provider} {options} {skipping}");
                    let run = |input: &str| {
                        place.program(&format!("run {input} {options} -o out.jsonl")).env("TOGETHER_API_KEY", "key")
                    };
                    run("in.jsonl").run().with_code(0).saying("already complete: 9 requests");
                    run("-").input(requests.clone()).run().with_code(0).saying("already complete: 9 requests");
                }
            }
            assert_eq!(place.runs().len(), 1);
        }
    }
}

#[test]
fn the_most_advanced_of_duplicate_earlier_runs_is_resumed() {
    let requests = generated(9);
    let hash = hash_of(&crate::requests::lines(&requests));
    for answered in ["in.jsonl", "copy.jsonl"] {
        // One of them was answered, the other one never sent.
        let (place, service, nowhere) = (place_with(&requests, "elsewhere"), Service::start(), "http://127.0.0.1:9/v1");
        place.write("copy.jsonl", &requests);
        for (input, options) in [("in.jsonl", "--run-dir first"), ("copy.jsonl", "--run-dir second")] {
            let url = if input == answered { service.base_url() } else { nowhere };
            let options = format!("{options} --provider local --poll-interval 50ms --base-url {url}");
            let mut running = place.program(&format!("run {input} {options} --yes -o out.jsonl")).start();
            let run = place.path(if input == "in.jsonl" { "first" } else { "second" });
            wait_until(|| run.join("ledger.sqlite").exists() && (input != answered || place.has("out.jsonl")));
            running.kill();
            running.end();
            let service = "local http://localhost:9/v1";
            let name = record_as_earlier_versions_did(&run, hash, service, input == "in.jsonl");
            std::fs::create_dir_all(place.path(".batchline")).unwrap();
            std::fs::rename(&run, place.path(".batchline").join(&name[..16])).unwrap();
        }
        assert_eq!(place.runs().len(), 2);
        let run = "run - --provider local --base-url http://127.0.0.1:9";
        place.program(run).input(requests.clone()).run().with_code(0).saying("already complete");
    }
}

#[test]
fn a_run_over_lines_with_blanks_that_an_earlier_version_began_is_found() {
    let requests = generated(9);
    let spaced =
        [b"  ".as_slice(), &String::from_utf8(requests.clone()).unwrap().replace('\n', " \n  ").into_bytes()].concat();
    let place = place_with(&spaced, "elsewhere");
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    let lines: Vec<&[u8]> = crate::requests::lines(&spaced);
    name_as_earlier_versions_did(&place, hash_of(&lines), "local built in", false);
    place.program(&format!("run {LOCAL}")).input(spaced.clone()).run().with_code(0).saying("already complete");
    place.write("in.jsonl", &spaced);
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0).saying("already complete");
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    assert_eq!(place.runs().len(), 1);
}

#[test]
fn an_earlier_run_without_paths_blocks_no_other_run() {
    let place = place_with(&generated(9), "elsewhere");
    // Such a run was never sent: the version that made it could not open it.
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    set_meta(&ledger(&place), "parts", "");
    place.write("other.jsonl", generated(3));
    place.run(&format!("run other.jsonl {LOCAL} -o other")).with_code(0);
    assert_eq!(place.run("ls").with_code(0).text().lines().count(), 2);
    // Its own input finds it, and gives it back what it lost.
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0).saying("already complete");
    assert_eq!(place.runs().len(), 2);
}
