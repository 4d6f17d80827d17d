//! What a batch has answered is never requested twice: an incomplete answer is fetched again, and missing replies are
//! held until the user decides.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use batchline::dialect::{Dialect, OPENAI};
use serde_json::Value;

use crate::between::{Between, Content, announced, chunked, closing, gone, lying};
use crate::program::{Place, report, wanted};
use crate::requests::{assert_same, generated, ids, lines, request};
use crate::service::{DIALECTS, Service};

/// Six requests a shard.
const OPTIONS: &str = "--shard-requests 6 --settle 30s";

const SHARDS: usize = 9;

/// As long as a held shard is to be waited for here.
const SHORT: &str = "--shard-requests 6 --settle 1s";

/// Makes a body end at a byte.
type Cut = fn(&[u8], usize) -> Vec<u8>;

/// Makes a bad answer of a good body.
type Trouble = fn(&[u8]) -> Vec<u8>;

/// Ways to send the beginning of a file as if that were all.
const CUTS: [(&str, Cut); 3] = [
    ("in chunks", |body, end| chunked(&body[..end])),
    ("with a length that lies", |body, end| lying("", body.len(), &body[..end])),
    ("until the connection closes", |body, end| closing(&body[..end])),
];

/// Nine shards of six requests, of which one fails: each leaves an output and an error file.
fn input() -> Vec<u8> {
    let line = |number: usize| {
        let line = request(&format!("id-{number}"), "m");
        if number.is_multiple_of(6) {
            line.replace("\"m\"", "\"m\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\"]")
        } else {
            line
        }
    };
    (0..6 * SHARDS).flat_map(|number| (line(number) + "\n").into_bytes()).collect()
}

fn service(dialect: &'static dyn Dialect) -> Service {
    Service::speaking(dialect, "--batch-time 0ms")
}

/// Insists that all batches were created once, and no request was paid for twice.
#[track_caller]
fn assert_asked_once(service: &Service) {
    assert_eq!(service.books().calls("create_batch"), SHARDS);
    service.books().assert_never_twice();
}

/// Whether a request is in a file.
fn answers(content: &Content<'_>, id: &str) -> bool {
    memchr::memmem::find(content.body, format!("\"custom_id\":\"{id}\"").as_bytes()).is_some()
}

/// The lines of an output that are held, and the ids of their requests.
fn held(output: &[u8]) -> Vec<String> {
    let lines = lines(output).into_iter().map(|line| serde_json::from_slice::<Value>(line).unwrap());
    let is_held = lines.filter(|line| line["error"]["code"] == "held");
    is_held.map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_body_truncated_anywhere_in_its_last_row_is_fetched_again() {
    let requests = input();
    // Each run cuts each of its eighteen files somewhere else.
    let runs = wanted("BATCHLINE_TEST_ANSWER_CUTS", 1);
    let mut cuts = 0;
    for dialect in DIALECTS {
        for (how, cut) in CUTS {
            let next = Arc::new(AtomicUsize::new(fastrand::usize(..1000)));
            for _ in 0..runs {
                let (service, place, next) = (service(dialect), Place::new(), next.clone());
                let between = Between::start(&service, move |content| {
                    let row = content.body.strip_suffix(b"\n").unwrap_or(content.body);
                    let row = row.len() - row.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                    // From the last bracket to the first, so that each place of a row comes once in a while.
                    let off = 2 + next.fetch_add(37, Ordering::Relaxed) % row;
                    (content.nth == 1).then(|| cut(content.body, content.body.len() - off))
                });
                place.write("in.jsonl", &requests);
                let ended = place.run(&format!("run in.jsonl -o out.jsonl {} {OPTIONS}", between.arguments()));
                assert_eq!(ended.status.code(), Some(6), "{dialect} {how}: {}", ended.stderr);
                assert_same(&place.read("out.jsonl"), &service.replies(&requests));
                assert_asked_once(&service);
                assert_eq!(between.spoilt(), 2 * SHARDS);
                cuts += between.spoilt();
            }
        }
    }
    report(&format!("{cuts} cuts within last rows, 0 accepted, 0 requests sent again"));
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body).unwrap();
    gzip.finish().unwrap()
}

