//! Texts of others on their way to a terminal: names of files, models, ids, what a service says. None of them steers
//! it.

use std::os::unix::ffi::OsStrExt;

use batchline::model::shown::is_unsafe;
use serde_json::{Value, json};

use crate::program::{Ended, Place};
use crate::requests::{lines, request};
use crate::service::{DIALECTS, Service};

/// A name that clears the screen, forges a line and reverses what follows; and how it is shown.
const FILE: &str = "in\u{1b}[2J\nerror: all is lost\u{202e}.jsonl";
const FILE_SHOWN: &str = "\"in\\u{1b}[2J\\nerror: all is lost\\u{202e}.jsonl\"";

/// What hostile services and inputs put into their texts: C0, C1, an operating system command, bidi.
const TEXT: &str = "no\u{1b}]0;owned\u{7}\u{9b}31m\r\nerror: \u{202e}way\u{2066}";

/// Insists that nothing that was said can steer a terminal, and that each line is one of the program's own.
#[track_caller]
fn assert_harmless(ended: &Ended) {
    for said in [&ended.text(), &ended.stderr] {
        for line in said.lines() {
            assert!(!line.contains(is_unsafe), "{line:?}");
            assert!(!line.starts_with("error: all is lost") && !line.starts_with("error: \\u{202e}"), "{said}");
        }
    }
}

/// A request whose id and model would steer a terminal.
fn hostile_request(id: &str) -> String {
    let model = format!("m{TEXT}");
    json!({"custom_id": format!("{id}{TEXT}"), "body": {"model": model, "messages": []}}).to_string()
}

#[test]
fn names_and_ids_cannot_control_the_terminal() {
    let place = Place::new();
    let input = [hostile_request("a"), hostile_request("b")].join("\n");
    place.write(FILE, &input);
    let run = |arguments: &str| {
        let ended = place.program(arguments).argument(FILE).run();
        assert_harmless(&ended);
        ended
    };
    assert!(run("plan").with_code(0).text().contains("mno\\u{1b}]0;owned\\u{7}\\u{9b}31m\\r\\nerror: \\u{202e}way"));
    run("check").with_code(0);
    run("check --repor").with_code(2).saying("--repor");
    run("run --provider local --run-dir run -o out.jsonl").with_code(0);
    run("merge --replies");
    run("split -d shards");
    let status = place.run("status run").with_code(0);
    assert_harmless(&status);
    assert!(status.text().contains(FILE_SHOWN), "{}", status.text());
    // Where there is something to complain about.
    place.write(FILE, [input.as_str(), &hostile_request("a"), "{\u{1b}", ""].join("\n"));
    let checked = run("check").with_code(4);
    assert!(checked.stderr.contains(&format!("{FILE_SHOWN}:3:")), "{}", checked.stderr);
    for command in ["check", "plan", "run --provider local", "split -d more"] {
        let missing = place.program(command).argument(format!("none-{FILE}")).run().with_code(2);
        assert_harmless(&missing);
        assert!(missing.stderr.contains("\"none-in\\u{1b}"), "{}", missing.stderr);
    }
    // A name that is no option, as a pattern of the shell may give it.
    assert_harmless(&place.program("check").argument(format!("--{FILE}")).run().with_code(2));
    assert_harmless(&place.program("status").argument(std::ffi::OsStr::from_bytes(b"\xff\x1b[1m")).run());
}

#[test]
fn records_in_json_keep_every_character_and_cannot_control_the_terminal() {
    let place = Place::new();
    place.write(FILE, [hostile_request("a"), hostile_request("a"), String::new()].join("\n"));
    let records = |ended: &[u8]| -> Vec<Value> {
        lines(ended).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
    };
    let checked = place.program("check --json").argument(FILE).run().with_code(4);
    assert_harmless(&checked);
    let defect = &records(checked.stderr.as_bytes())[0];
    assert_eq!((&defect["file"], &defect["custom_id"]), (&json!(FILE), &json!(format!("a{TEXT}"))));
    let planned = place.program("plan --skip-invalid --json").argument(FILE).run().with_code(0);
    assert_harmless(&planned);
    assert_eq!(records(&planned.stdout)[0]["model"], format!("m{TEXT}"));
}

#[test]
fn messages_of_a_service_cannot_control_the_terminal() {
    let text = TEXT.chars().fold(String::new(), |text, c| format!("{text}\\U{:08x}", u32::from(c)));
    for dialect in DIALECTS {
        let script = format!(
            "[[fault]]\ndo = \"fail\"\nbatch = 1\nmessage = \"{text}\"\n\
             [[fault]]\ndo = \"error_rows\"\nbatch = 2\ncode = \"{text}\"\nmessage = \"{text}\"\n\
             [[fault]]\ndo = \"show\"\nlooks = 1\nset = {{ status = \"odd{text}\", model = \"{text}\" }}\n\
             [[fault]]\ndo = \"status\"\ncall = \"list\"\nnth = 2\nstatus = 503\nbody = \"{text}\"\n\
             [[fault]]\ndo = \"status\"\ncall = \"content\"\nnth = 1\nstatus = 502\nbody = \"<title>{text}</title>\"\n"
        );
        let service = Service::faulty(dialect, &script);
        let place = Place::new();
        place.write("in.jsonl", [request("a", "m"), request("b", "n"), request("c", "o"), String::new()].join("\n"));
        let run = format!("run in.jsonl -o out.jsonl --rounds 1 --shard-requests 1 {}", service.arguments());
        let ended = place.run(&run).with_code(6);
        assert_harmless(&ended);
        assert!(ended.stderr.contains("warning: batch"), "{}", ended.stderr);
        for command in ["status", "ls", "status --json", "ls --json", "doctor", "doctor --json"] {
            assert_harmless(&place.run(command));
        }
        assert_harmless(&place.run(&format!("{run} --json")).with_code(6));
    }
}

#[test]
fn an_error_is_told_whole_and_what_must_be_cut_ends_with_an_ellipsis() {
    let long = |words: usize| "of 8192 tokens, however you requested 9000 ".repeat(words).trim_end().to_owned();
    for dialect in DIALECTS {
        let (whole, cut) = (long(40), long(300));
        let script = format!(
            "[[fault]]\ndo = \"fail\"\nbatch = 1\nmessage = \"{whole}\"\n\
             [[fault]]\ndo = \"fail\"\nbatch = 2\nmessage = \"{cut}\"\n\
             [[fault]]\ndo = \"error_rows\"\nbatch = 3\nmessage = \"{whole}\"\n"
        );
        let service = Service::faulty(dialect, &script);
        let place = Place::new();
        place.write("in.jsonl", [request("a", "m"), request("b", "n"), request("c", "o"), String::new()].join("\n"));
        let run =
            format!("run in.jsonl -o out.jsonl --rounds 1 --uploads 1 --shard-requests 1 {}", service.arguments());
        let ended = place.run(&run).with_code(6);
        // Shards may be submitted in any order: by what was said, not by number.
        let output = String::from_utf8(place.read("out.jsonl")).unwrap();
        for said in [&ended.stderr, &output] {
            assert!(said.contains(&format!("ended as failed: {whole}")), "{said}");
            let after = said.split(&cut[..3000]).nth(1).unwrap();
            assert!(after.chars().take(1100).any(|c| c == '…'), "{said}");
        }
        let counted = ended.stderr.lines().find(|line| line.contains("1 × ")).unwrap();
        assert!(counted.ends_with('…') && counted.contains("9000"), "{counted}");
    }
}
