//! Looking at a run, and stopping its batches.
//!
//! In: a run directory. Out: where it stands, read from the Ledger alone; nothing is asked of the service unless something is
//! to be cancelled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::directory::{self, RunDirectory, RunPlaces, layout};
use super::held::HeldReason;
use super::ledger::Ledger;
use super::meta::RunMeta;
use super::prepare;
use super::state::{Outcomes, Recorded, ShardState};
use super::steps::BatchWorth;
use crate::error::Error;
use crate::input::members::Members;
use crate::input::pack::Shard;
use crate::remote::Api;
use crate::results::reply_index::ReplyIndex;

/// Where a run stands.
#[derive(Debug, Clone, Serialize)]
pub struct RunStatus {
    /// The run directory.
    #[serde(serialize_with = "crate::path_text::shown")]
    pub directory: PathBuf,
    /// The inputs, as they were named.
    pub inputs: Vec<String>,
    /// The provider and where it is.
    pub service: String,
    /// When the run was begun, in RFC 3339.
    pub created_at: String,
    /// Requests in all.
    pub requests: u64,
    /// Lines that are no requests and were skipped.
    pub invalid: u64,
    /// Where it stands as a whole.
    pub state: RunState,
    /// What has become of the requests so far.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Requests that wait for a decision.
    pub held_requests: u64,
    /// Requests that are sent again by the next `run`, because somebody decided so.
    pub queued_requests: u64,
    /// Shards that wait to be submitted again: their last submission was refused, or somebody gave it up.
    pub queued_shards: u64,
    /// When its output, with all the replies that it has now, was delivered whole; in RFC 3339.
    pub delivered_at: Option<String>,
    /// The process that works on it.
    pub owner: Option<String>,
    /// How many shards are in each state.
    pub shards_by_state: BTreeMap<&'static str, u64>,
    /// The shards, by number.
    pub shards: Vec<ShardStatus>,
    /// What went wrong and was dealt with.
    pub incidents: Vec<String>,
}

impl RunStatus {
    /// Whether nothing would be lost with its directory: all requests have outputs, and those are delivered.
    #[must_use]
    pub fn is_delivered_whole(&self) -> bool {
        let Outcomes { outputs, set_aside, .. } = self.outcomes;
        self.state == RunState::Done && self.delivered_at.is_some() && outputs == self.requests && set_aside == 0
    }
}

/// Where a run stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Nothing was ever submitted: it has cost nothing.
    Unsent,
    /// Batches are at work, or wait to be.
    Unfinished,
    /// A shard waits for a decision.
    Held,
    /// All that was sent has come back, and nothing is to be sent again.
    Done,
}

impl RunState {
    /// That of a run with these shards.
    fn of(shards: &[Recorded], was_submitted: bool) -> Self {
        let is = |wanted: fn(&ShardState) -> bool| move |known: &Recorded| wanted(&known.state);
        if !was_submitted && !shards.is_empty() {
            Self::Unsent
        } else if shards.iter().any(is(ShardState::is_held)) {
            Self::Held
        } else if shards.iter().all(|known| matches!(known.state, ShardState::Indexed { .. }) && queued(known) == 0) {
            Self::Done
        } else {
            Self::Unfinished
        }
    }
}

/// Requests of a shard that are sent again because somebody decided so.
fn queued(known: &Recorded) -> u64 {
    if known.decided && known.wants_another_round(0) { known.left_over.count } else { 0 }
}

/// Whether a shard waits to be submitted again.
fn is_queued(known: &Recorded) -> bool {
    matches!(known.state, ShardState::Uploaded { .. }) && known.last_submission.is_some()
}

