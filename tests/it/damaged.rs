//! Corrupted local state: nothing is paid for twice, and nothing wrong is delivered.
//!
//! `cargo test` takes a sample of positions; `BATCHLINE_TEST_DAMAGES=100` takes more.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::program::{Ended, Place, names_in, report, wait_until, wanted};
use crate::requests::{assert_same, generated, replies, request};
use crate::service::Service;

/// Damages in `cargo test`.
const SAMPLE: usize = 16;

/// How long a run over damaged state may go on before it is ended: looking for a batch that does not exist takes an
/// hour.
const LONG_ENOUGH: Duration = Duration::from_secs(6);

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip,
    Zeros,
    Cut,
}

/// Does it, at a place between the file's beginning and its end. False if there is no such file, or nothing in it.
fn damage(path: &Path, damage: Damage, place: f64) -> bool {
    let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) else { return false };
    let bytes = file.metadata().unwrap().len();
    #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a place")]
    let at = (bytes as f64 * place) as u64;
    let mut old = vec![0; usize::try_from((bytes - at).min(512)).unwrap()];
    file.read_exact_at(&mut old, at).unwrap();
    match damage {
        Damage::Flip if bytes > 0 => file.write_all_at(&[old[0] ^ 1], at).unwrap(),
        Damage::Zeros if bytes > 0 => file.write_all_at(&vec![0; old.len()], at).unwrap(),
        Damage::Cut if bytes > 0 => file.set_len(at).unwrap(),
        _ => return false,
    }
    true
}

/// Runs to the end, or for as long as it makes sense to wait.
fn run_a_while(place: &Place, arguments: &str) -> Ended {
    let mut running = place.program(arguments).start();
    let begun = Instant::now();
    wait_until(|| begun.elapsed() > LONG_ENOUGH || !running.is_alive());
    running.kill();
    running.end()
}

/// A service, and a run of nine shards that was killed when four of its batches were created and one of them not yet
/// confirmed.
fn cut_short(requests: &[u8]) -> (Service, Place, String) {
    let host = Place::new();
    host.write("faults.toml", "[[fault]]\ndo = \"accept_slow\"\ndelay = \"50s\"\nnth = 4\n");
    let service = Service::start_in(host, "--batch-time 0ms --faults faults.toml");
    let place = Place::new();
    place.write("in.jsonl", requests);
    let arguments = format!("run in.jsonl -o out.jsonl --shard-requests 9 --settle 1s {}", service.arguments());
    let mut running = place.program(&arguments).start();
    wait_until(|| service.books().accepted() == 4);
    running.kill();
    assert!(running.end().was_killed());
    (service, place, arguments)
}

#[test]
fn a_damaged_ledger_never_leads_to_a_second_bill() {
    let requests = generated(60);
    let (mut hit, mut refused, mut resumed, mut repaired, mut shown) = (0, 0, 0, 0, Vec::new());
    let damages = wanted("BATCHLINE_TEST_DAMAGES", SAMPLE);
    for number in 0..damages {
        let (service, place, arguments) = cut_short(&requests);
        let run = place.run_directory();
        let kind = [Damage::Flip, Damage::Cut, Damage::Zeros][number % 3];
        // Most of what matters is in the write-ahead log; what it was written to may be damaged, too.
        let name = ["ledger.sqlite-wal", "ledger.sqlite", "ledger.sqlite-wal", "intents.log"][number / 3 % 4];
        #[expect(clippy::cast_precision_loss, reason = "a place")]
        let at = number as f64 * 0.618_034 % 1.0;
        hit += usize::from(damage(&run.join(name), kind, at));
        let what = format!("{kind:?} of {name} at {at:.3}");

        let ended = run_a_while(&place, &arguments);
        service.books().assert_never_twice();
        match ended.status.code() {
            Some(0) => resumed += 1,
            Some(8) => refused += 1,
            other => shown.push(format!("{what}: {other:?}")),
        }
        if ended.status.code() != Some(0) {
            place.run(&format!("doctor --repair {}", run.display()));
            let again = run_a_while(&place, &arguments);
            service.books().assert_never_twice();
            repaired += usize::from(again.status.code() == Some(0));
        }
        if place.has("out.jsonl") {
            assert_same(&place.read("out.jsonl"), &replies(&requests));
            service.books().assert_billed_once(&requests);
        }
        assert!(service.books().accepted() <= 9, "{what}");
    }
    report(&format!(
        "{hit} damaged ledgers: {resumed} resumed, {refused} were refused, {repaired} repaired, 0 violations; other ends: {shown:?}"
    ));
    assert!(hit * 10 >= damages * 9 && refused > 0 && resumed > 0 && repaired > 0);
}

