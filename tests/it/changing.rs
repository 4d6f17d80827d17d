//! Inputs that change under a run: what goes up is what was checked, or nothing.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::program::{Place, wait_until};
use crate::requests::{assert_same, generated, replies, request};
use crate::service::Service;

/// Shards of nine requests: three for each of three models.
const OPTIONS: &str = "--shard-requests 9 --uploads 1";

const SHARDS: usize = 9;

/// Overwrites some letters of the last request, in place.
fn edit(path: &Path) {
    let text = std::fs::read(path).unwrap();
    let at = memchr::memmem::rfind(&text, b"\"content\"").unwrap() + 12;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"Hello", at as u64).unwrap();
}

/// Does something to a file and gives it back the time that it had.
fn unseen(path: &Path, change: impl FnOnce(&Path)) {
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    change(path);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
}

/// Changes a letter of the last request's id, in place.
fn rename(path: &Path) {
    let text = std::fs::read(path).unwrap();
    let at = memchr::memmem::rfind(&text, b"\"custom_id\":\"").unwrap() + b"\"custom_id\":\"".len();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(if text[at] == b'x' { b"y" } else { b"x" }, at as u64).unwrap();
}

/// A run that stands still after its first batches, because its service does; `change` happens meanwhile.
fn changed_amid(change: impl Fn(&Place)) -> (Place, Service, String, crate::program::Ended) {
    let (place, service) = (Place::new(), Service::start());
    place.write("in.jsonl", generated(60));
    let arguments = format!("run in.jsonl -o out.jsonl {OPTIONS} {}", service.arguments());
    let running = place.program(&arguments).start();
    wait_until(|| service.books().accepted() >= 1);
    service.freeze();
    change(&place);
    service.thaw();
    let ended = running.end();
    (place, service, arguments, ended)
}

/// Changes a file.
type Change<'c> = &'c dyn Fn(&Path);

