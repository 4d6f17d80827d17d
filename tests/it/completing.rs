//! What shells are offered while a command is typed, the manual, and the version: all from one command line.

use std::process::Command;

use crate::program::{Place, names_in, skipped};

/// What is offered for the last of these words, without descriptions.
fn offered(place: &Place, words: &[&str]) -> Vec<String> {
    let mut program = place.program("-- batchline").env("BATCHLINE_COMPLETE", "fish");
    for word in words {
        program = program.argument(word);
    }
    program.run().with_code(0).text().lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn commands_options_and_values_are_offered() {
    let place = Place::new();
    let is_offered = |words: &[&str], expected: &[&str]| {
        let offered = offered(&place, words);
        assert!(expected.iter().all(|value| offered.iter().any(|one| one == value)), "{words:?}: {offered:?}");
    };
    is_offered(&[""], &["run", "check", "completions", "man"]);
    is_offered(&["run", "--pro"], &["--provider"]);
    is_offered(&["run", "--provider", ""], &["together", "openai", "local", "online", "custom"]);
    is_offered(&["check", "--dialect", ""], &["together", "openai"]);
    is_offered(&["serve", "--dialect", "o"], &["openai"]);
    is_offered(&["run", "--endpoint", "/v1/e"], &["/v1/embeddings"]);
    is_offered(&["merge", "--shape", ""], &["native", "common"]);
    is_offered(&["run", "--on-ambiguous", "h"], &["hold"]);
    is_offered(&["completions", ""], &["bash", "fish", "zsh"]);
    place.write("prompts.jsonl", "");
    is_offered(&["run", "pro"], &["prompts.jsonl"]);
    // What is offered once is a candidate, not a row of a table.
    assert_eq!(offered(&place, &["run", "--provider", "loc"]), ["local"]);
}

#[test]
fn runs_are_offered_by_name() {
    let place = Place::new();
    place.write("in.jsonl", r#"{"custom_id":"a","body":{"model":"m"}}"#);
    place.run("run in.jsonl --provider local -o out.jsonl").with_code(0);
    let name = place.run_directory().file_name().unwrap().to_str().unwrap().to_owned();
    for command in ["status", "retry", "doctor", "clean", "cancel"] {
        assert!(offered(&place, &[command, ""]).contains(&name), "{command}");
        assert_eq!(offered(&place, &[command, &name[..4]]), [&*name], "{command}");
    }
}

#[test]
fn the_script_for_bash_works_in_bash() {
    if !Command::new("bash").arg("--version").output().is_ok_and(|bash| bash.status.success()) {
        skipped("completions: no bash");
        return;
    }
    let script = r#"exec bash -ec '
        PATH=$(dirname "$BATCHLINE"):$PATH
        source <(batchline completions bash)
        complete -p batchline
        COMP_WORDS=(batchline run --provider loc) COMP_CWORD=3 COMP_TYPE=9
        _clap_complete_batchline batchline loc --provider
        echo "${COMPREPLY[@]}"'"#;
    let ended = Place::new().shell(script).run().with_code(0);
    assert!(ended.text().contains("-F _clap_complete_batchline batchline"), "{}", ended.text());
    assert!(ended.text().ends_with("\nlocal\n"), "{}", ended.text());
}

#[test]
fn an_unknown_shell_is_refused() {
    let place = Place::new();
    place.run("completions tcsh").with_code(2).saying("possible values: bash, fish, zsh");
    place.program("-- batchline").env("BATCHLINE_COMPLETE", "tcsh").run().with_code(2).saying("unknown shell");
}

#[test]
fn every_command_has_a_page_in_the_manual() {
    let place = Place::new();
    place.run("man pages/man1").with_code(0);
    let help = place.run("--help").with_code(0).text();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut expected = vec!["batchline.1".to_owned()];
    // What is indented further is the rest of a description.
    let names = commands.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    expected.extend(names.filter(|name| *name != "help").map(|name| format!("batchline-{name}.1")));
    expected.sort();
    assert_eq!(names_in(&place.path("pages/man1")), expected);
    let page = String::from_utf8(place.read("pages/man1/batchline-run.1")).unwrap();
    assert!(page.contains(r"\-\-completion\-window"), "{page}");
    assert_eq!(place.run("man").with_code(0).stdout, place.read("pages/man1/batchline.1"));
    place.write("file", "");
    place.run("man file/pages").with_code(8);
}

#[test]
fn the_version_says_what_was_built() {
    let text = Place::new().run("--version").with_code(0).text();
    let build = text.strip_prefix(concat!("batchline ", env!("CARGO_PKG_VERSION"), " (")).unwrap();
    let build = build.strip_suffix(")\n").unwrap();
    // A commit and its date, unless cargo was asked to be quick.
    let is_commit = build.len() >= 9 && build[..9].bytes().all(|digit| digit.is_ascii_hexdigit());
    assert!(is_commit || ["debug build", "commit unknown"].contains(&build), "{build}");
}
