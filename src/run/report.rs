//! All that can be said of a run, read from its Ledger at any time: while a process works on it, after it has failed,
//! after it is done.
//!
//! In: a run directory. Out: a [`Report`]. `status`, the summary of `run` and their JSON are renderings of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::directory::{self, layout};
use super::held::HeldReason;
use super::meta::RunMeta;
use crate::ledger::Ledger;
use crate::model::batch::BatchStatus;
use crate::model::outcome::{Indexed, ModelCounts, Outcomes};
use crate::model::phase::Phase;
use crate::model::shard::Shard;
use crate::model::shard_state::{ShardRow, ShardState};
use crate::run::error::Error;

/// A run, as its Ledger has it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Report {
    /// The run directory.
    #[serde(serialize_with = "crate::storage::path_text::shown")]
    pub directory: PathBuf,
    /// The inputs, as they were named.
    pub inputs: Vec<String>,
    /// The provider and where it is.
    pub service: String,
    /// When the run was begun, in RFC 3339.
    pub created_at: String,
    /// Requests in all.
    pub requests: u64,
    /// Lines that are not requests and were skipped.
    pub invalid: u64,
    /// Where it stands as a whole.
    pub state: RunState,
    /// What has become of the requests so far.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// The errors, by code and message.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Requests that wait for a decision.
    pub held_requests: u64,
    /// Requests that were sent again, by the reason.
    pub sent_again: BTreeMap<String, u64>,
    /// Requests that are sent again by the next `run`, because somebody decided so.
    pub queued_requests: u64,
    /// Shards that wait to be submitted again: their last submission was refused, or somebody gave it up.
    pub queued_shards: u64,
    /// Replies by an id that is nearly that of their request.
    pub recognised: u64,
    /// Replies that said the same as another one.
    pub duplicates: u64,
    /// Replies that said something else than the one kept.
    pub conflicts: u64,
    /// Replies to ids that no request has.
    pub unknown: u64,
    /// Reply lines without an id.
    pub unreadable: u64,
    /// Requests, outcomes and tokens by the model that was asked for.
    pub models: BTreeMap<String, ModelCounts>,
    /// Tokens of the prompts of all models, as the service counted them.
    pub prompt_tokens: u64,
    /// Tokens of the answers of all models, as the service counted them.
    pub completion_tokens: u64,
    /// Time of each phase so far, in seconds, as far as processes worked on the run. Phases overlap; one that has not
    /// begun is not here.
    pub phase_seconds: BTreeMap<Phase, f64>,
    /// Bytes of the batch files that were uploaded; of each once, however often that was tried.
    pub uploaded_bytes: u64,
    /// Rounds so far, counted from 1.
    pub rounds: u32,
    /// Batches that ended.
    pub batches: usize,
    /// Batches that ended without being completed.
    pub batches_unsound: usize,
    /// Batches on the run's files that do not work for it, by id: they may have been paid for in vain.
    pub surplus_batches: Vec<String>,
    /// When its output, with all the replies that it has now, was delivered whole; in RFC 3339.
    pub delivered_at: Option<String>,
    /// The process that works on it.
    pub owner: Option<String>,
    /// How many shards are in each state.
    pub shards_by_state: BTreeMap<&'static str, u64>,
    /// The shards, by number; none in a [`Summary`](super::Summary). Not in its JSON: whoever renders it decides on
    /// them.
    #[serde(skip)]
    pub shards: Vec<ShardStatus>,
    /// What went wrong and was dealt with, in the run's whole life. Not in its JSON either.
    #[serde(skip)]
    pub incidents: Vec<String>,
}