/// Blocks of bytes as they are, which is Brotli, too (RFC 7932, section 9.2).
fn brotli(body: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    for (number, block) in body.chunks(1 << 16).enumerate() {
        let length = u32::try_from(block.len() - 1).unwrap();
        let header = ((length << 3) | (1 << 19)) << u32::from(number == 0);
        packed.extend_from_slice(&header.to_le_bytes()[..3]);
        packed.extend_from_slice(block);
    }
    packed.push(3);
    packed
}

/// The first half of the rows.
fn half(body: &[u8]) -> &[u8] {
    let middle = body.len() / 2;
    &body[..body[..middle].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)]
}

/// What comes in the place of a file for a while.
const TROUBLES: [Trouble; 14] = [
    |_| announced("", b""),
    |body| announced("", half(body)),
    |body| chunked(half(body)),
    |_| announced("content-type: text/html\r\n", b"<!doctype html><title>Maintenance</title>"),
    |_| announced("", br#"{"error":{"message":"try again later"}}"#),
    |_| announced("", b"upstream connect error or disconnect/reset before headers"),
    |body| announced("", &gzip(body)),
    |body| announced("content-encoding: gzip\r\n", &gzip(body)),
    |body| announced("content-encoding: zstd\r\n", &zstd::encode_all(body, 1).unwrap()),
    |body| announced("", &zstd::encode_all(body, 1).unwrap()),
    |body| announced("content-encoding: br\r\n", &brotli(body)),
    |body| announced("content-encoding: gzip\r\n", &gzip(body)[..40]),
    |body| announced("content-encoding: deflate\r\n", body),
    |body| lying("", body.len() - 10, body),
];

#[test]
fn transient_wrong_responses_cost_nothing() {
    let requests = input();
    for dialect in DIALECTS {
        // Eighteen files, fourteen troubles: twice, so that each trouble meets outputs and errors.
        for first in [0, 7] {
            let (service, place, next) = (service(dialect), Place::new(), Arc::new(AtomicUsize::new(first)));
            let between = Between::start(&service, move |content| {
                let trouble = TROUBLES[next.fetch_add(1, Ordering::Relaxed) % TROUBLES.len()];
                (content.nth <= 2).then(|| trouble(content.body))
            });
            place.write("in.jsonl", &requests);
            let ended = place.run(&format!("run in.jsonl -o out.jsonl {} {OPTIONS}", between.arguments()));
            assert_eq!(ended.status.code(), Some(6), "{dialect}: {}", ended.stderr);
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            assert_asked_once(&service);
            assert!(between.spoilt() >= 2 * SHARDS, "{}", between.spoilt());
        }
    }
}

#[test]
fn missing_replies_are_held_and_the_rest_is_delivered() {
    let requests = input();
    let troubles: [(&str, Trouble); 3] =
        [("cut", |body| chunked(half(body))), ("gone", |_| gone()), ("a page", |_| announced("", b"<html>"))];
    for (dialect, (what, trouble)) in DIALECTS.into_iter().flat_map(|dialect| troubles.map(|each| (dialect, each))) {
        let (service, place, healed) = (service(dialect), Place::new(), Arc::new(AtomicBool::new(false)));
        let is_healed = healed.clone();
        let between = Between::start(&service, move |content| {
            (answers(content, "id-8") && !is_healed.load(Ordering::Relaxed)).then(|| trouble(content.body))
        });
        place.write("in.jsonl", &requests);
        let command = format!("run in.jsonl {} {SHORT}", between.arguments());
        for _ in 0..2 {
            let ended = place.run(&format!("{command} -o out.jsonl")).with_code(7).saying("on hold: 1 shard (1)");
            ended.saying("the service has more replies than could be fetched").saying("--accept-incomplete");
            let output = place.read("out.jsonl");
            assert_eq!(ids(&output), ids(&requests), "a line for each request");
            let held = held(&output);
            // Of a file that is cut the first rows are here, whichever they are: a service writes them in any order.
            assert_eq!(held.len(), if what == "cut" { 3 } else { 5 }, "{what}: {held:?}");
            assert!(held.iter().all(|id| (7..12).any(|number| *id == format!("id-{number}"))), "{what}: {held:?}");
            // What is not held is as it came, in the held shard, too.
            let wanted = service.replies(&requests);
            let (given, wanted) = (lines(&output), lines(&wanted));
            let same = given.iter().zip(&wanted).filter(|(given, wanted)| given == wanted).count();
            assert_eq!(same + held.len(), 54, "{what}");
            assert_asked_once(&service);
        }
        let status = place.run("status").with_code(0);
        assert!(status.text().contains("incomplete") && status.text().contains("on hold, batch"), "{}", status.text());
        status.saying("--accept-incomplete");
        let status: Value = serde_json::from_slice(&place.run("status --json").with_code(0).stdout).unwrap();
        assert_eq!((&status["state"], &status["shards"][1]["held"]), (&"held".into(), &"incomplete-answer".into()));
        assert_eq!(status["held_requests"], status["shards"][1]["held_requests"]);
        place.run("clean --yes").with_code(6);
        // The lines that are final come first, and the rest when the run has ended.
        let piped = place.run(&command).with_code(7);
        assert_same(&piped.stdout, &place.read("out.jsonl"));
        healed.store(true, Ordering::Relaxed);
        place.run(&format!("{command} -o out.jsonl")).with_code(6);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        assert_asked_once(&service);
    }
}

#[test]
fn incomplete_replies_can_be_accepted_as_complete() {
    let requests = generated(60);
    for dialect in DIALECTS {
        let (service, place) = (service(dialect), Place::new());
        let between = Between::start(&service, |content| (content.nth < 1000).then(|| chunked(half(content.body))));
        place.write("in.jsonl", &requests);
        let command = format!("run in.jsonl -o out.jsonl {} --shard-requests 20 --settle 300ms", between.arguments());
        let summary = place.run(&format!("{command} --json")).with_code(7).stderr;
        let summary: Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
        let held = held(&place.read("out.jsonl")).len();
        assert_eq!((&summary["held"], &summary["missing"]), (&held.into(), &0.into()));
        assert_eq!(summary["held_shards"].as_array().unwrap().len(), 3);
        assert_eq!(summary["held_shards"][0]["reason"], "incomplete-answer");
        place.run("retry").with_code(0).saying("3 shards still on hold").saying("nothing to retry");
        let decided = place.run("retry --accept-incomplete").with_code(0).text();
        assert!(
            decided.contains(&format!("3 incomplete shards accepted as complete: {held} requests missing")),
            "{decided}"
        );
        // With one round they are missing, and no longer held; nothing was sent for that.
        place.run(&format!("{command} --rounds 1")).with_code(6).saying(&format!("{held} missing"));
        assert_eq!(service.books().calls("create_batch"), 3);
        // With more they are sent again, which is what was decided.
        place.run(&command).with_code(7);
        assert!(service.books().calls("create_batch") > 3);
    }
}

#[test]
fn counts_above_the_replies_hold_the_missing_requests() {
    let requests = generated(60);
    for (counted, code) in [(true, 7), (false, 0)] {
        let script = format!("[[fault]]\ndo = \"drop_rows\"\nbatch = 2\nshare = 0.3\ncounted = {counted}\n");
        let (service, place) = (Service::faulty(OPENAI, &script), Place::new());
        place.write("in.jsonl", &requests);
        let options = "--shard-requests 20 --settle 300ms";
        let ended = place.run(&format!("run in.jsonl -o out.jsonl {} {options}", service.arguments())).with_code(code);
        if counted {
            ended.saying("the service counts 20 of its requests as answered").saying("on hold: 1 shard (");
            service.books().assert_billed_once(&requests);
        } else {
            ended.saying("sent again").saying("no reply");
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        }
    }
}
