//! `--provider online` against a service that refuses now and then, for a while, or for good.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::online::{assert_answered, requests, summary};
use crate::program::{Ended, Place};
use crate::upstream::{Manner, Upstream};

/// Starting, checking and merging, on a machine that is busy.
const BESIDES: Duration = Duration::from_secs(2);

/// Asks for everything, and gives how long that took.
fn run(upstream: &Upstream, count: usize, options: &str) -> (Duration, Ended) {
    let (place, input) = (Place::new(), requests(count));
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl --json {options}", upstream.url());
    let begun = Instant::now();
    let ended = place.run(&command).with_code(0);
    let took = begun.elapsed();
    assert_answered(&place.read("out.jsonl"), &input);
    assert_eq!((upstream.total(), upstream.twice_at_a_time()), (count as u64, 0));
    assert_eq!(summary(&ended)["sent_again"], json!({}));
    (took, ended)
}

/// The same, with what it took for the record.
fn measured(manner: Manner, count: usize, options: &str) -> (Duration, f64) {
    let upstream = Upstream::start(manner);
    let (took, _) = run(&upstream, count, options);
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let needed = 1.0 + f64::from(upstream.turned_away()) / count as f64;
    println!("{count} requests {options}: {took:.2?}, {needed:.3} sent for each; {manner:?}");
    (took, needed)
}

#[test]
fn two_percent_of_refusals_cost_less_than_half_the_run_time() {
    const COUNT: usize = 1_500;
    let manner = Manner { latency: Duration::from_millis(100), ..Manner::default() };
    let (plain, _) = measured(manner, COUNT, "");
    let (took, needed) = measured(Manner { refuses: 0.02, ..manner }, COUNT, "");
    assert!(took <= plain.mul_f64(1.5), "{took:?} instead of {plain:?}");
    assert!(needed < 1.05, "{needed}");
}

#[test]
fn refusals_of_all_kinds_cost_the_wait_of_those_that_are_refused() {
    let manner = Manner { latency: Duration::from_millis(50), ..Manner::default() };
    for (concurrency, count) in [(1, 40), (8, 300), (64, 1_000), (512, 1_000)] {
        let options = format!("--concurrency {concurrency}");
        let (plain, _) = measured(manner, count, &options);
        for (refuses, refusal, retry_after, again) in
            [(0.005, 429, "1", 2), (0.05, 429, "", 5), (0.05, 503, "1", 4), (0.05, 429, "date", 8), (0.2, 429, "1", 8)]
        {
            let (took, needed) = measured(Manner { refuses, refusal, retry_after, ..manner }, count, &options);
            let most = plain.mul_f64(1.3 / (1.0 - refuses)) + Duration::from_secs(again) + BESIDES;
            assert!(took <= most, "{took:?} instead of {most:?}");
            assert!(needed <= 1.2 / (1.0 - refuses), "{needed}");
        }
    }
}

#[test]
fn three_seconds_in_which_everything_is_refused_cost_little_more_than_three_seconds() {
    for refusal in [429, 503] {
        let manner = Manner { latency: Duration::from_millis(50), refusal, ..Manner::default() };
        let (plain, _) = measured(manner, 2_000, "");
        let dark = Duration::from_secs(3);
        let (took, needed) = measured(Manner { dark, ..manner }, 2_000, "");
        // The first pause may be over just before the end, and the next is as long again.
        assert!(took <= plain + dark * 4 + BESIDES, "{took:?} instead of {plain:?}");
        assert!(needed < 1.1, "{needed}");
    }
}

#[test]
fn a_service_that_refuses_everything_for_good_ends_the_run_and_it_is_resumed() {
    let manner = Manner { dark: Duration::from_secs(3600), ..Manner::default() };
    let (place, upstream, input) = (Place::new(), Upstream::start(manner), requests(200));
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url());
    let ended = place.run(&format!("{command} --patience 4s")).with_code(5);
    let ended = ended.saying("has let nothing through for 4s").saying("rate limited (HTTP 429): Rate limit reached");
    ended.saying("hint: a rate limit or quota is used up").saying("--patience");
    assert!((10..60).contains(&upstream.turned_away()), "{}", upstream.turned_away());
    assert!(!place.has("out.jsonl"));
    upstream.mend();
    place.run(&command).with_code(0);
    assert_answered(&place.read("out.jsonl"), &input);
    assert_eq!(upstream.total(), 200);
}

#[test]
fn an_exhausted_account_ends_the_run_at_once() {
    let spent = r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
    let manner = Manner { broken: Some((429, "application/json", spent)), ..Manner::default() };
    let (place, upstream, input) = (Place::new(), Upstream::start(manner), requests(100));
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url());
    let ended = place.run(&command).with_code(5);
    ended
        .saying("quota at http://127.0.0.1")
        .saying("You exceeded your current quota")
        .saying("hint: no waiting helps");
    assert!(upstream.in_vain() <= 16, "{}", upstream.in_vain());
    upstream.mend();
    place.run(&command).with_code(0);
    assert_answered(&place.read("out.jsonl"), &input);
}

#[test]
fn answers_that_are_not_utf8_are_delivered_as_json_with_their_bytes_beside() {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let (place, upstream) = (Place::new(), Upstream::start(Manner::default()));
    let names = ["a", "LATIN-1", "b", "LATIN-2"];
    let input: String = names.iter().map(|name| crate::requests::request(name, "m") + "\n").collect();
    place.write("in.jsonl", &input);
    let command = format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url());
    place.run(&command).with_code(0);
    let output = String::from_utf8(place.read("out.jsonl")).unwrap();
    let rows: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row["custom_id"].as_str().unwrap()).collect::<Vec<_>>(), names);
    for row in [&rows[1], &rows[3]] {
        let response = &row["response"];
        assert_eq!(response["body"]["choices"][0]["message"]["content"], "caf\u{fffd}");
        let exact = BASE64_STANDARD.decode(response["body_base64"].as_str().unwrap()).unwrap();
        assert_eq!(exact, crate::upstream::LATIN);
    }
    assert!(rows[0]["response"].get("body_base64").is_none());
    assert_eq!(upstream.total(), 4);
}

#[test]
fn patience_is_for_services_that_are_asked_request_by_request() {
    let place = Place::new();
    place.write("in.jsonl", requests(1));
    let refused = place.run("run in.jsonl --provider local --patience 1m -o out.jsonl").with_code(2);
    refused.saying("--patience requires --provider online");
}