#[test]
fn an_input_that_is_edited_or_cut_under_a_run_is_not_sent() {
    let cut = |place: &Place| {
        let file = std::fs::OpenOptions::new().write(true).open(place.path("in.jsonl")).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    let edited = |place: &Place| edit(&place.path("in.jsonl"));
    for (what, change) in [("edited", &edited as &dyn Fn(&Place)), ("cut", &cut)] {
        let (place, service, _, ended) = changed_amid(change);
        let before = service.books().accepted();
        assert_eq!(ended.status.code(), Some(8), "{what}: {}", ended.stderr);
        ended.saying("has changed");
        assert!(!place.has("out.jsonl"), "{what}");
        assert!((1..SHARDS).contains(&before), "{what}: {before}");
        // With the input restored, the run is resumed.
        place.write("in.jsonl", generated(60));
        let arguments = format!("run in.jsonl -o out.jsonl {OPTIONS} {}", service.arguments());
        place.run(&arguments).with_code(0).saying("resuming 60 requests");
        assert_same(&place.read("out.jsonl"), &replies(&generated(60)));
        service.books().assert_billed_once(&generated(60));
    }
}

#[test]
fn an_input_that_grows_or_is_replaced_under_a_run_is_sent_as_it_was() {
    let grown = |place: &Place| place.write("in.jsonl", generated(61));
    let replaced = |place: &Place| {
        place.write("new", generated(70));
        std::fs::rename(place.path("new"), place.path("in.jsonl")).unwrap();
    };
    let removed = |place: &Place| std::fs::remove_file(place.path("in.jsonl")).unwrap();
    for (what, change) in [("grown", &grown as &dyn Fn(&Place)), ("replaced", &replaced), ("removed", &removed)] {
        let (place, service, _, ended) = changed_amid(change);
        assert_eq!(ended.status.code(), Some(0), "{what}: {}", ended.stderr);
        assert_same(&place.read("out.jsonl"), &replies(&generated(60)));
        service.books().assert_billed_once(&generated(60));
    }
}

#[test]
fn between_two_processes_an_input_is_known_by_its_content() {
    let (place, service) = (Place::new(), Service::start());
    place.write("in.jsonl", generated(60));
    let arguments = format!("run in.jsonl -o out.jsonl {OPTIONS} {}", service.arguments());
    let mut running = place.program(&arguments).start();
    wait_until(|| service.books().accepted() >= 2);
    running.kill();
    running.end();
    let run = place.run_directory();
    // The run is named, and another input in its place is refused.
    let named = format!("{arguments} --run-dir {}", run.display());
    let edited = || edit(&place.path("in.jsonl"));
    let grown = || place.write("in.jsonl", generated(61));
    for change in [&edited as &dyn Fn(), &grown] {
        change();
        let before = service.books().accepted();
        place.run(&named).with_code(2).saying("holds the run of another input").saying("hint: ");
        assert_eq!(service.books().accepted(), before);
        place.write("in.jsonl", generated(60));
    }
    std::fs::remove_file(place.path("in.jsonl")).unwrap();
    place.run(&arguments).with_code(2).saying("cannot open in.jsonl");
    // The same lines in another file, of another time.
    place.write("new", generated(60));
    std::fs::rename(place.path("new"), place.path("in.jsonl")).unwrap();
    place.run(&arguments).with_code(0).saying("resuming 60 requests");
    assert_same(&place.read("out.jsonl"), &replies(&generated(60)));
    assert_eq!(service.books().accepted(), SHARDS);
    service.books().assert_billed_once(&generated(60));
}

/// A run whose process was killed when all its batches were at work.
fn killed_when_all_was_sent(requests: &[u8]) -> (Place, Service, String) {
    let (place, service) = (Place::new(), Service::start_with("--batch-time 1s"));
    place.write("in.jsonl", requests);
    let arguments = format!("run in.jsonl -o out.jsonl {OPTIONS} {}", service.arguments());
    let mut running = place.program(&arguments).start();
    wait_until(|| service.books().accepted() == SHARDS);
    running.kill();
    assert!(running.end().was_killed());
    (place, service, arguments)
}

#[test]
fn an_input_that_was_edited_unseen_is_found_before_its_answers_are_matched() {
    let requests = generated(60);
    let cut = |path: &Path| {
        let text = std::fs::read(path).unwrap();
        // As long as it was, so that it still looks untouched: the last line has become two.
        let at = memchr::memmem::rfind(&text, b"\"content\"").unwrap() + 12;
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"\n", at as u64).unwrap();
    };
    let changes: [(Change<'_>, &str); 3] = [
        (&edit, "are not what they were when they were checked"),
        (&rename, "in.jsonl:60 is not what it was when it was checked"),
        (&cut, "in.jsonl:60 is not what it was when it was checked"),
    ];
    for (change, words) in changes {
        let (place, service, arguments) = killed_when_all_was_sent(&requests);
        unseen(&place.path("in.jsonl"), change);
        for _ in 0..2 {
            let ended = place.run(&arguments).with_code(8);
            ended.saying("error: in.jsonl:").saying(words).saying("hint: restore the input to its state");
            assert!(!place.has("out.jsonl"));
        }
        // What was paid for has come home meanwhile.
        let replies_here = crate::program::names_in(&place.run_directory().join("replies"));
        assert_eq!(replies_here.len(), SHARDS, "{replies_here:?}");
        place.write("in.jsonl", &requests);
        place.run(&arguments).with_code(0);
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        service.books().assert_billed_once(&requests);
    }
}

/// Requests of which some fail, for good or for the time being.
fn failing_requests() -> Vec<u8> {
    let line = |number: usize| request(&format!("id-{number}"), "m") + "\n";
    (0..54).flat_map(|number| line(number).into_bytes()).collect()
}

#[test]
fn an_input_that_was_edited_unseen_is_not_given_out_with_the_errors() {
    let requests = failing_requests();
    let host = Place::new();
    host.write("faults.toml", "[[fault]]\ndo = \"error_rows\"\nshare = 0.3\nmessage = \"no good\"\n");
    let (place, service) = (Place::new(), Service::start_in(host, "--batch-time 0ms --faults faults.toml"));
    place.write("in.jsonl", &requests);
    let arguments = format!("run in.jsonl -o out.jsonl --shard-requests 6 {}", service.arguments());
    place.run(&arguments).with_code(6);
    unseen(&place.path("in.jsonl"), edit);
    // Replies alone need nothing of it.
    place.run(&arguments).with_code(6).saying("already complete");
    std::fs::remove_file(place.path("out.jsonl")).unwrap();
    let with_errors = format!("{arguments} --errors errors.jsonl");
    let refused = place.run(&with_errors).with_code(8);
    refused.saying("cannot look up request").saying("are not what they were").saying("hint: restore the input");
    assert!(!place.has("errors.jsonl") && !place.has("out.jsonl"));
    place.write("in.jsonl", &requests);
    place.run(&with_errors).with_code(6);
    assert_eq!(service.books().calls("create_batch"), SHARDS);
}

#[test]
fn an_input_that_was_edited_unseen_is_not_sent_again() {
    let requests = failing_requests();
    let host = Place::new();
    let script = "[[fault]]\ndo = \"error_rows\"\nshare = 1.0\nonce = true\nmessage = \"Internal server error\"\n";
    host.write("faults.toml", script);
    let (place, service) = (Place::new(), Service::start_in(host, "--batch-time 500ms --faults faults.toml"));
    place.write("in.jsonl", &requests);
    let arguments = format!("run in.jsonl -o out.jsonl --shard-requests 6 {}", service.arguments());
    let running = place.program(&arguments).start();
    wait_until(|| service.books().accepted() == SHARDS);
    service.freeze();
    unseen(&place.path("in.jsonl"), edit);
    service.thaw();
    let ended = running.end().with_code(8);
    ended.saying("error: in.jsonl:49-54 are not what they were");
    assert_eq!(service.books().calls("create_batch"), SHARDS, "nothing that was not checked is sent");
    place.write("in.jsonl", &requests);
    place.run(&arguments).with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
}
