//! Outputs that a command must not write: its own inputs, under any name, one file twice, unwritable files. It ends
//! with exit 2 before anything is read, and every file is unchanged.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{Place, names_in, report, skipped};
use crate::requests::{generated, replies};

/// What stands in the place of the target in a command.
const TARGET: &str = "{}";

/// What each path below a directory is: its mode, its inode, its content or where it leads.
type Snapshot = BTreeMap<PathBuf, (u32, u64, Vec<u8>)>;

fn snapshot(directory: &Path) -> Snapshot {
    let mut seen = Snapshot::new();
    for path in names_in(directory).into_iter().map(|name| directory.join(name)) {
        let metadata = path.symlink_metadata().unwrap();
        let content = match () {
            () if metadata.is_symlink() => path.read_link().unwrap().into_os_string().into_encoded_bytes(),
            () if metadata.is_file() => std::fs::read(&path).unwrap(),
            () => Vec::new(),
        };
        if metadata.is_dir() {
            seen.extend(snapshot(&path));
        }
        seen.insert(path, (metadata.mode(), metadata.ino(), content));
    }
    seen
}

/// Requests in two files, replies to them, a key, outputs of an earlier run, and links to all of it.
fn place_with_files() -> Place {
    let (place, requests) = (Place::new(), generated(6));
    let cut = requests.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    place.write("in.jsonl", &requests[..cut]);
    place.write("more.jsonl", &requests[cut..]);
    place.write("replies.jsonl", replies(&requests[..cut]));
    place.write("others.jsonl", replies(&requests[cut..]));
    place.write("old.jsonl", "an earlier output\n");
    place.write("key", "a-key");
    // Replies that an earlier merge has set aside are inputs of the next one.
    place.write("merge-unknown.jsonl", replies(&requests[..cut]));
    std::fs::set_permissions(place.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir(place.path("below")).unwrap();
    symlink(".", place.path("here")).unwrap();
    for name in ["in.jsonl", "more.jsonl", "replies.jsonl", "others.jsonl", "old.jsonl", "key", "new.jsonl"] {
        symlink(name, place.path(&format!("link-{name}"))).unwrap();
        symlink(format!("here/link-{name}"), place.path(&format!("link-link-{name}"))).unwrap();
        if name != "new.jsonl" {
            std::fs::hard_link(place.path(name), place.path(&format!("hard-{name}"))).unwrap();
        }
    }
    place
}

/// Names under which a file of the place can be found; one that is not there has no hard link.
fn spellings(place: &Place, name: &str) -> Vec<String> {
    let absolute = place.path(name).display().to_string();
    let mut spellings = vec![
        name.to_owned(),
        format!("./{name}"),
        absolute.replacen('/', "//", 2),
        format!("below/../{name}"),
        format!("here/here/{name}"),
        format!("link-{name}"),
        format!("link-link-{name}"),
        absolute,
    ];
    if place.has(name) {
        spellings.push(format!("hard-{name}"));
    }
    spellings
}

/// Insists that a command is turned away with these words, and that it has changed nothing.
#[track_caller]
fn assert_refused(place: &Place, before: &Snapshot, command: &str, words: &str) {
    let ended = place.shell(&format!("exec \"$BATCHLINE\" {command}")).run();
    assert_eq!(ended.status.code(), Some(2), "{command}: {}", ended.stderr);
    assert!(ended.stderr.contains(words), "{command}: {words:?} is not in: {}", ended.stderr);
    assert!(ended.stdout.is_empty(), "{command}");
    let after = snapshot(&place.path(""));
    assert!(after == *before, "{command} has changed one of {:?}", after.keys().collect::<Vec<_>>());
}

const SAME: &str = "is the same file as";

/// Commands that read the file named first and would write to the target.
const WRITING_OVER_WHAT_IS_READ: [(&str, &str); 33] = [
    ("in.jsonl", "run in.jsonl more.jsonl --provider local -o {}"),
    ("in.jsonl", "run in.jsonl more.jsonl --provider local -o safe.jsonl --errors {}"),
    ("in.jsonl", "run in.jsonl more.jsonl --provider local -o safe.jsonl --report {}"),
    ("more.jsonl", "run in.jsonl more.jsonl --provider local --errors {}"),
    ("more.jsonl", "run in.jsonl link-more.jsonl --provider local -o {}"),
    ("in.jsonl", "run --provider local -o {} <in.jsonl"),
    ("in.jsonl", "run more.jsonl - --provider local --errors {} <in.jsonl"),
    ("key", "run in.jsonl --provider local --base-url http://127.0.0.1:1 --api-key-file key -o {}"),
    ("key", "run in.jsonl --provider local --base-url http://127.0.0.1:1 --api-key-file key --errors {}"),
    ("key", "run in.jsonl --provider local --base-url http://127.0.0.1:1 --api-key-file key --report {}"),
    ("in.jsonl", "check in.jsonl more.jsonl --report {}"),
    ("more.jsonl", "check in.jsonl more.jsonl --report {}"),
    ("in.jsonl", "check --report {} <in.jsonl"),
    ("in.jsonl", "plan in.jsonl more.jsonl --report {}"),
    ("more.jsonl", "plan in.jsonl hard-more.jsonl --report {}"),
    ("in.jsonl", "plan - --report {} <in.jsonl"),
    ("in.jsonl", "split in.jsonl more.jsonl -d shards --report {}"),
    ("more.jsonl", "split in.jsonl more.jsonl -d shards --report {}"),
    ("in.jsonl", "split -d below --report {} <in.jsonl"),
    ("in.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl -o {}"),
    ("in.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl --errors {}"),
    ("in.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl --report {}"),
    ("more.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl -o {}"),
    ("in.jsonl", "merge --replies replies.jsonl -o {} <in.jsonl"),
    ("replies.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl -o {}"),
    ("replies.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl --errors {}"),
    ("replies.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl --report {}"),
    ("others.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl others.jsonl -o {}"),
    ("others.jsonl", "merge in.jsonl more.jsonl --replies replies.jsonl link-others.jsonl --errors {}"),
    ("others.jsonl", "merge in.jsonl --replies hard-others.jsonl --report {}"),
    // Through descriptors, which a shell opens without looking.
    ("in.jsonl", "run in.jsonl --provider local >>{}"),
    ("in.jsonl", "run in.jsonl --provider local -o - >>{}"),
    ("replies.jsonl", "merge in.jsonl --replies replies.jsonl -o /dev/fd/3 3>>{}"),
];

#[test]
fn inputs_are_never_overwritten_under_any_name() {
    let place = place_with_files();
    let before = snapshot(&place.path(""));
    let mut tried = 0;
    for (victim, command) in WRITING_OVER_WHAT_IS_READ {
        for spelling in spellings(&place, victim) {
            assert_refused(&place, &before, &command.replace(TARGET, &spelling), SAME);
            tried += 1;
        }
    }
    report(&format!("{tried} outputs that were inputs: all refused, nothing changed"));
}

/// Commands with two targets, which must not be one.
const WRITING_TWICE: [&str; 8] = [
    "run in.jsonl --provider local -o {} --errors {2}",
    "run in.jsonl --provider local -o {} --report {2}",
    "run in.jsonl --provider local --errors {} --report {2}",
    "run in.jsonl --provider local -o {} --errors safe.jsonl --report {2}",
    "merge in.jsonl --replies replies.jsonl -o {} --errors {2}",
    "merge in.jsonl --replies replies.jsonl -o {} --report {2}",
    "merge in.jsonl --replies replies.jsonl --errors {} --report {2}",
    "merge in.jsonl --replies replies.jsonl -o safe.jsonl --errors {} --report {2}",
];

#[test]
fn no_two_outputs_are_one_file_whether_it_is_there_or_not() {
    let place = place_with_files();
    let before = snapshot(&place.path(""));
    for name in ["old.jsonl", "new.jsonl"] {
        for command in WRITING_TWICE {
            for spelling in spellings(&place, name) {
                for (one, other) in [(name, &*spelling), (&*spelling, name)] {
                    assert_refused(&place, &before, &command.replace("{2}", other).replace(TARGET, one), SAME);
                }
            }
        }
    }
    for (command, words) in [
        ("run in.jsonl --provider local --errors -", "hint: name another file, or omit --errors"),
        ("run in.jsonl --provider local -o /dev/stdout --errors /dev/fd/1", SAME),
        ("merge in.jsonl --replies replies.jsonl -o /dev/fd/3 --errors /proc/self/fd/3 3>&1", SAME),
    ] {
        assert_refused(&place, &before, command, words);
    }
}

#[test]
fn replies_are_not_set_aside_over_anything_else() {
    let place = place_with_files();
    let before = snapshot(&place.path(""));
    let hint = "hint: pass another --aside PREFIX";
    // Without --aside it is `merge`, which nobody typed.
    assert_refused(&place, &before, "merge in.jsonl --replies merge-unknown.jsonl", hint);
    assert_refused(&place, &before, "merge merge-unknown.jsonl --replies replies.jsonl", hint);
    for kind in ["unknown", "conflicts", "unreadable"] {
        for prefix in ["x", "./x", "here/x", "below/../x"] {
            for option in ["-o", "--errors", "--report"] {
                let command =
                    format!("merge in.jsonl --replies replies.jsonl {option} x-{kind}.jsonl --aside {prefix}");
                assert_refused(&place, &before, &command, hint);
            }
        }
    }
    assert_refused(&place, &before, "merge in.jsonl --replies replies.jsonl --aside no/x", "there is no directory no");
}

#[test]
fn shards_and_generated_requests_replace_nothing_unless_told_to() {
    let place = place_with_files();
    std::fs::create_dir(place.path("shards")).unwrap();
    for name in ["shard-000000.jsonl", "shard-000007.jsonl", "shard-notes.jsonl", "shard-1.jsonl"] {
        place.write(&format!("shards/{name}"), "kept\n");
    }
    let before = snapshot(&place.path(""));
    for directory in ["shards", "./shards/", "here/shards"] {
        let words = format!("{}/shard-000000.jsonl exists already", directory.trim_end_matches('/'));
        assert_refused(&place, &before, &format!("split in.jsonl -d {directory}"), &words);
    }
    // Not even then over what is read, or over the report.
    for command in [
        "split shards/shard-000007.jsonl -d shards --force",
        "split in.jsonl -d here/shards --force <shards/shard-000000.jsonl -",
        "split in.jsonl -d here/shards --force --report shards/shard-000000.jsonl",
        "split in.jsonl -d here/shards --force --report shards/shard-000003.jsonl",
    ] {
        assert_refused(&place, &before, command, SAME);
    }
    for name in ["old.jsonl", "in.jsonl"] {
        for spelling in spellings(&place, name) {
            let command = format!("generate -n 3 -o {spelling}");
            assert_refused(&place, &before, &command, "exists already\n\nhint: pass --force");
        }
    }
    // What killed processes have left goes, too.
    place.write("shards/.shard-000042.jsonl.0123abcd.part", "half a li");
    // A defect is found before the old shards go.
    place.write("bad.jsonl", "[]\n");
    place.run("split bad.jsonl -d shards --force").with_code(4);
    assert_eq!(place.read("shards/shard-000007.jsonl"), b"kept\n");

    let printed = place.run("split in.jsonl -d shards --force").with_code(0).text();
    assert_eq!(printed, "shards/shard-000000.jsonl\n");
    let left = ["shard-000000.jsonl", "shard-1.jsonl", "shard-notes.jsonl"];
    assert_eq!(names_in(&place.path("shards")), left, "shards of an earlier split are gone, what is not one stays");
    assert_eq!(place.read("shards/shard-000000.jsonl"), place.read("in.jsonl"));
    place.run("generate -n 3 -o old.jsonl --force").with_code(0);
    assert_eq!(place.read("old.jsonl"), generated(3));
}

#[test]
fn what_cannot_be_written_is_found_before_anything_is_read() {
    let place = place_with_files();
    symlink("loop", place.path("loop")).unwrap();
    symlink("nowhere/x.jsonl", place.path("lost")).unwrap();
    let before = snapshot(&place.path(""));
    let targets = [
        ("no/x.jsonl", "there is no directory no"),
        ("no/", "there is no directory no/"),
        ("below/no/x.jsonl", "there is no directory below/no"),
        ("in.jsonl/x.jsonl", "there is no directory in.jsonl"),
        ("lost", "there is no directory nowhere"),
        ("below", "it is a directory"),
        ("here", "it is a directory"),
        (".", "it is a directory"),
        ("/", "it is a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("\"\"", "a value is required"),
    ];
    for (target, words) in targets {
        for command in [
            "run - --provider local -o {}",
            "run - --provider local --errors {}",
            "run - --provider local --report {}",
            "check - --report {}",
            "plan - --report {}",
            "split - -d shards --report {}",
            "merge - --replies replies.jsonl -o {}",
            "merge - --replies replies.jsonl --errors {}",
            "merge - --replies replies.jsonl --report {}",
            "generate -n 3 -o {}",
        ] {
            // It would wait for ever for its standard input.
            let command = command.replace(TARGET, target);
            let ended = place.shell(&format!("exec \"$BATCHLINE\" {command}")).silent_input().run().with_code(2);
            assert!(ended.stderr.contains(words), "{command}: {}", ended.stderr);
            assert!(snapshot(&place.path("")) == before, "{command}");
        }
    }
    for (command, words) in [
        ("split in.jsonl -d key", "there is no directory key"),
        ("split in.jsonl -d key/x", "there is no directory key"),
        ("merge in.jsonl --replies replies.jsonl no.jsonl -o x.jsonl", "cannot open no.jsonl: No such file"),
        ("run in.jsonl no.jsonl --provider local -o x.jsonl", "cannot open no.jsonl: No such file"),
        ("run in.jsonl --provider local -o /dev/stdin", "cannot write the output /dev/stdin: Bad file descriptor"),
    ] {
        assert_refused(&place, &before, command, words);
    }
}

/// A script under another user than root, who may write anywhere; `None` if that cannot be had.
fn as_somebody(place: &Place, script: &str) -> Option<crate::program::Program> {
    let probe = Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skipped("files of others: this user may not become another one with setpriv");
        return None;
    }
    std::fs::set_permissions(place.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    place.write("script", script);
    // The program lies where only its owner may look: it is handed over open.
    Some(place.shell("exec setpriv --reuid=65534 --regid=65534 --clear-groups sh script 9<\"$BATCHLINE\""))
}

#[test]
fn what_others_have_protected_is_refused_before_anything_is_read() {
    let place = place_with_files();
    for name in ["in.jsonl", "replies.jsonl"] {
        std::fs::set_permissions(place.path(name), PermissionsExt::from_mode(0o644)).unwrap();
    }
    std::fs::set_permissions(place.path("old.jsonl"), PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::set_permissions(place.path("below"), PermissionsExt::from_mode(0o755)).unwrap();
    let script = "
        for target in old.jsonl below/new.jsonl; do
            /proc/self/fd/9 merge in.jsonl --replies replies.jsonl -o $target </dev/null 2>&1
            /proc/self/fd/9 run in.jsonl --provider local --errors $target </dev/null 2>&1
            /proc/self/fd/9 split in.jsonl -d below/shards </dev/null 2>&1
        done";
    let Some(program) = as_somebody(&place, script) else { return };
    let ended = program.run();
    let told = ended.text();
    if told.contains("/proc/self/fd/9") {
        return skipped("files of others: the program cannot be run by another user here");
    }
    for (role, target, times) in [
        ("the output", "old.jsonl", 1),
        ("the error file", "old.jsonl", 1),
        ("the output", "below/new.jsonl", 1),
        ("the error file", "below/new.jsonl", 1),
        ("the shard file", "below/shards", 2),
    ] {
        let words = format!("error: cannot write {role} {target}: Permission denied");
        assert_eq!(told.matches(&words).count(), times, "{words} in {told}");
    }
    assert_eq!(place.read("old.jsonl"), b"an earlier output\n");
    assert!(!place.has(".batchline"), "{told}");
}

#[test]
fn nothing_is_written_into_a_run() {
    let place = place_with_files();
    place.run("run in.jsonl --provider local --poll-interval 50ms -o out.jsonl").with_code(0);
    place.run("run more.jsonl --provider local --poll-interval 50ms --run-dir mine -o out.jsonl").with_code(0);
    let run = place.run_directory().display().to_string();
    let before = snapshot(&place.path(""));
    for run in [&*run, "mine", "here/mine"] {
        for target in ["ledger.sqlite", "out.jsonl", "replies/out.jsonl"] {
            for command in [
                "run in.jsonl --provider local -o {}",
                "run in.jsonl --provider local --run-dir mine --errors {}",
                "merge in.jsonl --replies replies.jsonl -o {}",
                "check in.jsonl --report {}",
            ] {
                let command = command.replace(TARGET, &format!("{run}/{target}"));
                assert_refused(&place, &before, &command, "into the run directory");
            }
        }
        assert_refused(&place, &before, &format!("split in.jsonl -d {run}"), "into the run directory");
    }
}

/// File systems that ignore case: how one is made in a file, and how it is mounted.
const IGNORING_CASE: [(&str, &str, &str); 3] = [
    ("vfat", "mkfs.vfat image", "mount -o loop image there"),
    ("ext4", "mkfs.ext4 -q -O casefold image", "mount -o loop image there && mkdir there/f && chattr +F there/f"),
    ("NTFS", "mkntfs -F -q -Q image", "lowntfs-3g -o ignore_case image there"),
];

#[test]
fn names_that_differ_in_case_are_the_same_where_the_file_system_says_so() {
    let requests = generated(6);
    let mut seen = 0;
    for (kind, make, mount) in IGNORING_CASE {
        let place = Place::new();
        place.write("in.jsonl", &requests);
        place.write("replies.jsonl", replies(&requests));
        // In a name space of its own, so that nothing stays mounted.
        let script = format!(
            r#"
            truncate -s 32M image && mkdir there && {make} >made 2>&1 && {mount} >>made 2>&1 || exit 77
            if test -d there/f; then cd there/f; else cd there; fi
            mkdir Dir && cp {here}/in.jsonl Dir/in.jsonl && cp {here}/replies.jsonl Replies.jsonl
            for target in DIR/in.jsonl Dir/IN.JSONL dir/In.Jsonl REPLIES.jsonl; do
                "$BATCHLINE" merge Dir/in.jsonl --replies Replies.jsonl -o $target
                echo $?
            done
            "$BATCHLINE" run Dir/in.jsonl --provider local -o new.jsonl --errors NEW.jsonl
            echo $?
            cmp {here}/in.jsonl Dir/in.jsonl && cmp {here}/replies.jsonl Replies.jsonl && ls -A"#,
            here = place.path("").display()
        );
        place.write("script", script);
        let mounted = place.shell("exec unshare -m sh script 2>told").run();
        if !mounted.status.success() {
            continue;
        }
        seen += 1;
        // Some show names as they were given, others in lower case.
        assert_eq!(mounted.text().to_lowercase(), "2\n2\n2\n2\n2\ndir\nreplies.jsonl\n", "{kind}");
        let told = String::from_utf8(place.read("told")).unwrap();
        assert_eq!(told.matches(SAME).count(), 5, "{kind}: {told}");
    }
    if seen == 0 {
        skipped("names that differ in case: no file system that ignores it can be mounted here");
    }
    // Where case matters, they are two files.
    let place = place_with_files();
    place.run("merge in.jsonl --replies others.jsonl --aside a -o x.jsonl --errors X.jsonl").with_code(6);
    assert!(place.has("x.jsonl") && place.has("X.jsonl"));
}
