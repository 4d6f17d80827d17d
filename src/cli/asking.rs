//! Questions to whoever sits at the terminal.
//!
//! In: what is about to happen. Out: yes or no; where nobody can be asked, nothing.

use std::io::{self, IsTerminal, Write};

/// Asks for a yes. `None` where standard input or error is no terminal: nobody would see the question, or answer it.
pub(crate) fn confirmed(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let mut stderr = io::stderr().lock();
    // A terminal that cannot be written to or read from has said no.
    let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let heard = io::stdin().read_line(&mut answer);
    Some(heard.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
