//! The key is in the header of calls to the service, and nowhere else.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use rustix::process::Signal;

use crate::program::{Ended, Place, wait_until};
use crate::requests::{generated, lines, replies, request};
use crate::service::{DIALECTS, Service};
use crate::upstream::{Manner, Upstream};

/// A key that stands nowhere by chance.
const CANARY: &str = "canary-5b1f0c9e7d3a4826-do-not-sing";

#[test]
fn the_key_stands_in_no_file_no_message_and_no_argument() {
    let (place, service, requests) = (Place::new(), Service::start_with("--batch-time 500ms"), generated(30));
    place.write("in.jsonl", &requests);
    let command = format!("run in.jsonl -o out.jsonl --json --base-url {} --poll-interval 50ms", service.base_url());
    // Whatever makes programs or their libraries talkative.
    let talkative = [("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full"), ("BATCHLINE_LOG", "trace")];
    let program =
        talkative.into_iter().fold(place.program(&command), |program, (name, value)| program.env(name, value));
    let running = program.env("TOGETHER_API_KEY", CANARY).start();
    let arguments = std::fs::read(format!("/proc/{}/cmdline", running.id())).unwrap();
    assert!(!contains(&arguments, CANARY));
    let ended = running.end().with_code(0);
    assert!(!contains(ended.stderr.as_bytes(), CANARY) && !contains(&ended.stdout, CANARY));
    assert_eq!(place.read("out.jsonl"), replies(&requests));
    assert_nowhere_below(&place.path(""), CANARY);
    assert!(service.books().calls("create_batch") > 0);
    // Nor where the service keeps its log of calls.
    service.books().each_file(|path, content| assert!(!contains(content, CANARY), "{}", path.display()));
}

#[test]
fn a_key_that_the_service_refuses_is_not_repeated_in_the_message() {
    let place = Place::new();
    write_private(&place.path("key"), "the-right-one");
    let service = Service::start_in(place, "--api-key-file key");
    let place = Place::new();
    place.write("in.jsonl", generated(3));
    let command = format!("run in.jsonl --base-url {}", service.base_url());
    let ended = place.program(&command).env("TOGETHER_API_KEY", CANARY).run().with_code(3);
    assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
    assert_nowhere_below(&place.path(""), CANARY);
}

/// The key as a service may quote it: as it is, escaped as in JSON and in URLs, in Basic credentials.
fn forms() -> [String; 4] {
    let codes = |prefix: &str| CANARY.bytes().fold(String::new(), |codes, byte| codes + &format!("{prefix}{byte:02x}"));
    [CANARY.to_owned(), codes("\\u00"), codes("%"), STANDARD.encode(format!("key:{CANARY}"))]
}

/// The part of Basic credentials that says the key.
fn core(form: &str) -> &str {
    if form.starts_with("a2V5") { &form[8..form.len() - 6] } else { form }
}

/// Insists that nothing that was said has the key in it, in any form.
#[track_caller]
fn assert_unsaid(ended: &Ended) {
    for form in forms() {
        for said in [ended.stderr.as_bytes(), &ended.stdout] {
            assert!(!contains(said, core(&form)), "{form}: {}{}", ended.stderr, String::from_utf8_lossy(&ended.stdout));
        }
    }
}

/// A script with the key in whatever a service can say of three batches, and in the way that each call fails at first.
fn quoting_script() -> String {
    let [plain, escaped, percent, encoded] = forms();
    let all = format!("{plain} {percent} {encoded}");
    let mut faults = vec![format!(
        "[[fault]]\ndo = \"fail\"\nbatch = 1\nmessage = \"no {all}\"\n\
         [[fault]]\ndo = \"error_rows\"\nbatch = 2\ncode = \"c-{plain}\"\nmessage = \"m {plain}\"\n\
         [[fault]]\ndo = \"show\"\nset = {{ status = \"odd {plain}\", error = \"{all}\", model = \"{plain}\", \
         endpoint = \"/{plain}\", errors = {{ data = [{{ message = \"{plain}\", code = \"{plain}\" }}] }} }}\nlooks = 1\n\
         [[fault]]\ndo = \"show\"\ncall = [\"create\"]\nset = {{ error = \"{all}\", model = \"{plain}\" }}\n\
         [[fault]]\ndo = \"bad_id\"\nbatch = 3\nid = \"dots\"\nfield = \"{plain}\"\nlooks = 1\n\
         [[fault]]\ndo = \"redirect\"\ncall = \"content\"\nnth = 1\nlocation = \"http://127.0.0.1:1/{plain}/{percent}\"\n"
    )];
    for (call, nth, body) in [
        ("list", 1, format!("<title>{plain}</title>")),
        ("list", 3, format!("{{\\\"error\\\":\\\"{}\\\"}}", escaped.replace('\\', "\\\\"))),
        ("retrieve", 1, format!("plain words {plain}")),
        ("upload", 1, format!("{{\\\"{plain}\\\":1}}")),
        ("content", 2, format!("{}{plain}", "x".repeat((64 << 10) - CANARY.len() / 2))),
    ] {
        faults.push(format!(
            "[[fault]]\ndo = \"status\"\ncall = \"{call}\"\nnth = {nth}\nstatus = 503\nbody = \"{body}\"\n\
             retry_after = \"{plain}\"\nheaders = {{ etag = \"{plain}\", location = \"/{plain}\" }}\n"
        ));
    }
    for (call, nth, form) in [
        ("list", 5, "text"),
        ("retrieve", 3, "escaped"),
        ("content", 3, "percent"),
        ("upload", 3, "base64"),
        ("list", 7, "html"),
    ] {
        faults.push(format!(
            "[[fault]]\ndo = \"quote_key\"\ncall = \"{call}\"\nnth = {nth}\nstatus = 500\nform = \"{form}\"\n"
        ));
    }
    faults.concat()
}

