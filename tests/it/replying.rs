//! The classification of replies: rows truncated at every byte, malformed ones, failures of every kind.
//!
//! The rule and its table are in `src/dialect/reply_rule.rs` and are tested there row by row; here they are tested from
//! outside.

use serde_json::{Value, json};

use crate::program::{Ended, Place};
use crate::requests::{assert_same, ids, lines, request};
use crate::service::{DIALECTS, Service};
use crate::upstream::{Manner, Upstream};

/// Rows as services write them: outputs and errors in the shape of every dialect. `ID` is the request's.
const ROWS: [&str; 9] = [
    // Together's.
    r#"{"id":"br_1","custom_id":"ID","response":{"status_code":200,"body":{"choices":[{"message":{"content":"hello \"wo\\rld\" é}{"}}],"usage":{"prompt_tokens":7}}}}"#,
    r#"{"id":"br_1","custom_id":"ID","error":{"code":"batch_client_error","message":"cannot identify image file"}}"#,
    // OpenAI's: an output, a refusal of the model, a request that nobody executed.
    r#"{"id":"batch_req_1","custom_id":"ID","response":{"status_code":200,"request_id":"r","body":{"choices":[]}},"error":null}"#,
    r#"{"id":"batch_req_1","custom_id":"ID","response":{"status_code":400,"request_id":"r","body":{"error":{"message":"no","code":null}}},"error":null}"#,
    r#"{"id":"batch_req_1","custom_id":"ID","response":null,"error":{"code":"batch_cancelled","message":"no"}}"#,
    // Of a service without batches, behind the built-in server.
    r#"{"id":"br_1","custom_id":"ID","response":{"status_code":200,"body":"<html>"},"error":{"code":"not_json","message":"no"}}"#,
    // AIBrix's, with the id at its end.
    r#"{"id": "380f3", "error": null, "response": {"status_code": 200, "request_id": "b-1", "body": {"choices": [1, 2]}}, "custom_id": "ID"}"#,
    // The answer alone; Anthropic's.
    r#"{"custom_id":"ID","response":{"id":"c","choices":[{"text":"t"}]}}"#,
    r#"{"custom_id":"ID","result":{"type":"succeeded","message":{"content":[{"type":"text","text":"t"}]}}}"#,
];

/// The totals of a merge.
fn totals(ended: &Ended) -> Value {
    serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap()
}

fn merge(place: &Place, requests: &str, replies: &[u8], options: &str) -> Ended {
    place.write("in.jsonl", requests);
    place.write("replies.jsonl", replies);
    place.run(&format!("merge in.jsonl --replies replies.jsonl -o out.jsonl --json {options}"))
}

#[test]
fn a_row_truncated_at_any_byte_is_unmatched() {
    let (mut requests, mut replies, mut cuts) = (String::new(), Vec::new(), 0);
    let mut whole = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let id = format!("whole-{number}");
        requests += &(request(&id, "m") + "\n");
        whole.push(row.replace("ID", &id).into_bytes());
    }
    replies.extend(whole.iter().cloned());
    for (number, row) in ROWS.iter().enumerate() {
        let length = row.replace("ID", "cut-00-00000").len();
        for at in 1..length {
            // Each has an id of its own, so that none can hide behind another.
            let [front, back] = ["f", "b"].map(|side| format!("cut-{number:02}-{side}{at:04}"));
            for id in [&front, &back] {
                requests += &(request(id, "m") + "\n");
            }
            replies.push(row.replace("ID", &front).as_bytes()[..at].to_vec());
            replies.push(row.replace("ID", &back).as_bytes()[at..].to_vec());
            cuts += 2;
        }
    }
    for shape in ["native", "common"] {
        let place = Place::new();
        let ended = merge(&place, &requests, &replies.join(&b'\n'), &format!("--shape {shape}")).with_code(6);
        let totals = totals(&ended);
        assert_eq!((&totals["unreadable"], &totals["missing"]), (&json!(cuts), &json!(cuts)), "{totals}");
        assert_eq!((&totals["outputs"], &totals["errors"]), (&json!(5), &json!(4)), "{totals}");
        let output = place.read("out.jsonl");
        assert_eq!(ids(&output), ids(requests.as_bytes()));
        for (number, line) in lines(&output).into_iter().enumerate() {
            let row: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(row["error"]["code"] == "missing", number >= whole.len(), "{row}");
        }
        if shape == "native" {
            assert_eq!(lines(&output)[..whole.len()], whole);
        }
        // Nothing of them is thrown away.
        assert_eq!(lines(&place.read("merge-unreadable.jsonl")), replies[whole.len()..]);
    }
}

