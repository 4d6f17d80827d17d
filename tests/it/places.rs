//! Where runs are kept, who owns them, and which commands share a run.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

use crate::program::{Place, Program, names_in, skipped, wait_until};
use crate::requests::{assert_same, generated, replies, replies_in};
use crate::service::{Books, DIALECTS, Service};
use crate::tracing::{is_available, killed_at};
use crate::upstream::{Manner, Upstream};

const LOCAL: &str = "--provider local --poll-interval 50ms";

/// A place with requests, and a directory in it.
pub(crate) fn place_with(requests: &[u8], directory: &str) -> Place {
    let place = Place::new();
    place.write("in.jsonl", requests);
    std::fs::create_dir(place.path(directory)).unwrap();
    place
}

/// A program without the home that tests have, in a home directory of its own.
fn at_home(program: Program, place: &Place) -> Program {
    program.env("BATCHLINE_HOME", "").env("HOME", place.path("home").to_str().unwrap())
}

#[test]
fn without_a_variable_runs_are_in_the_directory_of_state_of_their_user() {
    let place = place_with(&generated(3), "home");
    at_home(place.program(&format!("run in.jsonl {LOCAL} -o out.jsonl")), &place).run().with_code(0);
    let home = place.path("home/.local/state/batchline");
    let runs = names_in(&home);
    assert_eq!(runs.len(), 1, "{runs:?}");
    for path in [home.clone(), home.join(&runs[0]), place.path("home/.local"), place.path("home/.local/state")] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
    }
    // A directory of state of one's own; a relative one is none.
    let xdg = |state: &str| at_home(place.program("ls"), &place).env("XDG_STATE_HOME", state).run().with_code(0).text();
    assert!(xdg("state").contains(&runs[0]));
    assert_eq!(xdg(place.path("state").to_str().unwrap()), "");
    let run = place.program(&format!("run in.jsonl {LOCAL} -o out.jsonl"));
    at_home(run, &place).env("XDG_STATE_HOME", place.path("state").to_str().unwrap()).run().with_code(0);
    assert_eq!(names_in(&place.path("state/batchline")), runs);
    assert!(!place.has(".batchline"));
}

#[test]
fn a_run_is_found_from_any_directory_whatever_leads_to_its_input() {
    for dialect in DIALECTS {
        let (service, requests) = (Service::speaking(dialect, "--batch-time 0ms"), generated(30));
        let place = place_with(&requests, "elsewhere");
        let elsewhere = place.path("elsewhere");
        let options = service.arguments();
        place.run(&format!("run in.jsonl {options} -o out.jsonl")).with_code(0).saying("starting");
        let before = service.books().accepted();
        std::fs::copy(place.path("in.jsonl"), elsewhere.join("copy.jsonl")).unwrap();
        for input in ["../in.jsonl", place.path("in.jsonl").to_str().unwrap(), "copy.jsonl"] {
            let command = place.program(&format!("run {input} {options} -o again.jsonl")).within(&elsewhere);
            command.run().with_code(0).saying("already complete: 30 requests");
            assert_same(&place.read("elsewhere/again.jsonl"), &service.replies(&requests));
        }
        let piped = place.program(&format!("run {options}")).within(&elsewhere).input(requests.clone());
        piped.run().with_code(0).saying("already complete: 30 requests");
        assert_eq!(service.books().accepted(), before);
        service.books().assert_billed_once(&requests);
        for command in ["ls", "status"] {
            let told = place.program(command).within(&elsewhere).run().with_code(0).text();
            assert!(told.contains(place.run_directory().to_str().unwrap()), "{told}");
        }
        let name = place.run_directory().file_name().unwrap().to_str().unwrap().to_owned();
        place.program(&format!("status {name}")).within(&elsewhere).run().with_code(0);
        assert!(!elsewhere.join(".batchline").exists());
    }
}

#[test]
fn a_home_that_is_named_twice_has_its_runs_once() {
    let place = place_with(&generated(3), "elsewhere");
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    // The home of tests is also where earlier versions had it.
    assert_eq!(place.run("ls").with_code(0).text().lines().count(), 1);
}

