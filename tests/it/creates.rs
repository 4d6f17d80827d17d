//! Creates that are refused but accepted, answered with another shard's batch, or rejected by a full queue: one batch
//! for each shard, and a full queue is backpressure.

use batchline::dialect::Dialect;

use crate::program::{Ended, Place};
use crate::requests::{assert_same, generated, request};
use crate::service::{DIALECTS, Service};

/// Shards that [`run`] cuts sixty requests into.
const SHARDS: usize = 9;

/// Models that they name.
const MODELS: usize = 3;

/// A run of the requests with these options, to its end.
fn run(place: &Place, service: &Service, requests: &[u8], options: &str) -> Ended {
    place.write("in.jsonl", requests);
    place.run(&format!("run in.jsonl -o out.jsonl --shard-requests 8 --rounds 1 {} {options}", service.arguments()))
}

/// A service whose batches take that long, with faults.
fn slow(dialect: &'static dyn Dialect, time: &str, script: &str) -> Service {
    let host = Place::new();
    host.write("faults.toml", script);
    Service::speaking_in(dialect, host, &format!("--batch-time {time} --faults faults.toml"))
}

#[test]
fn a_refused_but_accepted_create_is_found_before_a_retry() {
    let requests = generated(60);
    for status in [429, 400, 404] {
        // Nine pauses of the program's own choice, which are drawn, would take longer than a test waits: there the
        // service names them.
        let named = "headers = { \"retry-after-ms\" = \"50\" }\n";
        for (nth, pause) in [("[1]", ""), ("[2, 5, 9]", ""), ("[1, 2, 3, 4, 5, 6, 7, 8, 9]", named)] {
            // With a list that shows it at once, and with one that takes a while.
            for more in ["", "[[fault]]\ndo = \"list_lag\"\ndelay = \"40ms\"\n"] {
                let script =
                    format!("[[fault]]\ndo = \"accept_then_status\"\nstatus = {status}\nnth = {nth}\n{pause}{more}");
                if status != 429 && !more.is_empty() {
                    // Who says that something is wrong has not done it: one look is enough.
                    continue;
                }
                for dialect in DIALECTS {
                    let (place, service) = (Place::new(), Service::faulty(dialect, &script));
                    let ended = run(&place, &service, &requests, "").with_code(0).saying("found its batch");
                    assert_same(&place.read("out.jsonl"), &service.replies(&requests));
                    let books = service.books();
                    assert_eq!(books.calls("create_batch"), SHARDS, "{dialect} {status} {nth}: {}", ended.stderr);
                    books.assert_billed_once(&requests);
                }
            }
        }
    }
}

#[test]
fn a_refused_create_is_retried_when_the_list_does_not_show_it() {
    let requests = generated(60);
    for status in [429, 400, 404] {
        let script = format!("[[fault]]\ndo = \"status\"\ncall = \"create\"\nstatus = {status}\nnth = [1, 3, 4]\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            run(&place, &service, &requests, "").with_code(0);
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            assert_eq!(service.books().calls("create_batch"), SHARDS + 3, "{dialect} {status}");
            service.books().assert_billed_once(&requests);
        }
    }
}

#[test]
fn a_refusal_that_ends_a_run_is_verified_by_the_next_one() {
    let requests = generated(60);
    for status in [401, 402, 403, 413, 422] {
        let script = format!("[[fault]]\ndo = \"accept_then_status\"\nstatus = {status}\nnth = 2\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            let first = run(&place, &service, &requests, "");
            assert!(!first.status.success(), "{}", first.stderr);
            let second = run(&place, &service, &requests, "").with_code(0);
            let found = [first.stderr, second.stderr].concat().contains("found its batch");
            assert!(found, "{dialect} {status}");
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            assert_eq!(service.books().calls("create_batch"), SHARDS, "{dialect} {status}");
            service.books().assert_billed_once(&requests);
        }
    }
}

