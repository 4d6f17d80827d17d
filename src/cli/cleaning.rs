//! `batchline clean`.
//!
//! In: runs. Out: fewer of them.
//!
//! What always holds: what was paid for goes only after a yes, on a terminal or by `--yes`; what is not with its user yet, or may still be
//! had, only if that was asked for by name. A run that turned into something else while the question stood is kept.

use std::path::{Path, PathBuf};

use batchline::error::Error;
use batchline::run::inspect::{self, RunState, RunStatus};
use batchline::shown::Name;

use super::args::CleanArguments;
use super::asking::confirmed;
use super::exit::{Exit, Failure, report};
use super::inspect::describe;
use super::places;
use super::records::plural;
use super::terminal::{names, print, say};

/// What may be done with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing of it was ever sent.
    Free,
    /// All that it has is delivered.
    Delivered,
    /// Something would be lost, or could still be had.
    Valuable,
    /// A process works on it.
    Busy,
}

impl Fate {
    fn of(status: &RunStatus) -> Self {
        match status {
            RunStatus { owner: Some(_), .. } => Self::Busy,
            RunStatus { state: RunState::Unsent, .. } => Self::Free,
            status if status.is_delivered_whole() => Self::Delivered,
            _ => Self::Valuable,
        }
    }
}

/// A run that is removed after a yes.
struct Candidate {
    run: PathBuf,
    /// What it was when it was looked at; none if it cannot be read.
    fate: Option<Fate>,
    words: String,
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
        let status = match inspect::status(&run) {
            Ok(status) => status,
            // The only way to be rid of it, and never by the way.
            Err(_) if arguments.unfinished && arguments.run.is_some() => {
                candidates.push(Candidate { run, fate: None, words: "it cannot be read".to_owned() });
                continue;
            }
            // The others can go all the same.
            Err(error) => {
                exit = report(&error.into(), false);
                continue;
            }
        };
        let fate = Fate::of(&status);
        let words =
            format!("{}; {} of {}", describe(&status), plural(status.requests, "request"), names(&status.inputs));
        match fate {
            Fate::Free if arguments.dry_run => print(&would(&run, &words))?,
            Fate::Free => exit = remove(&Candidate { run, fate: Some(fate), words })?.or(exit),
            Fate::Delivered => candidates.push(Candidate { run, fate: Some(fate), words }),
            Fate::Valuable if arguments.unfinished => candidates.push(Candidate { run, fate: Some(fate), words }),
            Fate::Valuable => exit = kept(&run, &format!("{words}; --unfinished removes it all the same")).or(exit),
            Fate::Busy if arguments.run.is_some() => match inspect::remove(&run, &|_| false) {
                Err(error) => exit = report(&error.into(), false),
                // It has just ended: what it is now is for the next look.
                Ok(_) => exit = kept(&run, &words).or(exit),
            },
            Fate::Busy => exit = kept(&run, &words).or(exit),
        }
    }
    Ok(remove_confirmed(arguments, &candidates)?.or(exit))
}

/// Removes what is not free, if somebody says so.
fn remove_confirmed(arguments: &CleanArguments, candidates: &[Candidate]) -> Result<Exit, Failure> {
    if candidates.is_empty() {
        return Ok(Exit::Success);
    }
    if arguments.dry_run {
        candidates.iter().try_for_each(|Candidate { run, words, .. }| print(&would(run, words)))?;
        return Ok(Exit::Success);
    }
    if !arguments.yes {
        for Candidate { run, words, .. } in candidates {
            say!("{}: {words}", Name(run));
        }
        let what = format!("remove {}, with all replies", plural(candidates.len() as u64, "run"));
        match confirmed(&format!("{}?", capitalised(&what))) {
            Some(true) => {}
            Some(false) => return Ok(Exit::Incomplete),
            None => {
                return Err(Failure::Usage(format!(
                    "nobody can be asked whether to {what}: pass --yes, or --dry-run to look"
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
    let Candidate { run, fate, words } = candidate;
    let removed = match fate {
        // Under its lock the run has an owner: this process.
        Some(fate) => inspect::remove(run, &|status| Fate::of(status) == *fate),
        None => inspect::remove_unread(run).map(|()| true),
    };
    match removed {
        Ok(true) => print(&format!("removed {}", Name(run)))?,
        Ok(false) => return Ok(kept(run, &format!("it is no longer what it was: {words}"))),
        Err(error @ Error::Locked { .. }) => return Ok(kept(run, &error.to_string())),
        Err(error) => return Ok(report(&error.into(), false)),
    }
    Ok(Exit::Success)
}

fn would(run: &Path, words: &str) -> String {
    format!("would remove {}: {words}", Name(run))
}

fn kept(run: &Path, why: &str) -> Exit {
    say!("kept {}: {why}", Name(run));
    Exit::Incomplete
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