/// Where a run stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
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
    fn of(shards: &[ShardRow], was_submitted: bool) -> Self {
        let is = |wanted: fn(&ShardState) -> bool| move |known: &ShardRow| wanted(&known.state);
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
fn queued(known: &ShardRow) -> u64 {
    if known.decided && known.wants_another_round(0) { known.unfinished.count } else { 0 }
}

/// Whether a shard waits to be submitted again.
fn is_queued(known: &ShardRow) -> bool {
    matches!(known.state, ShardState::Uploaded { .. }) && known.last_submission.is_some()
}

/// Where a shard stands.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
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

impl ShardStatus {
    fn of(ledger: &Ledger, known: &ShardRow) -> Result<Self, Error> {
        let ShardRow { shard, state, note, file_id, batch_status, .. } = known;
        Ok(Self {
            number: shard.number,
            model: shard.model.clone(),
            requests: shard.requests,
            bytes: shard.bytes,
            state: state.name(),
            held: HeldReason::of(state),
            held_requests: held_requests(ledger, shard, state)?,
            file_id: file_id.clone(),
            batch_id: state.batch_id().map(str::to_owned),
            batch_status: batch_status.clone(),
            note: note.clone(),
        })
    }
}

impl Report {
    /// Reads the report of the run in this directory. Another process may be working on it.
    ///
    /// # Errors
    /// When it is not a run directory, or its Ledger cannot be read.
    pub fn read(run: &Path) -> Result<Self, Error> {
        directory::require_run(run)?;
        let report = Self::of(&Ledger::open(&layout::ledger(run))?, run)?;
        Ok(Self { owner: directory::owner(run)?, ..report })
    }

    /// What this Ledger says of the run in that directory.
    pub(crate) fn of(ledger: &Ledger, run: &Path) -> Result<Self, Error> {
        let meta = RunMeta::read(ledger)?;
        let recorded = ledger.shards()?;
        let Indexed { recognised, duplicates, conflicts, unknown, unreadable, usage, labels, .. } = ledger.totals()?;
        let (batches, batches_unsound) = count_batches(&recorded);
        let is_uploaded = |known: &&ShardRow| known.file_id.is_some();
        let shards = recorded.iter().map(|known| ShardStatus::of(ledger, known)).collect::<Result<Vec<_>, Error>>()?;
        let mut shards_by_state = BTreeMap::new();
        for shard in &shards {
            *shards_by_state.entry(shard.state).or_default() += 1;
        }
        Ok(Self {
            directory: run.to_owned(),
            inputs: meta.input_names(),
            service: meta.service,
            created_at: meta.created_at,
            requests: meta.requests,
            invalid: meta.lines.saturating_sub(meta.requests),
            state: RunState::of(&recorded, ledger.has_submissions()?),
            outcomes: ledger.outcomes_so_far()?,
            errors_by_kind: labels,
            held_requests: shards.iter().map(|shard| shard.held_requests).sum(),
            sent_again: ledger.resent()?,
            queued_requests: recorded.iter().map(queued).sum(),
            queued_shards: recorded.iter().filter(|known| is_queued(known)).count() as u64,
            recognised,
            duplicates,
            conflicts,
            unknown,
            unreadable,
            models: ledger.models()?,
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            uploaded_bytes: recorded.iter().filter(is_uploaded).map(|known| known.shard.bytes).sum(),
            rounds: recorded.iter().map(|known| known.shard.round).max().unwrap_or(1),
            batches,
            batches_unsound,
            phase_seconds: ledger.phase_seconds()?,
            surplus_batches: ledger.surplus()?.into_keys().collect(),
            delivered_at: ledger.delivered_at()?,
            owner: None,
            shards_by_state,
            shards,
            incidents: ledger.incidents()?,
        })
    }

    /// Whether nothing would be lost with its directory: all requests have outputs, and those are delivered.
    #[must_use]
    pub fn is_delivered_whole(&self) -> bool {
        let Outcomes { outputs, set_aside, .. } = self.outcomes;
        self.state == RunState::Done && self.delivered_at.is_some() && outputs == self.requests && set_aside == 0
    }
}

/// How many batches have ended, and how many of them were not completed.
fn count_batches(recorded: &[ShardRow]) -> (usize, usize) {
    let ended = recorded.iter().filter_map(|known| known.state.ended_batch());
    let completed = ended.clone().filter(|batch| batch.status == BatchStatus::Completed).count();
    let ended = ended.count();
    (ended, ended - completed)
}

/// How many requests of a shard are held.
pub(super) fn held_requests(ledger: &Ledger, shard: &Shard, state: &ShardState) -> Result<u64, Error> {
    Ok(match HeldReason::of(state) {
        None => 0,
        Some(HeldReason::UnresolvedSubmission | HeldReason::LostBatch | HeldReason::NotSubmitted) => shard.requests,
        Some(HeldReason::IncompleteAnswer) => {
            let (outputs, errors) = ledger.outcomes(shard.number)?;
            shard.requests.saturating_sub(outputs + errors)
        }
    })
}
