//! The memory of a process that holds a key is its owner's alone.
//!
//! In: nothing. Out: a process that leaves no core dump, and that no other process of the same user can look into: not
//! its memory, not the environment that the key may stand in.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::terminal::say;

/// Leaves the process open to debuggers and core dumps, for who looks for a defect in it.
const DEBUGGABLE_VARIABLE: &str = "BATCHLINE_DEBUGGABLE";

/// Closes the process. To be called before a key is read.
pub(crate) fn close() {
    if std::env::var_os(DEBUGGABLE_VARIABLE).is_some_and(|value| value == "1") {
        return;
    }
    let no_core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Also where the system hands core dumps to a program, which no limit stops.
    let closed = no_core.and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = closed {
        say!("warning: a crash may leave the key in a core dump: {error}");
    }
}
