//! The files of the user: those that a command reads, and those that it writes.
//!
//! In: paths as they were typed, each with its [`Role`]. Out: a [`TargetError`] before anything is read, and
//! [sinks](crate::storage::sink::Sink).
//!
//! Invariants:
//! - No file is both read and written, or written twice, under any names ([`NamedFiles`]).
//! - The destinations are known to exist and to be writable before the work begins.
//! - A regular file appears once it is complete, by a rename. An existing one keeps its mode and, where permitted, its
//!   owner; a new one gets its mode from the umask. A symbolic link is kept, and its target is replaced. Only a file
//!   that cannot be replaced, such as a mount point, is overwritten.
//! - Pipes, devices and descriptors (`/dev/stdout`, `/dev/fd/3`) are written to directly.

mod named;
mod output_file;
mod place;
mod taken;
mod target;

pub use crate::storage::user_files::named::{NamedFiles, Written};
pub use crate::storage::user_files::output_file::{create_private, open_output};
pub use crate::storage::user_files::target::{Role, TargetError};

/// The path of standard output. It denotes the descriptor, even without a `/dev`.
pub const STDOUT: &str = "/dev/stdout";
