//! From the command line to the library and back to the exit code.
//!
//! Data goes to stdout, everything else to stderr. Each command has its own file; shared code is here.

mod allocator;
mod args;
mod asking;
mod bench;
mod candidates;
mod cleaning;
mod completing;
mod exit;
mod inspect;
mod keys;
mod manual;
mod numbers;
mod offline;
mod places;
mod privacy;
mod progress;
mod providers;
mod records;
mod running;
mod schema;
mod services;
mod serving;
mod settings;
mod tending;
mod terminal;
mod values;

use std::ffi::OsString;
use std::panic::catch_unwind;
use std::process::ExitCode;

use batchline::model::shown;
use clap::Parser;

use args::{Arguments, Command};
use exit::Exit;

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    end_on_panics();
    if let Some(exit) = completing::answer() {
        return exit.into();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // It quotes the command line, which may contain hostile file names that a shell pattern matched.
            let visible = |word: OsString| shown::visible(&word.to_string_lossy()).into_owned();
            let error = Arguments::try_parse_from(std::env::args_os().map(visible)).err().unwrap_or(error);
            let usage = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // A closed pipe exits silently here, too.
            let _ = error.print();
            return usage.into();
        }
    };
    let json = arguments.command.json();
    match catch_unwind(|| dispatch(arguments.command)) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(error)) => exit::report(&error, json).into(),
        // The panic hook has already printed the message.
        Err(_) => Exit::Internal.into(),
    }
}

/// A panic of the main thread ends the process: unwinding could block on threads that were never started. Nothing is
/// lost: a run can be killed at any moment and resumed.
#[expect(clippy::exit, reason = "nothing else is certain to terminate")]
fn end_on_panics() {
    let (main, tell) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        if std::thread::current().id() == main {
            std::process::exit(Exit::Internal as i32);
        }
    }));
}

fn dispatch(command: Command) -> Result<Exit, exit::Failure> {
    if command.moves_data() {
        allocator::map_large_blocks();
    }
    if command.holds_a_key() {
        privacy::close();
    }
    match command {
        Command::Run(arguments) => running::run(&arguments),
        Command::Check(arguments) => offline::check(&arguments),
        Command::Plan(arguments) => offline::plan(&arguments),
        Command::Split(arguments) => offline::split(&arguments),
        Command::Merge(arguments) => offline::merge(&arguments),
        Command::Generate(arguments) => offline::generate(&arguments),
        Command::Status(arguments) => inspect::status(&arguments),
        Command::Ls(arguments) => inspect::ls(&arguments),
        Command::Cancel(arguments) => inspect::cancel(&arguments),
        Command::Retry(arguments) => tending::retry(&arguments),
        Command::Clean(arguments) => cleaning::clean(&arguments),
        Command::Doctor(arguments) => tending::doctor(&arguments),
        Command::Schema => schema::schema(),
        Command::Providers(arguments) => providers::providers(&arguments),
        Command::Serve(arguments) => serving::serve(arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Completions(arguments) => completing::completions(&arguments),
        Command::Man(arguments) => manual::man(&arguments),
    }
}
