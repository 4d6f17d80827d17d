//! Why a run cannot continue, in terms of what the user can do about it.
//!
//! Invalid lines and failed requests are not errors but data, counted and written to the output.

use std::path::{Path, PathBuf};

use crate::input::InputError;
use crate::ledger::LedgerError;
use crate::model::shown::Name;
use crate::remote::RemoteError;
use crate::results::ResultsError;
use crate::run::earlier_run::EarlierRun;
pub use crate::run::error_kind::ErrorKind;
use crate::run::step_error::Origin;
pub use crate::run::step_error::StepError;
use crate::storage::durable;
use crate::storage::durable::{FileError, is_out_of_files};
use crate::storage::user_files::TargetError;

/// The action of an error about creating the state directory; its hint names alternatives.
pub(crate) const CREATE_HOME: &str = "create the state directory";

/// Everything that ends a run early. The cause, where there is one, is the `source()` and not part of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// An output cannot be written, or would overwrite something that is read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// There is nothing to do.
    #[error("the input has no requests: {}", emptiness(*blank))]
    Empty {
        /// Lines that are blank.
        blank: u64,
    },
    /// A local file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The Ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Replies cannot be brought into order.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The service refused, or is unreachable.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A step failed, here or on another machine.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The options contradict each other, or a setting is missing.
    #[error("{what}")]
    Configuration {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Lines of the input are not requests; nothing was sent.
    #[error("{defects} of {lines} lines are not valid requests; nothing was sent")]
    Defects {
        /// How many.
        defects: u64,
        /// Lines that are not blank.
        lines: u64,
    },
    /// Another process created the run at the same moment.
    #[error("the run directory {} was just created by another process", Name(path))]
    Raced {
        /// The run directory.
        path: PathBuf,
    },
    /// The given directory does not hold a run, or holds another one.
    #[error("the directory {} {what}", Name(path))]
    OtherDirectory {
        /// The directory.
        path: PathBuf,
        /// What is there instead.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Another process is using the run.
    #[error("the run directory {} is locked by another process{}", Name(path), holder(owner.as_ref()))]
    Locked {
        /// The run directory.
        path: PathBuf,
        /// Its process id, where known.
        owner: Option<u32>,
    },
    /// A run directory is damaged or incomplete.
    #[error("the run directory {} {what}", Name(path))]
    Directory {
        /// The run directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A directory for state belongs to another user or is a symbolic link.
    #[error("the state directory {} {what}", Name(path))]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        hint: String,
    },
    /// An earlier run has paid for some of what would be sent, and sending it again was not confirmed.
    #[error(
        "nothing was sent: an earlier run over {} has {}; this one would send all {}",
        earlier_inputs(.0), paid_for(.0), .0.sends
    )]
    PaidBefore(Box<EarlierRun>),
    /// The totals do not add up: a defect of this program.
    #[error("{what}: this is a defect of batchline, please report it")]
    Internal {
        /// What does not add up.
        what: String,
    },
    /// The user asked to stop.
    #[error("interrupted; run the same command to resume")]
    Interrupted,
}

fn emptiness(blank: u64) -> String {
    match blank {
        0 => "it is empty".to_owned(),
        1 => "its only line is blank".to_owned(),
        blank => format!("its {blank} lines are blank"),
    }
}

fn earlier_inputs(earlier: &EarlierRun) -> String {
    let names: Vec<String> = earlier.inputs.iter().map(|input| Name(Path::new(input)).to_string()).collect();
    format!("{} ({})", names.join(", "), Name(&earlier.directory))
}

/// What an earlier run has paid for.
fn paid_for(earlier: &EarlierRun) -> String {
    let at_service = match earlier.at_service {
        0 => String::new(),
        number => format!(", and {number} at the service"),
    };
    format!("answers to {} of {} requests{at_service}", earlier.answered, earlier.requests)
}

