//! Invalid lines, and unusual valid ones: each rule has a file in `data/defects`, and its message is pinned here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use batchline::model::defect::DEFECT_CODES;
use serde_json::Value;

use crate::program::{Place, names_in};
use crate::requests::{assert_same, ids, replies, request};

/// The longest line that Together takes, in bytes.
const LINE_BYTES: usize = 10_000_000;

/// What `check` says about `data/defects/CODE.jsonl`, behind `CODE.jsonl:` and the code.
const WORDS: [(&str, &str, &str); 21] = [
    ("body-not-an-object", "2:30", r#"body is not an object (custom_id "second")"#),
    ("custom-id-not-a-string", "3:14", "custom_id is not a string"),
    (
        "custom-id-too-long",
        "3:14",
        "custom_id has 65 characters, 64 are allowed \
         (custom_id \"this-id-is-one-character-longer-than-the-sixty-four-that-may-be-ü\")",
    ),
    ("duplicate-custom-id", "3:14", r#"custom_id was already used at duplicate-custom-id.jsonl:1 (custom_id "first")"#),
    ("duplicate-key", "2:161", r#"the key "custom_id" occurs twice (custom_id "second")"#),
    ("empty-custom-id", "2:14", r#"custom_id is empty (custom_id "")"#),
    (
        "has-custom-id",
        "2:14",
        r#"custom_id is there, but ids are assigned: a line must be a body alone (custom_id "second")"#,
    ),
    ("invalid-json", "2:136", "not valid JSON: EOF while parsing a string"),
    ("line-too-long", "2:1", "the line is longer than 10000000 bytes"),
    ("lone-surrogate", "3:115", r#"a \u escape is half of a surrogate pair (custom_id "half-an-emoji")"#),
    ("missing-body", "2:1", r#"body is missing (custom_id "second")"#),
    ("missing-custom-id", "2:1", "custom_id is missing"),
    ("missing-model", "3:29", r#"body.model is missing (custom_id "third")"#),
    ("model-not-a-string", "2:39", r#"body.model is not a string (custom_id "second")"#),
    ("not-an-object", "2:1", "the line is not a JSON object"),
    ("not-utf8", "3:113", "not valid UTF-8"),
    ("other-method", "2:32", r#"method is not POST (custom_id "second")"#),
    ("other-url", "2:45", r#"url is not /v1/chat/completions, the endpoint of the batch (custom_id "second")"#),
    ("too-deep", "2:1102", "nested deeper than 1024 levels"),
    ("too-many-inputs", "2:51", r#"the request has 50001 inputs, 50000 are allowed in a batch (custom_id "second")"#),
    ("utf-16", "1:1", "the file is UTF-16; convert it to UTF-8, for example with iconv"),
];

fn data(folder: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(folder)
}

/// A line one byte longer than may be, between two that are good.
fn line_too_long() -> String {
    let mut long = request("second", "m");
    let stretch = LINE_BYTES + 1 - long.len();
    long.insert_str(long.len() - 5, &"x".repeat(stretch));
    format!("{}\n{long}\n{}\n", request("first", "m"), request("third", "m"))
}

/// A request for one embedding more than a batch may ask for, between two that are good.
fn too_many_inputs() -> String {
    let inputs = vec![r#""x""#; 50_001].join(",");
    let many = format!(r#"{{"custom_id":"second","body":{{"model":"m","input":[{inputs}]}}}}"#);
    format!("{}\n{many}\n{}\n", request("first", "m"), request("third", "m"))
}

/// The file that shows a defect, copied to where the program finds it under its own name.
fn place_with(code: &str) -> Place {
    let place = Place::new();
    let name = format!("{code}.jsonl");
    if code == "line-too-long" {
        place.write(&name, line_too_long());
    } else if code == "too-many-inputs" {
        place.write(&name, too_many_inputs());
    } else {
        place.write(&name, std::fs::read(data("defects").join(&name)).unwrap());
    }
    place
}

/// The options without which the defect is none.
fn options(code: &str) -> &'static str {
    match code {
        "other-method" | "other-url" => "--provider openai",
        "has-custom-id" => "--assign-ids",
        "too-many-inputs" => "--provider openai --endpoint /v1/embeddings",
        _ => "",
    }
}

#[test]
fn every_code_has_a_file_and_every_file_a_code() {
    let codes = BTreeSet::from(DEFECT_CODES.map(str::to_owned));
    let files = names_in(&data("defects")).into_iter().map(|name| name.strip_suffix(".jsonl").unwrap().to_owned());
    // What is long and says nothing is made when it is needed.
    let shown: BTreeSet<String> = files.chain(["line-too-long", "too-many-inputs"].map(str::to_owned)).collect();
    assert_eq!(shown, codes);
    assert_eq!(BTreeSet::from(WORDS.map(|(code, ..)| code.to_owned())), codes, "each has its words pinned here");
}

#[test]
fn every_defect_has_its_position_and_message() {
    for (code, at, words) in WORDS {
        let ended = place_with(code).run(&format!("check {code}.jsonl {}", options(code))).with_code(4);
        assert_eq!(ended.stderr, format!("{code}.jsonl:{at}: {code}: {words}\n"));
        assert!(ended.text().contains(" 1 defect ("), "{code}: {}", ended.text());
    }
}

#[test]
fn records_of_defects_match_the_messages() {
    for (code, at, words) in WORDS {
        let place = place_with(code);
        let ended =
            place.run(&format!("check {code}.jsonl {} --json --report report.jsonl", options(code))).with_code(4);
        let told: Value = serde_json::from_str(&ended.stderr).unwrap();
        assert_eq!((&told["schema"], &told["kind"]), (&2.into(), &"defect".into()), "{told}");
        let reported: Value = serde_json::from_slice(&place.read("report.jsonl")).unwrap();
        for record in [&told, &reported] {
            assert_eq!(said_by(record), format!("{code}.jsonl:{at}: {code}: {words}"));
        }
        let totals: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!((&totals["schema"], &totals["kind"], &totals["defects"]), (&2.into(), &"check".into(), &1.into()));
    }
}

/// A record of a defect put into the words that people see.
fn said_by(record: &Value) -> String {
    let text = |field: &str| record[field].as_str().unwrap_or_else(|| panic!("{field} in {record}"));
    let (line, column) = (&record["line"], &record["column"]);
    let mut said = format!("{}:{line}:{column}: {}: {}", text("file"), text("code"), text("message"));
    if !record["custom_id"].is_null() {
        let _ = write!(said, " (custom_id {:?})", text("custom_id"));
    }
    said
}

#[test]
fn a_line_of_just_the_limit_is_a_request() {
    let place = Place::new();
    let text = line_too_long().replacen("xx", "x", 1);
    assert_eq!(text.lines().nth(1).unwrap().len(), LINE_BYTES);
    place.write("in.jsonl", text);
    place.run("check in.jsonl").with_code(0);
}

#[test]
fn all_defects_are_counted_and_reported_but_only_the_first_are_shown() {
    let place = Place::new();
    place.write("in.jsonl", "[]\n".repeat(250));
    let shown =
        |ended: &crate::program::Ended| ended.stderr.lines().filter(|line| line.contains("not-an-object")).count();
    let ended = place.run("check in.jsonl --report report.jsonl").with_code(4).saying("… and 150 more");
    assert_eq!(shown(&ended), 100);
    assert!(ended.text().contains("250 defects"), "{}", ended.text());
    assert_eq!(place.read("report.jsonl").split(|byte| *byte == b'\n').count(), 251);
    assert_eq!(shown(&place.run("check in.jsonl --max-defects 7").with_code(4)), 7);
}

#[test]
fn unusual_but_valid_files_are_answered_line_by_line() {
    let files = names_in(&data("valid"));
    assert!(!files.is_empty());
    // They mostly wait: all at a time.
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(move || is_accepted_and_answered(file));
        }
    });
}

fn is_accepted_and_answered(file: &str) {
    let place = Place::new();
    let input = std::fs::read(data("valid").join(file)).unwrap();
    place.write(file, &input);
    place.run(&format!("check {file}")).with_code(0);
    place.run(&format!("run {file} --provider local --poll-interval 50ms -o out.jsonl")).with_code(0);
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(&input), "{file}");
    assert_same(&output, &replies(&input));
}
