//! A base URL that leads elsewhere: what the first answers say about it, and that no request is used up by them.

use serde_json::{Value, json};

use crate::online::{assert_answered, requests, summary};
use crate::program::{Place, wait_until};
use crate::requests::{lines, request};
use crate::service::Service;
use crate::upstream::{Manner, Upstream};

const PAGE: &str = "<!doctype html><html><head><title>Welcome to nginx!</title></head></html>";
const DETAIL: &str = r#"{"detail":"Not Found"}"#;

/// So many first answers are enough: `remote::online::FIRST_ANSWERS`.
const FIRST: u32 = 20;

fn broken(status: u16, kind: &'static str, body: &'static str) -> Upstream {
    Upstream::start(Manner { broken: Some((status, kind, body)), ..Manner::default() })
}

fn command(upstream: &Upstream) -> String {
    format!("run in.jsonl --provider online --base-url {} -o out.jsonl --json", upstream.url())
}

#[test]
fn first_answers_that_are_none_end_the_run_and_use_up_no_request() {
    for (status, kind, body, said) in [
        (404, "text/html", PAGE, "Welcome to nginx!"),
        (404, "application/json", DETAIL, "Not Found"),
        (404, "text/plain", "404 page not found", "404 page not found"),
        (403, "application/json", r#"{"error":"forbidden"}"#, "forbidden"),
        (403, "text/html", PAGE, "Welcome to nginx!"),
        (405, "application/json", r#"{"detail":"Method Not Allowed"}"#, "Method Not Allowed"),
        (301, "text/html", "", "HTTP 301"),
        (200, "text/html", PAGE, "Welcome to nginx!"),
        (200, "text/plain", "OK", "OK"),
        (200, "text/plain", "", "nothing"),
    ] {
        let (place, upstream, input) = (Place::new(), broken(status, kind, body), requests(300));
        place.write("in.jsonl", &input);
        let ended = place.run(&command(&upstream)).with_code(5).saying(said).saying("check the base URL");
        ended.saying(&format!("no API at {}", upstream.url())).saying("/v1/chat/completions");
        let asked = upstream.in_vain();
        // Those that were out by then: the window has not doubled twice.
        assert!((FIRST..FIRST + 32).contains(&asked), "{status}: {asked}");
        assert!(!place.has("out.jsonl"));
        upstream.mend();
        let ended = place.run(&command(&upstream)).with_code(0);
        assert_answered(&place.read("out.jsonl"), &input);
        assert_eq!((upstream.total(), &summary(&ended)["sent_again"]), (300, &json!({})), "{status}");
    }
}

#[test]
fn a_few_requests_are_enough_where_no_api_speaks_like_that() {
    for count in [1, 3] {
        let (place, upstream, input) = (Place::new(), broken(404, "text/html", PAGE), requests(count));
        place.write("in.jsonl", &input);
        place.run(&command(&upstream)).with_code(5).saying("check the base URL");
        assert_eq!(upstream.in_vain() as usize, count);
        upstream.mend();
        place.run(&command(&upstream)).with_code(0);
        assert_answered(&place.read("out.jsonl"), &input);
        // What an API says about a request is that request's error, and what may be paid for is delivered.
        for (status, kind, body) in [(404, "application/json", DETAIL), (200, "text/plain", "so it is")] {
            let (place, upstream) = (Place::new(), broken(status, kind, body));
            place.write("in.jsonl", &input);
            place.run(&command(&upstream)).with_code(6);
            assert_eq!(lines(&place.read("out.jsonl")).len(), count);
        }
    }
}

#[test]
fn one_success_shows_that_the_address_is_right() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner::default()));
    let names: Vec<String> = (0..60)
        .map(|number| match number {
            15 => "good".to_owned(),
            30 => format!("WALL403-{number}"),
            45 => format!("PROSE-{number}"),
            _ => format!("FAIL404-{number}"),
        })
        .collect();
    let input: String = names.iter().map(|name| request(name, "m") + "\n").collect();
    place.write("in.jsonl", &input);
    let ended = place.run(&format!("{} --rounds 1", command(&upstream))).with_code(6);
    let rows: Vec<Value> =
        lines(&place.read("out.jsonl")).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    for (name, row) in names.iter().zip(&rows) {
        assert_eq!(row["custom_id"], *name);
        let code = match name.split('-').next().unwrap() {
            "good" => Value::Null,
            "PROSE" => json!("not_json"),
            "WALL403" => json!("http_403"),
            _ => json!("http_404"),
        };
        assert_eq!(row["error"]["code"], code, "{row}");
    }
    // A web page that came before the first success is no API's word: that request is asked once more.
    assert!((60..=61).contains(&upstream.total()), "{}", upstream.total());
    assert_eq!(summary(&ended)["errors"].as_u64(), Some(59));
}

#[test]
fn a_model_that_thinks_is_waited_for_before_quick_failures_are_believed() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner::default()));
    // The one good request takes two seconds longer than the others.
    let names = (0..60).map(|number| if number == 3 { "SLOW2".to_owned() } else { format!("FAIL404-{number}") });
    place.write("in.jsonl", names.map(|name| request(&name, "m") + "\n").collect::<String>());
    let ended = place.run(&format!("{} --rounds 1", command(&upstream))).with_code(6);
    assert_eq!((&summary(&ended)["outputs"], &summary(&ended)["errors"]), (&json!(1), &json!(59)));
    assert_eq!(upstream.total(), 60);
}

#[test]
fn an_address_does_not_become_wrong_when_nothing_but_bad_requests_is_left() {
    let (place, upstream) = (Place::new(), Upstream::start(Manner::default()));
    let names = (0..41).map(|number| if number == 0 { "good".to_owned() } else { format!("FAIL404-{number}") });
    place.write("in.jsonl", names.map(|name| request(&name, "m") + "\n").collect::<String>());
    let mut running = place.program(&format!("{} --concurrency 1", command(&upstream))).start();
    wait_until(|| upstream.total() >= 10);
    running.kill();
    assert!(running.end().was_killed());
    assert!(upstream.total() < 20);
    place.run(&format!("{} --rounds 1", command(&upstream))).with_code(6);
    assert_eq!(lines(&place.read("out.jsonl")).len(), 41);
}

#[test]
fn serve_goes_on_trying_and_has_its_answers_when_the_address_is_right() {
    let upstream = broken(404, "text/html", PAGE);
    let service = Service::start_with(&format!("--upstream {}", upstream.url()));
    let (place, input) = (Place::new(), requests(100));
    place.write("in.jsonl", &input);
    let mut running = place.program(&format!("run in.jsonl {} -o out.jsonl", service.arguments())).start();
    wait_until(|| upstream.in_vain() >= FIRST);
    assert!(running.is_alive());
    upstream.mend();
    running.end().with_code(0);
    assert_answered(&place.read("out.jsonl"), &input);
    assert_eq!(upstream.total(), 100);
    assert!(upstream.in_vain() < FIRST + 64);
}
