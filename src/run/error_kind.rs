//! What an error means to a script: see the exit codes of the program.

use serde::{Deserialize, Serialize};

/// The kinds of errors that scripts tell apart by the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// A defect of this program.
    Internal,
    /// The command line, an input that cannot be read, an output that cannot be written.
    Usage,
    /// A setting or the key.
    Configuration,
    /// Lines that are no requests.
    Defects,
    /// The service refused or could not be reached.
    Provider,
    /// Local files: damaged, or out of space.
    LocalState,
    /// Another living process works on the same.
    Locked,
    /// The user asked to stop.
    Interrupted,
    /// The reader of the output has gone away.
    ClosedPipe,
}