#[test]
fn a_command_that_changes_a_run_takes_none_of_another_directory_for_it() {
    let place = place_with(&generated(3), "elsewhere");
    place.write("other.jsonl", generated(4));
    for input in ["in.jsonl", "other.jsonl"] {
        place.run(&format!("run {input} {LOCAL} -o out.jsonl")).with_code(0);
    }
    for command in ["retry", "cancel"] {
        let ended = place.program(command).within(place.path("elsewhere")).run().with_code(2);
        ended.saying("no run was started in this directory: name one of 2 runs").saying("batchline ls");
        assert_ne!(place.run(command).status.code(), Some(2), "{command}");
    }
    // Whoever only looks is shown the newest.
    let shown = place.program("status").within(place.path("elsewhere")).run().with_code(0).text();
    assert!(shown.contains("other.jsonl"), "{shown}");
}

#[test]
fn a_service_by_another_spelling_is_the_same_one() {
    for dialect in DIALECTS {
        let (service, requests) = (Service::speaking(dialect, "--batch-time 0ms"), generated(20));
        let place = place_with(&requests, "elsewhere");
        place.run(&format!("run in.jsonl {} -o out.jsonl", service.arguments())).with_code(0);
        let before = service.books().accepted();
        let url = service.base_url().trim_end_matches("/v1").to_owned();
        for spelling in [
            url.replace("127.0.0.1", "localhost"),
            url.replace("127.0.0.1", "LocalHost") + "/v1/",
            url.replace("127.0.0.1", "[::1]"),
            url.replace("127.0.0.1", "127.1") + "/",
        ] {
            let options = service.arguments().replace(service.base_url(), &spelling);
            place.run(&format!("run in.jsonl {options} -o out.jsonl")).with_code(0).saying("already complete");
            let piped = place.program(&format!("run {options}")).input(requests.clone()).run();
            piped.with_code(0).saying("already complete");
        }
        assert_eq!(service.books().accepted(), before);
        assert_eq!(place.runs().len(), 1);
        // Another port is another service.
        let other = Service::speaking(dialect, "--batch-time 0ms");
        place.run(&format!("run in.jsonl {} -o out.jsonl", other.arguments())).with_code(0).saying("starting");
        other.books().assert_billed_once(&requests);
    }
}

#[test]
fn a_service_without_a_batch_api_is_the_same_one_by_another_spelling() {
    let (upstream, requests) = (Upstream::start(Manner::default()), generated(9));
    let place = place_with(&requests, "elsewhere");
    let run = |url: &str| {
        let options = format!("--provider online --base-url {url}");
        place.run(&format!("run in.jsonl {options} -o out.jsonl")).with_code(0);
        place.program(&format!("run {options}")).input(requests.clone()).run().with_code(0)
    };
    run(&upstream.url());
    for spelling in ["localhost", "LOCALHOST.", "[::1]"] {
        run(&upstream.url().replace("127.0.0.1", spelling)).saying("already complete");
    }
    assert_eq!((upstream.total(), place.runs().len()), (9, 1));
}

/// The Ledger of the only run of a place.
pub(crate) fn ledger(place: &Place) -> rusqlite::Connection {
    rusqlite::Connection::open(place.run_directory().join("ledger.sqlite")).unwrap()
}

pub(crate) fn set_meta(ledger: &rusqlite::Connection, key: &str, value: &str) {
    let changed = ledger.execute("UPDATE meta SET value = ?2 WHERE key = ?1", [key, value]).unwrap();
    assert_eq!(changed, 1, "{key}");
}