#[test]
fn a_create_that_is_answered_with_another_shards_batch_is_held_and_nothing_more_is_sent() {
    let requests = generated(60);
    for dialect in DIALECTS {
        // Where the list shows the batch that was created in truth, it is found.
        let (place, service) = (Place::new(), Service::faulty(dialect, "[[fault]]\ndo = \"same_id\"\nnth = 3\n"));
        run(&place, &service, &requests, "").with_code(0).saying("which works for shard").saying("found its batch");
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
        // Where it does not, nobody knows.
        let script = "[[fault]]\ndo = \"same_id\"\n[[fault]]\ndo = \"list_omit\"\nnewest = 100\n";
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        let ended = run(&place, &service, &requests, "").with_code(7);
        ended.saying("was answered with batch").saying("on hold: 1 shard").without("UNIQUE");
        for _ in 0..2 {
            run(&place, &service, &requests, "").with_code(7);
            assert_eq!(service.books().calls("create_batch"), 2, "{dialect}");
            // All that is there is given out, and a line for each request that is held or was not sent because of it.
            let output = String::from_utf8(place.read("out.jsonl")).unwrap();
            let held = output.lines().filter(|line| line.contains(r#""code":"held""#)).count();
            assert_eq!((output.lines().count(), (52..60).contains(&held)), (60, true), "{dialect}: {held}");
        }
        assert!(place.run("status").with_code(0).text().contains("which works for shard"));
        // Whoever decides decides about one more.
        place.run("retry --ambiguous").with_code(0);
        run(&place, &service, &requests, "").with_code(7);
        assert_eq!(service.books().calls("create_batch"), 3, "{dialect}");
    }
}

#[test]
fn batches_rejected_by_a_full_queue_are_resubmitted_when_others_end() {
    let requests = generated(60);
    for (room, time) in [(1, "100ms"), (2, "300ms"), (4, "300ms")] {
        let script = format!("[[fault]]\ndo = \"no_room\"\nbatches = {room}\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), slow(dialect, time, &script));
            let ended = run(&place, &service, &requests, "").with_code(0);
            ended
                .saying("the service has no room for it")
                .saying("60 outputs, 0 errors, 0 missing")
                .without("sent again");
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            service.books().assert_billed_once(&requests);
            // Three models share the room, and the run learns for each of them how much there is: at the start and
            // whenever a batch ends, each may try one that is refused.
            let creates = service.books().calls("create_batch");
            let most = SHARDS + MODELS * (SHARDS + 1);
            assert!(creates > SHARDS && creates <= most, "{dialect} {room}: {creates} creates");
        }
    }
}

#[test]
fn creates_rejected_by_a_full_queue_wait() {
    let requests = generated(60);
    for status in [429, 400, 403] {
        let script = format!("[[fault]]\ndo = \"turn_away\"\nbatches = 2\nstatus = {status}\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), slow(dialect, "200ms", &script));
            run(&place, &service, &requests, "").with_code(0).saying("the service has no room for it");
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            service.books().assert_billed_once(&requests);
        }
    }
}

#[test]
fn a_known_limit_is_respected() {
    let requests = generated(60);
    for dialect in DIALECTS {
        let (place, service) = (Place::new(), slow(dialect, "100ms", "[[fault]]\ndo = \"no_room\"\nbatches = 2\n"));
        run(&place, &service, &requests, "--max-in-flight-batches 2").with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        let books = service.books();
        assert_eq!((books.calls("create_batch"), books.faults()), (SHARDS, 0), "{dialect}");
    }
}

#[test]
fn a_queue_filled_by_others_is_waited_for() {
    let requests = [request("a", "m"), request("b", "m")].join("\n").into_bytes();
    let script = "[[fault]]\ndo = \"fail\"\nbatch = [1, 2, 3]\nmessage = \"Enqueued token limit reached for m\"\n";
    for dialect in DIALECTS {
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        let ended = run(&place, &service, &requests, "").with_code(0);
        ended.saying("Enqueued token limit reached").saying("--shard-requests").without("sent again");
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        assert_eq!(service.books().calls("create_batch"), 4, "{dialect}");
        service.books().assert_billed_once(&requests);
    }
}
