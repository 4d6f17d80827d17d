//! `--assign-ids`: lines that are bodies alone are numbered, and get what is around them on their way up.

use std::io::Write;

use batchline::dialect::DIALECTS;
use batchline::serve::echo_reply_in;
use serde_json::Value;

use crate::program::{Place, names_in};
use crate::requests::{assert_same, ids, lines, replies, with_bodies};
use crate::service::{Books, Service};
use crate::upstream::{Manner, Upstream};

const LOCAL: &str = "--provider local --poll-interval 50ms --assign-ids";

/// Bodies with white space around them and none in them, for two models.
fn bodies(count: usize) -> Vec<String> {
    let body = |number: usize| {
        let spaces = [" ", "", "\t "][number % 3];
        format!(
            r#"{spaces}{{"model":"m-{}","messages":[{{"role":"user","content":"Say {}."}}],"n":1e0}}{spaces}"#,
            number % 2,
            "x".repeat(number % 7)
        )
    };
    (0..count).map(body).collect()
}

/// The bodies as they go up to a service that wants no more than an id.
fn numbered(bodies: &[String]) -> Vec<u8> {
    let line = |(body, number): (&String, usize)| {
        format!("{{\"custom_id\":\"line-{number}\",\"body\":{}}}\n", body.trim()).into_bytes()
    };
    bodies.iter().zip(1..).flat_map(line).collect()
}

#[test]
fn bodies_are_numbered_and_answered_in_both_dialects_and_the_same_command_submits_nothing_twice() {
    let bodies = bodies(120);
    let wanted = numbered(&bodies);
    for &dialect in DIALECTS {
        let (place, service) = (Place::new(), Service::speaking(dialect, "--batch-time 0ms"));
        // Blank lines are not counted.
        place.write("in.jsonl", bodies.join("\r\n\n"));
        let options = format!("{} --shard-bytes 1500", service.arguments());
        let command = format!("run in.jsonl {options} --assign-ids -o out.jsonl");
        place.run(&command).with_code(0);
        let replies: Vec<u8> = lines(&wanted)
            .into_iter()
            .flat_map(|line| echo_reply_in(dialect, line).into_iter().chain(*b"\n"))
            .collect();
        assert_same(&place.read("out.jsonl"), &replies);
        let created = service.books().calls("create_batch");
        assert!(created >= 8, "{created}");
        assert_eq!(service.books().billed().len(), 120);
        place.run(&command).with_code(0);
        assert_eq!((service.books().calls("create_batch"), place.runs().len()), (created, 1));
        assert_same(&place.read("out.jsonl"), &replies);
        // Without the option they are no requests, and no other run is taken for theirs.
        place.run(&format!("run in.jsonl {options}")).with_code(4).saying("missing-custom-id");
    }
}