/// The same requests as `requests`, between other line ends and blanks.
fn respelled(requests: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8(requests.to_vec()).unwrap();
    vec![
        ("blanks behind", text.replace('\n', " \t \n")),
        ("blanks before", text.replace("{\"custom_id\"", "\t  {\"custom_id\"")),
        ("CRLF", text.replace('\n', "\r\n")),
        ("blanks and CRLF", text.replace('\n', "  \r\n")),
        ("blank lines", format!("\n \n{}\n\n", text.replace('\n', "\n\r\n"))),
        ("no final newline", text.trim_end().to_owned()),
        ("a byte order mark", format!("\u{feff}{text}")),
    ]
    .into_iter()
    .map(|(what, text)| (what, text.into_bytes()))
    .collect()
}

#[test]
fn lines_with_other_blanks_and_ends_are_the_same_lines() {
    for dialect in DIALECTS {
        let (service, requests) = (Service::speaking(dialect, "--batch-time 0ms"), generated(20));
        let place = place_with(&requests, "elsewhere");
        let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
        place.run(&command).with_code(0).saying("starting");
        for (what, text) in respelled(&requests) {
            place.write("in.jsonl", text);
            for options in ["", "--skip-invalid", "--shard-requests 3"] {
                let again = place.run(&format!("{command} {options}"));
                assert!(again.stderr.contains("already complete: 20 requests"), "{what}: {}", again.stderr);
                assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            }
        }
        assert_eq!(place.runs().len(), 1);
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn killed_while_it_moves_to_other_lines_a_run_moves_again() {
    if !is_available() {
        return skipped("strace is not installed, so no run was killed while it moved");
    }
    let (service, requests) = (Service::start(), generated(20));
    let place = place_with(&requests, "elsewhere");
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    place.run(&command).with_code(0);
    let spellings = respelled(&requests);
    let cuts = [("fsync", 8), ("rename", 2), ("pwrite64", 8), ("unlink", 3)];
    let (mut killed, mut number) = (0, 0);
    for (call, nth) in cuts.into_iter().flat_map(|(call, most)| (1..=most).map(move |nth| (call, nth))) {
        number += 1;
        place.write("in.jsonl", &spellings[number % spellings.len()].1);
        killed += usize::from(killed_at(&place, call, nth, &command).run().was_killed());
        place.run(&command).with_code(0).saying("already complete: 20 requests");
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        place.run("doctor").with_code(0);
    }
    assert!(killed > number / 2, "{killed} of {number}");
    service.books().assert_billed_once(&requests);
}

#[test]
fn bodies_with_other_blanks_and_ends_are_the_same_bodies() {
    let body = |number: u32| format!("{{\"model\":\"m\",\"messages\":[{number}]}}\n");
    let bodies = (0..6).map(body).collect::<Vec<_>>().concat();
    for dialect in DIALECTS {
        let service = Service::speaking(dialect, "--batch-time 0ms");
        let place = place_with(bodies.as_bytes(), "elsewhere");
        let command = format!("run in.jsonl {} --assign-ids -o out.jsonl", service.arguments());
        place.run(&command).with_code(0).saying("starting");
        let (answered, accepted) = (place.read("out.jsonl"), service.books().accepted());
        for text in [
            bodies.replace('\n', " \t\r\n"),
            bodies.replace("{\"model", "  {\"model"),
            bodies.replace('\n', "\n\n"),
            bodies.trim_end().to_owned(),
        ] {
            place.write("in.jsonl", &text);
            place.run(&command).with_code(0).saying("already complete: 6 requests");
            assert_same(&place.read("out.jsonl"), &answered);
            place.run("doctor").with_code(0);
        }
        assert_eq!(service.books().accepted(), accepted);
        // Numbered otherwise, they are asked about.
        place.write("in.jsonl", bodies.clone() + &bodies);
        place.run(&command).with_code(2).saying("answers to 6 of 6 requests");
    }
}

#[test]
fn a_run_resumes_after_white_space_changes() {
    for (number, (what, text)) in respelled(&generated(60)).into_iter().enumerate() {
        let dialect = DIALECTS[number % DIALECTS.len()];
        let (service, requests) = (Service::speaking(dialect, "--batch-time 0ms"), generated(60));
        // Both ways round: from plain lines to odd ones, and back.
        for (before, now) in [(&requests, &text), (&text, &requests)] {
            let place = place_with(before, "elsewhere");
            let books = service.books().billed().len();
            let command = format!("run in.jsonl {} --shard-requests 9 --uploads 1 -o out.jsonl", service.arguments());
            let (accepted, mut begun) = (service.books().accepted(), place.program(&command).start());
            wait_until(|| service.books().accepted() >= accepted + 2);
            begun.kill();
            begun.end();
            place.write("in.jsonl", now);
            let ended = place.run(&format!("{command} --errors errors.jsonl"));
            assert_eq!(ended.status.code(), Some(0), "{what}: {}", ended.stderr);
            ended.saying("resuming 60 requests");
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            assert_eq!(place.run("doctor").with_code(0).text().lines().count(), 1);
            assert_eq!(service.books().billed().len(), books + 60, "{what}");
        }
    }
}

#[test]
fn skipping_invalid_lines_changes_nothing_without_any() {
    let requests = generated(9);
    let place = place_with(&requests, "elsewhere");
    place.run(&format!("run in.jsonl {LOCAL} --skip-invalid -o out.jsonl")).with_code(0);
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0).saying("already complete");
    // Where there are, whoever did not ask for it is told.
    let odd = [requests.as_slice(), b"[]\n"].concat();
    place.write("odd.jsonl", &odd);
    place.run(&format!("run odd.jsonl {LOCAL} --skip-invalid -o out.jsonl")).with_code(6);
    place.run(&format!("run odd.jsonl {LOCAL} -o out.jsonl")).with_code(4).saying("odd.jsonl:10:1: not-an-object");
    place.run(&format!("run odd.jsonl {LOCAL} --skip-invalid -o out.jsonl")).with_code(6).saying("already complete");
    assert_eq!(place.runs().len(), 2);
}

#[test]
fn a_path_that_is_not_utf8_works() {
    let requests = generated(9);
    for dialect in DIALECTS {
        let place = place_with(&requests, "elsewhere");
        let bad: PathBuf = place.path("").join(OsStr::from_bytes(b"bad\xff.jsonl"));
        let below: PathBuf = place.path("").join(OsStr::from_bytes(b"dir\xfe"));
        std::fs::create_dir(&below).unwrap();
        std::fs::copy(place.path("in.jsonl"), &bad).unwrap();
        std::fs::write(below.join("ascii.jsonl"), generated(10)).unwrap();
        let local = format!("{LOCAL} --dialect {}", dialect.name());
        let shell = |script: String| place.shell(&script).run();
        let run = |input: &str| shell(format!(r#"exec "$BATCHLINE" run {input} {local} -o out.jsonl"#));
        run("bad*.jsonl").with_code(0).saying("starting");
        run("bad*.jsonl").with_code(0).saying("already complete");
        assert_same(&place.read("out.jsonl"), &replies_in(dialect, &requests));
        run("dir*/ascii.jsonl").with_code(0).saying("starting 10 requests");
        // And it stands in nobody's way.
        place.write("other.jsonl", generated(3));
        run("other.jsonl").with_code(0);
        run("other.jsonl").with_code(0).saying("already complete");
        assert_eq!(place.run("ls").with_code(0).text().lines().count(), 3);
        for command in ["status", "status --json", "ls --json", "doctor"] {
            place.run(command).with_code(0);
        }
        // Nor does a run directory of such a name.
        let named =
            shell(format!(r#"exec "$BATCHLINE" run in.jsonl {local} --yes --json --run-dir "$(printf 'odd\377')""#));
        named.with_code(0);
        shell(r#""$BATCHLINE" status --json odd* && exec "$BATCHLINE" doctor --json odd*"#.to_owned()).with_code(0);
    }
}

#[test]
fn a_run_with_an_invalid_ledger_blocks_no_other_run() {
    let place = place_with(&generated(9), "elsewhere");
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    place.write("other.jsonl", generated(3));
    for (key, value) in [("parts", "{"), ("requests", "many"), ("id_key", "none"), ("lines", "-1")] {
        let ledger = ledger(&place);
        let before: String =
            ledger.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).unwrap();
        set_meta(&ledger, key, value);
        place.run(&format!("run other.jsonl {LOCAL} -o other")).with_code(0);
        let listed = place.run("ls").with_code(8).saying("is damaged");
        assert_eq!(listed.text().lines().count(), 1, "{key}");
        // It is not paid for again by its own input.
        place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(8).saying("is damaged");
        place.run("clean --yes").with_code(8);
        set_meta(&ledger, key, &before);
        place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0).saying("already complete");
    }
}

#[test]
fn state_behind_a_link_or_of_another_owner_is_refused_before_anything_is_done() {
    let (service, requests) = (Service::start(), generated(9));
    let options = service.arguments();
    let refused = |place: &Place, home: &Path, command: &str, words: &str| {
        let program = place.program(command).env("BATCHLINE_HOME", home.to_str().unwrap());
        program.run().with_code(8).saying("the state directory").saying(words).saying("hint: ");
    };
    let place = place_with(&requests, "real");
    std::os::unix::fs::symlink("real", place.path("link")).unwrap();
    let run = format!("run in.jsonl {options} -o out.jsonl");
    for command in [run.as_str(), "ls", "status", "clean"] {
        refused(&place, &place.path("link"), command, "is a symbolic link");
    }
    refused(&place, &place.path("real"), &format!("{run} --run-dir link"), "is a symbolic link");
    std::os::unix::fs::symlink("real", place.path(".batchline")).unwrap();
    refused(&place, &place.path("other"), &run, "is a symbolic link");
    std::fs::remove_file(place.path(".batchline")).unwrap();
    place.write("file", "");
    refused(&place, &place.path("file"), &run, "is not a directory");

    if rustix::process::geteuid().is_root() {
        let give = |path: PathBuf, owner: u32| {
            rustix::fs::chown(&path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner))).unwrap();
        };
        give(place.path("real"), 12345);
        for command in [run.as_str(), "ls", "status", "clean"] {
            refused(&place, &place.path("real"), command, "belongs to user 12345, and this is user 0");
        }
        std::fs::create_dir(place.path(".batchline")).unwrap();
        give(place.path(".batchline"), 12345);
        refused(&place, &place.path("other"), &run, "belongs to user 12345");
        std::fs::remove_dir(place.path(".batchline")).unwrap();
        give(place.path("real"), 0);
        // A run in it that somebody else has put there.
        place.program(&run).env("BATCHLINE_HOME", place.path("real").to_str().unwrap()).run().with_code(0);
        let [name] = names_in(&place.path("real")).try_into().unwrap();
        give(place.path("real").join(&name), 12345);
        for command in [&run, &format!("status {name}"), &format!("doctor {name}"), &format!("retry {name}")] {
            refused(&place, &place.path("real"), command, "belongs to user 12345");
        }
        assert_eq!(service.books().accepted(), 3);
    } else {
        skipped("directories of other owners: only root can give them away");
        assert_eq!(service.books().accepted(), 0);
    }
}

#[test]
fn a_run_moves_to_a_home_on_another_file_system_with_its_spool() {
    let shm = Path::new("/dev/shm");
    let place = place_with(&generated(9), "elsewhere");
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    if device(shm).is_none() || device(shm) == device(&place.path("")) {
        return skipped("there is no second file system to move a spool from");
    }
    let home = tempfile::tempdir_in(shm).unwrap();
    place.run(&format!("run in.jsonl {LOCAL} -o out.jsonl")).with_code(0);
    std::fs::remove_file(place.path("in.jsonl")).unwrap();
    let again = place.program(&format!("run {LOCAL}")).env("BATCHLINE_HOME", home.path().to_str().unwrap());
    let ended = again.input(generated(9)).run().with_code(0).saying("already complete");
    assert_same(&ended.stdout, &replies(&generated(9)));
    assert!(place.run_directory().join("spool-0000.jsonl").is_file());
    Books::inside(&place.run_directory()).assert_billed_once(&generated(9));
}
