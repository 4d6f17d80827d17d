//! From the command line to the library and back to the exit code.
//!
//! Data goes to stdout, everything else to stderr. Every command is a file; what they share is here.
#![expect(clippy::print_stderr, reason = "the program is the one place that talks to its user")]

mod args;
mod bench;
mod exit;
mod inspect;
mod offline;
mod progress;
mod records;
mod running;
mod serving;
mod settings;
mod tending;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use exit::Exit;

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // A closed pipe is a quiet exit here, too.
            let _ = error.print();
            return usage.into();
        }
    };
    let json = arguments.command.json();
    match dispatch(arguments.command) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error, json),
    }
}

fn dispatch(command: Command) -> Result<Exit, exit::Failure> {
    match command {
        Command::Run(arguments) => running::run(arguments),
        Command::Check(arguments) => offline::check(&arguments),
        Command::Plan(arguments) => offline::plan(&arguments),
        Command::Split(arguments) => offline::split(&arguments),
        Command::Merge(arguments) => offline::merge(&arguments),
        Command::Generate(arguments) => offline::generate(&arguments),
        Command::Status(arguments) => inspect::status(&arguments),
        Command::Ls(arguments) => inspect::ls(&arguments),
        Command::Cancel(arguments) => inspect::cancel(&arguments),
        Command::Retry(arguments) => tending::retry(&arguments),
        Command::Clean(arguments) => tending::clean(&arguments),
        Command::Doctor(arguments) => tending::doctor(&arguments),
        Command::Serve(arguments) => serving::serve(arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
    }
}
