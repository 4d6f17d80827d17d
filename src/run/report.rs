//! The report of a run, read from its Ledger at any time: while a process is using it, after a failure, after
//! completion.
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
use crate::model::incident::RecordedIncident;
use crate::model::outcome::{Indexed, ModelCounts, Outcomes};
use crate::model::phase::Phase;
use crate::model::shard::Shard;
use crate::model::shard_state::{ShardRow, ShardState};
use crate::run::error::Error;

/// A run, as recorded in its Ledger.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Report {
    /// The run directory.
    #[serde(serialize_with = "crate::storage::path_text::shown")]
    pub directory: PathBuf,
    /// The inputs, as the user named them.
    pub inputs: Vec<String>,
    /// The provider and its base URL.
    pub service: String,
    /// When the run was started, in RFC 3339.
    pub created_at: String,
    /// Requests in all.
    pub requests: u64,
    /// Lines that are not requests and were skipped.
    pub invalid: u64,
    /// Its state as a whole.
    pub state: RunState,
    /// The outcomes of the requests so far.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// The errors, by code and message.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Requests that are held until the user decides.
    pub held_requests: u64,
    /// Requests that were sent again, by reason.
    pub sent_again: BTreeMap<String, u64>,
    /// Requests that the next `run` sends again, because the user decided so.
    pub queued_requests: u64,
    /// Shards that wait to be submitted again: their last submission was refused, or abandoned by the user.
    pub queued_shards: u64,
    /// Replies whose ids nearly equal those of their requests.
    pub recognised: u64,
    /// Replies with the same content as another one to the same request.
    pub duplicates: u64,
    /// Replies with other content than the one that was kept.
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
    /// Time of each phase so far, in seconds, while a process was using the run. Phases overlap; those that have not
    /// begun are absent.
    pub phase_seconds: BTreeMap<Phase, f64>,
    /// Bytes of the batch files that were uploaded, each counted once regardless of retries.
    pub uploaded_bytes: u64,
    /// Rounds so far, counted from 1.
    pub rounds: u32,
    /// Batches that ended.
    pub batches: usize,
    /// Batches that ended without being completed.
    pub batches_unsound: usize,
    /// Surplus batches on the run's files, by id: they may have been paid for in vain.
    pub surplus_batches: Vec<String>,
    /// When its complete output, with all current replies, was delivered; in RFC 3339.
    pub delivered_at: Option<String>,
    /// The process that is using it.
    pub owner: Option<String>,
    /// How many shards are in each state.
    pub shards_by_state: BTreeMap<&'static str, u64>,
    /// The shards, by number; none in a [`Summary`](super::Summary). Not part of the JSON: each renderer decides
    /// whether to include them.
    #[serde(skip)]
    pub shards: Vec<ShardStatus>,
    /// The incidents since the run was started. Not part of the JSON either.
    #[serde(skip)]
    pub incidents: Vec<RecordedIncident>,
}

/// The state of a run as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Nothing was ever submitted: nothing was paid for.
    Unsent,
    /// Batches are in progress, or wait to be submitted.
    Unfinished,
    /// A shard waits for a decision.
    Held,
    /// All results have been collected, and nothing is to be sent again.
    Done,
}

impl RunState {
    /// The state of a run with these shards.
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

/// Requests of a shard that are sent again because the user decided so.
fn queued(known: &ShardRow) -> u64 {
    if known.decided && known.wants_another_round(0) { known.unfinished.count } else { 0 }
}

/// Whether a shard waits to be submitted again.
fn is_queued(known: &ShardRow) -> bool {
    matches!(known.state, ShardState::Uploaded { .. }) && known.last_submission.is_some()
}

/// The state of a shard.
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
    /// Its state, as named in the Ledger.
    pub state: &'static str,
    /// Why it is held, if it is.
    pub held: Option<HeldReason>,
    /// How many of its requests are held.
    pub held_requests: u64,
    /// Its file at the service.
    pub file_id: Option<String>,
    /// Its batch.
    pub batch_id: Option<String>,
    /// The last known status of that batch.
    pub batch_status: Option<String>,
    /// Why it is in that state, where that needs explaining.
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

    /// The report of the run in that directory, from this Ledger.
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

    /// Whether removing its directory would lose nothing: all requests have outputs, and those were delivered.
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
