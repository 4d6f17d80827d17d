//! The same runs in OpenAI's dialect: the same order, the same answers, the same bill, whatever happens on the way.

use std::time::{Duration, Instant};

use batchline::remote::Dialect;
use batchline::serve::echo_reply_in;
use serde_json::{Value, json};

use crate::program::{Ended, Place, wait_until};
use crate::requests::{assert_same, generated, ids, lines, replies, request};
use crate::service::{Books, Service};

const LOCAL: &str = "--provider local --dialect openai --poll-interval 50ms";

const NEVER_TWICE: &str = "--shard-requests 8 --on-ambiguous hold --settle 3s";

/// What a run of these requests must give, byte for byte.
fn openai_replies(requests: &[u8]) -> Vec<u8> {
    let reply = |line: &[u8]| echo_reply_in(Dialect::OpenAi, line).into_iter().chain(*b"\n");
    lines(requests).into_iter().flat_map(reply).collect()
}

fn faulty(script: &str) -> Service {
    let place = Place::new();
    place.write("faults.toml", script);
    Service::speaking_in(Dialect::OpenAi, place, " --batch-time 0ms --faults faults.toml")
}

fn run(place: &Place, service: &Service, requests: &[u8], options: &str) -> Ended {
    place.write("in.jsonl", requests);
    place.run(&format!("run in.jsonl -o out.jsonl {} {options}", service.arguments()))
}