#[test]
fn a_submission_missing_in_the_ledger_is_found_at_the_service() {
    let requests = generated(60);
    let (service, place, arguments) = cut_short(&requests);
    let run = place.run_directory();
    // All that was committed since the run got its name.
    assert!(damage(&run.join("ledger.sqlite-wal"), Damage::Cut, 0.0));
    let refused = place.run(&arguments).with_code(8).saying("was recorded but is missing");
    refused.saying("hint: `batchline doctor");
    assert_eq!(service.books().accepted(), 4);
    place.run("doctor").with_code(8);
    assert_eq!(place.run(&arguments).with_code(8).stdout, b"", "looking changes nothing");
    let repaired = place.run("doctor --repair").with_code(8);
    assert!(repaired.text().contains("looks for its batch in the service's list"), "{repaired:?}");
    place.run("doctor").with_code(0);
    place.run(&arguments).with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
    assert_eq!(service.books().accepted(), 9);
}

#[test]
fn a_ledger_of_a_newer_program_and_one_that_is_empty_or_gone_are_refused() {
    let requests = generated(60);
    let (place, service) = (Place::new(), Service::start());
    place.write("in.jsonl", &requests);
    let arguments = format!("run in.jsonl -o out.jsonl --shard-requests 9 {}", service.arguments());
    place.run(&arguments).with_code(0);
    let ledger = place.run_directory().join("ledger.sqlite");
    let sound = std::fs::read(&ledger).unwrap();
    let text = String::from_utf8_lossy(&sound);
    assert!(text.starts_with("SQLite format 3"));
    // SQLite keeps `user_version` in bytes 60 to 63.
    let mut newer = sound.clone();
    newer[63] = 99;
    let cases: [(&[u8], &str); 3] = [
        (&newer, "has schema version 99; this program knows versions up to"),
        (b"", "it has no schema"),
        (&b"not a database, and long enough to be one ".repeat(50), "cannot use the ledger"),
    ];
    for (content, words) in cases {
        std::fs::write(&ledger, content).unwrap();
        place.run(&arguments).with_code(8).saying(words).saying("hint: ");
        place.run("doctor").with_code(8);
    }
    std::fs::remove_file(&ledger).unwrap();
    place.run(&arguments).with_code(8).saying("hint: ");
    assert_eq!(service.books().calls("create_batch"), 9, "nothing was begun anew");
    std::fs::write(&ledger, &sound).unwrap();
    place.run(&arguments).with_code(0).saying("already complete");
    service.books().assert_billed_once(&requests);
}

/// A finished run of two rounds whose output is gone, so that the same command has to merge once more.
fn finished() -> (Place, Service, Vec<u8>, String) {
    let script = "[[fault]]\ndo = \"error_rows\"\nshare = 0.5\nonce = true\ncode = \"batch_client_error\"\n\
                  message = \"Internal Server Error\"\n";
    let host = Place::new();
    host.write("faults.toml", script);
    let service = Service::start_in(host, "--batch-time 0ms --faults faults.toml");
    let requests: Vec<u8> = (0..40).flat_map(|n| (request(&format!("id-{n}"), "m") + "\n").into_bytes()).collect();
    let place = Place::new();
    place.write("in.jsonl", &requests);
    let arguments = format!("run in.jsonl -o out.jsonl --shard-requests 20 {}", service.arguments());
    place.run(&arguments).with_code(0).saying("sent again");
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    (place, service, requests, arguments)
}

/// Every file of replies of a run, and the index of them.
fn replies_of(run: &Path) -> Vec<PathBuf> {
    let files = names_in(&run.join("replies")).into_iter().map(|name| run.join("replies").join(name));
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
        .chain([run.join("replies.idx")])
        .collect()
}

