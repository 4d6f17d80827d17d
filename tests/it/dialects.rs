//! Specifics of OpenAI's dialect: envelopes, tags, pagination, windows, missing files. What holds in every dialect is
//! in `conformance`, and what may go wrong in any in `faults`.

use batchline::dialect::OPENAI;
use serde_json::{Value, json};

use crate::program::{Ended, Place};
use crate::requests::{assert_same, bodies, generated, ids, lines, replies, replies_in, request};
use crate::service::{Books, Service};

const LOCAL: &str = "--provider local --dialect openai --poll-interval 50ms";

/// What a run of these requests must give, byte for byte.
fn openai_replies(requests: &[u8]) -> Vec<u8> {
    replies_in(OPENAI, requests)
}

fn faulty(script: &str) -> Service {
    Service::faulty(OPENAI, script)
}

fn run(place: &Place, service: &Service, requests: &[u8], options: &str) -> Ended {
    place.write("in.jsonl", requests);
    place.run(&format!("run in.jsonl -o out.jsonl {} {options}", service.arguments()))
}

#[test]
fn the_prompts_of_this_repository_have_the_same_answers_in_both_dialects() {
    let place = Place::new();
    let prompts = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/data/prompts.jsonl")).unwrap();
    place.write("prompts.jsonl", &prompts);
    place
        .run(&format!("run prompts.jsonl {LOCAL} -o results.jsonl"))
        .with_code(0)
        .saying("60 outputs, 0 errors, 0 missing");
    Books::inside(&place.run_directory()).assert_billed_once(&prompts);
    let output = place.read("results.jsonl");
    assert_eq!(ids(&output), ids(&prompts));
    assert_same(&output, &openai_replies(&prompts));
    assert_eq!(bodies(&output), bodies(&replies(&prompts)));
    // In the other dialect it is another run.
    place.run("run prompts.jsonl --provider local -o together.jsonl").with_code(0).saying("60 outputs");
    assert_eq!(bodies(&place.read("together.jsonl")), bodies(&output));
    assert_eq!(place.runs().len(), 2);
}

