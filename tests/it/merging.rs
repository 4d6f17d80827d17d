//! `merge`: reply files that the user downloaded, merged in input order offline.

use std::path::Path;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::program::{Ended, Place};
use crate::requests::{assert_same, generated, ids, lines, replies, with_bodies};

/// The example in `data/replies`, laid out for the program.
fn example() -> Place {
    let place = Place::new();
    for name in ["input.jsonl", "batch-a.jsonl", "batch-b.jsonl", "errors.jsonl"] {
        place.write(name, example_file(name));
    }
    place
}

fn example_file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/replies").join(name)).unwrap()
}

const EXAMPLE: &str = "merge input.jsonl --replies batch-a.jsonl batch-b.jsonl errors.jsonl";

/// The last record on standard error, insisting on what all records have.
fn totals(ended: &Ended) -> Value {
    let record: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&record["schema"], &record["kind"]), (&json!(2), &json!("merge")));
    record
}

#[test]
fn the_example_gives_the_expected_file_byte_for_byte_and_counts_what_it_met() {
    let place = example();
    let ended = place.run(&format!("{EXAMPLE} -o out.jsonl --aside kept --json")).with_code(6);
    assert_same(&place.read("out.jsonl"), &example_file("expected.jsonl"));
    assert!(ended.stdout.is_empty());
    let totals = totals(&ended);
    for (what, number) in [
        ("lines", 12),
        ("outputs", 9),
        ("errors", 2),
        ("missing", 1),
        ("invalid", 0),
        ("duplicates", 1),
        ("conflicts", 1),
        ("unknown", 1),
        ("unreadable", 0),
    ] {
        assert_eq!(totals[what], number, "{what}");
    }
    assert_eq!(totals["aside"], json!(["kept-unknown.jsonl", "kept-conflicts.jsonl"]));
}

#[test]
fn unmatched_replies_are_set_aside_unchanged() {
    let place = example();
    let ended = place
        .run(EXAMPLE)
        .with_code(6)
        .saying("set aside: merge-unknown.jsonl")
        .saying("set aside: merge-conflicts.jsonl");
    assert_same(&ended.stdout, &example_file("expected.jsonl"));
    let second = example_file("batch-b.jsonl");
    for (file, id) in [("merge-unknown.jsonl", "not-one-of-ours"), ("merge-conflicts.jsonl", "capital-france")] {
        let theirs: Vec<&[u8]> =
            lines(&second).into_iter().filter(|line| String::from_utf8_lossy(line).contains(id)).collect();
        assert_eq!(lines(&place.read(file)), theirs, "{file}");
    }
}

#[test]
fn with_errors_in_a_file_of_their_own_each_file_keeps_the_order() {
    let place = example();
    place.run(&format!("{EXAMPLE} -o out.jsonl --errors errors-out.jsonl")).with_code(6);
    let expected = example_file("expected.jsonl");
    let is_error = |line: &&[u8]| String::from_utf8_lossy(line).contains(r#""error":{"code""#);
    let (errors, outputs): (Vec<&[u8]>, Vec<&[u8]>) = lines(&expected).into_iter().partition(is_error);
    assert_eq!((outputs.len(), errors.len()), (9, 3));
    assert_eq!(lines(&place.read("out.jsonl")), outputs);
    let errors = with_bodies(&errors.join(&b'\n'), &example_file("input.jsonl"));
    assert_same(&place.read("errors-out.jsonl"), &errors);
}

#[test]
fn whatever_the_order_and_the_files_of_replies_the_output_is_the_same() {
    let (requests, mut rng) = (generated(1000), Rng::with_seed(7));
    let mut shuffled: Vec<Vec<u8>> = Vec::new();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    let (mut errors, mut missing, mut duplicates) = (0, 0, 0);
    for (reply, id) in lines(&replies(&requests)).into_iter().zip(ids(&requests)) {
        let mut reply = reply.to_vec();
        match rng.u32(0..100) {
            0 => {
                reply =
                    json!({"id": "br_1", "custom_id": id, "error": {"code": "overloaded"}}).to_string().into_bytes();
                errors += 1;
            }
            1 => {
                missing += 1;
                let error = json!({"code": "missing", "message": "the service returned no reply for this request"});
                // In the order in which the program writes the members.
                expected.push(format!(r#"{{"custom_id":{},"error":{error}}}"#, json!(id)).into_bytes());
                continue;
            }
            2 | 3 => {
                shuffled.push(reply.clone());
                duplicates += 1;
            }
            _ => {}
        }
        expected.push(reply.clone());
        shuffled.push(reply);
    }
    shuffled.extend(
        (0..5).map(|n| {
            json!({"id": "br_0", "custom_id": format!("nobody-{n}"), "response": {}}).to_string().into_bytes()
        }),
    );
    rng.shuffle(&mut shuffled);
    assert!(errors > 0 && missing > 0 && duplicates > 0, "the example shows every case");

    let place = Place::new();
    place.write("in.jsonl", &requests);
    for (number, part) in shuffled.chunks(shuffled.len() / 6).enumerate() {
        place.write(&format!("part-{number}.jsonl"), part.join(&b'\n'));
    }
    let parts: Vec<String> = place.names().into_iter().filter(|name| name.starts_with("part-")).collect();
    let ended = place.run(&format!("merge in.jsonl -o out.jsonl --json --replies {}", parts.join(" "))).with_code(6);
    let expected = [expected.join(&b'\n'), b"\n".to_vec()].concat();
    assert_same(&place.read("out.jsonl"), &expected);
    let totals = totals(&ended);
    for (what, number) in
        [("errors", errors), ("missing", missing), ("duplicates", duplicates), ("unknown", 5), ("conflicts", 0)]
    {
        assert_eq!(totals[what], number, "{what}");
    }
}

#[test]
fn replies_to_every_request_are_a_success() {
    let place = Place::new();
    let requests = generated(50);
    place.write("in.jsonl", &requests);
    place.write("replies.jsonl", replies(&requests));
    let ended = place.run("merge in.jsonl --replies replies.jsonl").with_code(0);
    assert_same(&ended.stdout, &replies(&requests));
    assert_eq!(place.names(), ["in.jsonl", "replies.jsonl"], "nothing else is left behind");
}
