//! Exit codes, and how errors are printed.

use std::error::Error as StdError;
use std::process::ExitCode;

use batchline::remote::{AddressError, SetupError};
use batchline::run::error::{Error, ErrorKind, file_hint, remote_kind};
use batchline::serve::ServeError;

use super::records::{Failed, Record};
use super::terminal::{StdoutError, say, say_json, say_line};

/// Exit codes. Scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Every request has an output.
    Success = 0,
    /// A bug in this program.
    Internal = 1,
    /// The command line, an input that cannot be read, an output that cannot be written.
    Usage = 2,
    /// A setting or the API key.
    Configuration = 3,
    /// The input has invalid lines; nothing was sent.
    Defects = 4,
    /// The provider refused or could not be reached.
    Provider = 5,
    /// Finished, but some requests ended as error or missing, or a batch failed or expired.
    Incomplete = 6,
    /// A submission is unresolved, or a second batch was found for one.
    Held = 7,
    /// The local state is damaged or out of space.
    LocalState = 8,
    /// Another running process is using the same run.
    Locked = 9,
    /// Interrupted by Ctrl-C; resumable.
    Interrupted = 130,
    /// Asked to end by SIGTERM; resumable.
    Terminated = 143,
}

impl Exit {
    fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Internal => Self::Internal,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Configuration => Self::Configuration,
            ErrorKind::Defects => Self::Defects,
            ErrorKind::Provider => Self::Provider,
            ErrorKind::LocalState => Self::LocalState,
            ErrorKind::Locked => Self::Locked,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::ClosedPipe => Self::Success,
        }
    }

    /// The more severe of two: local damage takes precedence over unfinished requests.
    pub(crate) fn or(self, other: Self) -> Self {
        if (self as u8) >= (other as u8) { self } else { other }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library cannot continue.
    #[error(transparent)]
    Run(#[from] Error),
    /// The local service cannot continue.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The client of a service cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// As [`Error::Interrupted`], by SIGTERM.
    #[error("terminated; run the same command to resume")]
    Terminated,
    /// The command line parses but is not valid.
    #[error("{0}")]
    Usage(String),
    /// Standard output cannot be written.
    #[error(transparent)]
    Stdout(#[from] StdoutError),
}

impl From<AddressError> for Failure {
    fn from(error: AddressError) -> Self {
        Self::Setup(error.into())
    }
}

impl<E: Into<Error>> From<E> for Failure
where
    E: NotFailure,
{
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

/// The errors of the library's modules, so that `?` works on each of them.
pub(crate) trait NotFailure {}
impl NotFailure for batchline::storage::durable::FileError {}
impl NotFailure for batchline::input::InputError {}
impl NotFailure for batchline::results::ResultsError {}
impl NotFailure for batchline::ledger::LedgerError {}
impl NotFailure for batchline::remote::RemoteError {}
impl NotFailure for batchline::storage::user_files::TargetError {}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Setup(_) => Exit::Configuration,
            Self::Terminated => Exit::Terminated,
            Self::Stdout(StdoutError(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Success,
            Self::Stdout(_) => Exit::LocalState,
            Self::Serve(error) => Exit::of(serve_kind(error)),
            Self::Run(error) => Exit::of(error.kind()),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Run(error) => error.hint(),
            Self::Serve(error) => serve_hint(error),
            Self::Usage(_) => Some("`batchline --help` lists the commands and their options".to_owned()),
            _ => None,
        }
    }
}

/// The kind of an error of the local service.
fn serve_kind(error: &ServeError) -> ErrorKind {
    match error {
        ServeError::Locked { .. } => ErrorKind::Locked,
        ServeError::Setup(_) | ServeError::Listen { .. } | ServeError::WantsUpstream { .. } => ErrorKind::Configuration,
        ServeError::Upstream(error) => remote_kind(error),
        _ => ErrorKind::LocalState,
    }
}

fn serve_hint(error: &ServeError) -> Option<String> {
    match error {
        ServeError::Upstream(error) => error.hint().map(str::to_owned),
        ServeError::File(error) => file_hint(error),
        ServeError::WantsUpstream { .. } => {
            Some("pass the same --upstream as before, or name another directory".to_owned())
        }
        _ => None,
    }
}

/// Prints an error, its causes and its hint, and returns the exit code.
pub(crate) fn report(failure: &Failure, json: bool) -> Exit {
    let exit = failure.exit();
    if exit == Exit::Success {
        return exit;
    }
    let mut causes = Vec::new();
    let mut cause = failure.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    if json {
        say_json(Record::Error(Failed {
            exit: exit as u8,
            message: failure.to_string(),
            causes: &causes,
            hint: failure.hint(),
        }));
        return exit;
    }
    let mut line = format!("error: {failure}");
    for cause in causes {
        line.push_str(": ");
        line.push_str(&cause);
    }
    say_line(&line);
    if let Some(hint) = failure.hint() {
        say_line("");
        say!("hint: {hint}");
    }
    exit
}
