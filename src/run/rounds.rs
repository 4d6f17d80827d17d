//! Further rounds: retryable requests that a round left without an output are sent again.
//!
//! In: indexed shards. Out: new shards of their retryable requests. The driver plans a round from the Ledger; the step
//! that packs it reads the slots and lines.
//!
//! Invariants: lines that are sent again are those that were checked, even if the input has changed. A request is in at
//! most one shard of each round. The list of a round is on disk, synced, before its shards are in the Ledger; packing
//! it again after a crash has the same result. A shard's requests are in input order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::files::Files;
use super::retry_decision::RetryDecision;
use crate::input::embeddings;
use crate::input::pack::Packer;
use crate::input::shard_lines;
use crate::input::shard_lines::Members;
use crate::ledger::{Ledger, NextRound};
use crate::model::outcome::Indexed;
use crate::model::shard::{SeqRange, Shard, ShardLimits};
use crate::model::shard_state::{EndedBatch, ShardRow, ShardState};
use crate::results::reply_index::Slot;
use crate::run::error::Error;
use crate::storage::line_hash::hash_line;

/// Why a request without any reply is sent again.
const NO_REPLY: &str = "no reply";

/// A round to pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundPlan {
    /// Its number, from 2 on.
    round: u32,
    /// The number of its first shard, and of its list of Seqs.
    first_number: u32,
    /// The limits of its shards.
    limits: ShardLimits,
    /// The shards with unfinished requests, by number.
    left: Vec<ShardLeft>,
}

/// A shard whose unfinished requests a round sends again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ShardLeft {
    shard: Shard,
    batch: EndedBatch,
    /// Whether the user decided that all of it is sent again.
    decided: bool,
    /// Errors that the Ledger counts for it.
    errors: u64,
    /// The same, by kind.
    labels: BTreeMap<String, u64>,
}

/// Plans the next round of a run with these shards; `None` if there is nothing to send again.
pub(crate) fn plan(
    ledger: &Ledger,
    shards: &[ShardRow],
    limits: ShardLimits,
    rounds: u32,
) -> Result<Option<RoundPlan>, Error> {
    let wanting: Vec<&ShardRow> = shards.iter().filter(|row| row.wants_another_round(rounds)).collect();
    // One round at a time, the lowest, so that the shards of a round have consecutive numbers.
    let Some(round) = wanting.iter().map(|row| row.shard.round + 1).min() else { return Ok(None) };
    let mut left = Vec::new();
    for row in wanting.into_iter().filter(|row| row.shard.round + 1 == round) {
        let ShardState::Indexed { batch, .. } = row.state.clone() else { continue };
        let (errors, labels) = ledger.errors(row.shard.number)?;
        left.push(ShardLeft { shard: row.shard.clone(), batch, decided: row.decided, errors, labels });
    }
    let first_number = u32::try_from(shards.len()).unwrap_or(u32::MAX);
    Ok(Some(RoundPlan { round, first_number, limits, left }))
}

/// Packs the unfinished requests of the shards, publishes their list, and returns what the Ledger has to record.
pub(crate) fn pack(files: &Files, plan: &RoundPlan) -> Result<NextRound, Error> {
    let RoundPlan { round, first_number, limits, left } = plan;
    let mut next = NextRound::default();
    let mut again: Vec<(u64, &str)> = Vec::new();
    for shard in left {
        let counts = shard.collect(files, &mut again, &mut next.reasons)?;
        next.followed.push((shard.shard.number, counts.errors, counts.labels));
    }
    // Shards of a later round may be out of request order: one that was held is late.
    again.sort_unstable();
    let mut packer = Packer::starting_at(*limits, *first_number);
    let mut placed: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (seq, model) in again {
        let record = files.requests.record(seq)?;
        files.recheck.line(&record)?;
        let mut line = vec![0; record.length as usize];
        files.source.read_at(record.offset, &mut line)?;
        let written = record.length.saturating_add(files.envelope.added_bytes(record.lacks, seq));
        // Its inputs are counted again: the index does not store the count.
        let inputs = limits.inputs.map_or(1, |_| embeddings::inputs(&line, record.lacks.id));
        let inputs = u32::try_from(inputs).unwrap_or(u32::MAX);
        let model = packer.model(model);
        let shard = packer.push(seq, model, (written, inputs), hash_line(&line));
        placed.entry(shard).or_default().push(seq);
    }
    next.shards = packer.finish();
    let mut start = 0;
    for shard in &mut next.shards {
        shard.round = *round;
        shard.seq_range = Some(SeqRange { list: *first_number, start });
        start += shard.requests;
    }
    shard_lines::write_list(&files.run, *first_number, placed.into_values().flatten())?;
    Ok(next)
}

impl ShardLeft {
    /// Adds its unfinished requests, and the reasons, to those that are sent again. Returns the errors that it still
    /// counts.
    fn collect<'s>(
        &'s self,
        files: &Files,
        again: &mut Vec<(u64, &'s str)>,
        reasons: &mut BTreeMap<String, u64>,
    ) -> Result<Indexed, Error> {
        let mut counts = Indexed { errors: self.errors, labels: self.labels.clone(), ..Indexed::default() };
        for (seq, slot) in self.unfinished(files)? {
            let reason = match slot {
                Some(slot) => {
                    let label = files.error_label(slot)?;
                    counts.forget_error(&label);
                    label
                }
                None => NO_REPLY.to_owned(),
            };
            *reasons.entry(reason).or_default() += 1;
            again.push((seq, &self.shard.model));
        }
        Ok(counts)
    }

    /// Its retryable requests, each with its error.
    fn unfinished(&self, files: &Files) -> Result<Vec<(u64, Option<Slot>)>, Error> {
        let decision = RetryDecision::of(&self.batch, self.decided);
        let members = Members::collect(&self.shard, &files.requests, &files.run)?;
        let seqs: Vec<u64> = members.into_iter().map(|(seq, _)| seq).collect();
        let slots = files.replies.read_each(&seqs)?;
        Ok(seqs.into_iter().zip(slots).filter(|(_, slot)| decision.again(*slot)).collect())
    }
}
