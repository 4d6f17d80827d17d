//! How outputs appear: their mode, through links, in pipes and descriptors; and outputs of empty inputs.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::program::{Place, skipped, wait_until};
use crate::requests::{assert_same, generated, replies};
use crate::service::Service;

const LOCAL: &str = "--provider local --poll-interval 50ms";

/// Requests, replies to them, and an input with a defect.
fn place_with_files() -> (Place, Vec<u8>) {
    let (place, requests) = (Place::new(), generated(30));
    place.write("in.jsonl", &requests);
    place.write("replies.jsonl", replies(&requests));
    place.write("bad.jsonl", "[]\n");
    (place, requests)
}

/// What is being written, or was left half written.
fn parts(place: &Place) -> Vec<String> {
    let is_part = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "part");
    place.names().into_iter().filter(is_part).collect()
}

fn mode(place: &Place, name: &str) -> u32 {
    place.path(name).symlink_metadata().unwrap().permissions().mode() & 0o7777
}

/// Everything that the program makes for its user, under a umask.
fn make_everything(place: &Place, umask: &str) {
    let script = format!(
        r#"umask {umask}
        "$BATCHLINE" run in.jsonl {LOCAL} -o run.jsonl --errors errors.jsonl &&
        "$BATCHLINE" merge in.jsonl --replies replies.jsonl -o merged.jsonl --errors lost.jsonl &&
        "$BATCHLINE" split in.jsonl -d shards --force >printed &&
        "$BATCHLINE" generate -n 3 -o made.jsonl --force || exit
        "$BATCHLINE" check bad.jsonl --report report.jsonl
        printf '{{"custom_id":"nobody","response":{{}}}}\n' >strange.jsonl
        "$BATCHLINE" merge in.jsonl --replies strange.jsonl -o none.jsonl --aside aside
        test $? = 6"#
    );
    place.shell(&script).run().with_code(0);
}

const EVERYTHING: [&str; 9] = [
    "run.jsonl",
    "errors.jsonl",
    "merged.jsonl",
    "lost.jsonl",
    "shards/shard-000000.jsonl",
    "made.jsonl",
    "report.jsonl",
    "none.jsonl",
    "aside-unknown.jsonl",
];

