//! The Python package over the program: its own tests, in [python/](../python), with the program that was just built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::program::{Place, skipped};

/// How long a test module may take: each runs the program some dozen times.
const PATIENCE: Duration = Duration::from_mins(5);

/// Runs a test module, and insists that all of its tests pass.
fn passes(python: &Path, module: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let command = format!("exec '{}' -X dev -W error -m unittest {module}", python.display());
    let paths = ["src/python", "tests/python"].map(|path| root.join(path).display().to_string()).join(":");
    let place = Place::new();
    let program = place.shell(&command).env("PYTHONPATH", &paths).env("PYTHONDONTWRITEBYTECODE", "1");
    let ended = program.env("BATCHLINE_PROGRAM", env!("CARGO_BIN_EXE_batchline")).start().end_within(PATIENCE);
    ended.with_code(0).saying("\nOK\n");
}

/// The interpreter, if it is new enough for the package.
fn interpreter(module: &str) -> Option<PathBuf> {
    let python = PathBuf::from("python3");
    let check = "import sys; sys.exit(sys.version_info < (3, 10))";
    let is_there = Command::new(&python).args(["-c", check]).status().is_ok_and(|status| status.success());
    if !is_there {
        skipped(&format!("{module}: no Python 3.10 or newer"));
    }
    is_there.then_some(python)
}

#[test]
fn rows_become_the_same_lines_each_time() {
    if let Some(python) = interpreter("test_rows") {
        passes(&python, "test_rows");
    }
}

#[test]
fn runs_are_started_interrupted_and_resumed() {
    if let Some(python) = interpreter("test_run") {
        passes(&python, "test_run");
    }
}

#[test]
fn tables_of_pandas_polars_and_arrow_are_rows() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sdk/tables/bin/python");
    if Command::new(&python)
        .args(["-c", "import pandas, polars, pyarrow"])
        .status()
        .is_ok_and(|status| status.success())
    {
        passes(&python, "test_tables");
    } else {
        skipped("tables: no pandas, polars and pyarrow in target/sdk/tables; .ci/run installs them");
    }
}