/// The answers alone, in their order.
fn bodies(output: &[u8]) -> Vec<Value> {
    let body = |line| serde_json::from_slice::<Value>(line).unwrap()["response"]["body"].clone();
    lines(output).into_iter().map(body).collect()
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
    let (place, service) = (Place::new(), Service::speaking(Dialect::OpenAi, " --batch-time 0ms"));
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
    let (place, service) = (Place::new(), Service::speaking(Dialect::OpenAi, ""));
    let line = request("a", "m").replacen('{', r#"{"url":"/v1/embeddings","#, 1);
    let ended = run(&place, &service, line.as_bytes(), "").with_code(4);
    ended.saying("in.jsonl:1:8: other-url: url is not /v1/chat/completions");
    assert_eq!(service.books().calls("upload_file"), 0);
    run(&place, &service, line.as_bytes(), "--endpoint /v1/embeddings").with_code(0);
    run(&place, &service, line.as_bytes(), "--endpoint /v1/nothing").with_code(2);
}

#[test]
fn a_lost_answer_is_found_in_the_list_and_the_batch_adopted() {
    let requests = generated(60);
    for fault in [
        r#"do = "accept_then_drop""#,
        "do = \"accept_then_drop\"\nhow = \"reset\"",
        "do = \"accept_then_status\"\nstatus = 502",
        "do = \"accept_then_status\"\nstatus = 408",
        "do = \"accept_then_status\"\nstatus = 200\nbody = '{\"id\":'",
        "do = \"late_commit\"\ndelay = \"1s\"",
        // The list does not say which files batches use: their metadata tells whose they are.
        "do = \"accept_then_drop\"\n[[fault]]\ndo = \"show\"\nunset = [\"input_file_id\"]",
    ] {
        let service = faulty(&format!("[[fault]]\n{fault}\n"));
        let place = Place::new();
        run(&place, &service, &requests, NEVER_TWICE).with_code(0);
        assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
        service.books().assert_billed_once(&requests);
        assert_eq!(service.books().calls("create_batch"), 9, "one POST for each shard: {fault}");
    }
}

#[test]
fn what_the_list_does_not_show_is_held_and_left_to_a_decision() {
    for lie in ["list_null", "list_omit\"\nnewest = 100\n#"] {
        let script = format!("[[fault]]\ndo = \"accept_then_drop\"\nnth = 1\n[[fault]]\ndo = \"{lie}\"\n");
        let (place, service, requests) = (Place::new(), faulty(&script), generated(30));
        run(&place, &service, &requests, NEVER_TWICE).with_code(7).saying("held: 1 shard");
        let posts = service.books().calls("create_batch");
        run(&place, &service, &requests, NEVER_TWICE).with_code(7);
        assert_eq!(service.books().calls("create_batch"), posts);
        assert!(service.books().billed().len() <= 30);
    }
}

#[test]
fn a_batch_is_found_on_whatever_page_it_stands() {
    let requests: String = (0..130).map(|number| request(&format!("id-{number}"), "m") + "\n").collect();
    let service = faulty("[[fault]]\ndo = \"accept_then_drop\"\nnth = [1, 65, 130]\n");
    let place = Place::new();
    run(&place, &service, requests.as_bytes(), "--shard-requests 1 --on-ambiguous hold --settle 20s").with_code(0);
    assert_eq!(service.books().calls("create_batch"), 130);
    service.books().assert_billed_once(requests.as_bytes());
    assert_same(&place.read("out.jsonl"), &openai_replies(requests.as_bytes()));
}

#[test]
fn trouble_of_every_kind_delays_a_run_and_no_more() {
    let script = "[[fault]]\ndo = \"status\"\ncall = [\"create\", \"retrieve\", \"list\", \"content\"]\nevery = 5\nstatus = 429\n\
                  retry_after = 1\n[[fault]]\ndo = \"status\"\ncall = \"upload\"\nevery = 3\nstatus = 503\n\
                  [[fault]]\ndo = \"reset\"\ncall = \"upload\"\nevery = 4\nat = 300\n\
                  [[fault]]\ndo = \"show\"\nlooks = 1\nset = { status = \"in_queue\", request_counts = false }\n\
                  [[fault]]\ndo = \"regress\"\nlooks = 2\n[[fault]]\ndo = \"list_duplicate\"\nevery = 3\n";
    let (place, service, requests) = (Place::new(), faulty(script), generated(30));
    run(&place, &service, &requests, "--shard-requests 5 --on-ambiguous hold --settle 20s").with_code(0);
    assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
    service.books().assert_billed_once(&requests);
    assert!(service.books().faults() > 10);
}

#[test]
fn what_an_expired_batch_did_not_do_goes_up_again_alone() {
    let script = "[[fault]]\ndo = \"expire\"\nbatch = 1\nshare = 0.6\n[[fault]]\ndo = \"error_rows\"\nbatch = 2\nshare = 0.5\n\
                  once = true\ncode = \"server_error\"\nmessage = \"Internal Server Error\"\n";
    let (place, service, requests) = (Place::new(), faulty(script), generated(90));
    run(&place, &service, &requests, "--shard-requests 20")
        .with_code(0)
        .saying("ended as expired")
        .saying("batch_expired")
        .saying("server_error: Internal Server Error");
    assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
    service.books().assert_billed_once(&requests);
}

#[test]
fn requests_that_are_refused_say_why() {
    let place = Place::new();
    let bad = request("bad", "m").replace(r#""model":"m""#, r#""model":"m","stop":["1","2","3","4","5"]"#);
    let mixed = format!("{}\n{bad}\n", request("good", "m"));
    place.write("in.jsonl", &mixed);
    let ended = place.run(&format!("run in.jsonl {LOCAL}")).with_code(6);
    let ended = ended.saying("1 output, 1 error, 0 missing").saying("Maximum four stop sequences allowed");
    assert_same(&ended.stdout, &openai_replies(mixed.as_bytes()));
}

#[test]
fn kills_cost_neither_a_reply_nor_a_second_bill() {
    let requests = generated(1_500);
    let (place, service) = (Place::new(), Service::speaking(Dialect::OpenAi, " --batch-time 1s"));
    place.write("in.jsonl", &requests);
    let options = format!("{} --dialect openai --shard-requests 125 -o out.jsonl", service.arguments());
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut rng, mut kills) = (fastrand::Rng::with_seed(seed), 0);
    loop {
        let mut running = place.program(&format!("run in.jsonl {options}")).start();
        let started = Instant::now();
        if kills < 10 {
            // Longer each time, so that it gets on.
            let moment = Duration::from_millis(rng.u64(100..300 + 100 * kills));
            wait_until(|| started.elapsed() >= moment || !running.is_alive());
            running.kill();
        }
        let ended = running.end();
        if !ended.was_killed() {
            ended.with_code(0);
            break;
        }
        kills += 1;
    }
    assert!(kills > 2, "only {kills} kills");
    service.books().assert_billed_once(&requests);
    assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
}

#[test]
fn a_named_error_file_that_is_not_there_counts_as_empty() {
    let script = "[[fault]]\ndo = \"show\"\nset = { error_file_id = \"file-deleted-since\" }\nwhile = \"completed\"\n";
    let (place, service, requests) = (Place::new(), faulty(script), generated(6));
    run(&place, &service, &requests, "").with_code(0).saying("counts as empty");
    assert_same(&place.read("out.jsonl"), &openai_replies(&requests));
}

#[test]
fn outputs_that_are_not_there_end_the_run_and_are_never_paid_for_again() {
    let script = "[[fault]]\ndo = \"show\"\nset = { output_file_id = \"file-deleted-since\" }\nwhile = \"completed\"\n";
    let (place, service, requests) = (Place::new(), faulty(script), generated(6));
    for _ in 0..2 {
        run(&place, &service, &requests, "").with_code(5).saying("file-deleted-since").saying("HTTP 404");
        assert!(!place.has("out.jsonl"));
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn providers_are_listed_with_what_they_take_and_how_sure_that_is() {
    let place = Place::new();
    let text = place.run("providers").with_code(0).text();
    for row in
        ["together", "openai", "azure-openai", "groq", "deepinfra", "nebius", "custom", "unverified", "OPENAI_API_KEY"]
    {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
    let records = place.run("providers --json").with_code(0);
    let records: Vec<Value> =
        lines(&records.stdout).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert!(records.iter().all(|row| row["schema"] == 1 && row["kind"] == "provider" && row["evidence"].is_string()));
    let openai = records.iter().find(|row| row["name"] == "openai").unwrap();
    assert_eq!((&openai["shard_bytes"], &openai["metadata"]), (&json!(200_000_000), &json!(true)));
}

#[test]
fn a_service_of_ones_own_needs_an_address_and_no_key() {
    let (place, service, requests) =
        (Place::new(), Service::speaking(Dialect::OpenAi, " --batch-time 0ms"), generated(6));
    place.write("in.jsonl", &requests);
    place.run("run in.jsonl --dialect openai").with_code(3).saying("--base-url");
    place.run("run in.jsonl --provider openai --dialect together").with_code(2).saying("speaks openai");
    place.run("run in.jsonl --provider openai").with_code(3).saying("OPENAI_API_KEY");
    let command = format!("run in.jsonl --dialect openai --base-url {} --poll-interval 50ms", service.base_url());
    let ended = place.program(&command).env("BATCHLINE_API_KEY", "any").run().with_code(0);
    assert_same(&ended.stdout, &openai_replies(&requests));
}
