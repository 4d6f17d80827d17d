//! What prevents a run from continuing: a key, a server, a lock, a disk. Each has its exit code and a hint, and
//! afterwards the same command resumes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::program::{Place, Program, names_in, skipped, wait_until};
use crate::requests::{assert_same, generated, replies};
use crate::service::{Books, Service};

/// Requests enough for three shards, laid out as `in.jsonl`.
fn place_with_requests(requests: u64) -> (Place, Vec<u8>) {
    let (place, requests) = (Place::new(), generated(requests));
    place.write("in.jsonl", &requests);
    (place, requests)
}

/// A script that may mount file systems, which are private to it and disappear with it. `None` where that is not
/// permitted.
fn with_own_mounts(place: &Place, script: &str) -> Option<Program> {
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skipped("full and read-only disks: this system does not let `unshare -rm` mount");
        return None;
    }
    place.write("script", script);
    Some(place.shell("exec unshare -rm sh -e script"))
}

/// All files below a directory.
fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let paths = names_in(directory).into_iter().map(|name| directory.join(name));
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_service_without_encryption_needs_no_certificates() {
    let (place, requests) = place_with_requests(5);
    place.write("none.pem", "");
    std::fs::create_dir(place.path("empty")).unwrap();
    let service = Service::start();
    let without =
        |command: &str| place.program(command).env("SSL_CERT_FILE", "none.pem").env("SSL_CERT_DIR", "empty").run();
    without(&format!("run in.jsonl {} -o out.jsonl", service.arguments())).with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    let encrypted = without("run in.jsonl --provider local --base-url https://127.0.0.1:1 -o no.jsonl").with_code(3);
    assert!(encrypted.stderr.contains("No CA certificates"), "{}", encrypted.stderr);
}

#[test]
fn without_a_key_nothing_is_asked_of_a_provider_and_the_hint_names_a_way_out() {
    let (place, _) = place_with_requests(3);
    let ended = place.run("run in.jsonl").with_code(3);
    ended.saying("no API key for together").saying("hint: set TOGETHER_API_KEY").saying("--provider local");
    assert_eq!(place.names(), ["in.jsonl"]);
}

#[test]
fn only_the_right_key_opens_the_service_and_it_is_written_down_nowhere() {
    let (right, wrong) = ("right-key-0123456789", "wrong-key-0123456789");
    let host = Place::new();
    host.write("key", right);
    std::fs::set_permissions(host.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
    let service = Service::start_in(host, "--api-key-file key --batch-time 0ms");
    let (place, requests) = place_with_requests(30);
    let command = "run in.jsonl --poll-interval 50ms --json -o out.jsonl";
    // With and without the version, and from the environment.
    let address = service.base_url().strip_suffix("/v1").unwrap();
    let run = |key: &str| place.program(command).env("TOGETHER_BASE_URL", address).env("TOGETHER_API_KEY", key).run();

    let refused = run(wrong).with_code(3).saying("401");
    assert_eq!(service.books().calls("create_batch"), 0);
    let accepted = run(right).with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);

    let mut written: Vec<Vec<u8>> =
        files_below(&place.path("")).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(written.len() > 5);
    written.extend([refused.stderr.into_bytes(), accepted.stderr.into_bytes()]);
    for text in written {
        for key in [right, wrong] {
            assert!(!text.windows(key.len()).any(|window| window == key.as_bytes()), "a key was written down");
        }
    }
}

