//! Where runs are kept: the user's state directory, from the environment, and `.batchline/` of earlier versions.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use batchline::run::RunPlaces;
use batchline::run::directory::layout;
use batchline::run::error::Error;

use super::exit::Failure;

/// The environment variable that overrides where runs are kept.
pub(crate) const HOME_VARIABLE: &str = "BATCHLINE_HOME";

/// The name of the program's directory within the XDG state directory.
const HOME_NAME: &str = "batchline";

/// Where earlier versions kept runs, relative to the working directory.
const IN_WORKING_DIRECTORY: &str = ".batchline";

/// All directories that hold runs.
pub(crate) fn places() -> Result<RunPlaces, Failure> {
    let others = vec![PathBuf::from(IN_WORKING_DIRECTORY)];
    Ok(RunPlaces { home: home()?, others })
}

/// Where new runs are created.
fn home() -> Result<PathBuf, Failure> {
    if let Some(named) = variable(HOME_VARIABLE) {
        return Ok(std::path::absolute(&named).unwrap_or(named));
    }
    // The XDG Base Directory Specification says to ignore a relative path.
    if let Some(state) = variable("XDG_STATE_HOME").filter(|path| path.is_absolute()) {
        return Ok(state.join(HOME_NAME));
    }
    let home = std::env::home_dir().filter(|path| path.is_absolute()).ok_or_else(|| {
        let hint = Some(format!("set {HOME_VARIABLE} to a directory for runs, or pass one with --run-dir"));
        Failure::Run(Error::Configuration { what: "this user has no home directory".to_owned(), hint })
    })?;
    Ok(home.join(".local/state").join(HOME_NAME))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
}

/// The directory of a run given by path, or by name in one of the directories that hold runs.
pub(crate) fn named(run: &Path) -> Result<PathBuf, Failure> {
    let is_name = run.components().count() == 1 && run.file_name().is_some();
    if !is_name || layout::ledger(run).exists() {
        return Ok(run.to_owned());
    }
    let places = places()?;
    let there = places.each().map(|place| place.join(run)).find(|path| layout::ledger(path).exists());
    Ok(there.unwrap_or_else(|| run.to_owned()))
}
