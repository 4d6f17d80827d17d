//! Whole runs against a service that misbehaves by script: whatever it does, nothing is paid for twice and no row is
//! lost.
//!
//! The service's bill decides, and its logs prove that the faults really happened.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use batchline::dialect::{OPENAI, TOGETHER};
use serde_json::Value;

use crate::program::{Ended, Place, end_within_memory, report, wait_until, wanted};
use crate::requests::{assert_same, generated, ids, lines, request};
use crate::service::{DIALECTS, Service};

/// A run of the requests with these options, to its end.
fn run(place: &Place, service: &Service, requests: &[u8], options: &str) -> Ended {
    place.write("in.jsonl", requests);
    place.run(&format!("run in.jsonl -o out.jsonl {} {options}", service.arguments()))
}

const NEVER_TWICE: &str = "--shard-requests 8 --on-ambiguous hold --settle 3s";

/// Ways to accept a batch and not to say so.
const WAYS: [&str; 8] = [
    r#"do = "accept_then_drop""#,
    "do = \"accept_then_drop\"\nhow = \"reset\"",
    "do = \"accept_then_status\"\nstatus = 502",
    "do = \"accept_then_status\"\nstatus = 500",
    "do = \"accept_then_status\"\nstatus = 408",
    "do = \"accept_then_status\"\nstatus = 409",
    "do = \"accept_then_status\"\nstatus = 201\nbody = '{\"job\":'",
    "do = \"late_commit\"\ndelay = \"1s\"",
];

/// Shards that [`NEVER_TWICE`] cuts sixty requests into.
const SHARDS: usize = 9;

#[test]
fn a_batch_with_a_lost_response_is_found_and_adopted() {
    let requests = generated(60);
    for (dialect, fault) in DIALECTS.into_iter().flat_map(|dialect| WAYS.map(|fault| (dialect, fault))) {
        let service = Service::faulty(dialect, &format!("[[fault]]\n{fault}\n"));
        let place = Place::new();
        run(&place, &service, &requests, NEVER_TWICE).with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
        assert_eq!(service.books().calls("create_batch"), SHARDS, "one POST for each shard: {dialect}: {fault}");
        assert_eq!((service.books().accepted(), service.books().faults()), (SHARDS, SHARDS), "{dialect}: {fault}");
    }
}

/// Every shard alone with every way, in every dialect: in `cargo test` each shard once; `BATCHLINE_TEST_MATRIX=144` for
/// all of them.
#[test]
fn any_lost_response_leaves_one_batch_per_shard() {
    let requests = generated(60);
    let pairs = WAYS.len() * SHARDS;
    let sample = wanted("BATCHLINE_TEST_MATRIX", SHARDS).min(pairs * DIALECTS.len());
    // Eight ways and nine shards have no common divisor: the two remainders go through all pairs, then once more with
    // the dialects swapped.
    for number in 0..sample {
        let (way, nth) = (WAYS[number % WAYS.len()], number % SHARDS + 1);
        let dialect = DIALECTS[(number + number / pairs) % DIALECTS.len()];
        let service = Service::faulty(dialect, &format!("[[fault]]\n{way}\nnth = {nth}\n"));
        let place = Place::new();
        run(&place, &service, &requests, NEVER_TWICE).with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
        assert_eq!(service.books().calls("create_batch"), SHARDS, "{dialect}: {nth}: {way}");
        assert_eq!((service.books().accepted(), service.books().faults()), (SHARDS, 1), "{dialect}: {nth}: {way}");
    }
    report(&format!("{sample} lost answers resolved, 0 violations"));
}