#[test]
fn malformed_whole_rows_keep_their_kind() {
    let ugly: [&[u8]; 5] =
        [br#""\ud83d""#, b"NaN", b"123456789012345678901234567890123456789", b"\"\xff\xfe\"", b"\"\t\""];
    let (mut requests, mut replies) = (String::new(), Vec::new());
    for (number, ugly) in ugly.iter().enumerate() {
        for (kind, before, after) in [
            ("good", r#""response":{"status_code":200,"body":{"t":"#, "}}"),
            ("bad", r#""response":{"status_code":500,"body":{"t":"#, "}}"),
            ("worse", r#""error":{"message":"no","x":"#, "}"),
        ] {
            let id = format!("{kind}-{number}");
            requests += &(request(&id, "m") + "\n");
            replies
                .push([format!(r#"{{"custom_id":"{id}",{before}"#).as_bytes(), ugly, after.as_bytes(), b"}"].concat());
        }
    }
    let place = Place::new();
    let ended = merge(&place, &requests, &replies.join(&b'\n'), "--errors bad.jsonl").with_code(6);
    assert_eq!((&totals(&ended)["outputs"], &totals(&ended)["errors"]), (&json!(5), &json!(10)));
    let good: Vec<&[u8]> = replies.iter().step_by(3).map(Vec::as_slice).collect();
    assert_same(&place.read("out.jsonl"), &[good.join(&b'\n'), b"\n".to_vec()].concat());
}

#[test]
fn a_failure_with_a_success_status_is_an_error() {
    let (mut requests, mut replies) = (String::new(), Vec::new());
    for (number, (members, code)) in [
        (r#""response":{"status_code":200,"body":{"error":{"message":"no"}}}"#, Value::Null),
        (r#""response":{"status_code":"500","body":{}}"#, json!("http_500")),
        (r#""response":{"error":{"code":"c","message":"no"}}"#, json!("c")),
        (r#""errors":["no"]"#, Value::Null),
        (r#""result":{"type":"errored","error":{"type":"error","error":{"type":"api_error"}}}"#, json!("api_error")),
        (r#""response":null,"error":null"#, json!("no_answer")),
        (r#""x":1"#, json!("no_answer")),
        (r#""response":{"status_code":200,"body":{}},"error":{}"#, json!("output")),
        (r#""response":{"status_code":200,"body":{}},"error":{"code":null}"#, json!("output")),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("{number}:{code}").replace('"', "");
        requests += &(request(&id, "m") + "\n");
        replies.push(format!(r#"{{"custom_id":"{id}",{members}}}"#));
    }
    let place = Place::new();
    merge(&place, &requests, replies.join("\n").as_bytes(), "--shape common").with_code(6);
    for line in lines(&place.read("out.jsonl")) {
        let row: Value = serde_json::from_slice(line).unwrap();
        let code = if row["error"].is_null() { "output" } else { row["error"]["code"].as_str().unwrap_or("null") };
        assert_eq!(row["custom_id"].as_str().unwrap().split_once(':').unwrap().1, code, "{row}");
    }
}

#[test]
fn a_retryable_failure_inside_an_answer_is_resent() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner::default()));
    place.write("in.jsonl", ["a", "ONCE200", "FAIL200"].map(|name| request(name, "m")).join("\n"));
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl --json", upstream.url());
    let ended = place.run(&command).with_code(6);
    let rows: Vec<Value> =
        lines(&place.read("out.jsonl")).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    let errors: Vec<&Value> = rows.iter().map(|row| &row["response"]["body"]["error"]["message"]).collect();
    assert_eq!(errors, [&Value::Null, &Value::Null, &json!("this message is not liked")]);
    let summary: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["outputs"], &summary["errors"]), (&json!(2), &json!(1)), "{summary}");
    assert_eq!(upstream.total(), 4, "once each, and once more for the one that failed for no fault of its own");
}

/// Ids, and what services have made of them, as JSON.
const NEAR: [(&str, &str); 12] = [
    ("7", "7"),
    (" blank ", r#""blank""#),
    ("tail", r#""tail\n ""#),
    ("é", r#""e\u0301""#),
    ("e\u{301}x", r#""éx""#),
    ("a%C3%A9", r#""a%c3%a9""#),
    ("-5", "-5"),
    ("1.0", "1.0"),
    ("1e1", "1e1"),
    ("12345678901234567890123", "12345678901234567890123"),
    ("007", r#""007 ""#),
    ("a/b\u{1f600}", r#""a\/b\uD83D\ude00 ""#),
];

/// A reply, and `n` in it to tell it from others.
fn reply(id: &str, n: u32) -> String {
    format!(r#"{{"custom_id":{id},"response":{{"status_code":200,"body":{{"n":{n}}}}}}}"#)
}

fn quoted(id: &str) -> String {
    format!("\"{id}\"")
}

#[test]
fn replies_by_ids_that_are_nearly_those_of_requests_are_recognised() {
    let requests = NEAR.map(|(id, _)| request(id, "m")).join("\n");
    let replies = NEAR.map(|(_, near)| reply(near, 1)).join("\n");
    for shape in ["native", "common"] {
        let place = Place::new();
        let ended = merge(&place, &requests, replies.as_bytes(), &format!("--shape {shape}")).with_code(0);
        assert_eq!((&totals(&ended)["recognised"], &totals(&ended)["unknown"]), (&json!(NEAR.len()), &json!(0)));
        if shape == "native" {
            assert_same(&place.read("out.jsonl"), format!("{replies}\n").as_bytes());
        }
        let first: Value = serde_json::from_slice(lines(&place.read("out.jsonl"))[0]).unwrap();
        assert_eq!(first["custom_id"], if shape == "native" { json!(7) } else { json!("7") });
        if shape == "common" {
            let again = place.run("merge in.jsonl --replies out.jsonl -o again.jsonl --json").with_code(0);
            assert_eq!(totals(&again)["unknown"], 0, "what was said in the common shape is still near");
        }
    }
    let place = Place::new();
    merge(&place, &requests, replies.as_bytes(), "").with_code(0);
    let said = place.run("merge in.jsonl --replies replies.jsonl -o out.jsonl").with_code(0);
    said.saying("recognised by nearly the same id: 12 replies");
    let exact = NEAR.map(|(id, _)| reply(&json!(id).to_string(), 1)).join("\n");
    let ended = merge(&place, &requests, exact.as_bytes(), "").with_code(0);
    assert_eq!(totals(&ended)["recognised"], 0, "by its own id nothing has to be recognised");
}

#[test]
fn replies_with_other_ids_are_unmatched_and_requests_missing() {
    for (ids, id) in [
        // Another number, or the same one in another spelling.
        (&["7"][..], "7.0"),
        (&["7"], "007"),
        (&["007"], "7"),
        (&["10"], "1e1"),
        (&["-7"], "7"),
        // Two that differ by a blank alone.
        (&["n", "n "], r#""n\t""#),
        (&["7", "7 "], "7"),
        (&["a"], r#""A""#),
        (&["a b"], r#""a  b""#),
        (&["fi"], r#""\ufb01""#),
        (&["z"], r#""z\u200b""#),
        (&["%4G"], r#""%4g""#),
        (&["\u{1f600}"], r#""\ud83d""#),
    ] {
        // Of an id that is one request's own, this reply is a repetition.
        let is_own = ids == ["7", "7 "];
        let requests: Vec<String> = ids.iter().map(|id| request(id, "m")).collect();
        let replies = if is_own { reply(r#""7""#, 1) + "\n" + &reply(id, 1) } else { reply(id, 1) };
        let place = Place::new();
        let totals = totals(&merge(&place, &requests.join("\n"), replies.as_bytes(), "").with_code(6));
        let missing = ids.len() - usize::from(is_own);
        assert_eq!(totals["missing"], missing, "{ids:?} {id}");
        assert_eq!((&totals["recognised"], &totals["unknown"]), (&json!(0), &json!(1)), "{ids:?} {id}");
        assert_same(&place.read("merge-unknown.jsonl"), format!("{}\n", reply(id, 1)).as_bytes());
    }
}

#[test]
fn huge_replies_by_nearly_the_same_id_are_recognised_too() {
    let text = "x".repeat(5 << 20);
    let replies = [
        format!(r#"{{"custom_id":7,"response":{{"status_code":200,"body":{{"t":"{text}"}}}}}}"#),
        format!(r#"{{"response":{{"status_code":200,"body":{{"t":"{text}"}}}},"custom_id":" e\u0301"}}"#),
        format!(r#"{{"response":{{"status_code":200,"body":{{"t":"{text}"}}}},"custom_id":1.0}}"#),
    ];
    let requests = ["1.0", "é", "7"].map(|id| request(id, "m")).join("\n");
    for shape in ["native", "common"] {
        let place = Place::new();
        let ended = merge(&place, &requests, replies.join("\n").as_bytes(), &format!("--shape {shape}")).with_code(0);
        assert_eq!(totals(&ended)["recognised"], 3);
        let output = place.read("out.jsonl");
        if shape == "native" {
            assert_same(&output, format!("{}\n{}\n{}\n", replies[2], replies[1], replies[0]).as_bytes());
        } else {
            let found = ids(&output);
            assert_eq!(found, ["1.0", " e\u{301}", "7"]);
        }
    }
}

#[test]
fn in_a_run_ambiguous_replies_are_held_and_never_resent() {
    for dialect in DIALECTS {
        let service = Service::faulty(dialect, "[[fault]]\ndo = \"unknown_ids\"\nid = \"decomposed\"\n");
        let place = Place::new();
        let requests = ["é", "é ", "ñ"].map(|id| request(id, "m") + "\n").concat();
        place.write("in.jsonl", &requests);
        for _ in 0..2 {
            let command = format!("run in.jsonl -o out.jsonl {} --settle 300ms --json", service.arguments());
            let summary = totals(&place.run(&command).with_code(7));
            let found = ["recognised", "unknown", "held", "outputs", "missing"].map(|what| summary[what].clone());
            assert_eq!(found, [1, 2, 2, 1, 0].map(|number| json!(number)), "{dialect:?} {summary}");
            service.books().assert_billed_once(requests.as_bytes());
        }
    }
}

#[test]
fn an_exact_id_wins_and_ambiguous_replies_match_none() {
    let requests = ["7", "é", "e\u{301}", "a ", " a", "own", "twice"].map(|id| request(id, "m")).join("\n");
    let replies = [
        // First the one that is nearly right; the right one wins.
        reply("7", 1),
        reply(&quoted("7"), 2),
        // Each has its own.
        reply(&quoted("e\u{301}"), 3),
        reply(&quoted("é"), 4),
        // Either could be meant.
        reply(&quoted("a"), 5),
        reply(&quoted("own"), 6),
        reply(&quoted("own "), 7),
        // Another case is another id.
        reply(&quoted("TWICE"), 8),
        // An error and an output, the same twice.
        r#"{"custom_id":" twice","error":{"message":"no"}}"#.to_owned(),
        reply(&quoted("twice "), 9),
        reply(&quoted("twice "), 9),
    ];
    let place = Place::new();
    let ended = merge(&place, &requests, replies.join("\n").as_bytes(), "").with_code(6);
    let totals = totals(&ended);
    for (what, number) in
        [("recognised", 1), ("unknown", 4), ("missing", 2), ("conflicts", 1), ("duplicates", 1), ("outputs", 5)]
    {
        assert_eq!(totals[what], number, "{what} in {totals}");
    }
    let output = place.read("out.jsonl");
    let answers: Vec<Value> = crate::requests::bodies(&output).iter().map(|body| body["n"].clone()).collect();
    assert_eq!(answers, [json!(2), json!(4), json!(3), Value::Null, Value::Null, json!(6), json!(9)]);
    let unknown = [0, 4, 6, 7].map(|number| replies[number].as_bytes());
    let mut kept: Vec<Vec<u8>> = lines(&place.read("merge-unknown.jsonl")).into_iter().map(<[u8]>::to_vec).collect();
    kept.sort();
    let mut wanted = unknown.map(<[u8]>::to_vec).to_vec();
    wanted.sort();
    assert_eq!(kept, wanted);
}

#[test]
fn in_a_run_recognised_replies_are_not_resent_in_any_dialect() {
    for dialect in DIALECTS {
        for (kind, ids) in [
            ("number", ["1", "20", "300"]),
            ("space", ["a", "b%", "é"]),
            ("decomposed", ["é", "ñ-2", "\u{ac00}"]),
            ("escapes", ["%2F", "a%C3%A9", "%E2%82%AC!"]),
        ] {
            let service = Service::faulty(dialect, &format!("[[fault]]\ndo = \"unknown_ids\"\nid = \"{kind}\"\n"));
            let place = Place::new();
            // The last one comes back as it is, but for a space.
            let requests = [ids[0], ids[1], ids[2], r"plain\u0009"].map(|id| request(id, "m") + "\n").concat();
            place.write("in.jsonl", &requests);
            let command = format!("run in.jsonl -o out.jsonl {} --json", service.arguments());
            let ended = place.run(&command).with_code(0);
            let summary = totals(&ended);
            let recognised = if kind == "space" { 4 } else { 3 };
            assert_eq!((&summary["recognised"], &summary["unknown"]), (&json!(recognised), &json!(0)), "{kind}");
            assert_eq!(summary["sent_again"], json!({}));
            service.books().assert_billed_once(requests.as_bytes());
            let answers = crate::requests::bodies(&place.read("out.jsonl"));
            assert_eq!(answers, crate::requests::bodies(&service.replies(requests.as_bytes())), "{kind}");
            place.run(&format!("doctor {}", place.run_directory().display())).with_code(0);
            let again = place.run(&command.replace(" --json", "")).with_code(0);
            again.saying(&format!("recognised by nearly the same id: {recognised} replies"));
        }
    }
}
