//! One set of scenarios against every dialect that the program speaks, and every service that answers in it.
//!
//! In: the table at the end of this file: a service a block, a scenario a line. Out: a test for each line. What a
//! scenario insists on is what the README promises; a service says how its answers, its bill and its batches are known.
//! A new service is a [`Row`] and a [`Spoken`] in `services`, and a block of the table.

mod services;

use std::time::{Duration, Instant};

use batchline::dialect::{OPENAI, TOGETHER};
use serde_json::{Value, json};

use crate::program::{Place, wait_until};
use crate::requests::{bodies, ids, lines, request};
use services::{Conduct, Foreign, KEY, Online, Row, Serve, Spoken};

/// Requests for three models in turn, with every kind of id and text that is allowed.
fn odd_requests() -> Vec<String> {
    let odd = [
        "a",
        " ",
        "null",
        "-1",
        "../../etc/passwd",
        "%2e%2e",
        "a\"b\\c",
        "\u{1}\t\u{7f}",
        "é",
        "e\u{301}",
        "世界",
        "\u{2028}",
        "\u{202e}abc",
        "\u{feff}",
        "0",
        "00",
        "A",
    ];
    let longest = "🦀".repeat(64);
    let ids = odd.into_iter().map(str::to_owned).chain([longest]).chain((0..40).map(|number| format!("id-{number}")));
    let request = |(number, id): (usize, String)| {
        let model = ["m", "n/o", "p q"][number % 3];
        let body = json!({"model": model, "messages": [{"role": "user", "content": format!("Say {id}.")}]});
        let line = json!({"custom_id": id, "body": body}).to_string();
        // Some as others write them: escaped.
        if number % 4 == 0 { escaped(&line) } else { line }
    };
    ids.enumerate().map(request).collect()
}

/// The same JSON in ASCII alone.
fn escaped(json: &str) -> String {
    let escape = |unit: u16| match u8::try_from(unit) {
        Ok(ascii @ b' '..=b'~') => vec![ascii],
        _ => format!("\\u{unit:04x}").into_bytes(),
    };
    String::from_utf8(json.encode_utf16().flat_map(escape).collect()).unwrap()
}

fn plain_requests(count: usize) -> Vec<String> {
    (0..count).map(|number| request(&format!("id-{number}"), "m")).collect()
}

/// A request that no service likes.
fn failing(name: &str) -> String {
    request(&format!("FAIL400-{name}"), "m").replace(r#""model":"m""#, r#""model":"m","stop":["1","2","3","4","5"]"#)
}

fn file_of(requests: &[String]) -> String {
    requests.join("\n") + "\n"
}

/// A place with the requests in it, and the command that runs them.
fn place_with(requests: &[String], service: &dyn Spoken, options: &str) -> (Place, String) {
    let place = Place::new();
    place.write("in.jsonl", file_of(requests));
    (place, format!("run in.jsonl -o out.jsonl {} {options}", service.arguments()))
}

/// Insists that each request has its own answer, in order, and was paid for once; twice only where the service has lost
/// the first answer.
#[track_caller]
fn assert_whole(place: &Place, service: &dyn Spoken, requests: &[String]) {
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(file_of(requests).as_bytes()));
    for (body, request) in bodies(&output).iter().zip(requests) {
        assert_eq!(*body, service.answer(request), "{request}");
    }
    let times: Vec<usize> = requests.iter().map(|request| service.times_paid(request)).collect();
    assert!(times.iter().all(|times| *times >= 1), "{times:?}");
    assert_eq!(times.iter().sum::<usize>(), requests.len() + service.answers_lost(), "{times:?}");
}

/// Insists that the command, given again, finds all done and sends nothing.
#[track_caller]
fn assert_nothing_is_sent_again(place: &Place, service: &dyn Spoken, command: &str, code: i32) {
    let (output, batches) = (place.read("out.jsonl"), service.batches(place));
    std::fs::remove_file(place.path("out.jsonl")).unwrap();
    place.run(command).with_code(code).saying("already complete");
    assert_eq!(place.read("out.jsonl"), output);
    assert_eq!(service.batches(place), batches);
}

