//! The official Python SDKs, unchanged, against `batchline serve`: Together's batch tutorial, and OpenAI's batches.

use std::path::PathBuf;
use std::process::Command;

use batchline::dialect;

use crate::program::{Place, skipped};
use crate::service::Service;

/// The versions that `.ci/run` installs, each in an environment of its own.
const VERSIONS: [&str; 2] = ["3.1.1", "2.42.0"];

/// The version of OpenAI's SDK that `.ci/run` installs.
const OPENAI: &str = "3.57.0";

/// The interpreters to try: those that `BATCHLINE_TEST_PYTHONS` names, with colons between, or those that `.ci/run` has
/// made.
fn interpreters() -> Vec<PathBuf> {
    if let Ok(named) = std::env::var("BATCHLINE_TEST_PYTHONS") {
        return named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    }
    let made =
        |version| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("target/sdk/together-{version}/bin/python"));
    VERSIONS.map(made).into()
}

#[test]
fn the_official_sdks_do_the_tutorial() {
    for python in interpreters() {
        let version = "from importlib.metadata import version; print(version('together'))";
        let installed = Command::new(&python).args(["-c", version]).output();
        if !installed.is_ok_and(|output| output.status.success()) {
            skipped(&format!("the tutorial: no `together` package for {}; .ci/run installs it", python.display()));
            continue;
        }
        let (place, service) = (Place::new(), Service::start_with("--batch-time 1s"));
        let root = service.base_url().strip_suffix("/v1").unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/tutorial.py");
        let ended = place.shell(&format!("exec '{}' '{script}' {root}", python.display())).run().with_code(0);
        assert!(ended.text().contains("the tutorial works"), "{}", ended.text());
    }
}

#[test]
fn the_official_openai_sdk_does_batches() {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("target/sdk/openai-{OPENAI}/bin/python"));
    let installed = Command::new(&python).args(["-c", "import openai"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        skipped(&format!("OpenAI's batches: no `openai` package for {}; .ci/run installs it", python.display()));
        return;
    }
    let (place, service) = (Place::new(), Service::speaking(dialect::OPENAI, "--batch-time 1s"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/openai_batches.py");
    let command = format!("exec '{}' '{script}' {}", python.display(), service.base_url());
    let ended = place.shell(&command).run().with_code(0);
    assert!(ended.text().contains("batches work"), "{}", ended.text());
}
