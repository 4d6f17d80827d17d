//! `merge` of replies that do not fit memory, in any order: they are rearranged in a scratch file. Whatever becomes of
//! that, the output is the same.

use std::path::Path;

use crate::program::{Ended, Place, skipped};
use crate::requests::assert_same;
use crate::tracing::{failing_at, is_available, killed_at};

/// Enough of them for it to pay.
const REQUESTS: usize = 120_000;

const MERGE: &str = "merge in.jsonl --replies replies.jsonl --errors errors.jsonl --memory 64MB";

/// Requests, shuffled replies to them, and what they give in order: outputs, and errors.
fn place_with_replies() -> (Place, Vec<u8>, Vec<u8>) {
    let place = Place::new();
    std::fs::create_dir(place.path("tmp")).unwrap();
    let [mut requests, mut outputs, mut errors, mut replies] = [const { Vec::new() }; 4];
    for n in 0..REQUESTS {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        requests.push(format!(r#"{{"custom_id":"r-{n}","body":{body}}}"#));
        if n % 1000 == 7 {
            let error = format!(r#"{{"custom_id":"r-{n}","error":{{"code":"overloaded"}}}}"#);
            errors.push(format!("{},\"body\":{body}}}", error.strip_suffix('}').unwrap()));
            replies.push(error);
            continue;
        }
        let answer = "abcdefgh ".repeat(20 + n * 7919 % 30);
        let reply = format!(
            r#"{{"custom_id":"r-{n}","response":{{"status_code":200,"body":{{"choices":[{{"message":{{"content":"{answer}"}}}}]}}}}}}"#
        );
        outputs.push(reply.clone());
        replies.push(reply);
    }
    fastrand::Rng::with_seed(3).shuffle(&mut replies);
    place.write("in.jsonl", requests.join("\n"));
    place.write("replies.jsonl", replies.join("\n"));
    let [outputs, errors] = [outputs, errors].map(|lines| (lines.join("\n") + "\n").into_bytes());
    (place, outputs, errors)
}

/// Bytes of what is in a directory, in any depth.
fn bytes_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { bytes_in(&entry.path()) } else { metadata.len() }
        })
        .sum()
}

/// Space that was given back, by the log of the calls.
fn given_back(place: &Place) -> usize {
    let log = String::from_utf8_lossy(&place.read("log")).into_owned();
    log.lines().filter(|line| line.contains("PUNCH_HOLE") && line.ends_with("= 0")).count()
}

#[test]
fn rearranged_or_not_the_output_is_the_same() {
    let (place, outputs, errors) = place_with_replies();
    let check = |ended: Ended| {
        let ended = ended.with_code(6);
        assert_same(&ended.stdout, &outputs);
        assert_same(&place.read("errors.jsonl"), &errors);
    };
    let tmp = place.path("tmp");
    let tmp = tmp.to_str().unwrap();
    // In blocks of 512 bytes: enough for the indexes, and too little for the replies.
    let limited = format!(r#"trap "" XFSZ; ulimit -f 40000; exec "$BATCHLINE" {MERGE}"#);
    check(place.shell(&limited).env("TMPDIR", tmp).run());
    if !is_available() {
        check(place.run(MERGE));
        return skipped("whether replies are rearranged: there is no strace");
    }
    // The first two calls ask whether it works, and do.
    check(failing_at(&place, "fallocate", "EIO", "3", MERGE).env("TMPDIR", tmp).run());
    assert!(given_back(&place) > 10, "{}", given_back(&place));
    check(failing_at(&place, "fallocate", "EOPNOTSUPP", "1+", MERGE).env("TMPDIR", tmp).run());
    assert_eq!(given_back(&place), 0);
    assert_eq!(bytes_in(&place.path("tmp")), 0, "nothing is left behind");

    let killed = killed_at(&place, "fallocate", 5, MERGE).env("TMPDIR", tmp).run();
    assert!(killed.was_killed());
    // Indexes, which have names.
    assert!(bytes_in(&place.path("tmp")) < outputs.len() as u64 / 4, "{}", bytes_in(&place.path("tmp")));
}
