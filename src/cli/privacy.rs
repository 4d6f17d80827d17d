//! Protects the memory of a process that holds a key.
//!
//! In: nothing. Out: a process that leaves no core dump. Other processes of the same user cannot read its memory or its
//! environment, which may hold the key.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::terminal::say;

/// The environment variable that permits debuggers and core dumps.
const DEBUGGABLE_VARIABLE: &str = "BATCHLINE_DEBUGGABLE";

/// Protects the process. Must be called before a key is read.
pub(crate) fn close() {
    if std::env::var_os(DEBUGGABLE_VARIABLE).is_some_and(|value| value == "1") {
        return;
    }
    let no_core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Effective even where the system pipes core dumps to a program, which ignores the limit.
    let closed = no_core.and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = closed {
        say!("warning: a crash may leave the key in a core dump: {error}");
    }
}
