//! Further rounds: what a round left without an output, and is retryable, goes up again.
//!
//! In: shards that are indexed. Out: new shards that hold only those of their requests that may fare better.
//!
//! What always holds: what is sent again is what was checked, whatever has become of the input. A request is in at most one shard of each round. The list of a round is on disk, synced, before the Ledger knows
//! its shards; packed again after a crash, it comes out the same. A shard's requests stand in input order.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::retry_decision::RetryDecision;
use super::steps::{self, Files};
use crate::input::embeddings;
use crate::input::pack::Packer;
use crate::input::shard_lines;
use crate::input::shard_lines::Members;
use crate::ledger::{Ledger, NextRound};
use crate::model::outcome::Indexed;
use crate::model::shard::{SeqRange, ShardLimits};
use crate::model::shard_state::{ShardRow, ShardState};
use crate::results::reply_index::Slot;
use crate::run::error::Error;

/// Why a request without any reply is sent again.
const NO_REPLY: &str = "no reply";

/// Packs what the shards have left, publishes its list, and returns what the Ledger has to record; `None` if nothing is left.
pub(crate) fn pack(
    files: &Files,
    ledger: &Ledger,
    shards: &[ShardRow],
    limits: ShardLimits,
    rounds: u32,
) -> Result<Option<NextRound>, Error> {
    let wanting: Vec<&ShardRow> = shards.iter().filter(|known| known.wants_another_round(rounds)).collect();
    // One round at a time: the lowest, so that the numbers of a round's shards stand together.
    let Some(round) = wanting.iter().map(|known| known.shard.round + 1).min() else { return Ok(None) };
    let first_number = u32::try_from(shards.len()).unwrap_or(u32::MAX);
    let mut next = NextRound::default();
    let mut again: Vec<(u64, &str)> = Vec::new();
    for known in wanting.into_iter().filter(|known| known.shard.round + 1 == round) {
        let (errors, labels) = ledger.errors(known.shard.number)?;
        let mut counts = Indexed { errors, labels, ..Indexed::default() };
        for (seq, slot) in unfinished(files, known)? {
            let reason = match slot {
                Some(slot) => {
                    let label = steps::error_label(files, slot)?;
                    counts.forget_error(&label);
                    label
                }
                None => NO_REPLY.to_owned(),
            };
            *next.reasons.entry(reason).or_default() += 1;
            again.push((seq, &known.shard.model));
        }
        next.followed.push((known.shard.number, counts.errors, counts.labels));
    }
    // Shards of a later round need not stand in the order of their requests: one that was held comes late.
    again.sort_unstable();
    let mut packer = Packer::starting_at(limits, first_number);
    let mut placed: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (seq, model) in again {
        let record = files.requests.record(seq)?;
        files.recheck.line(&record)?;
        let mut line = vec![0; record.length as usize];
        files.source.read_at(record.offset, &mut line)?;
        let written = record.length.saturating_add(files.envelope.added_bytes(record.lacks, seq));
        // Its inputs are counted again: the index does not have them.
        let inputs = limits.inputs.map_or(1, |_| embeddings::inputs(&line, record.lacks.id));
        let inputs = u32::try_from(inputs).unwrap_or(u32::MAX);
        let shard = packer.push(seq, model, (written, inputs), xxh3_64(&line));
        placed.entry(shard).or_default().push(seq);
    }
    next.shards = packer.finish();
    let mut start = 0;
    for shard in &mut next.shards {
        shard.round = round;
        shard.seq_range = Some(SeqRange { list: first_number, start });
        start += shard.requests;
    }
    shard_lines::write_list(&files.run, first_number, placed.into_values().flatten())?;
    Ok(Some(next))
}

/// The requests of a shard that are worth sending again, and the error that each has.
fn unfinished(files: &Files, known: &ShardRow) -> Result<Vec<(u64, Option<Slot>)>, Error> {
    let ShardState::Indexed { batch, .. } = &known.state else { return Ok(Vec::new()) };
    let decision = RetryDecision::of(batch, known.decided);
    let members = Members::collect(&known.shard, &files.requests, &files.run)?;
    let seqs: Vec<u64> = members.into_iter().map(|(seq, _)| seq).collect();
    let slots = files.replies.read_each(&seqs)?;
    Ok(seqs.into_iter().zip(slots).filter(|(_, slot)| decision.again(*slot)).collect())
}