#[test]
fn a_key_that_a_service_quotes_wherever_it_can_is_told_and_recorded_nowhere() {
    for dialect in DIALECTS {
        let service = Service::faulty(dialect, &quoting_script());
        let place = Place::new();
        place.write("in.jsonl", [request("a", "m"), request("b", "n"), request("c", "o"), String::new()].join("\n"));
        let command =
            format!("run in.jsonl -o out.jsonl --rounds 1 --shard-requests 1 --uploads 1 {}", service.arguments());
        let run = |arguments: &str| place.program(arguments).env("BATCHLINE_LOCAL_KEY", CANARY).run();
        let ended = run(&format!("{command} --json")).with_code(6);
        assert_unsaid(&ended);
        assert!(ended.stderr.matches("[redacted]").count() > 12, "{}", ended.stderr);
        assert!(service.books().faults() > 12, "{}", service.books().faults());
        // Said in words, by whatever looks at the run.
        for command in [&command, "status", "status --json", "ls", "ls --json", "doctor", "doctor --json"] {
            assert_unsaid(&run(command));
        }
        // What the program writes itself; the replies are the user's data, as they came.
        let output = place.read("out.jsonl");
        let rows = lines(&output);
        assert!(rows.iter().any(|row| contains(row, "[redacted]") && contains(row, "missing")));
        assert_eq!(rows.iter().filter(|row| contains(row, CANARY)).count(), 1, "the reply as it came");
        let directory = place.run_directory();
        std::fs::remove_dir_all(directory.join("replies")).unwrap();
        place.write("out.jsonl", "");
        for form in forms() {
            assert_nowhere_below(&place.path(""), core(&form));
        }
    }
}

#[test]
fn a_refused_key_is_quoted_in_no_form() {
    for dialect in DIALECTS {
        for (form, call) in
            [("text", "upload"), ("escaped", "list"), ("percent", "create"), ("base64", "upload"), ("html", "list")]
        {
            let script = format!("[[fault]]\ndo = \"quote_key\"\ncall = \"{call}\"\nform = \"{form}\"\n");
            let service = Service::faulty(dialect, &script);
            let place = Place::new();
            place.write("in.jsonl", generated(3));
            let command = format!("run in.jsonl {}", service.arguments());
            let ended = place.program(&command).env("BATCHLINE_LOCAL_KEY", CANARY).run().with_code(3);
            assert_unsaid(&ended);
            assert!(
                ended.stderr.contains("Incorrect API key provided") && ended.stderr.contains("[redacted]"),
                "{}",
                ended.stderr
            );
            for form in forms() {
                assert_nowhere_below(&place.path(""), core(&form));
            }
        }
    }
}