/// Where a shard stands.
#[derive(Debug, Clone, Serialize)]
pub struct ShardStatus {
    /// Its number.
    pub number: u32,
    /// The model that its requests ask for.
    pub model: String,
    /// How many requests it has.
    pub requests: u64,
    /// Size of its batch file in bytes.
    pub bytes: u64,
    /// Where it stands, in the Ledger's words.
    pub state: &'static str,
    /// Why it is held, if it is.
    pub held: Option<HeldReason>,
    /// How many of its requests are held.
    pub held_requests: u64,
    /// Its file at the service.
    pub file_id: Option<String>,
    /// Its batch.
    pub batch_id: Option<String>,
    /// What that was last seen as.
    pub batch_status: Option<String>,
    /// Why it stands there, where that needs saying.
    pub note: Option<String>,
}

/// Reads where a run stands. Another process may be working on it.
pub fn status(run: &Path) -> Result<RunStatus, Error> {
    let status = read(run)?;
    Ok(RunStatus { owner: directory::owner(run)?, ..status })
}

/// Reads what its Ledger says of a run.
fn read(run: &Path) -> Result<RunStatus, Error> {
    let ledger = open(run)?;
    let meta = RunMeta::read(&ledger)?;
    let mut shards_by_state = BTreeMap::new();
    let mut shards = Vec::new();
    let recorded = ledger.shards()?;
    let state = RunState::of(&recorded, ledger.has_submissions()?);
    let (queued_requests, queued_shards) =
        (recorded.iter().map(queued).sum(), recorded.iter().filter(|known| is_queued(known)).count() as u64);
    for Recorded { shard, state, note, file_id, batch_status, .. } in recorded {
        *shards_by_state.entry(state.name()).or_default() += 1;
        let held_requests = held_requests(&ledger, &shard, &state)?;
        shards.push(ShardStatus {
            number: shard.number,
            model: shard.model,
            requests: shard.requests,
            bytes: shard.bytes,
            state: state.name(),
            held: HeldReason::of(&state),
            held_requests,
            file_id,
            batch_id: state.batch_id().map(str::to_owned),
            batch_status,
            note,
        });
    }
    Ok(RunStatus {
        directory: run.to_owned(),
        inputs: meta.input_names(),
        service: meta.service,
        created_at: meta.created_at,
        requests: meta.requests,
        invalid: meta.lines.saturating_sub(meta.requests),
        state,
        outcomes: ledger.outcomes_so_far()?,
        held_requests: shards.iter().map(|shard| shard.held_requests).sum(),
        queued_requests,
        queued_shards,
        delivered_at: ledger.delivered_at()?,
        owner: None,
        shards_by_state,
        shards,
        incidents: ledger.incidents()?,
    })
}

/// How many requests of a shard are held.
fn held_requests(ledger: &Ledger, shard: &Shard, state: &ShardState) -> Result<u64, Error> {
    Ok(match HeldReason::of(state) {
        None => 0,
        Some(HeldReason::UnresolvedSubmission | HeldReason::LostBatch | HeldReason::NotSubmitted) => shard.requests,
        Some(HeldReason::IncompleteAnswer) => {
            let (outputs, errors) = ledger.outcomes(shard.number)?;
            shard.requests.saturating_sub(outputs + errors)
        }
    })
}

/// The newest run of all, or of those that were begun in the directory `begun_in` or read files below it. Runs that
/// cannot be read come last, so that whoever looks is told.
pub fn newest(places: &RunPlaces, begun_in: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    let mut newest = None;
    for run in places.runs()? {
        let meta = RunMeta::peek(&run).ok();
        let is_meant = begun_in.is_none_or(|directory| match &meta {
            Some(meta) => meta.is_of_directory(directory),
            None => std::path::absolute(&run).is_ok_and(|run| run.starts_with(directory)),
        });
        let created_at: Option<jiff::Timestamp> = meta.and_then(|meta| meta.created_at.parse().ok());
        if is_meant {
            newest = newest.max(Some((created_at, run)));
        }
    }
    Ok(newest.map(|(_, run)| run))
}

/// A batch that was asked to stop.
#[derive(Debug, Clone)]
pub struct Cancelled {
    /// Its shard.
    pub shard: u32,
    /// Its id.
    pub batch_id: String,
    /// What the service says it is now.
    pub status: String,
}

