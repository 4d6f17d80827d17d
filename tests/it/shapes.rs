//! `--shape common`: the same members whoever answered, from the same replies that were paid for once.

use std::path::Path;

use batchline::dialect::DIALECTS;
use batchline::serve::echo_reply_in;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::program::{Place, end_within_memory};
use crate::requests::{assert_same, generated, ids, lines, replies, request, with_bodies};
use crate::service::Service;
use crate::upstream::{Manner, Upstream};

/// Replies and errors as this repository's services write them.
#[derive(Deserialize)]
struct Native<'l> {
    #[serde(borrow)]
    custom_id: &'l RawValue,
    #[serde(borrow)]
    response: Option<Response<'l>>,
    #[serde(borrow)]
    error: Option<Failure<'l>>,
}

#[derive(Deserialize)]
struct Response<'l> {
    status_code: u16,
    #[serde(borrow)]
    body: &'l RawValue,
}

#[derive(Deserialize)]
struct Failure<'l> {
    #[serde(borrow)]
    code: &'l RawValue,
    #[serde(borrow)]
    message: &'l RawValue,
}

/// What native lines look like in the common shape, by another parser than the program's.
fn common(native: &[u8]) -> Vec<u8> {
    let line = |line: &[u8]| {
        let Native { custom_id, response, error } = serde_json::from_slice(line).unwrap();
        let response =
            response.map(|Response { status_code, body }| format!(r#"{{"status_code":{status_code},"body":{body}}}"#));
        let error = error.map(|Failure { code, message }| format!(r#"{{"code":{code},"message":{message}}}"#));
        let null = || "null".to_owned();
        let (response, error) = (response.unwrap_or_else(null), error.unwrap_or_else(null));
        format!("{{\"custom_id\":{custom_id},\"response\":{response},\"error\":{error}}}\n").into_bytes()
    };
    lines(native).into_iter().flat_map(line).collect()
}

fn example(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/replies").join(name)).unwrap()
}

#[test]
fn a_merge_by_hand_can_have_either_shape_and_take_its_own_output_again() {
    let place = Place::new();
    for name in ["input.jsonl", "batch-a.jsonl", "batch-b.jsonl", "errors.jsonl"] {
        place.write(name, example(name));
    }
    let files = "merge input.jsonl --replies batch-a.jsonl batch-b.jsonl errors.jsonl";
    let native = example("expected.jsonl");
    place.run(&format!("{files} -o native.jsonl --shape native")).with_code(6);
    assert_same(&place.read("native.jsonl"), &native);
    place.run(&format!("{files} -o common.jsonl --shape common")).with_code(6).saying("9 outputs, 2 errors, 1 missing");
    assert_same(&place.read("common.jsonl"), &common(&native));
    // What is in this shape is a reply like any other, and stays as it is.
    for shape in ["native", "common"] {
        let again = place.run(&format!("merge input.jsonl --replies common.jsonl --shape {shape}")).with_code(6);
        assert_same(&again.stdout, &common(&native));
    }
    place.run(&format!("{files} --shape common -o good.jsonl --errors bad.jsonl")).with_code(6);
    let failed: Vec<&[u8]> =
        lines(&native).into_iter().filter(|line| String::from_utf8_lossy(line).contains(r#""error":{"#)).collect();
    assert_eq!(failed.len(), 3);
    let failed = common(&failed.join(&b'\n'));
    assert_same(&place.read("bad.jsonl"), &with_bodies(&failed, &example("input.jsonl")));
    assert_eq!(ids(&place.read("good.jsonl")).len(), 9);
    place.run(&format!("{files} --shape other")).with_code(2).saying("expected native or common");
}

#[test]
fn both_dialects_give_the_same_file_and_the_other_shape_costs_nothing() {
    let (requests, mut written) = (generated(300), Vec::new());
    for &dialect in DIALECTS {
        let (place, service) = (Place::new(), Service::speaking(dialect, "--batch-time 0ms"));
        place.write("in.jsonl", &requests);
        let run = |shape: &str| {
            let options = format!("{} --shard-requests 40", service.arguments());
            place.run(&format!("run in.jsonl {options} -o out.jsonl --shape {shape}")).with_code(0);
            place.read("out.jsonl")
        };
        let native: Vec<u8> = lines(&requests)
            .into_iter()
            .flat_map(|line| echo_reply_in(dialect, line).into_iter().chain(*b"\n"))
            .collect();
        assert_same(&run("common"), &common(&native));
        written.push(place.read("out.jsonl"));
        let calls = || (service.books().calls("create_batch"), service.books().calls("upload_file"));
        let before = calls();
        assert_same(&run("native"), &native);
        assert_same(&run("common"), &written[0]);
        assert_eq!((calls(), place.runs().len()), (before, 1), "nothing is sent for it");
        service.books().assert_billed_once(&requests);
    }
    assert_same(&written[0], &written[1]);
    assert_same(&written[0], &common(&replies(&requests)));
}

#[test]
fn failures_of_every_kind_have_a_code_and_a_message() {
    let place = Place::new();
    let bad = request("bad", "m").replace(r#""model":"m""#, r#""model":"m","stop":["1","2","3","4","5"]"#);
    place.write("in.jsonl", format!("{}\n[]\n{bad}\n", request("good", "m")));
    let mut told = Vec::new();
    for &dialect in DIALECTS {
        let command = format!("run in.jsonl --provider local --dialect {} --poll-interval 50ms", dialect.name());
        let ended = place.run(&format!("{command} --skip-invalid --shape common --errors bad.jsonl")).with_code(6);
        let rows: Vec<Value> =
            lines(&place.read("bad.jsonl")).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!((ids(&ended.stdout), rows.len()), (vec!["good".to_owned()], 2));
        assert_eq!((&rows[0]["custom_id"], &rows[0]["response"]), (&Value::Null, &Value::Null));
        assert_eq!(rows[0]["error"]["code"], "not-an-object");
        assert_eq!(rows[1]["body"]["stop"], json!(["1", "2", "3", "4", "5"]), "it can be sent again");
        told.push(rows[1].clone());
    }
    assert_eq!((&told[0]["response"], &told[0]["error"]["code"]), (&Value::Null, &json!("batch_client_error")));
    assert_eq!((&told[1]["response"]["status_code"], &told[1]["error"]["code"]), (&json!(400), &json!("http_400")));
    assert_eq!(told[0]["error"]["message"], told[1]["error"]["message"]);
}

#[test]
fn a_service_without_batches_answers_in_the_same_shape() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner::default()));
    place.write("in.jsonl", ["a", "FAIL400", "PROSE"].map(|name| request(name, "m")).join("\n"));
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url());
    place.run(&command).with_code(6);
    let native = place.read("out.jsonl");
    place.run(&format!("{command} --shape common")).with_code(6);
    assert_same(&place.read("out.jsonl"), &common(&native));
    assert_eq!(upstream.total(), 3, "nothing is asked again");
}

#[test]
fn huge_replies_are_shaped_within_the_memory() {
    const BYTES: usize = 30_000_000;
    let place = Place::new();
    let requests: String = (0..6).map(|number| request(&format!("id-{number}"), "m") + "\n").collect();
    place.write("in.jsonl", &requests);
    let text = "é \\\"}{".repeat(BYTES / 9);
    let reply =
        |id: &str| format!(r#"{{"custom_id":"{id}","response":{{"status_code":200,"body":{{"t":"{text}"}}}}}}"#);
    let native: String = ids(requests.as_bytes()).iter().map(|id| reply(id) + "\n").collect();
    place.write("replies.jsonl", &native);
    let (ended, _) =
        end_within_memory(place.program("merge in.jsonl --replies replies.jsonl --shape common -o out.jsonl").start());
    ended.with_code(0);
    assert_same(&place.read("out.jsonl"), &common(native.as_bytes()));
}