#[test]
fn split_files_equal_the_uploads_and_respect_the_limits() {
    let (place, bodies) = (Place::new(), bodies(60));
    place.write("in.jsonl", bodies.join("\n"));
    place.run("check in.jsonl --assign-ids").with_code(0);
    for (provider, around) in [("together", ""), ("openai", r#""method":"POST","url":"/v1/chat/completions","#)] {
        let options = format!("in.jsonl --provider {provider} --assign-ids --shard-bytes 1500");
        place.run(&format!("split {options} -d {provider}")).with_code(0);
        let mut written: Vec<String> = Vec::new();
        for name in names_in(&place.path(provider)) {
            let shard = place.read(&format!("{provider}/{name}"));
            assert!(shard.len() <= 1500, "{}", shard.len());
            written.extend(String::from_utf8(shard).unwrap().lines().map(str::to_owned));
        }
        let wanted = String::from_utf8(numbered(&bodies)).unwrap().replace(r#""body""#, &format!(r#"{around}"body""#));
        let mut wanted: Vec<&str> = wanted.lines().collect();
        wanted.sort_unstable();
        written.sort_unstable();
        assert_eq!(written, wanted);
        let plan = place.run(&format!("plan {options} --json")).with_code(0);
        let total: Value = serde_json::from_slice(lines(&plan.stdout).last().unwrap()).unwrap();
        assert_eq!(total["bytes"], written.iter().map(|line| line.len() + 1).sum::<usize>());
    }
}

#[test]
fn pipes_and_compressed_files_have_the_same_numbers() {
    let (place, bodies) = (Place::new(), bodies(40));
    let (text, wanted) = (bodies.join("\n"), replies(&numbered(&bodies)));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(text.as_bytes()).unwrap();
    place.write("in.jsonl.gz", packed.finish().unwrap());
    let ended = place.program(&format!("run - {LOCAL}")).input(text).run().with_code(0);
    assert_same(&ended.stdout, &wanted);
    // The same lines: the same run, which is done.
    let ended = place.run(&format!("run in.jsonl.gz {LOCAL}")).with_code(0);
    assert_same(&ended.stdout, &wanted);
    Books::inside(&place.run_directory()).assert_billed_once(&numbered(&bodies));
}

#[test]
fn numbers_continue_across_files_and_count_skipped_lines() {
    let (place, mut bodies) = (Place::new(), bodies(6));
    place.write("one.jsonl", bodies[..2].join("\n"));
    place.write("two.jsonl", format!("{}\n[]\n{}", bodies[2], bodies[4]));
    let command = format!("run one.jsonl two.jsonl {LOCAL} --skip-invalid --errors bad.jsonl -o out.jsonl");
    place.run(&command).with_code(6);
    bodies[3] = "[]".to_owned();
    let all = numbered(&bodies[..5]);
    let good: Vec<&[u8]> = lines(&all).into_iter().filter(|line| !line.ends_with(b"[]}")).collect();
    assert_same(&place.read("out.jsonl"), &replies(&good.join(&b'\n')));
    assert_eq!(ids(&place.read("bad.jsonl")), ["line-4"]);
}

#[test]
fn failures_keep_number_and_body_and_can_be_sent_again() {
    let (place, mut bodies) = (Place::new(), bodies(8));
    bodies[4] = bodies[4].replace(r#""n":1e0"#, r#""stop":["1","2","3","4","5"]"#);
    place.write("in.jsonl", bodies.join("\n"));
    place.run(&format!("run in.jsonl {LOCAL} --errors bad.jsonl -o out.jsonl")).with_code(6);
    let wanted = replies(&numbered(&bodies));
    let (bad, good): (Vec<&[u8]>, Vec<&[u8]>) =
        lines(&wanted).into_iter().partition(|line| String::from_utf8_lossy(line).contains(r#""error":"#));
    assert_eq!(lines(&place.read("out.jsonl")), good);
    assert_same(&place.read("bad.jsonl"), &with_bodies(&bad.join(&b'\n'), &numbered(&bodies)));
    let again = place.run("run bad.jsonl --provider local --poll-interval 50ms").with_code(6);
    assert_eq!(ids(&again.stdout), ["line-5"]);
    // By hand, in any order.
    let mut replies: Vec<&[u8]> = lines(&wanted);
    replies.reverse();
    replies.truncate(6);
    place.write("replies.jsonl", replies.join(&b'\n'));
    let merged = place.run("merge in.jsonl --assign-ids --replies replies.jsonl").with_code(6).saying("2 missing");
    assert_eq!(ids(&merged.stdout), (1..=8).map(|number| format!("line-{number}")).collect::<Vec<_>>());
    assert_eq!(lines(&merged.stdout)[2..], lines(&wanted)[2..]);
}

#[test]
fn rounds_send_the_same_numbers_again() {
    let (place, bodies) = (Place::new(), bodies(50));
    place.write(
        "faults.toml",
        "[[fault]]\ndo = \"error_rows\"\nshare = 0.5\nonce = true\nmessage = \"Internal Server Error\"\n",
    );
    let service = Service::start_in(place, "--batch-time 0ms --faults faults.toml");
    let place = Place::new();
    place.write("in.jsonl", bodies.join("\n"));
    let command = format!("run in.jsonl {} --assign-ids --shard-requests 10 -o out.jsonl", service.arguments());
    place.run(&command).with_code(0).saying("sent again");
    assert_same(&place.read("out.jsonl"), &replies(&numbered(&bodies)));
    service.books().assert_billed_once(&numbered(&bodies));
}

#[test]
fn a_service_without_batches_gets_the_bodies_unchanged() {
    let (place, upstream, bodies) = (Place::new(), Upstream::start(Manner::default()), bodies(7));
    place.write("in.jsonl", bodies.join("\n"));
    let command = format!("run in.jsonl --provider online --base-url {} --assign-ids", upstream.url());
    let ended = place.run(&command).with_code(0);
    assert_eq!(ids(&ended.stdout), (1..=7).map(|number| format!("line-{number}")).collect::<Vec<_>>());
    for (line, body) in lines(&ended.stdout).into_iter().zip(&bodies) {
        let (row, body): (Value, Value) = (serde_json::from_slice(line).unwrap(), serde_json::from_str(body).unwrap());
        let said = body["messages"][0]["content"].as_str().unwrap();
        assert_eq!(row["response"]["body"], crate::upstream::answer(said));
    }
}
