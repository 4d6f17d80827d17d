//! An earlier run that has paid for some of what a new one would send.

use std::path::PathBuf;

/// An earlier run that has paid for some of what a new one would send: what
/// [`Monitor::sends_again`](super::Monitor::sends_again) decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierRun {
    /// Its directory.
    pub directory: PathBuf,
    /// Its inputs, as the user named them.
    pub inputs: Vec<String>,
    /// How many requests it has.
    pub requests: u64,
    /// How many of them were answered.
    pub answered: u64,
    /// How many are, or may be, at the service.
    pub at_service: u64,
    /// How many requests the new run would send.
    pub sends: u64,
}
