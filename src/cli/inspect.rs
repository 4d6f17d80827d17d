//! The commands that inspect runs or stop them: `status`, `ls`, `cancel`.

use std::path::{Path, PathBuf};

use batchline::model::outcome::Outcomes;
use batchline::model::shown::Name;
use batchline::remote::{Api, HttpApi, Settings};
use batchline::run::error::Error;
use batchline::run::held::HeldReason;
use batchline::run::inspect::{self, Cancelled};
use batchline::run::options::BUILT_IN;
use batchline::run::report::{Report, RunState, ShardStatus};

use super::args::{CancelArguments, LsArguments, ServiceArguments, StatusArguments};
use super::exit::{Exit, Failure, report};
use super::numbers::{count, moment, phases, plural, size};
use super::places;
use super::records::{ListedRun, Record, RunStatus};
use super::running::runtime;
use super::services::Service;
use super::settings;
use super::terminal::{names, print, print_json, say, say_line};

/// Up to this many shards, `status` shows each; of more, only those that need attention.
const SHARDS_SHOWN: usize = 20;

pub(crate) fn status(arguments: &StatusArguments) -> Result<Exit, Failure> {
    let status = Report::read(&find(arguments.run.as_deref(), Purpose::Look)?)?;
    if arguments.json {
        print_json(Record::Status(RunStatus::from(&status)))?;
        return Ok(Exit::Success);
    }
    print(&format!("run {}", Name(&status.directory)))?;
    print(&format!("input    {}", names(&status.inputs)))?;
    print(&format!("service  {}", status.service))?;
    print(&format!("started  {}", moment(&status.created_at)))?;
    print(&format!("state    {}", describe(&status)))?;
    let Outcomes { outputs, errors, missing, set_aside } = status.outcomes;
    if outputs + errors + missing > 0 {
        let aside = if set_aside > 0 { format!(", {} set aside", count(set_aside)) } else { String::new() };
        let (outputs, errors) = (plural(outputs, "output"), plural(errors, "error"));
        print(&format!("replies  {outputs}, {errors}, {} missing{aside}", count(missing)))?;
    }
    for (model, counts) in status.models.iter().filter(|(_, counts)| counts.outputs + counts.errors > 0) {
        let (prompt, completion) = (count(counts.prompt_tokens), count(counts.completion_tokens));
        let (requests, outputs) = (plural(counts.requests, "request"), plural(counts.outputs, "output"));
        print(&format!("model    {model}: {requests}, {outputs}, {prompt} prompt + {completion} completion tokens"))?;
    }
    if !status.phase_seconds.is_empty() {
        print(&format!("times    {}", phases(&status.phase_seconds)))?;
    }
    for (state, number) in &status.shards_by_state {
        print(&format!("  {:>8} {state}", count(*number)))?;
    }
    let all = status.shards.len() <= SHARDS_SHOWN;
    for shard in &status.shards {
        if !all && shard.note.is_none() {
            continue;
        }
        print(&shard_line(shard))?;
    }
    for incident in &status.incidents {
        print(&format!("incident: {}", incident.text))?;
    }
    say_remedies(&status);
    Ok(Exit::Success)
}

/// What is known of a shard, in a line.
fn shard_line(shard: &ShardStatus) -> String {
    let batch = shard.batch_id.as_deref().map(|id| format!(", batch {id}")).unwrap_or_default();
    let batch_status = shard.batch_status.as_deref().map(|status| format!(" ({status})")).unwrap_or_default();
    let note = shard.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
    let (requests, bytes) = (plural(shard.requests, "request"), size(shard.bytes));
    let held = match shard.held_requests {
        0 => String::new(),
        number => format!(", {} on hold", plural(number, "request")),
    };
    let (number, state) = (shard.number, shard.state);
    format!("shard {number}: {requests}, {bytes}, {state}{held}{batch}{batch_status}{note}")
}

/// Tells what settles the shards that are on hold.
fn say_remedies(status: &Report) {
    let held = |reason| status.shards.iter().any(|shard| shard.held == Some(reason));
    if held(HeldReason::UnresolvedSubmission) {
        say_line("");
        say!(
            "hint: a held shard was submitted, but the response was lost and the service's list shows no batch for it. Look for its \
             file in the provider's console. {}.",
            HeldReason::UnresolvedSubmission.remedy(&status.directory)
        );
    }
    if held(HeldReason::IncompleteAnswer) {
        say_line("");
        say!(
            "hint: according to the service, the batch of an incomplete shard has more replies than could be fetched. {}.",
            HeldReason::IncompleteAnswer.remedy(&status.directory)
        );
    }
    if held(HeldReason::LostBatch) {
        say_line("");
        say!(
            "hint: the batch of a lost shard is not shown by the service. Check the API key, the base URL and the provider's console. \
             {}.",
            HeldReason::LostBatch.remedy(&status.directory)
        );
    }
}

