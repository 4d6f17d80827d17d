//! `run`: every kind of input and output, one line for each request in input order, and nothing submitted twice.

use std::io::Write;

use serde_json::{Value, json};

use crate::program::{Place, wait_until};
use crate::requests::{assert_same, generated, ids, lines, replies, request, with_bodies};
use crate::service::{Books, Service};

const LOCAL: &str = "--provider local --poll-interval 50ms";

#[test]
fn a_file_and_standard_output_get_the_same_lines() {
    let requests = generated(200);
    for to in ["-o out.jsonl", ""] {
        let place = Place::new();
        place.write("in.jsonl", &requests);
        let ended = place.run(&format!("run in.jsonl {LOCAL} {to}")).with_code(0);
        let output = if to.is_empty() { ended.stdout } else { place.read("out.jsonl") };
        assert_same(&output, &replies(&requests));
        Books::inside(&place.run_directory()).assert_billed_once(&requests);
    }
}

/// Files of a place, by name.
type Files = Vec<(&'static str, Vec<u8>)>;

#[test]
fn the_same_requests_give_the_same_output_whatever_they_come_in() {
    let requests = generated(120);
    let wanted = replies(&requests);
    let gzip = |text: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    };
    let cut = requests.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let crlf = String::from_utf8(requests.clone()).unwrap().replace('\n', "\r\n");
    let cases: [(&str, Files, &str, Vec<u8>); 9] = [
        ("a pipe", vec![], "run -", requests.clone()),
        ("a pipe by default", vec![], "run", requests.clone()),
        ("gzip, told by its content", vec![("in", gzip(&requests))], "run in", vec![]),
        ("gzip through a pipe", vec![], "run -", gzip(&requests)),
        ("zstd", vec![("in.zst", zstd::encode_all(&requests[..], 3).unwrap())], "run in.zst", vec![]),
        (
            "files in the order given",
            vec![("b", requests[..cut].to_vec()), ("a", gzip(&requests[cut..]))],
            "run b a",
            vec![],
        ),
        ("a file, then a pipe", vec![("b", requests[..cut].to_vec())], "run b -", requests[cut..].to_vec()),
        ("CRLF", vec![("in", crlf.clone().into_bytes())], "run in", vec![]),
        (
            "a byte order mark",
            vec![("in", [b"\xef\xbb\xbf", &requests[..requests.len() - 1]].concat())],
            "run in",
            vec![],
        ),
    ];
    for (what, files, command, input) in cases {
        let place = Place::new();
        for (name, content) in files {
            place.write(name, content);
        }
        let ended = place.program(&format!("{command} {LOCAL}")).input(input).run().with_code(0);
        assert_eq!(ended.stdout.len(), wanted.len(), "{what}");
        assert_same(&ended.stdout, &wanted);
    }
}

#[test]
fn the_same_command_again_submits_nothing() {
    let (place, service, requests) = (Place::new(), Service::start(), generated(60));
    place.write("in.jsonl", &requests);
    let command = format!("run in.jsonl {} --shard-requests 10 -o out.jsonl", service.arguments());
    place.run(&command).with_code(0).saying("starting 60 requests in 6 shards");
    assert_eq!(service.books().calls("create_batch"), 6);
    std::fs::remove_file(place.path("out.jsonl")).unwrap();
    place.run(&command).with_code(0).saying("already complete: 60 requests");
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    assert_eq!(service.books().calls("create_batch"), 6);
    assert_eq!(service.books().calls("create_file"), 6, "nor is anything uploaded again");
    service.books().assert_billed_once(&requests);
}

#[test]
fn the_same_data_through_a_pipe_or_under_another_name_finds_the_run_of_the_file() {
    let (place, requests) = (Place::new(), generated(60));
    place.write("in.jsonl", &requests);
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    let books = Books::inside(&place.run_directory());
    let calls = books.calls("create_batch");
    let piped =
        place.program(&format!("run {LOCAL}")).input(requests.clone()).run().with_code(0).saying("already complete");
    assert_same(&piped.stdout, &replies(&requests));
    std::fs::rename(place.path("in.jsonl"), place.path("moved.jsonl")).unwrap();
    place.run(&format!("run moved.jsonl {LOCAL} -o again.jsonl")).with_code(0).saying("already complete");
    assert_same(&place.read("again.jsonl"), &replies(&requests));
    // Insists that there is only one run, too.
    assert_eq!(Books::inside(&place.run_directory()).calls("create_batch"), calls);
    books.assert_billed_once(&requests);
}

#[test]
fn other_requests_are_another_run() {
    let (place, requests) = (Place::new(), generated(20));
    place.write("in.jsonl", &requests);
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    place.write("in.jsonl", generated(21));
    place.run(&format!("run in.jsonl {LOCAL} --yes -o out.jsonl")).with_code(0).saying("starting 21 requests");
    assert_same(&place.read("out.jsonl"), &replies(&generated(21)));
}

#[test]
fn defects_stop_everything_before_anything_is_sent() {
    let (place, service) = (Place::new(), Service::start());
    place.write("in.jsonl", format!("{}\n[]\n", request("a", "m")));
    let ended = place.run(&format!("run in.jsonl {} -o out.jsonl", service.arguments())).with_code(4);
    ended.saying("in.jsonl:2:1: not-an-object").saying("1 of 2 lines").saying("hint: ");
    assert_eq!(service.books().calls("create_file") + service.books().calls("create_batch"), 0);
    assert!(!place.has("out.jsonl"));
    assert!(place.run("ls").with_code(0).text().is_empty());
}

