//! Values that a shell offers while an option is typed: providers, dialects, endpoints, formats, runs.
//!
//! Out: candidates, some with a description. What is offered here is no rule: the parsers decide what is accepted.

use std::ffi::OsStr;

use batchline::dialect::DIALECTS;
use batchline::dialect::providers::PROVIDERS;
use batchline::results::normalize::Shape;
use batchline::run::report::{Report, RunState};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

use super::numbers::plural;
use super::places;
use super::terminal::names;

/// Maximum number of runs that are offered.
const RUNS_OFFERED: usize = 50;

pub(crate) fn providers() -> Vec<CompletionCandidate> {
    let mut rows: Vec<_> = PROVIDERS.iter().collect();
    rows.dedup_by_key(|row| row.name);
    rows.into_iter()
        .map(|row| {
            let place = if row.base_url.is_empty() { "requires --base-url" } else { row.base_url };
            CompletionCandidate::new(row.name).help(Some(place.into()))
        })
        .collect()
}

pub(crate) fn dialects() -> Vec<CompletionCandidate> {
    DIALECTS.iter().map(|dialect| CompletionCandidate::new(dialect.name())).collect()
}

/// The endpoints of all providers.
pub(crate) fn endpoints() -> Vec<CompletionCandidate> {
    let mut all: Vec<&str> = PROVIDERS.iter().flat_map(|row| row.endpoints).copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(CompletionCandidate::new).collect()
}

pub(crate) fn shapes() -> Vec<CompletionCandidate> {
    Shape::ALL.into_iter().map(|shape| CompletionCandidate::new(shape.name())).collect()
}

pub(crate) fn on_ambiguous() -> Vec<CompletionCandidate> {
    ["hold", "retry-after:30m"].into_iter().map(CompletionCandidate::new).collect()
}

/// The names of runs, and directories.
pub(crate) fn runs(typed: &OsStr) -> Vec<CompletionCandidate> {
    let known = places::places().ok().and_then(|places| places.runs().ok());
    let named = known.iter().flatten().filter_map(|run| Some((run, run.file_name()?)));
    let fitting = named.filter(|(_, name)| name.as_encoded_bytes().starts_with(typed.as_encoded_bytes()));
    let mut offered: Vec<_> = fitting
        .take(RUNS_OFFERED)
        .map(|(run, name)| {
            CompletionCandidate::new(name).help(Report::read(run).ok().map(|run| described(&run).into()))
        })
        .collect();
    offered.extend(PathCompleter::dir().complete(typed));
    offered
}

fn described(run: &Report) -> String {
    let state = if run.state == RunState::Done { "done" } else { "unfinished" };
    format!("{}, {state}, {}", plural(run.requests, "request"), names(&run.inputs))
}
