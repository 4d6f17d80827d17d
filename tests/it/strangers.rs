//! Wrong lists and polls: foreign entries, lists that fail, are wrong, or never change, batches that are not shown. A
//! run ignores what is not its own, and ends.

use serde_json::Value;

use crate::program::{Ended, Place};
use crate::requests::{assert_same, generated};
use crate::service::{DIALECTS, Service};

/// A run of the requests with these options, to its end.
fn run(place: &Place, service: &Service, requests: &[u8], options: &str) -> Ended {
    place.write("in.jsonl", requests);
    place.run(&format!("run in.jsonl -o out.jsonl --shard-requests 20 {} {options}", service.arguments()))
}

#[test]
fn foreign_list_entries_are_ignored() {
    let requests = generated(60);
    // Of all kinds; the same while answers to creates are looked for among them; and beside empty lists.
    for more in ["", "[[fault]]\ndo = \"accept_then_drop\"\n", "[[fault]]\ndo = \"list_null\"\n"] {
        let script = format!("{more}[[fault]]\ndo = \"list_foreign\"\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            let ended = run(&place, &service, &requests, "--on-ambiguous hold --settle 5s").with_code(0);
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            service.books().assert_billed_once(&requests);
            assert_eq!(service.books().calls("create_batch"), 3, "{dialect}: {script}: {}", ended.stderr);
            assert!(service.books().faults() > 1, "{dialect}: {script}");
        }
    }
}

#[test]
fn one_malformed_list_entry_is_ignored() {
    let requests = generated(20);
    for entry in [
        "null",
        r#"{"id":"s3://bucket/key","status":"completed"}"#,
        r#"{"id":"b","output_file_id":"s3://bucket/key"}"#,
        r#"{"id":null,"input_file_id":null}"#,
        r#"[{"id":"b"}]"#,
    ] {
        let script = format!("[[fault]]\ndo = \"list_foreign\"\nentries = ['{entry}']\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            run(&place, &service, &requests, "").with_code(0);
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        }
    }
}

#[test]
fn without_a_list_the_batches_are_asked_one_by_one() {
    let requests = generated(60);
    for failure in [
        "status = 404",
        "status = 403\nbody = '{\"error\":\"not allowed\"}'",
        "status = 200\nbody = '{}'",
        "status = 200\nbody = '<html>'",
    ] {
        let script = format!("[[fault]]\ndo = \"status\"\ncall = \"list\"\nfrom = 2\n{failure}\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            run(&place, &service, &requests, "").with_code(0).saying("cannot list batches, retrying");
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            service.books().assert_billed_once(&requests);
        }
    }
}

#[test]
fn lists_of_every_form_are_lists_and_empty_ones_say_nothing() {
    let requests = generated(20);
    for body in ["null", "[]", r#"{"data":null}"#, r#"{"data":[]}"#, r#"{"object":"list","data":[],"has_more":true}"#] {
        let script = format!("[[fault]]\ndo = \"status\"\ncall = \"list\"\nstatus = 200\nbody = '{body}'\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            run(&place, &service, &requests, "").with_code(0);
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        }
    }
}

#[test]
fn a_list_that_shows_batches_at_work_for_ever_does_not_hang_a_run() {
    let requests = generated(60);
    for shown in ["VALIDATING", "IN_PROGRESS", "no_such_status"] {
        let script = format!("[[fault]]\ndo = \"show\"\ncall = \"list\"\nset = {{ status = \"{shown}\" }}\n");
        for dialect in DIALECTS {
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            run(&place, &service, &requests, "").with_code(0);
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            service.books().assert_billed_once(&requests);
        }
    }
}

#[test]
fn a_batch_that_the_service_does_not_show_is_held_and_the_rest_continues() {
    let requests = generated(60);
    for status in [404, 410, 403] {
        for hidden in ["[[fault]]\ndo = \"list_omit\"\nnewest = 100\n", ""] {
            // With and without the list's word that it is there.
            let script = format!(
                "[[fault]]\ndo = \"status\"\ncall = \"retrieve\"\nbatch = 2\nstatus = {status}\n\
                 body = '{{\"error\":\"no such batch\"}}'\n{hidden}"
            );
            for dialect in DIALECTS {
                let (place, service) = (Place::new(), Service::faulty(dialect, &script));
                let ended = run(&place, &service, &requests, "--settle 1s").with_code(7);
                ended
                    .saying("does not show its batch")
                    .saying("check both")
                    .saying("it is on hold")
                    .saying("on hold: 1 shard");
                let place_status = place.run("status --json").with_code(0);
                let shown: Value = serde_json::from_slice(&place_status.stdout).unwrap();
                assert_eq!(
                    (&shown["shards_by_state"]["lost"], &shown["shards_by_state"]["indexed"]),
                    (&1.into(), &2.into())
                );
                // Run again it is asked for once more, and nothing is sent.
                run(&place, &service, &requests, "--settle 1s").with_code(7).saying("it is on hold");
                assert_eq!(service.books().calls("create_batch"), 3);
                service.books().assert_billed_once(&requests);
            }
        }
    }
}

#[test]
fn a_batch_that_is_shown_again_is_resumed() {
    let requests = generated(60);
    let script = "[[fault]]\ndo = \"status\"\ncall = \"retrieve\"\nbatch = 2\nto = 6\nstatus = 404\n";
    for dialect in DIALECTS {
        let (place, service) = (Place::new(), Service::faulty(dialect, script));
        let mut ended = run(&place, &service, &requests, "--settle 100ms");
        for _ in 0..6 {
            if ended.status.success() {
                break;
            }
            ended = run(&place, &service, &requests, "--settle 100ms");
        }
        ended.with_code(0);
        assert_same(&place.read("out.jsonl"), &service.replies(&requests));
        service.books().assert_billed_once(&requests);
        assert_eq!(service.books().calls("create_batch"), 3);
    }
}
