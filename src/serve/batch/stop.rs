//! Why an execution ends without result files.

use super::input::Refusal;
use crate::storage::durable::FileError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The input is not, or no longer, fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server could not write.
    #[error("Internal server error: {0}: {cause}", cause = .0.source)]
    Unwritable(#[from] FileError),
    /// The server is being stopped; the next one starts over.
    #[error("the server is stopping")]
    ServerStopping,
}
