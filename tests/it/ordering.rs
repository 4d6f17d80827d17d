//! The order of system calls, without which a power cut would lose what is promised: kills cannot find a sync that is
//! missing.

use crate::program::{Place, skipped};
use crate::requests::{generated, request};
use crate::service::Service;
use crate::tracing::{Call, is_available, read_log, traced};

#[test]
fn intents_are_synced_before_anything_that_relies_on_them() {
    let Some(calls) = calls_of_a_run(&generated(60)) else { return };

    // A run appears under its name when its parts are on disk: the index, the spool, the Ledger, then the directory.
    let publish = find(&calls, "rename", ".incoming-", 0);
    let incoming = publish.about.split('"').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
    for part in ["requests.idx", "spool-0000.jsonl", "ledger.sqlite"] {
        let synced = last_before(&calls, "fsync", &format!("{incoming}/{part}"), publish.begun);
        let written = last_before(&calls, "write", &format!("{incoming}/{part}"), publish.begun);
        let written = written.or(last_before(&calls, "pwrite64", &format!("{incoming}/{part}>"), publish.begun));
        let synced = synced.unwrap_or_else(|| panic!("{part} is never synced before the run gets its name"));
        assert!(written.is_none_or(|written| written.done < synced.begun), "{part} is written after its sync");
    }
    let runs = find(&calls, "fsync", "/.batchline>", publish.done);

    // The intent is committed before each POST, and the run's name is on disk before the first.
    let posts: Vec<&Call> = calls.iter().filter(|call| call.about.contains("POST /v1/batches ")).collect();
    assert_eq!(posts.len(), 9, "three models in shards of nine requests");
    assert!(runs.done < posts[0].begun);
    let mut before = 0;
    for post in posts {
        let commit = last_before(&calls, "fsync", "ledger.sqlite-wal>", post.begun).expect("an intent");
        assert!(commit.begun > before, "each POST has an intent of its own");
        let written = last_before(&calls, "pwrite64", "ledger.sqlite-wal>", commit.begun).expect("an intent");
        assert!(written.begun > before);
        // And a second time beside the Ledger.
        let recorded = last_before(&calls, "fsync", "/intents.log>", post.begun).expect("a record of the intent");
        assert!(recorded.begun > before, "each POST is recorded");
        before = post.begun;
    }
}

#[test]
fn replies_are_synced_before_anything_that_relies_on_them() {
    // One shard, so that nothing else writes to the Ledger meanwhile.
    let requests: String = (0..9).map(|number| request(&format!("r{number}"), "one") + "\n").collect();
    let Some(calls) = calls_of_a_run(requests.as_bytes()) else { return };
    let renames: Vec<&Call> =
        calls.iter().filter(|call| call.name == "rename" && call.about.contains(".part\"")).collect();

    // A reply file is synced, then renamed, then its directory is synced, and only then the Ledger knows of it.
    let replies: Vec<&&Call> = renames.iter().filter(|call| call.about.contains("/replies/")).collect();
    assert_eq!(replies.len(), 1);
    let part = replies[0].about.split('"').nth(1).unwrap();
    let written = last_before(&calls, "pwrite64", &format!("{part}>"), replies[0].begun).expect("it is written");
    let synced = last_before(&calls, "fsync", &format!("{part}>"), replies[0].begun).expect("it is synced");
    assert!(written.done < synced.begun && synced.done < replies[0].begun);
    let directory = find(&calls, "fsync", "/replies>", replies[0].done);
    let ledger = find(&calls, "pwrite64", "ledger.sqlite-wal>", replies[0].done);
    assert!(directory.done < ledger.begun, "the Ledger hears of a file whose name is not on disk");

    // The same goes for the replies' slots: the Ledger says that they are there only after they are.
    let slots = find(&calls, "pwrite64", "/replies.idx>", ledger.done);
    let synced = find(&calls, "fsync", "/replies.idx>", slots.done);
    let ledger = find(&calls, "pwrite64", "ledger.sqlite-wal>", slots.done);
    assert!(synced.done < ledger.begun, "the Ledger hears of slots that are not on disk");

    // The output is synced before it gets its name, and its directory after that.
    let output =
        renames.iter().find(|call| call.about.contains("\"out.jsonl\"")).expect("the output appears by rename");
    let part = output.about.split('"').nth(1).unwrap();
    let synced = last_before(&calls, "fsync", &format!("{part}>"), output.begun).expect("the output is synced");
    assert!(synced.done < output.begun);
    assert!(
        calls.iter().any(|call| call.name == "fsync" && call.begun > output.done),
        "the output's directory is synced"
    );
}

/// The durable calls of a whole run of these requests through a pipe, in shards of nine; `None` where they cannot be
/// seen.
fn calls_of_a_run(requests: &[u8]) -> Option<Vec<Call>> {
    if !is_available() {
        skipped("strace is not installed, so the order of system calls was not looked at");
        return None;
    }
    let service = Service::start();
    let place = Place::new();
    let arguments = format!("run - -o out.jsonl --shard-requests 9 --quiet {}", service.arguments());
    traced(&place, &arguments).input(requests).run().with_code(0);
    Some(read_log(&String::from_utf8_lossy(&place.read("log"))))
}

/// The first call of that name about that, begun at or after a line.
#[track_caller]
fn find<'c>(calls: &'c [Call], name: &str, about: &str, from: usize) -> &'c Call {
    let found = calls.iter().find(|call| call.begun >= from && call.name == name && call.about.contains(about));
    found.unwrap_or_else(|| panic!("no {name} of {about} from line {from} on"))
}

/// The last call of that name about that, done before a line.
fn last_before<'c>(calls: &'c [Call], name: &str, about: &str, line: usize) -> Option<&'c Call> {
    calls.iter().rev().find(|call| call.done < line && call.name == name && call.about.contains(about))
}
