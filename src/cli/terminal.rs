//! All terminal output: messages on standard error, tables and records on standard output.
//!
//! In: lines, and records in JSON. Out: the same, safe for a terminal.
//!
//! Invariants: each call writes exactly one line, whatever it contains, so foreign text cannot pose as one of the
//! program's messages; control characters are escaped (see [`shown`]). A record remains equivalent JSON. Lines are
//! truncated, with `…`, only on a terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use batchline::model::shown::{self, Name};
use serde_json::Value;

use super::records::{Record, Versioned};

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct StdoutError(#[source] pub(crate) io::Error);

/// Maximum characters of a line on a terminal.
const LINE_CHARACTERS: usize = 2_000;

/// Writes a line to standard error, formatted as by `format!`.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::terminal::say_line(&format!($($text)*))
    };
}
pub(crate) use say;

/// Writes a line to standard error. Failures are ignored: there is nowhere to report them.
pub(crate) fn say_line(line: &str) {
    let mut stderr = io::stderr().lock();
    let line = fit(line, stderr.is_terminal());
    let _ = writeln!(stderr, "{line}");
}

/// Writes a record to standard error.
pub(crate) fn say_json(record: Record<'_>) {
    // A failure is ignored: there is nowhere to report it.
    let _ = json_line(record).and_then(|line| write_line(io::stderr().lock(), line.as_bytes()));
}

/// Writes a line to standard output.
pub(crate) fn print(line: &str) -> Result<(), StdoutError> {
    let stdout = io::stdout().lock();
    let line = fit(line, stdout.is_terminal());
    write_line(stdout, line.as_bytes())
}

/// Writes a record to standard output.
pub(crate) fn print_json(record: Record<'_>) -> Result<(), StdoutError> {
    write_line(io::stdout().lock(), json_line(record)?.as_bytes())
}

/// Writes an indented JSON document to standard output.
pub(crate) fn print_document(document: &Value) -> Result<(), StdoutError> {
    write_line(io::stdout().lock(), format!("{document:#}").as_bytes())
}

/// Writes a text of the program's own to standard output, as it is.
pub(crate) fn print_text(text: &[u8]) -> Result<(), StdoutError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).map_err(StdoutError)
}

/// Writes a file's name to standard output: verbatim for a program, escaped on a terminal.
pub(crate) fn print_path(path: &Path) -> Result<(), StdoutError> {
    use std::os::unix::ffi::OsStrExt;
    let stdout = io::stdout().lock();
    if stdout.is_terminal() {
        write_line(stdout, Name(path).to_string().as_bytes())
    } else {
        write_line(stdout, path.as_os_str().as_bytes())
    }
}

/// The names of a run's inputs, as recorded in its Ledger.
pub(crate) fn names(inputs: &[String]) -> String {
    let names: Vec<String> = inputs.iter().map(|input| Name(Path::new(input)).to_string()).collect();
    names.join(", ")
}

fn json_line(record: Record<'_>) -> Result<String, StdoutError> {
    let json = serde_json::to_string(&Versioned::from(record)).map_err(|error| StdoutError(error.into()))?;
    Ok(shown::visible_json(&json).into_owned())
}

fn write_line(mut out: impl Write, line: &[u8]) -> Result<(), StdoutError> {
    out.write_all(line).and_then(|()| out.write_all(b"\n")).map_err(StdoutError)
}

/// A line with unsafe characters escaped, and on a terminal truncated to [`LINE_CHARACTERS`].
fn fit(line: &str, on_terminal: bool) -> Cow<'_, str> {
    let shown = shown::visible(line);
    match shown.char_indices().nth(LINE_CHARACTERS) {
        Some((end, _)) if on_terminal => Cow::Owned(format!("{}…", &shown[..end])),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_cut_for_people_alone() {
        assert_eq!(fit("a\nb\u{1b}c", false), "a\\nb\\u{1b}c");
        let long = "ü".repeat(3 * LINE_CHARACTERS);
        assert_eq!(fit(&long, false), long);
        let cut = fit(&long, true);
        assert_eq!((cut.chars().count(), cut.ends_with('…')), (LINE_CHARACTERS + 1, true));
        assert_eq!(fit(&long[..2 * LINE_CHARACTERS], true), long[..2 * LINE_CHARACTERS]);
    }
}
