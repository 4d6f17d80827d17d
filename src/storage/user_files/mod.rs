//! The files of the user: those that a command was told to read, and those that it was told to write.
//!
//! In: paths as they were typed, each with its [`Role`]. Out: a [`TargetError`] before anything is read, and
//! [sinks](crate::storage::sink::Sink).
//!
//! Invariants:
//! - No file is written that is read as well, or written twice, under whatever names ([`NamedFiles`]).
//! - What is written to is known to be there and to be writable before the work begins.
//! - A regular file appears whole, by a rename. One that was there keeps its mode and, where we may, its owner; a new
//!   one gets what the umask leaves. A symbolic link stays, and what it leads to is replaced. Only what cannot be
//!   replaced, such as a mount point, is written over.
//! - Pipes, devices and descriptors (`/dev/stdout`, `/dev/fd/3`) are written to as they are.

mod named;
mod output_file;
mod place;
mod taken;
mod target;

pub use crate::storage::user_files::named::{NamedFiles, Written};
pub use crate::storage::user_files::output_file::{create_private, open_output};
pub use crate::storage::user_files::target::{Role, TargetError};

/// The path of standard output. It stands for the descriptor, whether there is a `/dev` or not.
pub const STDOUT: &str = "/dev/stdout";
