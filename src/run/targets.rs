//! Checks the files that a run or an offline command will write, before anything is read.
//!
//! In: the options, with their paths as typed. Out: nothing, or a [`TargetError`].

use std::path::Path;

use super::directory::layout;
use super::options::{InputOptions, OutputTarget};
use super::output::Outputs;
use crate::storage::user_files::{NamedFiles, Role, TargetError};

/// The files that are read: the inputs. All that is read is to be named before anything that is written.
pub(crate) fn reading(input: &InputOptions) -> Result<NamedFiles, TargetError> {
    let mut files = NamedFiles::default();
    for input in &input.inputs {
        files.read(Role::Input, input.path())?;
    }
    Ok(files)
}

/// Adds the file for Defects.
pub(crate) fn write_report(files: &mut NamedFiles, input: &InputOptions) -> Result<(), TargetError> {
    input.report.as_deref().map_or(Ok(()), |path| files.write(Role::Report, path))
}

/// The files of checking: the inputs, and the file for Defects.
pub(crate) fn checking(input: &InputOptions) -> Result<NamedFiles, TargetError> {
    let mut files = reading(input)?;
    write_report(&mut files, input)?;
    Ok(files)
}

/// Adds the files for replies.
pub(crate) fn write_outputs(files: &mut NamedFiles, outputs: &Outputs) -> Result<(), TargetError> {
    if let OutputTarget::File(path) = &outputs.output {
        files.write(Role::Output, path)?;
    }
    outputs.errors.as_deref().map_or(Ok(()), |path| files.write(Role::Errors, path))
}

/// Refuses files inside run directories: existing ones, and the one to be created.
pub(crate) fn keep_out_of_runs(files: &NamedFiles, run: Option<&Path>) -> Result<(), TargetError> {
    let run = run.and_then(|run| run.canonicalize().ok());
    let is_run = |directory: &Path| layout::ledger(directory).is_file() || run.as_deref() == Some(directory);
    for written in files.written() {
        if let Some(run) = written.resolved.ancestors().skip(1).find(|directory| is_run(directory)) {
            let (role, path, run) = (written.role, written.path.to_owned(), run.to_owned());
            return Err(TargetError::InsideRun { role, path, run });
        }
    }
    Ok(())
}
