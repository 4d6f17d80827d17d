//! `clean`, `ls` and `status`: paid replies are kept until they are delivered, and the status of every run is shown.

use serde_json::{Value, json};

use crate::program::{Place, names_in, skipped, wait_until};
use crate::requests::{assert_same, generated, lines, request};
use crate::service::{DIALECTS, Service};
use crate::tracing::{is_available, killed_at};

/// A request that the service answers with an error, and does not bill.
fn failing(custom_id: &str) -> String {
    request(custom_id, "m").replace(r#""model":"m""#, r#""model":"m","stop":["1","2","3","4","5"]"#)
}

/// A place with requests, and the arguments of a run over them.
fn place_for(service: &Service, requests: impl AsRef<[u8]>) -> (Place, String) {
    let place = Place::new();
    place.write("in.jsonl", requests);
    let command = format!("run in.jsonl {}", service.arguments());
    (place, command)
}

/// The only record of `ls --json`, which agrees with that of `status --json`.
#[track_caller]
fn record(place: &Place) -> Value {
    let read = |command: &str| -> Value { serde_json::from_slice(&place.run(command).with_code(0).stdout).unwrap() };
    let (listed, mut status) = (read("ls --json"), read("status --json"));
    status["kind"] = json!("run");
    status["shards"] = json!(status["shards"].as_array().unwrap().len());
    status.as_object_mut().unwrap().remove("incidents");
    assert_eq!(listed, status);
    listed
}

#[track_caller]
fn listed(place: &Place, words: &str) {
    for command in ["ls", "status"] {
        let told = place.run(command).with_code(0).text();
        assert!(told.contains(words), "{words:?} is not in: {told}");
    }
}

#[test]
fn delivered_runs_are_removed_after_confirmation() {
    for dialect in DIALECTS {
        let service = Service::speaking(dialect, "--batch-time 0ms");
        let (place, command) = place_for(&service, generated(20));
        place.run(&format!("{command} -o out.jsonl")).with_code(0);
        let run = place.run_directory();
        listed(&place, "done");
        assert!(!place.run("ls").text().contains("delivered"));
        let told = record(&place);
        assert_eq!(
            (&told["state"], &told["outputs"], &told["errors"], &told["missing"]),
            (&json!("done"), &json!(20), &json!(0), &json!(0))
        );
        assert!(told["delivered_at"].is_string());

        let shown = place.run("clean --dry-run").with_code(0).text();
        assert_eq!(shown, format!("would remove {}: done; 20 requests of in.jsonl\n", run.display()));
        place
            .run("clean")
            .with_code(2)
            .saying("no terminal to ask for confirmation")
            .saying("--yes")
            .saying(run.to_str().unwrap());
        for no in ["n\n", "\n", "\u{4}"] {
            let told = place.program("clean").typing(no).run().with_code(6);
            told.saying("done; 20 requests of in.jsonl").saying("Remove 1 run, with all replies? [y/N]");
        }
        assert_eq!(place.runs(), std::slice::from_ref(&run));
        let told = place.program("clean").typing("yes\n").run().with_code(0).text();
        assert_eq!(told, format!("removed {}\n", run.display()));
        assert_eq!((place.runs().len(), place.unnamed_runs().len()), (0, 0));
        // Without it all would be sent once more, so the next run is another one.
        place.run(&format!("{command} -o out.jsonl")).with_code(0).saying("starting");
        let name = place.run_directory().file_name().unwrap().to_str().unwrap().to_owned();
        place.run(&format!("clean {name} --yes")).with_code(0);
        place.run("clean --yes").with_code(0).saying("there are no runs");
    }
}

#[test]
fn undelivered_runs_are_kept() {
    for dialect in DIALECTS {
        // Small enough to be in the pipe, all of it, before its reader is gone; and too large.
        for (number, requests) in [(5, generated(5)), (60, generated(60)), (2000, generated(2000))] {
            let service = Service::speaking(dialect, "--batch-time 0ms");
            let (place, command) = place_for(&service, &requests);
            let shell = |script: &str| place.shell(&script.replace("RUN", &format!("\"$BATCHLINE\" {command}"))).run();
            let ways = [
                ("read by the line", "RUN | head -n 1"),
                ("read by nobody", "RUN | true"),
                ("written to nothing", "RUN > /dev/null"),
                ("written to nothing by name", "RUN -o /dev/null"),
                ("on a full disk", "RUN > /dev/full; test $? = 8"),
            ];
            for (what, script) in ways {
                let ended = shell(script);
                assert_eq!(ended.status.code(), Some(0), "{what}: {}", ended.stderr);
                // A reader that is gone early ends the run early, too.
                let told = record(&place);
                assert_eq!(told["delivered_at"], Value::Null, "{number}, {what}");
                if told["state"] == "done" {
                    listed(&place, "done, not delivered");
                }
                for yes in ["clean --yes", "clean"] {
                    let told = place.run(yes);
                    assert_eq!(told.status.code(), Some(6), "{number}, {what}: {}", told.stderr);
                    told.saying("--unfinished");
                }
            }
            service.books().assert_billed_once(&requests);
            // A reader that waits for the end has it.
            let taken = shell("RUN | cat");
            assert_same(&taken.stdout, &service.replies(&requests));
            assert!(record(&place)["delivered_at"].is_string());
            place.run("clean --yes").with_code(0);
            assert!(place.runs().is_empty());
            service.books().assert_billed_once(&requests);
        }
    }
}

#[test]
fn errors_that_could_not_be_written_are_not_delivered() {
    let service = Service::start();
    let (place, command) = place_for(&service, failing("a") + "\n" + &request("b", "m"));
    place.run(&format!("{command} -o out.jsonl --errors /dev/full")).with_code(8);
    listed(&place, "done with 1 error, not delivered");
    place.run(&format!("{command} -o out.jsonl --errors errors.jsonl")).with_code(6);
    listed(&place, "done with 1 error");
    assert!(record(&place)["delivered_at"].is_string());
}

#[test]
fn runs_with_errors_or_missing_requests_are_kept() {
    for dialect in DIALECTS {
        let script =
            "[[fault]]\ndo = \"drop_rows\"\nrows = 2\n[[fault]]\ndo = \"duplicate_rows\"\nrows = 1\ndifferent = true\n";
        let service = Service::faulty(dialect, script);
        let bad: String = (0..6).map(|number| failing(&format!("bad{number}")) + "\n").collect();
        let good: String = (0..9).map(|number| request(&format!("good{number}"), "m") + "\n").collect();
        let (place, command) = place_for(&service, bad + &good);
        let ended = place.run(&format!("{command} --rounds 1 -o out.jsonl --json")).with_code(6);
        let told = record(&place);
        let summary: Value = serde_json::from_str(ended.stderr.lines().last().unwrap()).unwrap();
        for count in ["outputs", "errors", "missing"] {
            assert_eq!(told[count], summary[count], "{count}: {summary}");
        }
        assert_eq!(summary["delivered"], json!(true));
        let (errors, missing, aside) = (&told["errors"], &told["missing"], &told["set_aside"]);
        assert!(errors.as_u64() >= Some(2) && missing.as_u64() > Some(0) && aside.as_u64() > Some(0), "{told}");
        assert_eq!(told["state"], json!("done"));
        let words = format!("done with {errors} errors, {missing} missing, {aside} set aside");
        listed(&place, &words);
        place.run("clean --yes").with_code(6).saying(&words).saying("--unfinished removes it anyway");
        place.run("clean --dry-run").with_code(6);
        assert_eq!(place.runs().len(), 1);
        place.run("clean --unfinished").with_code(2);
        let shown = place.run("clean --unfinished --dry-run").with_code(0).text();
        assert!(shown.starts_with("would remove ") && shown.contains(&words), "{shown}");
        place.run("clean --unfinished --yes").with_code(0);
        assert!(place.runs().is_empty());
    }
}

#[test]
fn scheduled_retries_are_shown_until_they_are_sent() {
    for dialect in DIALECTS {
        let service = Service::faulty(dialect, "[[fault]]\ndo = \"drop_rows\"\nrows = 3\nbatch = 1\n");
        let (place, command) = place_for(&service, generated(20));
        let command = format!("{command} --shard-requests 50000 --rounds 1 -o out.jsonl");
        place.run(&command).with_code(6);
        let missing = record(&place)["missing"].as_u64().unwrap();
        assert!(missing > 0);
        place.run("retry").with_code(0);
        let told = record(&place);
        assert_eq!((&told["state"], &told["queued_requests"]), (&json!("unfinished"), &json!(missing)));
        let requests = if missing == 1 { "request" } else { "requests" };
        listed(&place, &format!("{missing} missing, {missing} {requests} queued for the next `batchline run`"));
        place.run("clean --yes").with_code(6).saying("queued for the next");
        place.run(&command).with_code(0);
        let told = record(&place);
        assert_eq!(
            (&told["state"], &told["queued_requests"], &told["missing"]),
            (&json!("done"), &json!(0), &json!(0))
        );
        place.run("clean --yes").with_code(0);
    }
}

#[test]
fn a_delivery_is_void_after_a_new_reply() {
    let service = Service::start();
    let (place, command) = place_for(&service, generated(20));
    place.run(&format!("{command} -o out.jsonl")).with_code(0);
    let replies = place.run_directory().join("replies");
    std::fs::remove_file(replies.join(&names_in(&replies)[0])).unwrap();
    place.run("doctor --repair").with_code(8);
    listed(&place, "2 of 3 shards done");
    place.run("clean --yes").with_code(6);
    place.shell(&format!("\"$BATCHLINE\" {command} > /dev/null")).run().with_code(0);
    listed(&place, "done, not delivered");
    place.run(&format!("{command} -o out.jsonl")).with_code(0);
    place.run("clean --yes").with_code(0);
}

#[test]
fn unsent_runs_are_removed_without_confirmation() {
    let place = Place::new();
    place.write("in.jsonl", generated(20));
    let mut begun = place.program("run in.jsonl --provider local --base-url http://127.0.0.1:9").start();
    wait_until(|| !place.runs().is_empty());
    let run = place.run_directory();
    // Not while a process works on it.
    let name = run.file_name().unwrap().to_str().unwrap();
    place.run("clean").with_code(6).saying("in use by process");
    place.run(&format!("clean {name} --unfinished --yes")).with_code(9).saying("locked by another process");
    begun.kill();
    begun.end();
    listed(&place, "not sent yet");
    assert_eq!(record(&place)["state"], json!("unsent"));
    let shown = place.run("clean --dry-run").with_code(0).text();
    assert!(shown.contains("not sent yet; 20 requests of in.jsonl"), "{shown}");
    let told = place.run("clean").with_code(0).text();
    assert_eq!(told, format!("removed {}\n", run.display()));
}

#[test]
fn active_and_held_runs_are_kept() {
    let service = Service::start_with("--batch-time 10m");
    let (place, command) = place_for(&service, generated(20));
    let mut begun = place.program(&command).start();
    wait_until(|| service.books().accepted() == 3);
    begun.kill();
    begun.end();
    place.run("clean --yes").with_code(6).saying("0 of 3 shards done");
    assert_eq!(record(&place)["state"], json!("unfinished"));

    for dialect in DIALECTS {
        let script = "[[fault]]\ndo = \"accept_then_drop\"\nnth = 1\n[[fault]]\ndo = \"list_null\"\n";
        let service = Service::faulty(dialect, script);
        let (place, command) = place_for(&service, generated(20));
        place.run(&format!("{command} --on-ambiguous hold --settle 300ms -o out.jsonl")).with_code(7);
        listed(&place, "1 on hold");
        let told = record(&place);
        assert_eq!((&told["state"], &told["delivered_at"]), (&json!("held"), &Value::Null));
        place.run("clean --yes").with_code(6).saying("1 on hold");
        place.run("retry --ambiguous").with_code(0);
        listed(&place, "1 shard queued for the next `batchline run`");
        assert_eq!(record(&place)["queued_shards"], json!(1));
    }
}

#[test]
fn an_unreadable_run_is_removed_only_by_name() {
    let service = Service::start();
    let (place, command) = place_for(&service, generated(20));
    place.run(&format!("{command} -o out.jsonl")).with_code(0);
    let run = place.run_directory();
    std::fs::write(run.join("ledger.sqlite"), "no database at all").unwrap();
    place.run("clean --yes --unfinished").with_code(8);
    let named = format!("clean {}", run.display());
    place.run(&format!("{named} --yes")).with_code(8);
    place.run(&format!("{named} --unfinished")).with_code(2).saying("it cannot be read");
    place.run(&format!("{named} --unfinished --yes")).with_code(0);
    assert!(place.runs().is_empty());
}

#[test]
fn an_interrupted_clean_leaves_no_partial_run() {
    if !is_available() {
        return skipped("strace is not installed, so no removal was cut off");
    }
    let service = Service::start();
    let (place, command) = place_for(&service, generated(20));
    for nth in 1..6 {
        place.run(&format!("{command} -o out.jsonl")).with_code(0);
        let killed = killed_at(&place, "unlinkat", nth, "clean --yes").run();
        assert!(killed.was_killed(), "{nth}: {}", killed.stderr);
        assert_eq!((place.runs().len(), place.unnamed_runs().len()), (0, 1), "{nth}");
        place.run("ls").with_code(0).saying("there are no runs");
    }
    place.run(&format!("{command} -o out.jsonl")).with_code(0).saying("starting");
    assert_eq!((place.runs().len(), place.unnamed_runs().len()), (1, 0));
    assert_eq!(lines(&place.read("out.jsonl")).len(), 20);
}