/// Asks the service to cancel every batch of the run that has not ended. A later `run` fetches what they had finished.
///
/// # Errors
/// The first batch that cannot be cancelled ends it; asking again is harmless.
pub async fn cancel(api: &impl Api, run: &Path) -> Result<Vec<Cancelled>, Error> {
    let mut ledger = open(run)?;
    let mut cancelled = Vec::new();
    for Recorded { shard, state, .. } in ledger.shards()? {
        let ShardState::Submitted { batch_id, .. } = state else { continue };
        let batch = api.cancel(&batch_id).await?;
        ledger.seen(&batch_id, &batch.status.to_string())?;
        cancelled.push(Cancelled { shard: shard.number, batch_id, status: batch.status.to_string() });
    }
    Ok(cancelled)
}

/// What [`retry`] has decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decided {
    /// Requests that will be sent again.
    pub requests: u64,
    /// The shards that they are from.
    pub shards: u64,
    /// Submissions in doubt that will be repeated.
    pub submissions: u64,
    /// Incomplete shards whose replies are taken as they are.
    pub accepted: u64,
    /// Their requests without a reply, which are held no longer and count as missing.
    pub missing: u64,
    /// Shards that stay held.
    pub held: u64,
}

/// What [`retry`] is to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Everything that was left without an output is sent again by the next `run`, whatever the rounds say: errors that may fare better,
    /// missing requests, what cancelled or failed batches left.
    SendLeftOver,
    /// The same, and unresolved submissions are repeated, too.
    SendAmbiguous,
    /// What could be fetched of incomplete shards is all of their replies; nothing else. What lacks counts as missing, and is sent again as
    /// long as there are rounds.
    AcceptIncomplete,
}

/// Decides what becomes of requests without an output.
pub fn retry(run: &Path, decision: Decision) -> Result<Decided, Error> {
    let mut prepared = prepare::open_run(RunDirectory::open(run)?, None, true)?;
    let replies = ReplyIndex::open_or_create(&layout::replies_index(run), prepared.requests.len())?;
    let mut decided = Decided::default();
    for Recorded { shard, state, followed, .. } in prepared.ledger.shards()? {
        match state {
            ShardState::Held { .. } | ShardState::Lost { .. } if decision == Decision::SendAmbiguous => {
                prepared.ledger.submit_again(shard.number)?;
                decided.submissions += 1;
            }
            ShardState::Incomplete { .. } if decision == Decision::AcceptIncomplete => {
                decided.missing += held_requests(&prepared.ledger, &shard, &state)?;
                prepared.ledger.accept(shard.number)?;
                decided.accepted += 1;
            }
            state if state.is_held() => decided.held += 1,
            ShardState::Indexed { batch, .. } if !followed && decision != Decision::AcceptIncomplete => {
                let members = Members::collect(&shard, &prepared.requests, run)?;
                let seqs: Vec<u64> = members.into_iter().map(|(seq, _)| seq).collect();
                let left = BatchWorth::of(&batch, true).left_over(&seqs, &replies.read_each(&seqs)?);
                if left.count > 0 {
                    prepared.ledger.decide(shard.number, left)?;
                    decided.requests += left.count;
                    decided.shards += 1;
                }
            }
            _ => {}
        }
    }
    Ok(decided)
}

/// Removes a run directory, with the replies in it, if the run still is as `fits` wants it; whether it was.
pub fn remove(run: &Path, fits: &dyn Fn(&RunStatus) -> bool) -> Result<bool, Error> {
    let directory = RunDirectory::open(run)?;
    if !fits(&read(run)?) {
        return Ok(false);
    }
    directory.remove()?;
    Ok(true)
}

/// Removes a run directory whatever is in it, also where that cannot be read any more.
pub fn remove_unread(run: &Path) -> Result<(), Error> {
    Ok(RunDirectory::open(run)?.remove()?)
}

fn open(run: &Path) -> Result<Ledger, Error> {
    directory::require_run(run)?;
    Ok(Ledger::open(&layout::ledger(run))?)
}
