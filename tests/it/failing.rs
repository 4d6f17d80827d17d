//! Failing system calls: files, threads, writes and syncs. The run ends with an error message or uses fewer resources,
//! and is resumed later.

use crate::program::{Place, report, skipped, wanted};
use crate::requests::{assert_same, generated, replies};
use crate::service::Service;
use crate::tracing::{failing_at, injected, is_available};

const OPTIONS: &str = "run in.jsonl -o out.jsonl --shard-requests 9 --quiet";

/// Failing calls in `cargo test`.
const SAMPLE: usize = 14;

/// Calls that fail with EIO, and how many of the first of each are tried.
const CALLS: [(&str, usize); 4] = [("fsync", 24), ("pwrite64", 40), ("rename", 8), ("ftruncate", 2)];

fn place_with_requests() -> (Place, Vec<u8>) {
    let (place, requests) = (Place::new(), generated(60));
    place.write("in.jsonl", &requests);
    (place, requests)
}

#[test]
fn a_failed_write_or_sync_stops_submissions_and_the_run_resumes() {
    if !is_available() {
        return skipped("strace is not installed, so no call was made to fail");
    }
    let all: Vec<(&str, usize)> =
        CALLS.iter().flat_map(|(call, most)| (1..=*most).map(move |nth| (*call, nth))).collect();
    let sample = wanted("BATCHLINE_TEST_ERRORS", SAMPLE).min(all.len());
    let mut failed = 0;
    for number in 0..sample {
        let (call, nth) = all[number * all.len() / sample];
        let service = Service::start();
        let (place, requests) = place_with_requests();
        let arguments = format!("{OPTIONS} {}", service.arguments());
        // Once, or from then on; a sync that succeeds after one that failed proves nothing.
        let when = if number % 3 == 0 { format!("{nth}+") } else { nth.to_string() };
        let ended = failing_at(&place, call, "EIO", &when, &arguments).run();
        let injected = injected(&place);
        if injected.is_empty() {
            ended.with_code(0);
            continue;
        }
        failed += 1;
        if ended.status.success() {
            // SQLite may do without what it does when it closes, and without syncing a directory; nobody else does. A
            // call that another thread interrupted in the log has no path there.
            let by_sqlite =
                |line: &String| ["/ledger.sqlite", "/.incoming-", "resumed>"].iter().any(|of| line.contains(of));
            assert!(injected.iter().all(by_sqlite), "{call} {when}: {injected:?}");
            assert_same(&place.read("out.jsonl"), &replies(&requests));
            service.books().assert_billed_once(&requests);
            continue;
        }
        assert_eq!(ended.status.code(), Some(8), "{call} {nth}: {}", ended.stderr);
        assert!(ended.stderr.contains("Input/output error") || ended.stderr.contains("disk I/O"), "{}", ended.stderr);
        assert!(!place.has("out.jsonl"), "{call} {nth}");
        assert!(service.books().accepted() <= 9);
        place.run(&arguments).with_code(0);
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        service.books().assert_billed_once(&requests);
    }
    report(&format!("{sample} failing calls: {failed} hit, 0 violations"));
    assert!(failed * 2 >= sample, "only {failed} of {sample} calls failed");
}

#[test]
fn with_few_open_files_a_run_fails_clearly_or_uses_fewer() {
    let (mut done, mut refused) = (0, 0);
    for files in [10, 12, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 32, 40, 64] {
        let service = Service::start();
        let (place, requests) = place_with_requests();
        let arguments = format!("{OPTIONS} {}", service.arguments());
        let ended = place.shell(&format!("ulimit -n {files}; exec $BATCHLINE {arguments}")).run();
        match ended.status.code() {
            Some(0) => done += 1,
            Some(3 | 5 | 8) => {
                refused += 1;
                // SQLite and the TLS library have words of their own for it.
                let told = ["Too many open files", "unable to open database file", "No CA certificates were loaded"];
                assert!(told.iter().any(|words| ended.stderr.contains(words)), "{files}: {}", ended.stderr);
            }
            other => panic!("{files}: {other:?}: {}", ended.stderr),
        }
        assert!(files < 64 || ended.status.success(), "64 are enough: {}", ended.stderr);
        place.run(&arguments).with_code(0);
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        service.books().assert_billed_once(&requests);
    }
    assert!(done > 0 && refused > 0, "{done} runs were done with so few files, {refused} were not");
}

#[test]
fn a_run_that_cannot_start_threads_ends_and_resumes() {
    if !is_available() {
        return skipped("strace is not installed, so no thread was kept from starting");
    }
    let mut hit = 0;
    for nth in [1, 2, 3, 4, 6, 9] {
        let service = Service::start();
        let (place, requests) = place_with_requests();
        let arguments = format!("{OPTIONS} {}", service.arguments());
        let ended = failing_at(&place, "clone3", "EAGAIN", &format!("{nth}+"), &arguments).run();
        hit += usize::from(!injected(&place).is_empty());
        assert!(matches!(ended.status.code(), Some(0 | 1 | 8)), "{nth}: {}: {}", ended.status, ended.stderr);
        place.run(&arguments).with_code(0);
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        service.books().assert_billed_once(&requests);
    }
    assert!(hit >= 4, "only {hit} threads were kept from starting");
}

#[test]
fn a_suspended_run_continues() {
    let service = Service::start_with("--batch-time 1s");
    let (place, requests) = place_with_requests();
    let running = place.program(&format!("{OPTIONS} {}", service.arguments())).start();
    crate::program::wait_until(|| service.books().accepted() >= 4);
    // Timers, connections and the service's clock go on meanwhile.
    running.signal(rustix::process::Signal::STOP);
    std::thread::sleep(std::time::Duration::from_secs(5));
    let before = running.processor_time();
    running.signal(rustix::process::Signal::CONT);
    let watched = running.processor_time().saturating_sub(before);
    assert!(watched < std::time::Duration::from_secs(1));
    running.end().with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
}