#[test]
fn lines_may_have_their_envelope_or_be_given_one() {
    let (place, service) = (Place::new(), Service::speaking(OPENAI, " --batch-time 0ms"));
    let bare: Vec<String> = (0..30).map(|number| request(&format!("id-{number}"), "m")).collect();
    let dressed = |(number, line): (usize, &String)| match number % 4 {
        0 => line.clone(),
        1 => line.replacen('{', r#"{"method":"POST","url":"/v1/chat/completions","#, 1),
        2 => line.replacen(r#","body""#, r#", "url" : "/v1/chat/completions" ,"body""#, 1),
        _ => format!(r#" {},"method":"POST"}} "#, line.strip_suffix('}').unwrap()),
    };
    let mixed: Vec<String> = bare.iter().enumerate().map(dressed).collect();
    // So small that each byte of the envelope counts.
    run(&place, &service, mixed.join("\n").as_bytes(), "--shard-bytes 700").with_code(0);
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(bare.join("\n").as_bytes()));
    assert!(service.books().calls("create_batch") >= 6);
    assert_eq!(service.books().billed().len(), 30);
    // The same lines as files: what `split` writes is what goes up.
    place.run("split in.jsonl -d shards --provider openai --shard-bytes 700").with_code(0);
    for name in crate::program::names_in(&place.path("shards")) {
        let shard = place.read(&format!("shards/{name}"));
        assert!(shard.len() <= 700, "{}", shard.len());
        for line in lines(&shard) {
            let line: Value = serde_json::from_slice(line).unwrap();
            assert_eq!((&line["method"], &line["url"]), (&json!("POST"), &json!("/v1/chat/completions")));
        }
    }
}

#[test]
fn lines_for_another_endpoint_stop_everything_before_anything_is_sent() {
    let (place, service) = (Place::new(), Service::speaking(OPENAI, ""));
    let line = request("a", "m").replacen('{', r#"{"url":"/v1/embeddings","#, 1);
    let ended = run(&place, &service, line.as_bytes(), "").with_code(4);
    ended.saying("in.jsonl:1:8: other-url: url is not /v1/chat/completions");
    assert_eq!(service.books().calls("upload_file"), 0);
    run(&place, &service, line.as_bytes(), "--endpoint /v1/embeddings").with_code(0);
    run(&place, &service, line.as_bytes(), "--endpoint /v1/nothing").with_code(2);
}

#[test]
fn batches_are_recognized_by_their_tags_when_the_list_omits_files() {
    let script = "[[fault]]\ndo = \"accept_then_drop\"\n[[fault]]\ndo = \"show\"\nunset = [\"input_file_id\"]\n";
    let (place, service, requests) = (Place::new(), faulty(script), generated(60));
    run(&place, &service, &requests, "--shard-requests 8 --on-ambiguous hold --settle 3s").with_code(0);
    assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
    service.books().assert_billed_once(&requests);
    assert_eq!(service.books().calls("create_batch"), 9, "one POST for each shard");
}

#[test]
fn a_batch_expires_by_a_short_window_and_the_next_run_may_use_a_longer_one() {
    let service = Service::speaking(OPENAI, "--batch-time 4s");
    let (place, requests) = (Place::new(), generated(100));
    let ended = run(&place, &service, &requests, "--completion-window 2s --rounds 1").with_code(6);
    ended.saying("ended as expired").saying("batch_expired");
    let done = service.books().billed().len();
    assert!((1..100).contains(&done), "{done}");
    run(&place, &service, &requests, "--completion-window 1h --rounds 2").with_code(0);
    assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
    service.books().assert_billed_once(&requests);
    run(&place, &service, &requests, "--completion-window never!").with_code(2);
}

#[test]
fn a_batch_is_found_on_any_page() {
    let requests: String = (0..130).map(|number| request(&format!("id-{number}"), "m") + "\n").collect();
    let service = faulty("[[fault]]\ndo = \"accept_then_drop\"\nnth = [1, 65, 130]\n");
    let place = Place::new();
    run(&place, &service, requests.as_bytes(), "--shard-requests 1 --on-ambiguous hold --settle 20s").with_code(0);
    assert_eq!(service.books().calls("create_batch"), 130);
    service.books().assert_billed_once(requests.as_bytes());
    assert_same(&place.read("out.jsonl"), &openai_replies(requests.as_bytes()));
}

#[test]
fn a_missing_error_file_counts_as_empty_if_no_reply_is_missing() {
    let script = "[[fault]]\ndo = \"show\"\nset = { error_file_id = \"file-deleted-since\" }\nwhile = \"completed\"\n";
    let (place, service, requests) = (Place::new(), faulty(script), generated(6));
    run(&place, &service, &requests, "").with_code(0);
    assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
}

#[test]
fn missing_outputs_are_held_and_never_paid_for_again() {
    let script = "[[fault]]\ndo = \"show\"\nset = { output_file_id = \"file-deleted-since\" }\nwhile = \"completed\"\n";
    let (place, service, requests) = (Place::new(), faulty(script), generated(6));
    for _ in 0..2 {
        let ended = run(&place, &service, &requests, "--settle 300ms").with_code(7);
        ended.saying("file-deleted-since").saying("HTTP 404").saying("on hold: 3 shards").saying("--accept-incomplete");
        assert_eq!(ids(&place.read("out.jsonl")), ids(&requests));
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn providers_are_listed_with_limits_and_confidence() {
    let place = Place::new();
    let text = place.run("providers").with_code(0).text();
    for row in [
        "together",
        "openai",
        "azure-openai",
        "groq",
        "deepinfra",
        "nebius",
        "aibrix",
        "custom",
        "unverified",
        "OPENAI_API_KEY",
    ] {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
    let records = place.run("providers --json").with_code(0);
    let records: Vec<Value> =
        lines(&records.stdout).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert!(records.iter().all(|row| row["schema"] == 2 && row["kind"] == "provider" && row["evidence"].is_string()));
    let openai = records.iter().find(|row| row["name"] == "openai").unwrap();
    assert_eq!((&openai["shard_bytes"], &openai["metadata"]), (&json!(200_000_000), &json!(true)));
}

#[test]
fn a_custom_service_needs_an_address_and_no_key() {
    let (place, service, requests) = (Place::new(), Service::speaking(OPENAI, " --batch-time 0ms"), generated(6));
    place.write("in.jsonl", &requests);
    place.run("run in.jsonl --dialect openai").with_code(3).saying("--base-url");
    place.run("run in.jsonl --provider openai --dialect together").with_code(2).saying("speaks openai");
    place.run("run in.jsonl --provider openai").with_code(3).saying("OPENAI_API_KEY");
    let command = format!("run in.jsonl --dialect openai --base-url {} --poll-interval 50ms", service.base_url());
    let ended = place.program(&command).env("BATCHLINE_API_KEY", "any").run().with_code(0);
    assert_same(&ended.stdout, &openai_replies(&requests));
}

#[test]
fn a_batch_of_embeddings_is_limited_by_inputs() {
    let place = Place::new();
    // 30 requests of 4,000 inputs each: twelve of them are 48,000, and a batch takes 50,000.
    let inputs = vec![r#""x""#; 4_000].join(",");
    let line = |n: usize| format!(r#"{{"custom_id":"e-{n}","body":{{"model":"m","input":[{inputs}]}}}}"#);
    place.write("in.jsonl", (0..30).map(|n| line(n) + "\n").collect::<String>());
    let plan = |options: &str| -> Vec<(u64, String)> {
        let ended = place.run(&format!("plan in.jsonl --json {options}")).with_code(0);
        let lines: Vec<Value> = ended.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let shards = lines.iter().filter(|record| record["kind"] == "shard");
        shards.map(|shard| (shard["requests"].as_u64().unwrap(), shard["cut"].as_str().unwrap().to_owned())).collect()
    };
    let cut = |requests, cut: &str| (requests, cut.to_owned());
    let counted = [cut(12, "inputs"), cut(12, "inputs"), cut(6, "end")];
    assert_eq!(plan("--provider openai --endpoint /v1/embeddings"), counted);
    assert_eq!(plan("--provider groq"), [cut(30, "end")], "elsewhere nobody counts");
    let said = place.run("plan in.jsonl --provider openai --endpoint /v1/embeddings").with_code(0);
    assert!(said.text().contains("limits: 50,000 requests, 50,000 inputs and 200.0 MB a shard"), "{}", said.text());
}