fn every_request_is_answered_once_and_in_order(row: &dyn Row) {
    let Some(service) = row.start(Conduct::Quick) else { return };
    let requests = odd_requests();
    let (place, command) = place_with(&requests, &*service, "--shard-requests 7");
    place.run(&command).with_code(0).saying(&format!("{} outputs, 0 errors, 0 missing", requests.len()));
    assert_whole(&place, &*service, &requests);
    // 20, 19 and 19 requests for each of the models.
    assert_eq!(service.batches(&place), 9);
    assert_nothing_is_sent_again(&place, &*service, &command, 0);
    assert_whole(&place, &*service, &requests);
}

fn a_request_that_fails_has_its_error_in_its_place(row: &dyn Row) {
    let Some(service) = row.start(Conduct::Quick) else { return };
    let requests = [failing("first"), request("a", "m"), failing("b"), request("c", "m"), failing("last")];
    let (place, command) = place_with(&requests, &*service, "");
    place.run(&command).with_code(6).saying("2 outputs, 3 errors, 0 missing").saying("3 × ");
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(file_of(&requests).as_bytes()));
    for (line, request) in lines(&output).into_iter().zip(&requests) {
        let reply: Value = serde_json::from_slice(line).unwrap();
        let failed = !reply["error"].is_null() || reply["response"]["status_code"].as_u64() >= Some(400);
        assert_eq!(failed, request.contains("FAIL400"), "{reply}");
        assert!(failed || reply["response"]["body"] == service.answer(request), "{reply}");
        assert!(service.times_paid(request) <= 1, "{request}");
    }
    assert_nothing_is_sent_again(&place, &*service, &command, 6);
}

fn a_batch_that_fails_leaves_its_requests_missing_and_says_why(row: &dyn Row) {
    let Some(service) = row.start(Conduct::Quick) else { return };
    // Neither a model that there is, nor messages.
    let unfit = r#"{"custom_id":"b","body":{"model":"nonexistent/x"}}"#.to_owned();
    let requests = [request("a", "m"), unfit, request("c", "m")];
    let (place, command) = place_with(&requests, &*service, "");
    place.run(&command).with_code(6).saying("2 outputs, 0 errors, 1 missing").saying("1 of them not completed");
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ["a", "b", "c"]);
    let missing: Value = serde_json::from_slice(lines(&output)[1]).unwrap();
    assert_eq!(missing["error"]["code"], "missing");
    let message = missing["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("ended as failed: {}", service.why_it_fails())), "{message}");
    for at in [0, 2] {
        assert_eq!(bodies(&output)[at], service.answer(&requests[at]));
        assert_eq!(service.times_paid(&requests[at]), 1);
    }
    assert_nothing_is_sent_again(&place, &*service, &command, 6);
}

fn what_expired_or_got_lost_goes_up_again_alone(row: &dyn Row) {
    let Some(service) = row.start(Conduct::Forgetful) else { return };
    let requests = plain_requests(60);
    let (place, command) = place_with(&requests, &*service, "--shard-requests 20");
    place.run(&command).with_code(0).saying("ended as expired").saying("sent again: ").saying("no reply");
    assert_whole(&place, &*service, &requests);
    assert_eq!(service.batches(&place), 4, "three, and one for what they left");
}

fn killed_and_run_again_nothing_is_paid_for_twice(row: &dyn Row) {
    const KILLS: u64 = 5;
    let Some(service) = row.start(Conduct::Slow) else { return };
    let requests = plain_requests(300);
    let (place, command) = place_with(&requests, &*service, "--shard-requests 50");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut rng, mut kills) = (fastrand::Rng::with_seed(seed), 0);
    loop {
        let mut running = place.program(&command).start();
        let started = Instant::now();
        if kills < KILLS {
            // Longer each time, so that it gets on.
            let moment = Duration::from_millis(rng.u64(50..300 + 150 * kills));
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
    assert!(kills > 1, "only {kills} kills");
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(file_of(&requests).as_bytes()));
    assert!(bodies(&output).iter().zip(&requests).all(|(body, request)| *body == service.answer(request)));
    assert_eq!(service.batches(&place), 6);
    let again: usize = requests.iter().map(|request| service.times_paid(request) - 1).sum();
    let most = service.paid_again_by_a_kill() * usize::try_from(kills).unwrap();
    assert!(again <= most, "{again} requests were paid for twice, {most} could not be helped");
}