#[test]
fn corrupted_replies_are_never_delivered_and_can_be_repaired() {
    let (place, service, requests, arguments) = finished();
    let run = place.run_directory();
    let calls = service.books().calls("create_batch");
    let files = replies_of(&run);
    assert!(files.len() > 5, "{files:?}");
    for (number, path) in files.iter().enumerate() {
        for kind in [Damage::Flip, Damage::Cut, Damage::Zeros] {
            let at = [0.02, 0.3, 0.7, 0.95][number % 4];
            std::fs::remove_file(place.path("out.jsonl")).unwrap();
            assert!(damage(path, kind, at));
            let what = format!("{kind:?} of {} at {at}", path.display());
            let ended = place.run(&arguments);
            if ended.status.success() {
                // The errors of the first round are answered by the second; nobody reads them any more.
                assert!(path.to_string_lossy().contains("-errors"), "{what}");
                assert_same(&place.read("out.jsonl"), &replies(&requests));
            } else {
                assert_eq!(ended.status.code(), Some(8), "{what}: {}", ended.stderr);
                ended.saying("hint: `batchline doctor");
                assert!(!place.has("out.jsonl"), "{what}");
            }
            let found = place.run("doctor").with_code(8).text();
            assert!(found.contains("--repair fixes it"), "{what}: {found}");
            // By the option's name in earlier versions.
            place.run("doctor --mend").with_code(8);
            let again = place.run(&arguments);
            assert_eq!(again.status.code(), Some(0), "{what}: {found} {}", again.stderr);
            assert_same(&place.read("out.jsonl"), &replies(&requests));
            place.run("doctor").with_code(0);
        }
    }
    assert_eq!(service.books().calls("create_batch"), calls, "nothing is submitted for it");
    service.books().assert_billed_once(&requests);
}

#[test]
fn an_index_that_does_not_begin_as_one_is_made_again_or_refused() {
    let (place, service, requests, arguments) = finished();
    let run = place.run_directory();
    let calls = service.books().calls("create_batch");
    // A damaged header, and the records alone, as earlier versions wrote them.
    let broken = |sound: &[u8]| {
        let mut flipped = sound.to_vec();
        flipped[20] ^= 1;
        [flipped, sound[64..].to_vec()]
    };
    let replies_index = run.join("replies.idx");
    for content in broken(&std::fs::read(&replies_index).unwrap()) {
        std::fs::remove_file(place.path("out.jsonl")).unwrap();
        std::fs::write(&replies_index, &content).unwrap();
        place.run(&arguments).with_code(8).saying("hint: `batchline doctor");
        assert!(!place.has("out.jsonl"));
        let found = place.run("doctor").with_code(8).text();
        assert!(found.contains("--repair fixes it"), "{found}");
        assert_eq!(std::fs::read(&replies_index).unwrap(), content, "looking changes nothing");
        place.run("doctor --repair").with_code(8);
        place.run(&arguments).with_code(0);
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        place.run("doctor").with_code(0);
    }
    // Nothing tells what is in the request index but itself.
    let index = run.join("requests.idx");
    let sound = std::fs::read(&index).unwrap();
    for (content, words) in broken(&sound).iter().zip(["its header is damaged", "another version of the program"]) {
        std::fs::write(&index, content).unwrap();
        place.run(&arguments).with_code(8).saying(words);
        place.run("doctor --repair").with_code(8);
    }
    std::fs::write(&index, &sound).unwrap();
    place.run(&arguments).with_code(0);
    assert_eq!(service.books().calls("create_batch"), calls, "nothing is submitted for it");
    service.books().assert_billed_once(&requests);
}

#[test]
fn a_corrupted_request_index_is_rejected() {
    let (place, service, _, arguments) = finished();
    let run = place.run_directory();
    let calls = service.books().calls("create_batch");
    let lists = names_in(&run).into_iter().filter(|name| name.starts_with("again-"));
    for name in lists.chain(["requests.idx".to_owned()]) {
        let path = run.join(name);
        let sound = std::fs::read(&path).unwrap();
        for at in [0.0, 0.31, 0.5, 0.84] {
            for kind in [Damage::Flip, Damage::Zeros] {
                assert!(damage(&path, kind, at));
                place.run("doctor").with_code(8);
                std::fs::write(&path, &sound).unwrap();
            }
        }
    }
    // A run that has not got so far trips over it by itself.
    let (other_service, other, other_arguments) = cut_short(&generated(60));
    assert!(damage(&other.run_directory().join("requests.idx"), Damage::Flip, 0.5));
    other.run(&other_arguments).with_code(8).saying("a record is damaged");
    other_service.books().assert_never_twice();
    place.run(&arguments).with_code(0);
    assert_eq!(service.books().calls("create_batch"), calls);
}

#[test]
fn a_corrupted_hash_key_does_not_make_replies_unmatched() {
    let requests = generated(60);
    let (service, place, arguments) = cut_short(&requests);
    let path = place.run_directory().join("ledger.sqlite");
    let ledger = rusqlite::Connection::open(&path).unwrap();
    ledger.execute("UPDATE meta SET value = '0123456789abcdef' WHERE key = 'id_key'", []).unwrap();
    drop(ledger);
    place.run(&arguments).with_code(8).saying("by the id that it has in the input");
    service.books().assert_never_twice();
    assert!(service.books().accepted() <= 9);
}
