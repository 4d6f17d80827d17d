//! The build script: tells the program which commit it was built from, for `--version`.
//!
//! In: the git checkout, or what `cargo package` recorded of it. Out: `BATCHLINE_BUILD`, such as
//! `4401f58fa 2026-11-27`.
//!
//! Invariants: the same commit gives the same text, so the date is the commit's, never the build's. A build without git
//! works, and says that it does not know. Debug builds do not ask, so that a commit does not rebuild them.

use std::path::Path;
use std::process::Command;

/// Digits of a commit that are shown. Fixed, since git's own choice depends on the clone.
const COMMIT_DIGITS: usize = 9;

/// What `cargo package` records of the commit.
const PACKAGED: &str = ".cargo_vcs_info.json";

/// What the program is made of.
const SOURCES: &[&str] = &["src", "data", "Cargo.toml", "Cargo.lock"];

/// Said of a commit when these differ from it.
const MODIFIED: &str = ", modified";

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    let is_debug = std::env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    let build = if is_debug { Some("debug build".to_owned()) } else { checkout().or_else(package) };
    println!("cargo::rustc-env=BATCHLINE_BUILD={}", build.as_deref().unwrap_or("commit unknown"));
}

/// The commit that is checked out, its date, and whether files differ from it.
fn checkout() -> Option<String> {
    // A package that was unpacked within another project's checkout is not part of that.
    if !Path::new(".git").exists() {
        return None;
    }
    let head = git(&["log", "-1", "--format=%H %cs"])?;
    let (commit, date) = head.split_once(' ')?;
    // The log changes with every commit.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        // To cargo, a file that does not exist has always changed.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let is_clean = git(&[&status, SOURCES].concat())?.is_empty();
    Some(format!("{} {date}{}", commit.get(..COMMIT_DIGITS)?, if is_clean { "" } else { MODIFIED }))
}

/// The commit that this package was made from; its date is not recorded.
fn package() -> Option<String> {
    let recorded = std::fs::read_to_string(PACKAGED).ok()?;
    let (_, rest) = recorded.split_once("\"sha1\": \"")?;
    let commit = rest.get(..COMMIT_DIGITS)?;
    let modified = if recorded.contains("\"dirty\": true") { MODIFIED } else { "" };
    commit.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| format!("{commit}{modified}"))
}

/// What git prints, without the line end; `None` if there is no git, or it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let ended = Command::new("git").args(arguments).output().ok().filter(|ended| ended.status.success())?;
    Some(String::from_utf8(ended.stdout).ok()?.trim_end().to_owned())
}
