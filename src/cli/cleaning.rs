//! `batchline clean`.
//!
//! In: run directories. Out: those that are kept.
//!
//! Invariants: a run that was submitted is removed only after confirmation, on a terminal or by `--yes`; one that is
//! unfinished, has errors or missing requests, or was not delivered, only with `--unfinished`. A run that changed
//! before the user confirmed is kept. A dry run removes nothing.

use std::path::{Path, PathBuf};

use batchline::model::shown::Name;
use batchline::run::error::Error;
use batchline::run::inspect;
use batchline::run::report::{Report, RunState};

use super::args::CleanArguments;
use super::asking::confirmed;
use super::exit::{Exit, Failure, report};
use super::inspect::describe;
use super::numbers::plural;
use super::places;
use super::terminal::{names, print, say};

/// Under which condition a run is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing of it was ever submitted: always removed.
    Free,
    /// It is done and delivered: removed after confirmation.
    Delivered,
    /// Replies would be lost: removed with `--unfinished`, after confirmation.
    Valuable,
    /// A process is using it: never removed.
    Busy,
}

impl Fate {
    fn of(status: &Report) -> Self {
        match status {
            Report { owner: Some(_), .. } => Self::Busy,
            Report { state: RunState::Unsent, .. } => Self::Free,
            status if status.is_delivered_whole() => Self::Delivered,
            _ => Self::Valuable,
        }
    }
}

/// A run that is removed after confirmation.
struct Candidate {
    run: PathBuf,
    /// Its fate when it was read; `None` if it cannot be read.
    fate: Option<Fate>,
    description: String,
}

pub(crate) fn clean(arguments: &CleanArguments) -> Result<Exit, Failure> {
    let runs = match &arguments.run {
        Some(run) => vec![places::named(run)?],
        None => places::places()?.runs()?,
    };
    if runs.is_empty() {
        say!("there are no runs");
    }
    let mut exit = Exit::Success;
    let mut candidates = Vec::new();
    for run in runs {
        let status = match Report::read(&run) {
            Ok(status) => status,
            // A damaged run is only removed if it was named.
            Err(_) if arguments.unfinished && arguments.run.is_some() => {
                candidates.push(Candidate { run, fate: None, description: "it cannot be read".to_owned() });
                continue;
            }
            // Other runs are not affected.
            Err(error) => {
                exit = report(&error.into(), false);
                continue;
            }
        };
        let fate = Fate::of(&status);
        let description =
            format!("{}; {} of {}", describe(&status), plural(status.requests, "request"), names(&status.inputs));
        match fate {
            Fate::Free if arguments.dry_run => print(&would(&run, &description))?,
            Fate::Free => exit = remove(&Candidate { run, fate: Some(fate), description })?.or(exit),
            Fate::Delivered => candidates.push(Candidate { run, fate: Some(fate), description }),
            Fate::Valuable if arguments.unfinished => candidates.push(Candidate { run, fate: Some(fate), description }),
            Fate::Valuable => exit = kept(&run, &format!("{description}; --unfinished removes it anyway")).or(exit),
            Fate::Busy if arguments.run.is_some() => match inspect::remove(&run, &|_| false) {
                Err(error) => exit = report(&error.into(), false),
                // The process has just ended.
                Ok(_) => exit = kept(&run, &description).or(exit),
            },
            Fate::Busy => exit = kept(&run, &description).or(exit),
        }
    }
    Ok(remove_confirmed(arguments, &candidates)?.or(exit))
}

/// Removes the candidates, if the user confirms it.
fn remove_confirmed(arguments: &CleanArguments, candidates: &[Candidate]) -> Result<Exit, Failure> {
    if candidates.is_empty() {
        return Ok(Exit::Success);
    }
    if arguments.dry_run {
        candidates.iter().try_for_each(|Candidate { run, description, .. }| print(&would(run, description)))?;
        return Ok(Exit::Success);
    }
    if !arguments.yes {
        for Candidate { run, description, .. } in candidates {
            say!("{}: {description}", Name(run));
        }
        let what = format!("remove {}, with all replies", plural(candidates.len() as u64, "run"));
        match confirmed(&format!("{}?", capitalised(&what))) {
            Some(true) => {}
            Some(false) => return Ok(Exit::Incomplete),
            None => {
                return Err(Failure::Usage(format!(
                    "no terminal to ask for confirmation: pass --yes to {what}, or --dry-run to list them"
                )));
            }
        }
    }
    let mut exit = Exit::Success;
    for candidate in candidates {
        exit = remove(candidate)?.or(exit);
    }
    Ok(exit)
}

fn remove(candidate: &Candidate) -> Result<Exit, Failure> {
    let Candidate { run, fate, description } = candidate;
    let removed = match fate {
        // Read again under the lock, without an owner.
        Some(fate) => inspect::remove(run, &|status| Fate::of(status) == *fate),
        None => inspect::remove_unread(run).map(|()| true),
    };
    match removed {
        Ok(true) => print(&format!("removed {}", Name(run)))?,
        Ok(false) => return Ok(kept(run, &format!("it has changed in the meantime; it was {description}"))),
        Err(error @ Error::Locked { .. }) => return Ok(kept(run, &error.to_string())),
        Err(error) => return Ok(report(&error.into(), false)),
    }
    Ok(Exit::Success)
}

fn would(run: &Path, description: &str) -> String {
    format!("would remove {}: {description}", Name(run))
}

fn kept(run: &Path, why: &str) -> Exit {
    say!("kept {}: {why}", Name(run));
    Exit::Incomplete
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