#[test]
fn a_run_killed_before_the_response_finds_the_batch() {
    let requests = generated(60);
    for nth in 1..=SHARDS {
        let script = format!("[[fault]]\ndo = \"accept_slow\"\ndelay = \"50s\"\nnth = {nth}\n");
        let service = Service::faulty(DIALECTS[nth % DIALECTS.len()], &script);
        let place = Place::new();
        place.write("in.jsonl", &requests);
        let arguments = format!("run in.jsonl -o out.jsonl {} {NEVER_TWICE}", service.arguments());
        let mut running = place.program(&arguments).start();
        wait_until(|| service.books().accepted() == nth);
        running.kill();
        assert!(running.end().was_killed());
        assert_eq!(service.books().accepted(), nth);
        place.run(&arguments).with_code(0).saying("found its batch");
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        assert_eq!((service.books().accepted(), service.books().calls("create_batch")), (SHARDS, SHARDS));
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn any_shard_is_held_if_the_list_is_wrong() {
    let requests = generated(60);
    let lies = ["do = \"list_null\"", "do = \"list_omit\"\nnewest = 100", "do = \"list_lag\"\ndelay = \"10m\""];
    for nth in 1..=SHARDS {
        let (way, lie) = (WAYS[nth % (WAYS.len() - 1)], lies[nth % lies.len()]);
        let script = format!("[[fault]]\n{way}\nnth = {nth}\n[[fault]]\n{lie}\n");
        let service = Service::faulty(DIALECTS[nth % DIALECTS.len()], &script);
        let place = Place::new();
        for _ in 0..2 {
            let options = "--shard-requests 8 --on-ambiguous hold --settle 300ms";
            run(&place, &service, &requests, options).with_code(7).saying("on hold: 1 shard");
            assert_eq!(ids(&place.read("out.jsonl")), ids(&requests));
            assert_eq!((service.books().accepted(), service.books().calls("create_batch")), (SHARDS, SHARDS), "{nth}");
        }
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn a_batch_that_appears_after_it_was_held_is_adopted_by_the_next_run() {
    let (script, requests) = ("[[fault]]\ndo = \"late_commit\"\ndelay = \"4s\"\nnth = 3\n", generated(60));
    let options = "--shard-requests 8 --on-ambiguous hold --settle 300ms";
    for dialect in DIALECTS {
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        run(&place, &service, &requests, options).with_code(7);
        wait_until(|| service.books().accepted() == SHARDS);
        run(&place, &service, &requests, options).with_code(0).saying("found its batch");
        assert_eq!(service.books().calls("create_batch"), SHARDS);
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn a_duplicate_batch_risked_by_choice_is_found_cancelled_and_reported() {
    let requests = generated(60);
    for dialect in DIALECTS {
        let host = Place::new();
        host.write("faults.toml", "[[fault]]\ndo = \"late_commit\"\ndelay = \"2s\"\nnth = 1\n");
        let service = Service::speaking_in(dialect, host, "--batch-time 6s --faults faults.toml");
        let place = Place::new();
        let ended = run(&place, &service, &requests, "--on-ambiguous retry-after:300ms").with_code(7);
        ended.saying("has a second batch on its file").saying("it is cancelled").saying("asked the service to cancel");
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        assert_eq!(service.books().accepted(), 4, "three shards, and one of them twice");
        let is_stopped = |batch: &Value| batch["status"].as_str().unwrap().eq_ignore_ascii_case("cancelled");
        assert_eq!(service.books().batches().iter().filter(|batch| is_stopped(batch)).count(), 1);
    }
}

#[test]
fn a_submission_not_in_the_list_is_held_until_a_decision() {
    let script = "[[fault]]\ndo = \"accept_then_drop\"\nnth = 1\n[[fault]]\ndo = \"list_null\"\n";
    for dialect in DIALECTS {
        let (place, service, requests) = (Place::new(), Service::faulty(dialect, script), generated(60));
        let held = run(&place, &service, &requests, NEVER_TWICE).with_code(7);
        held.saying("on hold: 1 shard").saying("retry").saying("--ambiguous");
        let output = place.read("out.jsonl");
        assert_eq!(ids(&output), ids(&requests));
        let is_held = |line: &&[u8]| memchr::memmem::find(line, b"\"code\":\"held\"").is_some();
        let held_lines = lines(&output).into_iter().filter(is_held).count();
        assert!((1..=8).contains(&held_lines), "{held_lines}");
        // Run again it is held still; nothing more is sent.
        run(&place, &service, &requests, NEVER_TWICE).with_code(7);
        assert_eq!(service.books().calls("create_batch"), 9);
        assert!(service.books().billed().len() <= requests_in(&requests));
        place.run("status").with_code(0).saying("held shard was submitted");
        // The decision to send it again is a human's, and so is the bill.
        place.run("retry --ambiguous").with_code(0);
        run(&place, &service, &requests, NEVER_TWICE).with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        assert_eq!(service.books().calls("create_batch"), 10);
    }
}

#[test]
fn a_batch_never_created_is_held_or_resubmitted_once_by_choice() {
    let script = "[[fault]]\ndo = \"drop_before\"\ncall = \"create\"\nnth = 2\n";
    let requests = generated(60);
    for dialect in DIALECTS {
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        run(&place, &service, &requests, NEVER_TWICE).with_code(7);
        assert_eq!(service.books().calls("create_batch"), 9);
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        run(&place, &service, &requests, "--shard-requests 8 --on-ambiguous retry-after:500ms").with_code(0);
        assert_eq!(service.books().calls("create_batch"), 10);
        service.books().assert_billed_once(&requests);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
    }
}

#[test]
fn only_retryable_and_lost_rows_are_resent() {
    // After a real report: 88 of 100 rows failed. One of 100 gets lost on top, in the first round.
    let script = "[[fault]]\ndo = \"error_rows\"\nshare = 0.88\nonce = true\ncode = \"batch_client_error\"\n\
                  message = \"Internal Server Error\"\n[[fault]]\ndo = \"drop_rows\"\nshare = 0.01\nbatch = 1\n";
    let requests: String = (0..20_000).map(|n| request(&format!("id-{n}"), "m") + "\n").collect();
    for dialect in DIALECTS {
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        place.write("in.jsonl", &requests);
        let running = place.program(&format!("run in.jsonl -o out.jsonl {}", service.arguments())).start();
        let (ended, peak) = end_within_memory(running);
        report(&format!("20,000 rows, most of them twice: peak memory {peak} KiB"));
        let ended = ended.with_code(0);
        let ended = ended.saying("sent again").saying("batch_client_error: Internal Server Error").saying("no reply");
        assert_same(&place.read("out.jsonl"), &service.replies(requests.as_bytes()));
        // What the service answered and then lost is billed, too; nothing else is paid for twice.
        let lost = service.books().rows_of_fault("drop_rows");
        assert!(lost > 0);
        let mut billed = service.books().billed();
        assert!((20_000..=20_000 + lost).contains(&billed.len()), "{}: {}", billed.len(), ended.stderr);
        billed.dedup();
        assert_eq!(billed.len(), 20_000);
    }
}

#[test]
fn expired_and_failed_batches_resend_only_untried_requests() {
    let script = "[[fault]]\ndo = \"expire\"\nbatch = 1\nshare = 0.6\n[[fault]]\ndo = \"fail\"\nbatch = 2\n\
                  message = \"Internal error: no capacity\"\n";
    for dialect in DIALECTS {
        let (place, service, requests) = (Place::new(), Service::faulty(dialect, script), generated(90));
        run(&place, &service, &requests, "--shard-requests 20")
            .with_code(0)
            .saying("ended as expired")
            .saying("sent again");
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
        // With one round, what is left is missing, and says why.
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        run(&place, &service, &requests, "--shard-requests 20 --rounds 1").with_code(6).saying("missing");
        let output = place.read("out.jsonl");
        assert_eq!(ids(&output), ids(&requests));
        // OpenAI's dialect has a row for each of them.
        let why = if dialect == OPENAI { "batch_expired" } else { "ended as expired" };
        assert!(String::from_utf8_lossy(&output).contains(why));
        // A decision brings them in.
        place.run("retry").with_code(0);
        run(&place, &service, &requests, "--shard-requests 20 --rounds 1").with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn malformed_replies_are_matched() {
    let script =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/data/faults/messy-results.toml")).unwrap();
    for dialect in DIALECTS {
        let (place, service, requests) = (Place::new(), Service::faulty(dialect, &script), generated(600));
        let options = "--shard-requests 100 --rounds 1 --settle 300ms";
        // Replies to nobody may be those that lack: a decision, and they are missing.
        run(&place, &service, &requests, options).with_code(7).saying("--accept-incomplete");
        assert_eq!(lines_of(&place.read("out.jsonl")).len(), 600);
        place.run("retry --accept-incomplete").with_code(0);
        let ended = run(&place, &service, &requests, options).with_code(6);
        let output = place.read("out.jsonl");
        let given = lines_of(&output);
        assert_eq!(given.len(), 600);
        for (line, id) in given.iter().zip(ids(&requests)) {
            let place = memchr::memmem::find(line, format!("\"custom_id\":\"{id}\"").as_bytes());
            assert!(place.is_some(), "{id}: {}", String::from_utf8_lossy(&line[..line.len().min(200)]));
        }
        ended.saying("unknown").saying("duplicate").saying("in conflict");
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn interrupted_downloads_are_completed() {
    let script =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/data/faults/bad-downloads.toml")).unwrap();
    for dialect in DIALECTS {
        let (place, service, requests) = (Place::new(), Service::faulty(dialect, &script), generated(200));
        run(&place, &service, &requests, "--shard-requests 20").with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
        assert!(service.books().faults() >= 3, "{}", service.books().faults());
    }
}

#[test]
fn rate_limits_outages_and_late_files_only_delay_a_run() {
    let script = "[[fault]]\ndo = \"status\"\ncall = [\"upload\", \"create\", \"retrieve\", \"list\", \"content\"]\nevery = 5\n\
                  status = 429\nretry_after = 1\n[[fault]]\ndo = \"status\"\ncall = [\"put\", \"preprocess\"]\nevery = 4\nstatus = 503\n\
                  [[fault]]\ndo = \"reset\"\ncall = [\"upload\", \"put\"]\nevery = 7\nat = 300\n\
                  [[fault]]\ndo = \"status\"\ncall = \"list\"\nevery = 7\nstatus = 429\nretry_after = \"in a while\"\n\
                  [[fault]]\ndo = \"visibility_lag\"\ncalls = 1\nstatus = 400\n\
                  [[fault]]\ndo = \"show\"\nlooks = 1\nset = { status = \"QUEUED\" }\n[[fault]]\ndo = \"regress\"\nlooks = 2\n\
                  [[fault]]\ndo = \"list_lag\"\ndelay = \"1s\"\n[[fault]]\ndo = \"list_duplicate\"\nevery = 3\n";
    for dialect in DIALECTS {
        let (place, service, requests) = (Place::new(), Service::faulty(dialect, script), generated(30));
        run(&place, &service, &requests, "--shard-requests 5 --on-ambiguous hold --settle 20s").with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
        assert!(service.books().faults() > 10);
    }
}

#[test]
fn the_key_does_not_follow_a_redirect_to_another_host() {
    for (dialect, service, variable, upload) in
        [(TOGETHER, "together", "TOGETHER_API_KEY", "put"), (OPENAI, "openai", "OPENAI_API_KEY", "upload")]
    {
        let (address, heard) = listen_elsewhere();
        let redirect = |call: &str, nth: u32| {
            format!(
                "[[fault]]\ndo = \"redirect\"\ncall = \"{call}\"\nnth = {nth}\nstatus = 307\nlocation = \"http://{address}{{path}}\"\n"
            )
        };
        let script =
            ["list", "retrieve", "content", upload].map(|call| redirect(call, 2)).concat() + &redirect("create", 99);
        let (place, server, requests) = (Place::new(), Service::faulty(dialect, &script), generated(60));
        place.write("in.jsonl", &requests);
        let command = format!(
            "run in.jsonl -o out.jsonl --provider {service} --base-url {} --poll-interval 50ms --shard-requests 8",
            server.base_url()
        );
        let ended = place.program(&command).env(variable, "canary-key").run();
        std::net::TcpStream::connect(address).unwrap().write_all(b"enough").unwrap();
        let heard = String::from_utf8_lossy(&heard.join().unwrap()).to_lowercase();
        assert!(!heard.contains("canary-key") && !heard.contains("authorization"), "{heard}");
        assert!(server.books().faults() > 0, "{}", ended.stderr);
    }
}

/// Another host, which answers whatever it is asked, and gives back what it has heard once it was told that this is
/// enough.
fn listen_elsewhere() -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for connection in other.incoming() {
            let mut connection = connection.unwrap();
            connection.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut said = vec![0; 16 * 1024];
            let length = connection.read(&mut said).unwrap_or(0);
            if said[..length] == *b"enough" {
                return heard;
            }
            heard.extend_from_slice(&said[..length]);
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
        heard
    });
    (address, heard)
}

#[test]
fn cancel_keeps_finished_results_and_resends_nothing() {
    for dialect in DIALECTS {
        let (place, service, requests) =
            (Place::new(), Service::faulty(dialect, "[[fault]]\ndo = \"never\"\n"), generated(30));
        place.write("in.jsonl", &requests);
        let command = format!("run in.jsonl -o out.jsonl {}", service.arguments());
        let running = place.program(&command).start();
        wait_until(|| service.books().calls("create_batch") == 3);
        running.signal(rustix::process::Signal::INT);
        running.end().with_code(130);
        let url = service.base_url();
        let cancelled = place.run(&format!("cancel --base-url {url}")).with_code(0);
        assert_eq!(cancelled.text().lines().count(), 3, "{}", cancelled.text());
        place.run(&command).with_code(6).saying("cancelled");
        assert_eq!(service.books().calls("create_batch"), 3, "cancelling was a decision");
        assert_eq!(ids(&place.read("out.jsonl")), ids(&requests));
    }
}

fn requests_in(text: &[u8]) -> usize {
    lines(text).len()
}

/// Lines by `\n` alone, whatever bytes they hold.
fn lines_of(text: &[u8]) -> Vec<&[u8]> {
    text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n').collect()
}
