//! The order of system calls, without which a power cut would lose what is promised: kills cannot find a sync that is missing.

use crate::program::{Place, skipped};
use crate::requests::generated;
use crate::service::Service;
use crate::tracing::{Call, is_available, read_log, traced};

#[test]
fn everything_is_synced_before_anything_that_relies_on_it() {
    if !is_available() {
        return skipped("strace is not installed, so the order of system calls was not looked at");
    }
    let service = Service::start();
    let place = Place::new();
    place.write("in.jsonl", generated(60));
    let arguments = format!("run - -o out.jsonl --shard-requests 9 --quiet {}", service.arguments());
    let program = traced(&place, &arguments).input(place.read("in.jsonl"));
    program.run().with_code(0);
    let calls = read_log(&String::from_utf8_lossy(&place.read("log")));

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
        before = post.begun;
    }

    // A reply file is synced, then renamed, then its directory is synced, and only then the Ledger knows of it.
    let renames: Vec<&Call> =
        calls.iter().filter(|call| call.name == "rename" && call.about.contains(".part\"")).collect();
    let replies: Vec<&&Call> = renames.iter().filter(|call| call.about.contains("/replies/")).collect();
    assert_eq!(replies.len(), 9);
    for rename in &replies {
        let part = rename.about.split('"').nth(1).unwrap();
        let synced = last_before(&calls, "fsync", &format!("{part}>"), rename.begun).expect("a reply file is synced");
        let written =
            last_before(&calls, "pwrite64", &format!("{part}>"), rename.begun).expect("a reply file is written");
        assert!(written.done < synced.begun && synced.done < rename.begun);
        let directory = find(&calls, "fsync", "/replies>", rename.done);
        let ledger = find(&calls, "fsync", "ledger.sqlite-wal>", rename.done);
        assert!(directory.begun < ledger.begun, "the Ledger hears of a file whose name is not on disk");
    }

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
