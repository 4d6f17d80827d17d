//! Confirmation on the terminal.
//!
//! In: a question. Out: yes or no, or nothing without a terminal.

use std::io::{self, IsTerminal, Write};

/// Asks for confirmation; the default is no. `None` if standard input or standard error is not a terminal.
pub(crate) fn confirmed(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let mut stderr = io::stderr().lock();
    // A terminal that cannot be used counts as a no.
    let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let heard = io::stdin().read_line(&mut answer);
    Some(heard.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
