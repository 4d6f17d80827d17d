//! Inputs that change under a run: what goes up is what was checked, or nothing.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::program::{Place, wait_until};
use crate::requests::{assert_same, generated, replies};
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
        // Put back as it was, it is gone on with.
        place.write("in.jsonl", generated(60));
        let arguments = format!("run in.jsonl -o out.jsonl {OPTIONS} {}", service.arguments());
        place.run(&arguments).with_code(0).saying("going on with 60 requests");
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
    place.run(&arguments).with_code(0).saying("going on with 60 requests");
    assert_same(&place.read("out.jsonl"), &replies(&generated(60)));
    assert_eq!(service.books().accepted(), SHARDS);
    service.books().assert_billed_once(&generated(60));
}