#[test]
fn the_key_of_an_upstream_that_quotes_it_stays_with_the_server() {
    let input = ["a", "QUOTE400", "QUOTE503"].iter().map(|name| request(name, "m") + "\n").collect::<String>();
    let upstream = Upstream::start(Manner { key: Some(CANARY), ..Manner::default() });
    let place = Place::new();
    place.write("in.jsonl", &input);
    let online = format!("run in.jsonl --provider online --base-url {} -o out.jsonl", upstream.url());
    let ended = place.program(&format!("{online} --json")).env("BATCHLINE_ONLINE_KEY", CANARY).run().with_code(6);
    assert_unsaid(&ended);
    assert!(contains(&place.read("out.jsonl"), "no room for Bearer [redacted]"));
    assert_nowhere_below(&place.path(""), CANARY);

    // What came with a status of success is a reply, and the user's data, whatever it says. What is told of it is not.
    let place = Place::new();
    place.write("in.jsonl", request("QUOTE200", "m"));
    let ended = place.program(&format!("{online} --json")).env("BATCHLINE_ONLINE_KEY", CANARY).run().with_code(6);
    assert_unsaid(&ended);
    assert!(ended.stderr.contains("no room for Bearer [redacted]"), "{}", ended.stderr);
    assert!(contains(&place.read("out.jsonl"), CANARY));
    let directory = place.run_directory();
    for replies in ["replies", "online"] {
        std::fs::remove_dir_all(directory.join(replies)).unwrap();
    }
    assert_nowhere_below(&directory, CANARY);

    let upstream = Upstream::start(Manner { key: Some(CANARY), ..Manner::default() });
    for dialect in DIALECTS {
        let (place, service_place) = (Place::new(), Place::new());
        write_private(&service_place.path("key"), CANARY);
        let arguments = format!("--upstream {} --upstream-key-file key", upstream.url());
        let service = Service::speaking_in(dialect, service_place, &arguments);
        place.write("in.jsonl", &input);
        let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
        assert_unsaid(&place.run(&command).with_code(6));
        assert_nowhere_below(&place.path(""), CANARY);
        assert_nowhere_below(service.books().path(), CANARY);
        assert!(!service.said().contains(CANARY), "{}", service.said());
    }
}

/// The owner of what the system shows of a process: root, if nobody may look into it.
fn owner_of_its_secrets(id: u32) -> u32 {
    std::fs::metadata(format!("/proc/{id}/environ")).unwrap().uid()
}

#[test]
fn a_process_with_a_key_leaves_no_core_and_is_closed_to_others() {
    const NOBODY: u32 = 65534;
    let place = Place::new();
    // As root, nobody is shut out: then it runs as somebody else.
    let is_root = rustix::process::geteuid().is_root();
    std::fs::copy(env!("CARGO_BIN_EXE_batchline"), place.path("batchline")).unwrap();
    place.write("in.jsonl", generated(3));
    for path in ["", "batchline"] {
        std::fs::set_permissions(place.path(path), std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let start = |command: &str| {
        let program = place.shell(&format!("ulimit -c unlimited 2>/dev/null; exec ./batchline {command}"));
        let program = if is_root { program.by_user(NOBODY) } else { program };
        program.env("TOGETHER_API_KEY", CANARY).silent_input()
    };
    let core_limit = |id: u32| {
        let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        line.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // Each waits for its input, or for calls.
    for command in ["run - --base-url http://127.0.0.1:1 -o out.jsonl", "serve --listen 127.0.0.1:0 -d service"] {
        let running = start(command).start();
        wait_until(|| core_limit(running.id()) == ["0", "0"]);
        wait_until(|| owner_of_its_secrets(running.id()) == 0);
        running.signal(Signal::ABORT);
        let ended = running.end();
        assert_eq!(ended.status.signal(), Some(Signal::ABORT.as_raw()), "{}", ended.stderr);
        assert!(!ended.status.core_dumped(), "{command}");
    }
    // One that was told to stay open does, so this sees the difference.
    let open = start("serve --listen 127.0.0.1:0 -d service").env("BATCHLINE_DEBUGGABLE", "1");
    let open = open.start();
    wait_until(|| !open.stdout_so_far().is_empty());
    assert_ne!(owner_of_its_secrets(open.id()), 0);
}

#[test]
fn a_child_process_gets_no_key() {
    let place = Place::new();
    let bench = place.program("bench --bytes 20MB --runs 1 -d .").env("TOGETHER_API_KEY", CANARY);
    let bench = bench.env("OPENAI_API_KEY", CANARY).env("BATCHLINE_UPSTREAM_KEY", CANARY).start();
    let children = format!("/proc/{0}/task/{0}/children", bench.id());
    let mut child = String::new();
    wait_until(|| {
        child = std::fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
        let program = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        contains(&program, "serve")
    });
    let of_child = |what: &str| std::fs::read(format!("/proc/{child}/{what}"));
    assert!(!contains(&of_child("cmdline").unwrap(), CANARY));
    match of_child("environ") {
        Ok(environment) => assert!(!environment.is_empty() && !contains(&environment, CANARY)),
        Err(error) => crate::program::skipped(&format!("the environment of a child that is closed to us: {error}")),
    }
    bench.end().with_code(0);
}

/// Writes a file that its owner alone can read.
pub(crate) fn write_private(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Insists that no file below a directory has the word in it.
#[track_caller]
pub(crate) fn assert_nowhere_below(directory: &Path, word: &str) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_nowhere_below(&path, word);
        } else {
            assert!(!contains(&std::fs::read(&path).unwrap(), word), "{}", path.display());
        }
    }
}

fn contains(text: &[u8], word: &str) -> bool {
    memchr::memmem::find(text, word.as_bytes()).is_some()
}
