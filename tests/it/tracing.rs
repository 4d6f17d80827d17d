//! The program under strace: its system calls written down, or itself killed at one of them.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::program::{Place, Program};

/// The calls by which something becomes durable, or leaves the machine.
pub(crate) const DURABLE_CALLS: [&str; 9] =
    ["fsync", "fdatasync", "rename", "unlink", "pwrite64", "write", "writev", "sendto", "connect"];

/// Whether strace is installed and may trace.
pub(crate) fn is_available() -> bool {
    let mut probe = Command::new("strace");
    probe.args(["-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// The program with these arguments, its durable calls written to `log` in the place, with the paths that they are
/// about.
pub(crate) fn traced(place: &Place, arguments: &str) -> Program {
    let calls = DURABLE_CALLS.join(",");
    strace(place, &format!("-y -s 200 -o log -e trace={calls}"), arguments)
}

/// The program with these arguments, killed when one of its threads makes its n-th call of this name.
pub(crate) fn killed_at(place: &Place, call: &str, nth: usize, arguments: &str) -> Program {
    let inject = format!("inject={call}:signal=KILL:when={nth}");
    strace(place, &format!("-o /dev/null -e trace={call} -e {inject}"), arguments)
}

/// The program with these arguments; when one of its threads makes its n-th call of this name that call fails. `when`
/// is `3` for the third one, `3+` for those behind it, too. The calls are written to `log` in the place.
pub(crate) fn failing_at(place: &Place, call: &str, error: &str, when: &str, arguments: &str) -> Program {
    let inject = format!("inject={call}:error={error}:when={when}");
    strace(place, &format!("-y -o log -e trace={call} -e {inject}"), arguments)
}

/// The program under strace, which may look into it: not in every container may root look into what is closed to
/// others.
fn strace(place: &Place, how: &str, arguments: &str) -> Program {
    place.shell(&format!("exec strace -f {how} $BATCHLINE {arguments}")).env("BATCHLINE_DEBUGGABLE", "1")
}

/// The calls in a log that were made to fail.
pub(crate) fn injected(place: &Place) -> Vec<String> {
    let log = String::from_utf8_lossy(&place.read("log")).into_owned();
    log.lines().filter(|line| line.ends_with("(INJECTED)")).map(str::to_owned).collect()
}

/// A system call as strace wrote it down: begun at one line of the log, done at another.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Its arguments, as text.
    pub(crate) about: String,
    /// The line at which it begins.
    pub(crate) begun: usize,
    /// The line at which it has returned.
    pub(crate) done: usize,
}

/// The calls in a log, in the order of their beginnings.
pub(crate) fn read_log(log: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, line) in log.lines().enumerate() {
        let Some((thread, event)) = line.split_once(' ') else { continue };
        let event = event.trim_start();
        if event.starts_with("<...") {
            if let Some(call) = unfinished.remove(thread) {
                calls[call].done = at;
            }
            continue;
        }
        let Some((name, about)) = event.split_once('(') else { continue };
        if event.ends_with("<unfinished ...>") {
            unfinished.insert(thread, calls.len());
        }
        calls.push(Call { name: name.to_owned(), about: about.to_owned(), begun: at, done: at });
    }
    calls
}

/// How often the busiest thread makes each call: beyond that there is nothing to kill at.
pub(crate) fn most_by_one_thread(log: &str) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, event)) = line.split_once(' ') else { continue };
        if let Some((name, _)) = event.trim_start().split_once('(')
            && DURABLE_CALLS.contains(&name)
        {
            *counts.entry((thread, name)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for ((_, name), count) in counts {
        let known = most.entry(name.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}