fn holder(owner: Option<&u32>) -> String {
    owner.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl From<Error> for StepError {
    /// Keeps what the driver decides by and what the user reads.
    fn from(error: Error) -> Self {
        let origin = match &error {
            Error::Step(step) => return step.clone(),
            Error::Remote(error) => Origin::Service(error.kind()),
            Error::Input(_) => Origin::Input,
            _ => Origin::Machine,
        };
        Self::new(origin, error.kind(), &error, error.hint())
    }
}

impl From<RemoteError> for StepError {
    fn from(error: RemoteError) -> Self {
        Error::from(error).into()
    }
}

impl Error {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(FileError { source: error, .. })
            | Self::Input(InputError::File(FileError { source: error, .. }))
            | Self::Results(ResultsError::Output(error) | ResultsError::File(FileError { source: error, .. }))
                if error.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                ErrorKind::ClosedPipe
            }
            Self::Input(InputError::File(error)) => input_file_kind(error),
            Self::Input(InputError::Altered { .. }) => ErrorKind::LocalState,
            Self::Input(_)
            | Self::Results(ResultsError::NotReplies { .. })
            | Self::Target(_)
            | Self::Empty { .. }
            | Self::OtherDirectory { .. }
            | Self::PaidBefore(_) => ErrorKind::Usage,
            Self::Locked { .. } | Self::Raced { .. } => ErrorKind::Locked,
            Self::Configuration { .. } => ErrorKind::Configuration,
            Self::Remote(error) => remote_kind(error),
            Self::File(_) | Self::Ledger(_) | Self::Results(_) | Self::Directory { .. } | Self::NotOurs { .. } => {
                ErrorKind::LocalState
            }
            Self::Step(error) => error.kind(),
            Self::Defects { .. } => ErrorKind::Defects,
            Self::Internal { .. } => ErrorKind::Internal,
            Self::Interrupted => ErrorKind::Interrupted,
        }
    }

    /// What the user can do, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Remote(error) => error.hint().map(str::to_owned),
            Self::Step(error) => error.hint().map(str::to_owned),
            Self::Configuration { hint, .. } => hint.clone(),
            Self::Directory { hint, .. } | Self::OtherDirectory { hint, .. } | Self::NotOurs { hint, .. } => {
                Some(hint.clone())
            }
            Self::Target(error) => error.hint(),
            Self::Empty { .. } => {
                Some("pass --allow-empty if this is intended; the output is then empty, too".to_owned())
            }
            Self::Raced { .. } => Some("run the same command again".to_owned()),
            Self::PaidBefore(_) => Some("pass --yes to send them all; the earlier run's replies are kept".to_owned()),
            Self::Locked { .. } => Some(
                "wait for the other process to end, or stop it; the lock is released when the process ends".to_owned(),
            ),
            Self::Defects { .. } => Some(
                "fix the lines, or pass --skip-invalid to give each of them an error line in the output".to_owned(),
            ),
            Self::Input(InputError::Altered { .. }) => Some(ALTERED.to_owned()),
            Self::Results(ResultsError::Request { source, .. })
                if matches!(source.downcast_ref(), Some(InputError::Altered { .. })) =>
            {
                Some(ALTERED.to_owned())
            }
            Self::Input(InputError::Shrunk { .. } | InputError::Changed { .. }) => {
                Some("do not modify the input until the run has ended".to_owned())
            }
            Self::File(error) if error.action == CREATE_HOME => {
                Some("choose another directory: BATCHLINE_HOME for all runs, --run-dir for this one".to_owned())
            }
            Self::File(error)
            | Self::Results(ResultsError::File(error))
            | Self::Input(InputError::File(error))
            | Self::Ledger(LedgerError::Intents(error)) => file_hint(error),
            Self::Results(ResultsError::NotReplies { form, .. }) => Some(form.hint().to_owned()),
            Self::Results(ResultsError::Damaged { .. } | ResultsError::Altered { .. } | ResultsError::Lost { .. })
            | Self::Ledger(LedgerError::Damaged { .. } | LedgerError::Sqlite { .. }) => Some(DOCTOR.to_owned()),
            Self::Ledger(LedgerError::Newer { .. }) => {
                Some("use the version of the program that wrote it, or a newer one".to_owned())
            }
            _ => None,
        }
    }
}

/// The kind of an error of the service.
#[must_use]
pub fn remote_kind(error: &RemoteError) -> ErrorKind {
    use crate::remote::ErrorKind as Remote;
    match error.kind() {
        Remote::Unauthorized => ErrorKind::Configuration,
        Remote::LocalFile | Remote::OutOfFiles | Remote::InputChanged => ErrorKind::LocalState,
        _ => ErrorKind::Provider,
    }
}

/// What the user can do about a file of the program's own.
#[must_use]
pub fn file_hint(error: &FileError) -> Option<String> {
    if error.source.kind() == std::io::ErrorKind::InvalidData {
        Some(DOCTOR.to_owned())
    } else {
        durable::remedy(&error.source).map(str::to_owned)
    }
}

/// What to do about an input that differs from what was sent.
const ALTERED: &str = "restore the input to its state when the run was started, then run the same command again: nothing more was sent, and \
                       every reply received so far is kept in the run directory";

/// What to do about damaged local state.
const DOCTOR: &str = "`batchline doctor RUN_DIR` shows what is damaged; with --repair it repairs what can be repaired";

/// An error about a file that the user named is a usage error; one about an internal file (a spool, an index) concerns
/// local state.
fn input_file_kind(error: &FileError) -> ErrorKind {
    let named = matches!(error.action, "open" | "read" | "resolve");
    if named && !is_out_of_files(&error.source) && error.source.kind() != std::io::ErrorKind::InvalidData {
        ErrorKind::Usage
    } else {
        ErrorKind::LocalState
    }
}