pub(crate) fn ls(arguments: &LsArguments) -> Result<Exit, Failure> {
    let runs = places::places()?.runs()?;
    let mut exit = Exit::Success;
    for run in &runs {
        let status = match Report::read(run) {
            Ok(status) => status,
            // Other runs are still listed.
            Err(error) => {
                exit = report(&error.into(), arguments.json);
                continue;
            }
        };
        if arguments.json {
            print_json(Record::Run(ListedRun::from(&status)))?;
        } else {
            let (requests, inputs) = (plural(status.requests, "request"), names(&status.inputs));
            let (begun, state) = (moment(&status.created_at), describe(&status));
            print(&format!("{}  {begun}  {requests}, {state}  {inputs}", Name(run)))?;
        }
    }
    if runs.is_empty() && !arguments.json {
        say!("there are no runs");
    }
    Ok(exit)
}

pub(crate) fn cancel(arguments: &CancelArguments) -> Result<Exit, Failure> {
    let run = find(arguments.run.as_deref(), Purpose::Change)?;
    let identity = Report::read(&run)?.service;
    let (name, place) = identity.split_once(' ').unwrap_or((&identity, BUILT_IN));
    let provider = settings::provider(name)?;
    // The batches are at the service that created them, regardless of the current environment.
    let recorded = (place != BUILT_IN).then(|| place.to_owned());
    let service = ServiceArguments {
        base_url: arguments.service.base_url.clone().or(recorded),
        api_key_file: arguments.service.api_key_file.clone(),
    };
    let Service::At { provider, address, token } = Service::choose(provider, &service)? else {
        let what = "the built-in service only runs inside `batchline run`: there is nothing to cancel".to_owned();
        return Err(Error::Configuration { what, hint: None }.into());
    };
    let api = HttpApi::new(provider, address, token, Settings::default())?;
    let cancelled = runtime()?.block_on(cancel_batches(&api, &run))?;
    for batch in &cancelled {
        let Cancelled { shard, batch_id, status } = batch;
        if arguments.json {
            print_json(Record::Cancelled(batch))?;
        } else {
            print(&format!("shard {shard}: batch {batch_id} is {status}"))?;
        }
    }
    if cancelled.is_empty() && !arguments.json {
        say!("no batch of this run is in progress");
    }
    Ok(Exit::Success)
}

async fn cancel_batches(api: &impl Api, run: &Path) -> Result<Vec<Cancelled>, Failure> {
    Ok(inspect::cancel(api, run).await?)
}

/// Why a command needs a run that was not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reading it: any run will do.
    Look,
    /// Changing it: the choice has to be unambiguous.
    Change,
}

/// The run to work on: the one named; else the newest of those that were started in the working directory or read files
/// below it; else the newest of all.
pub(crate) fn find(run: Option<&Path>, purpose: Purpose) -> Result<PathBuf, Failure> {
    if let Some(run) = run {
        return places::named(run);
    }
    let places = places::places()?;
    let here = std::env::current_dir().ok();
    if let Some(run) = here.map(|here| inspect::newest(&places, Some(&here))).transpose()?.flatten() {
        return Ok(run);
    }
    let number = places.runs()?.len();
    if number > 1 && purpose == Purpose::Change {
        let runs = plural(number as u64, "run");
        return Err(Failure::Usage(format!(
            "no run was started in this directory: name one of {runs}; `batchline ls` lists them"
        )));
    }
    inspect::newest(&places, None)?.ok_or_else(|| Failure::Usage("there are no runs".to_owned()))
}

/// The status of a run on one line.
pub(crate) fn describe(status: &Report) -> String {
    let shards = |state| status.shards_by_state.get(state).copied().unwrap_or(0);
    let progress = match status.state {
        RunState::Done => "done".to_owned(),
        RunState::Unsent if status.owner.is_none() => "not sent yet".to_owned(),
        _ => format!("{} of {} done", shards("indexed"), plural(status.shards.len() as u64, "shard")),
    };
    let Outcomes { errors, missing, set_aside, .. } = status.outcomes;
    let mut left = Vec::new();
    left.extend((errors > 0).then(|| plural(errors, "error")));
    left.extend((missing > 0).then(|| format!("{} missing", count(missing))));
    left.extend((set_aside > 0).then(|| format!("{} set aside", count(set_aside))));
    let with = if left.is_empty() { "" } else { " with " };
    let mut parts = vec![format!("{progress}{with}{}", left.join(", "))];
    parts.extend((shards("held") > 0).then(|| format!("{} on hold", count(shards("held")))));
    for (number, noun) in [(status.queued_requests, "request"), (status.queued_shards, "shard")] {
        parts.extend((number > 0).then(|| format!("{} queued for the next `batchline run`", plural(number, noun))));
    }
    let undelivered = status.state == RunState::Done && status.delivered_at.is_none();
    parts.extend(undelivered.then(|| "not delivered".to_owned()));
    parts.extend(status.owner.as_ref().map(|pid| format!("in use by process {pid}")));
    parts.join(", ")
}