#[test]
fn an_unreachable_server_is_given_up_after_a_while_that_costs_no_processor_time() {
    // Nobody listens on port 1; a port that was just given back would soon be another test's.
    let address = "127.0.0.1:1";
    // In every dialect, at the same time: it takes a while.
    let runs = ["--provider local", "--provider local --dialect openai", "--dialect openai"].map(|service| {
        let (place, _) = place_with_requests(20);
        let command = format!("run in.jsonl {service} --base-url http://{address} -o out.jsonl");
        let running = place.shell(&format!(r#""$BATCHLINE" {command}; code=$?; times; exit $code"#)).start();
        (place, running)
    });
    for (place, running) in runs {
        let ended = running.end().with_code(5);
        assert!(ended.stderr.contains(&format!("http://{address}/v1/batches: could not connect")), "{}", ended.stderr);
        // The last line is the children's user and system time: `0m0.02s 0m0.01s`.
        let times = ended.text();
        let seconds = |time: &str| {
            let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
            60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
        };
        let used: f64 = times.lines().last().unwrap().split_whitespace().map(seconds).sum();
        assert!(used < 1.0, "{used} s of processor time");
        assert!(!place.has("out.jsonl"));
    }
}

#[test]
fn waiting_for_a_service_that_fell_silent_costs_no_processor_time() {
    let (service, (place, requests)) = (Service::start(), place_with_requests(3000));
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    let running = place.program(&command).start();
    // The first call is answered; then the uploads begin.
    wait_until(|| service.books().calls("list_batches") >= 1);
    service.freeze();
    std::thread::sleep(Duration::from_millis(200));
    let before = running.processor_time();
    std::thread::sleep(Duration::from_secs(1));
    let used = running.processor_time().saturating_sub(before);
    assert!(used < Duration::from_millis(200), "{used:?} of a second");
    service.thaw();
    running.end().with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
}

#[test]
fn a_second_process_on_the_same_run_is_rejected_with_the_owners_pid() {
    let service = Service::start_with("--batch-time 10m");
    let (place, _) = place_with_requests(3);
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    let first = place.program(&command).start();
    wait_until(|| service.books().calls("create_batch") == 3);
    let owner = format!("process {}", first.id());
    for command in [&command, "retry", "doctor --repair"] {
        place.run(command).with_code(9).saying("is locked by another process").saying(&owner).saying("hint: wait");
    }
    assert!(place.run("status").with_code(0).text().contains(&format!("in use by {owner}")));
    first.signal(Signal::INT);
    first.end().with_code(130);
    assert!(!place.run("status").with_code(0).text().contains("in use by"));
    assert_eq!(service.books().calls("create_batch"), 3);
}

#[test]
fn a_second_server_on_a_directory_or_address_is_rejected() {
    let (place, service) = (Place::new(), Service::start());
    let mut first = place.program("serve --listen 127.0.0.1:0 -d books").start();
    wait_until(|| !first.stdout_so_far().is_empty() && first.is_alive());
    place.run("serve --listen 127.0.0.1:0 -d books").with_code(9).saying("books is in use by another server");
    let address = service.base_url().trim_start_matches("http://").trim_end_matches("/v1");
    place.run(&format!("serve --listen {address} -d others")).with_code(3).saying("cannot listen on");
}

#[test]
fn missing_inputs_and_invalid_commands_are_usage_errors() {
    let (place, _) = place_with_requests(3);
    for (command, words) in [
        ("run nowhere.jsonl --provider local", "cannot open nowhere.jsonl: No such file or directory"),
        ("check nowhere.jsonl", "cannot open nowhere.jsonl: No such file or directory"),
        ("run in.jsonl --provider nobody", "there is no provider \"nobody\"; known are "),
        ("run in.jsonl --provider local --shard-requests 50001", "exceeds the limit of local, 50000"),
        ("run in.jsonl --frobnicate", "unexpected argument '--frobnicate'"),
        ("merge in.jsonl", "--replies"),
        ("", "Usage: batchline <COMMAND>"),
    ] {
        place.run(command).with_code(2).saying(words);
    }
    assert_eq!((place.runs().len(), place.unnamed_runs().len()), (0, 0), "none of them left anything");
}

#[test]
fn a_status_of_nothing_says_that_there_is_no_run() {
    let place = Place::new();
    place.run("status").with_code(2).saying("there are no runs");
    place.run("status .").with_code(2).saying("holds no run").saying("hint: `batchline ls`");
    place.run("ls").with_code(0).saying("there are no runs");
}

#[test]
fn an_unwritable_directory_is_named() {
    let (place, requests) = place_with_requests(20);
    let script = "
        mkdir d
        mount -t tmpfs -o ro none d
        set +e
        (cd d && BATCHLINE_HOME=home \"$BATCHLINE\" run ../in.jsonl --provider local)
        echo $?
        \"$BATCHLINE\" run in.jsonl --provider local -o d/out.jsonl
        echo $?";
    let Some(program) = with_own_mounts(&place, script) else { return };
    let ended = program.run().with_code(0);
    assert_eq!(ended.text(), "8\n2\n");
    ended
        .saying("/d/home: Read-only file system")
        .saying("hint: choose another directory: BATCHLINE_HOME")
        .saying("cannot write the output d/out.jsonl: Read-only file system");
    // The second was refused its output before anything was read.
    assert_eq!((place.runs().len(), place.unnamed_runs().len()), (0, 0));
    place.run("run in.jsonl --provider local -o out.jsonl").with_code(0).saying("starting");
    assert_same(&place.read("out.jsonl"), &replies(&requests));
}

#[test]
fn a_read_only_run_directory_is_untouched_and_resumed_later() {
    let (service, (place, requests)) = (Service::start(), place_with_requests(20));
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    place.run(&command).with_code(0);
    let script = format!(
        "mount --bind .batchline .batchline
         mount -o remount,bind,ro .batchline
         exec \"$BATCHLINE\" {command}"
    );
    let Some(program) = with_own_mounts(&place, &script) else { return };
    let ended = program.run().with_code(8);
    assert!(ended.stderr.contains("Read-only file system") || ended.stderr.contains("readonly"), "{}", ended.stderr);
    place.run(&command).with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
}

#[test]
fn a_full_disk_stops_the_run_and_more_space_resumes_it() {
    // Too small for the request index, for the Ledger, for the replies, and for the output.
    for size in ["8k", "100k", "400k", "1500k", "2800k"] {
        let (service, (place, requests)) = (Service::start(), place_with_requests(3000));
        let command = format!("run ../in.jsonl {} -o out.jsonl", service.arguments());
        let script = format!(
            "mkdir d
             mount -t tmpfs -o size={size} none d
             cd d
             export BATCHLINE_HOME=home
             set +e
             \"$BATCHLINE\" {command}
             echo $?
             set -e
             test ! -e out.jsonl
             mount -o remount,size=100m .
             \"$BATCHLINE\" {command}
             cp out.jsonl .."
        );
        let Some(program) = with_own_mounts(&place, &script) else { return };
        let ended = program.run().with_code(0);
        assert_eq!(ended.text(), "8\n", "{size}: {}", ended.stderr);
        assert!(ended.stderr.contains("No space left") || ended.stderr.contains("is full"), "{size}: {}", ended.stderr);
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn a_file_size_limit_is_handled_like_a_full_disk() {
    let (service, (place, requests)) = (Service::start(), place_with_requests(3000));
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    // In blocks of 512 bytes: enough for everything but the output.
    let limited = format!(r#"trap "" XFSZ; ulimit -f 3000; exec "$BATCHLINE" {command}"#);
    place.shell(&limited).run().with_code(8).saying("File too large");
    place.run("clean --yes").with_code(6).saying("done, not delivered");
    assert!(!place.has("out.jsonl"));
    place.run(&command).with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
}

#[test]
fn an_unwritable_output_is_a_local_error() {
    let (place, requests) = place_with_requests(20);
    let command = "run in.jsonl --provider local --poll-interval 50ms";
    place.run(&format!("{command} -o /dev/full")).with_code(8).saying("No space left on device");
    place
        .shell(&format!(r#"exec "$BATCHLINE" {command} >/dev/full"#))
        .run()
        .with_code(8)
        .saying("No space left on device");
    place
        .shell(r#"exec "$BATCHLINE" check in.jsonl >/dev/full"#)
        .run()
        .with_code(8)
        .saying("cannot write to standard output");
    assert_same(&place.run(command).with_code(0).stdout, &replies(&requests));
    Books::inside(&place.run_directory()).assert_billed_once(&requests);
}
