//! Scripts as files: what is wrong with them, and the examples.

use super::*;

fn complaint(script: &str) -> String {
    Faults::parse(Path::new("a/test.toml"), script).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_with_a_script_is_told_with_its_line() {
    for (script, expected) in [
        ("[[fault]]\ndo = 'crlf'\n\n[[fault]]\ndo = 'accept_slow'\ndleay = '1s'", "4: accept_slow needs `delay`"),
        (
            "[[fault]]\ndo = 'accept_slow'\ndelay = '1s'\n# a comment\ndleay = '1s'",
            "5: `dleay` means nothing to accept_slow; it takes do, nth, from, to, every, probability, batch, delay, \
             call, file",
        ),
        ("[[fault]]\ndo = 'accept_slow'\ndelay = 5", "3: `delay`: invalid type: integer `5`, expected a string"),
        (
            "[[fault]]\ndo = 'accept_slow'\ndelay = 'soon'",
            "3: `delay`: \"soon\" is not a duration; write it like \"200ms\", \"5s\" or \"2m\"",
        ),
        ("[[fault]]\ndo = 'accept_slow'\ndelay = '-1s'", "3: `delay`: \"-1s\" is not a duration"),
        ("[[fault]]\ncall = 'create'", "1: the fault needs `do`"),
        ("\n[[fault]]\ndo = 'explode'", "2: there is no fault \"explode\"; there are accept_then_drop, "),
        ("[[fault]]\ndo = 'status'\nstatus = 500", "1: `call` is missing: "),
        ("[[fault]]\ndo = 'status'\ncall = 'any'\nstatus = 99", "4: `status`: 99 is not a status"),
        (
            "[[fault]]\ndo = 'late_commit'\ndelay = '1s'\ncall = 'list'",
            "4: `call`: it cannot act on list; it acts on create",
        ),
        ("[[fault]]\ndo = 'drop_before'\ncall = ['create', 'lsit']", "3: `call`: "),
        ("[[fault]]\ndo = 'crlf'\nnth = 0", "3: `nth`: it names numbers, which count from 1"),
        ("[[fault]]\ndo = 'crlf'\nfrom = 3\nto = 2", "1: `from` comes after `to`, so the fault would never act"),
        ("[[fault]]\ndo = 'drop_rows'\nshare = 1.5", "3: `share`: 1.5 is not a share; it goes from 0 to 1"),
        ("[[fault]]\ndo = 'drop_rows'\nshare = 0.5\nrows = 1", "1: `rows` and `share` both choose rows"),
        ("[[fault]]\ndo = 'deep'\ndepth = 10_000_001", "3: `depth`: 10000001 is not from 1 to 10000000"),
        ("[[fault]]\ndo = 'visibility_lag'\nstatus = 200", "3: `status`: 200 does not say no"),
        ("[[fault]]\ndo = 'crlf'\ncall = 'create'", "3: `call` means nothing to crlf"),
        ("[[fault]]\ndo = 'crlf'\nbatch = 1\nnth = 1", "1: `batch` and `nth` both choose batches"),
        ("[[fault]]\ndo = 'redirect'\ncall = 'list'\nlocation = 'nowhere'", "4: `location`: \"nowhere\" leads nowhere"),
        (
            "[[fault]]\ndo = 'redirect'\ncall = 'list'\nlocation = 'same'\nstatus = 200",
            "5: `status`: 200 does not redirect",
        ),
        ("[[faults]]\ndo = 'crlf'", "1: `faults` means nothing here; a script is a list of [[fault]]"),
        ("[fault]\ndo = 'crlf'", "1: `fault` is one of many: write [[fault]]"),
        ("[[fault]]\ndo = 'crlf\n", "2: "),
    ] {
        let told = complaint(script);
        assert!(told.starts_with(&format!("a/test.toml:{expected}")), "{script}\n{told}");
    }
}

#[test]
fn a_script_that_is_not_there_is_named() {
    let error = Faults::load(Path::new("/nowhere/faults.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the faults in /nowhere/faults.toml");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_script_without_faults_is_one() {
    assert!(faults("# nothing\n").is_empty());
    assert!(!faults("[[fault]]\ndo = 'crlf'").is_empty());
}

#[test]
fn every_fault_is_documented() {
    let documentation = include_str!("../../../../src/serve/faults.md");
    for name in complaint("[[fault]]\ndo = 'explode'").split_once("there are ").unwrap().1.split(", ") {
        let documented =
            documentation.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{name}`")));
        assert!(documented, "{name}");
    }
}

#[test]
fn the_examples_can_be_loaded() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/faults");
    let mut examples = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let script = Faults::load(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(!script.is_empty(), "{}", path.display());
        examples += 1;
    }
    assert!(examples >= 8, "{examples}");
}