fn a_cancelled_run_brings_home_what_was_done(row: &dyn Row) {
    let Some(service) = row.start(Conduct::Crawling) else { return };
    let requests = plain_requests(600);
    let (place, command) = place_with(&requests, &*service, "--shard-requests 200");
    let running = place.program(&command).start();
    wait_until(|| service.batches(&place) == 3);
    let begun = Instant::now();
    wait_until(|| service.has_answered_some(begun.elapsed()));
    let arguments = service.arguments();
    let (_, url) = arguments.split_once("--base-url ").unwrap();
    let url = url.split(' ').next().unwrap();
    let cancelled = place.run(&format!("cancel --base-url {url}")).with_code(0);
    assert_eq!(cancelled.text().lines().count(), 3, "{}", cancelled.text());
    running.end().with_code(6).saying("ended as cancelled");
    let output = place.read("out.jsonl");
    assert_eq!(ids(&output), ids(file_of(&requests).as_bytes()));
    let answered = |body: &Value| body.get("choices").is_some();
    let mut outputs = 0;
    for (body, request) in bodies(&output).iter().zip(&requests).filter(|(body, _)| answered(body)) {
        assert_eq!(*body, service.answer(request));
        outputs += 1;
    }
    assert!((1..600).contains(&outputs), "{outputs}");
    let paid: usize = requests.iter().map(|request| service.times_paid(request)).sum();
    assert_eq!(paid, outputs, "what was paid for has come home");
    assert_nothing_is_sent_again(&place, &*service, &command, 6);
}

fn a_wrong_key_ends_the_run_before_anything_is_sent(row: &dyn Row) {
    let Some(service) = row.start(Conduct::Guarded) else { return };
    let requests = plain_requests(10);
    let (place, command) = place_with(&requests, &*service, "");
    let run = |key: &str| place.program(&command).env(service.key_variable(), key).run();
    let refused =
        run("wrong-key-4711").with_code(3).saying("the key was not accepted").saying("hint: check the API key");
    assert!(!refused.stderr.contains("wrong-key-4711"), "{}", refused.stderr);
    assert!(requests.iter().all(|request| service.times_paid(request) == 0));
    let accepted = run(KEY).with_code(0);
    assert!(!accepted.stderr.contains(KEY), "{}", accepted.stderr);
    assert_whole(&place, &*service, &requests);
}

/// Makes a test of each line.
macro_rules! table {
    ($($service:ident ($row:expr) { $($scenario:ident)+ })+) => {
        $(mod $service {
            $(#[test]
            fn $scenario() {
                use super::*;
                super::$scenario(&$row);
            })+
        })+
    };
}

table! {
    together (Serve(TOGETHER)) {
        every_request_is_answered_once_and_in_order
        a_request_that_fails_has_its_error_in_its_place
        a_batch_that_fails_leaves_its_requests_missing_and_says_why
        what_expired_or_got_lost_goes_up_again_alone
        killed_and_run_again_nothing_is_paid_for_twice
        a_cancelled_run_brings_home_what_was_done
        a_wrong_key_ends_the_run_before_anything_is_sent
    }
    openai (Serve(OPENAI)) {
        every_request_is_answered_once_and_in_order
        a_request_that_fails_has_its_error_in_its_place
        a_batch_that_fails_leaves_its_requests_missing_and_says_why
        what_expired_or_got_lost_goes_up_again_alone
        killed_and_run_again_nothing_is_paid_for_twice
        a_cancelled_run_brings_home_what_was_done
        a_wrong_key_ends_the_run_before_anything_is_sent
    }
    // Its batches are the program's own: they neither fail nor expire, and are cancelled by Ctrl-C.
    online (Online) {
        every_request_is_answered_once_and_in_order
        a_request_that_fails_has_its_error_in_its_place
        killed_and_run_again_nothing_is_paid_for_twice
        a_wrong_key_ends_the_run_before_anything_is_sent
    }
    // It asks nobody for a key; its windows are in `aibrix`, where they are waited for.
    aibrix (Foreign) {
        every_request_is_answered_once_and_in_order
        a_request_that_fails_has_its_error_in_its_place
        a_batch_that_fails_leaves_its_requests_missing_and_says_why
        killed_and_run_again_nothing_is_paid_for_twice
        a_cancelled_run_brings_home_what_was_done
    }
}