#[test]
fn skipped_lines_have_their_error_lines_in_their_place() {
    let place = Place::new();
    let (a, b) = (request("a", "m"), request("b", "n"));
    place.write("in.jsonl", format!("{a}\n[]\n\n{b}\n{{\"custom_id\":\"c\"}}\n{a}\nnot json\n"));
    let ended = place.run(&format!("run in.jsonl {LOCAL} --skip-invalid --report report.jsonl")).with_code(6);
    let output = ended.saying("4 invalid and skipped").stdout;
    let given: Vec<Value> = lines(&output).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    let told: Vec<(&Value, &Value)> = given.iter().map(|line| (&line["custom_id"], &line["error"]["code"])).collect();
    let (null, id, code) = (Value::Null, |id: &str| json!(id), |code: &str| json!(code));
    assert_eq!(
        told,
        [
            (&id("a"), &null),
            (&null, &code("not-an-object")),
            (&id("b"), &null),
            (&id("c"), &code("missing-body")),
            (&id("a"), &code("duplicate-custom-id")),
            (&null, &code("invalid-json")),
        ]
    );
    assert_same(lines(&output)[0], lines(&replies(a.as_bytes()))[0]);
    assert_eq!(lines(&place.read("report.jsonl")).len(), 4);
    Books::inside(&place.run_directory()).assert_billed_once(format!("{a}\n{b}").as_bytes());
}

/// A request that the service answers with an error, and does not bill.
fn failing(custom_id: &str) -> String {
    request(custom_id, "m").replace(r#""model":"m""#, r#""model":"m","stop":["1","2","3","4","5"]"#)
}

#[test]
fn with_errors_in_a_file_of_their_own_the_output_has_only_outputs() {
    let place = Place::new();
    let (good, bad) = ([request("a", "m"), request("c", "m")], [failing("b"), failing("d")]);
    let mixed = [&*good[0], &bad[0], &good[1], &bad[1]].join("\n");
    place.write("in.jsonl", &mixed);
    let together = place.run(&format!("run in.jsonl {LOCAL}")).with_code(6);
    assert_same(&together.stdout, &replies(mixed.as_bytes()));
    let apart = place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl --errors errors.jsonl")).with_code(6);
    apart.saying("2 × batch_client_error: Maximum four stop sequences allowed");
    let (good, bad) = (good.join("\n"), bad.join("\n"));
    assert_same(&place.read("out.jsonl"), &replies(good.as_bytes()));
    assert_same(&place.read("errors.jsonl"), &with_bodies(&replies(bad.as_bytes()), bad.as_bytes()));
    // The file can be sent as it is.
    place.run("check errors.jsonl").with_code(0);
    Books::inside(&place.run_directory()).assert_billed_once(good.as_bytes());
}

#[test]
fn shards_of_seven_requests_for_three_models_in_turn_come_back_in_order() {
    let (place, service, requests) = (Place::new(), Service::start(), generated(100));
    place.write("in.jsonl", &requests);
    let ended = place.run(&format!("run in.jsonl {} --shard-requests 7", service.arguments())).with_code(0);
    assert_same(&ended.stdout, &replies(&requests));
    // 34, 33 and 33 requests for each of the models.
    assert_eq!(service.books().calls("create_batch"), 15);
    service.books().assert_billed_once(&requests);
}

#[test]
fn the_first_lines_appear_while_a_later_shard_is_in_progress() {
    // One request for one model, then so many for another that their batch takes long.
    let (first, rest) = (request("first", "a"), generated(15_000));
    let rest = String::from_utf8(rest).unwrap().replace("openai/gpt-oss-20b", "b");
    let requests = format!("{first}\n{rest}").into_bytes();
    let (place, service) = (Place::new(), Service::start());
    place.write("in.jsonl", &requests);
    let mut running = place.program(&format!("run in.jsonl {}", service.arguments())).start();
    wait_until(|| running.stdout_so_far().contains(&b'\n'));
    // Now nothing moves any more, and what is out must be the beginning.
    service.freeze();
    assert!(running.is_alive());
    let begun = running.stdout_so_far();
    let whole = replies(&requests);
    assert!(begun.len() < whole.len() && whole.starts_with(&begun), "{} of {} bytes", begun.len(), whole.len());
    let status: Value = serde_json::from_slice(&place.run("status --json").with_code(0).stdout).unwrap();
    assert!(
        status["shards_by_state"]["indexed"].as_u64() < Some(status["shards"].as_array().unwrap().len() as u64),
        "{status}"
    );
    service.thaw();
    assert_same(&running.end().with_code(0).stdout, &whole);
}

#[test]
fn a_closed_pipe_is_a_quiet_exit_and_the_run_can_be_resumed() {
    let (place, service, requests) = (Place::new(), Service::start(), generated(2_000));
    place.write("in.jsonl", &requests);
    let command = format!("run in.jsonl {} --shard-requests 100", service.arguments());
    let script = format!(r#"{{ "$BATCHLINE" {command} --quiet; echo $? >code; }} | head -n 1"#);
    let ended = place.shell(&script).run().with_code(0);
    assert_eq!(place.read("code"), b"0\n");
    assert_eq!(ended.stderr, "");
    assert_eq!(ids(&ended.stdout), ids(&requests)[..1]);
    let again = place.run(&command).with_code(0);
    assert_same(&again.stdout, &replies(&requests));
    service.books().assert_billed_once(&requests);
}

#[test]
fn the_prompts_of_this_repository_are_answered_in_order() {
    let place = Place::new();
    let prompts = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/data/prompts.jsonl")).unwrap();
    place.write("prompts.jsonl", &prompts);
    place
        .run("run prompts.jsonl --provider local -o results.jsonl")
        .with_code(0)
        .saying("60 outputs, 0 errors, 0 missing");
    assert_eq!(ids(&place.read("results.jsonl")), ids(&prompts));
    assert_same(&place.read("results.jsonl"), &replies(&prompts));
}