#[test]
fn a_new_file_has_the_mode_that_the_umask_leaves_and_an_old_one_keeps_its_own() {
    for (umask, wanted) in [("022", 0o644), ("002", 0o664), ("077", 0o600), ("000", 0o666), ("027", 0o640)] {
        let (place, _) = place_with_files();
        make_everything(&place, umask);
        for name in EVERYTHING {
            assert_eq!(mode(&place, name), wanted, "{name} with {umask}: {:o}", mode(&place, name));
        }
        assert_eq!(mode(&place, "shards"), wanted | (wanted & 0o444) >> 2, "a directory is entered by who may read it");
        let odd = [0o600, 0o604, 0o640, 0o666, 0o620, 0o755, 0o660, 0o644, 0o606];
        for (name, mode) in EVERYTHING.into_iter().zip(odd) {
            std::fs::set_permissions(place.path(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        make_everything(&place, umask);
        for (name, odd) in EVERYTHING.into_iter().zip(odd) {
            // Shards of an earlier split are removed, not replaced.
            let wanted = if name.starts_with("shards/") { wanted } else { odd };
            assert_eq!(mode(&place, name), wanted, "{name}: {:o}", mode(&place, name));
        }
        assert_eq!(parts(&place), [""; 0]);
    }
}

#[test]
fn an_old_file_keeps_its_owner_and_what_else_leads_to_it_stays() {
    let (place, requests) = place_with_files();
    std::fs::create_dir(place.path("far")).unwrap();
    place.write("far/old.jsonl", "old\n");
    std::fs::hard_link(place.path("far/old.jsonl"), place.path("backup.jsonl")).unwrap();
    let may_give_away = std::os::unix::fs::chown(place.path("far/old.jsonl"), Some(65534), Some(65533)).is_ok();
    std::fs::set_permissions(place.path("far/old.jsonl"), PermissionsExt::from_mode(0o640)).unwrap();
    symlink("far/old.jsonl", place.path("link.jsonl")).unwrap();
    symlink("../link.jsonl", place.path("far/link-link.jsonl")).unwrap();
    symlink("far/new.jsonl", place.path("dangling.jsonl")).unwrap();
    for (target, real) in [("far/link-link.jsonl", "far/old.jsonl"), ("dangling.jsonl", "far/new.jsonl")] {
        place.run(&format!("merge in.jsonl --replies replies.jsonl -o {target}")).with_code(0);
        assert!(place.path(target).symlink_metadata().unwrap().is_symlink(), "{target} is a link still");
        assert!(place.path(real).symlink_metadata().unwrap().is_file());
        assert_same(&place.read(real), &replies(&requests));
    }
    assert_eq!(place.read("backup.jsonl"), b"old\n", "another name of the old file is none of the new one");
    let metadata = place.path("far/old.jsonl").metadata().unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    if may_give_away {
        assert_eq!((metadata.uid(), metadata.gid()), (65534, 65533));
    } else {
        skipped("owners of outputs: only root may give files away");
    }
}

#[test]
fn a_name_as_long_as_the_file_system_takes_is_long_enough() {
    let (place, requests) = place_with_files();
    let long = format!("{}.jsonl", "ä".repeat(124));
    assert_eq!(long.len(), 254);
    place.run(&format!("merge in.jsonl --replies replies.jsonl -o {long}")).with_code(0);
    assert_same(&place.read(&long), &replies(&requests));
}

#[test]
fn temporary_outputs_of_killed_processes_are_removed_and_of_running_ones_kept() {
    let (place, requests) = place_with_files();
    let service = Service::start_with("--batch-time 10m");
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    let mut killed = place.program(&command).start();
    wait_until(|| service.books().calls("create_batch") == 3);
    killed.kill();
    assert!(killed.end().was_killed());
    let left = parts(&place);
    assert_eq!(left.len(), 1, "it had begun to write: {left:?}");
    // Others' files, which only look alike.
    for name in [".out.jsonl.00000000.part.bak", ".out.jsonl.zzzzzzzz.part", ".other.jsonl.00000000.part"] {
        place.write(name, "mine\n");
    }
    let mut names: Vec<String> = parts(&place).into_iter().filter(|name| *name != left[0]).collect();
    // The same output at the same time, by a living process.
    let going_on = place.program(&command).start();
    wait_until(|| parts(&place).len() == names.len() + 1 && !place.has(&left[0]));
    names = parts(&place);
    place.run("merge in.jsonl --replies replies.jsonl -o out.jsonl").with_code(0);
    assert_eq!(parts(&place), names, "the running process keeps its own");
    going_on.signal(rustix::process::Signal::INT);
    going_on.end().with_code(130);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    assert_eq!(parts(&place).len(), 2, "only the others' are left: {:?}", parts(&place));
    assert!(place.has(".out.jsonl.00000000.part.bak"));
}

#[test]
fn standard_output_has_many_names() {
    for target in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/./stdout"] {
        let (place, requests) = place_with_files();
        for command in [
            format!("run in.jsonl {LOCAL} -o {target}"),
            format!("merge in.jsonl --replies replies.jsonl -o {target}"),
            format!("merge --replies replies.jsonl --errors nothing.jsonl -o {target} in.jsonl"),
        ] {
            assert_same(&place.run(&command).with_code(0).stdout, &replies(&requests));
            // A file that a script writes to before and after keeps its lines in their order.
            let script = format!(r#"{{ echo before; "$BATCHLINE" {command}; echo after; }} >log"#);
            place.shell(&script).run().with_code(0);
            assert_same(&place.read("log"), &[b"before\n", &replies(&requests)[..], b"after\n"].concat());
        }
        assert_eq!(place.run(&format!("generate -n 30 -o {target}")).with_code(0).stdout, requests);
        let reported = place.run(&format!("check bad.jsonl --quiet --report {target}")).with_code(4).text();
        assert!(reported.contains(r#""code":"not-an-object""#), "{reported}");
        assert!(!place.has("-") && !place.has("stdout"));
    }
    let link = std::fs::symlink_metadata("/dev/stdout").unwrap();
    assert!(link.is_symlink(), "/dev/stdout itself is left alone");
}

#[test]
fn descriptors_pipes_and_devices_are_written_as_they_are() {
    let (place, requests) = place_with_files();
    let wanted = replies(&requests);
    place.shell(r#""$BATCHLINE" merge in.jsonl --replies replies.jsonl -o /dev/fd/3 3>three"#).run().with_code(0);
    assert_same(&place.read("three"), &wanted);
    place.shell(&format!(r#""$BATCHLINE" run in.jsonl {LOCAL} -o /dev/fd/7 7>&1 | cat >piped"#)).run().with_code(0);
    assert_same(&place.read("piped"), &wanted);
    // A named pipe, with a reader that comes late.
    let fifo =
        format!(r#"mkfifo fifo; (sleep 0.3; cat fifo >read) & "$BATCHLINE" run in.jsonl {LOCAL} -o fifo && wait"#);
    place.shell(&fifo).run().with_code(0);
    assert_same(&place.read("read"), &wanted);
    assert!(!place.path("fifo").symlink_metadata().unwrap().is_file(), "the pipe is a pipe still");
    place
        .run(&format!("run in.jsonl {LOCAL} -o /dev/null --errors /dev/null --report /dev/null"))
        .with_code(0)
        .saying("30 outputs");
    place.run("check in.jsonl --report /dev/null").with_code(0);
    place.run("generate -n 3 -o /dev/null").with_code(0);
    place.shell("exec \"$BATCHLINE\" check --allow-empty --report /dev/null </dev/null >/dev/null").run().with_code(0);
    // Defects stand among the messages, where somebody wants them there.
    let mixed = place.shell(r#"exec "$BATCHLINE" check bad.jsonl --report /dev/stderr"#).run().with_code(4);
    assert!(mixed.stderr.contains(r#""code":"not-an-object""#), "{}", mixed.stderr);
}

#[test]
fn a_named_pipe_without_a_reader_can_be_interrupted() {
    let (place, _) = place_with_files();
    place.shell("mkfifo fifo").run().with_code(0);
    let running = place.program(&format!("run in.jsonl {LOCAL} -o fifo")).start();
    wait_until(|| running.stderr_so_far().contains("starting"));
    running.signal(rustix::process::Signal::INT);
    running.end().with_code(130);
}

#[test]
fn process_substitution_works_for_outputs() {
    if !Command::new("bash").arg("--version").output().is_ok_and(|bash| bash.status.success()) {
        return skipped("bash is not installed, so there was no process substitution");
    }
    let (place, _) = place_with_files();
    place.write("strange.jsonl", "{\"custom_id\":\"nobody\",\"response\":{}}\n");
    let script = r#"
        set -e
        # The shell does not wait for them by itself.
        said() { until test -s "$1"; do sleep 0.05; done; }
        "$BATCHLINE" merge in.jsonl --replies replies.jsonl -o >(gzip >out.gz; touch done1; echo x >one)
        said one
        gzip -dc out.gz | cmp - replies.jsonl
        "$BATCHLINE" run in.jsonl --provider local --poll-interval 50ms -o >(cat >a; echo x >two) --errors >(cat >b; echo x >three)
        said two; said three
        cmp a replies.jsonl && test ! -s b
        "$BATCHLINE" check bad.jsonl --report >(cat >c; echo x >four) || test $? = 4
        said four
        grep -q not-an-object c
        # A reader that has gone is a closed pipe.
        "$BATCHLINE" merge in.jsonl --replies replies.jsonl -o >(exec <&-; echo x >five; sleep 1)
        said five"#;
    place.write("script", script);
    place.shell("exec bash script").run().with_code(0);
}

#[test]
fn a_mount_point_is_written_over_because_it_cannot_be_replaced() {
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return skipped("mount points: this system does not let `unshare -rm` mount");
    }
    let (place, requests) = place_with_files();
    place.write("outside.jsonl", "a longer text than what will be written over it\n".repeat(10_000));
    place.write("inside.jsonl", "");
    place.write(
        "script",
        "mount --bind outside.jsonl inside.jsonl
         \"$BATCHLINE\" merge in.jsonl --replies replies.jsonl -o inside.jsonl",
    );
    place.shell("exec unshare -rm sh -e script").run().with_code(0);
    assert_same(&place.read("outside.jsonl"), &replies(&requests));
    assert!(place.read("inside.jsonl").is_empty());
    assert_eq!(parts(&place), [""; 0]);
}

/// Inputs without a line that is not blank.
const NOTHING: [(&str, &str); 4] =
    [("nothing", ""), ("blank lines", "\n  \n\r\n\t\n"), ("a byte order mark", "\u{feff}"), ("one blank line", "\n")];

/// The same in files and pipes, plain and compressed: the file's content, and what a command names.
fn ways_in(text: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let (gzip, zstd) = (gzip.finish().unwrap(), zstd::encode_all(text.as_bytes(), 3).unwrap());
    vec![
        ("a file", text.into(), "empty"),
        ("standard input", text.into(), "<empty"),
        ("a pipe", text.into(), "-"),
        ("gzip", gzip.clone(), "empty"),
        ("gzip through a pipe", gzip, "-"),
        ("zstd", zstd.clone(), "empty"),
        ("zstd through a pipe", zstd, "-"),
        ("two files", text.into(), "empty empty"),
        ("bodies alone", text.into(), "empty --assign-ids"),
        ("another provider", text.into(), "empty --provider openai"),
    ]
}

#[test]
fn nothing_in_is_a_warning_unless_nothing_is_right() {
    for (what, text) in NOTHING {
        for (way, content, named) in ways_in(text) {
            let (place, _) = place_with_files();
            place.write("empty", &content);
            let script = |command: &str, options: &str| {
                let source = if named == "-" { "cat empty |" } else { "" };
                format!(r#"{source} "$BATCHLINE" {command} {named} {options}"#)
            };
            for (command, options) in
                [("check", ""), ("plan", ""), ("split", "-d made"), ("merge", "--replies replies.jsonl -o made")]
            {
                let refused = place.shell(&script(command, options)).run();
                assert_eq!(refused.status.code(), Some(2), "{what}, {way}: {}", refused.stderr);
                assert!(refused.stderr.contains("error: the input has no requests"), "{}", refused.stderr);
                assert!(refused.stderr.contains("--allow-empty"), "{}", refused.stderr);
                assert!(refused.stdout.is_empty() && !place.has("made"), "{what}, {way}");
                place.shell(&script(command, &format!("{options} --allow-empty"))).run().with_code(0);
                if place.path("made").is_dir() {
                    std::fs::remove_dir(place.path("made")).expect("there are no shards");
                } else if place.has("made") {
                    assert!(place.read("made").is_empty());
                    std::fs::remove_file(place.path("made")).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_run_of_nothing_sends_nothing_and_is_one_only_if_nothing_is_right() {
    let service = Service::start();
    for (what, text) in NOTHING {
        for (way, content, named) in ways_in(text) {
            if named.contains("openai") {
                continue;
            }
            let (place, _) = place_with_files();
            place.write("empty", &content);
            let source = if named == "-" { "cat empty |" } else { "" };
            let command = format!(r#"{source} "$BATCHLINE" run {named} {} -o out.jsonl"#, service.arguments());
            place.shell(&command).run().with_code(2).saying("error: the input has no requests");
            assert_eq!((place.runs().len(), place.unnamed_runs().len()), (0, 0), "{what}, {way}");
            assert!(!place.has("out.jsonl"));
            for _ in 0..2 {
                place.shell(&format!("{command} --allow-empty")).run().with_code(0).saying("0 requests");
                assert!(place.read("out.jsonl").is_empty(), "{what}, {way}");
            }
            // That it was right once says nothing about the next time.
            place.shell(&command).run().with_code(2).saying("error: the input has no requests");
            let shown = place.shell(&command.replace("-o out.jsonl", "--json")).run().with_code(2).stderr;
            assert!(shown.contains(r#""exit":2"#) && shown.contains("--allow-empty"), "{shown}");
        }
    }
    assert_eq!(service.books().calls("create_file") + service.books().calls("create_batch"), 0);
}
