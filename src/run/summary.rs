//! How a run ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::driver::Driven;
use super::held::HeldShard;
use super::ledger::Ledger;
use super::output::Written;
use crate::error::Error;
use crate::results::index::Indexed;
use crate::results::reply::Usage;

/// How a run ended: every line of the input accounted for.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The run directory.
    #[serde(serialize_with = "crate::path_text::shown")]
    pub directory: PathBuf,
    /// Lines of the input that are not blank.
    pub lines: u64,
    /// Requests answered.
    pub outputs: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The errors, by code and message.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Requests that the service neither answered nor refused.
    pub missing: u64,
    /// Lines that were no requests and were skipped.
    pub invalid: u64,
    /// Requests that wait for a decision: sent, and with no outcome that is known.
    pub held: u64,
    /// Of the outputs and errors, those whose replies have ids that are nearly those of their requests.
    pub recognised: u64,
    /// Replies that said the same as another one.
    pub duplicates: u64,
    /// Replies that said something else than the one kept.
    pub conflicts: u64,
    /// Replies to nobody.
    pub unknown: u64,
    /// Reply lines without an id.
    pub unreadable: u64,
    /// Requests that were sent again, by the reason.
    pub sent_again: BTreeMap<String, u64>,
    /// Batches that ended.
    pub batches: usize,
    /// Batches that ended without being completed.
    pub batches_unsound: usize,
    /// The shards that hold them, and why.
    pub held_shards: Vec<HeldShard>,
    /// Batches on the run's files that do not work for it, by id: they may have been paid for in vain.
    pub surplus_batches: Vec<String>,
    /// Tokens of the prompts, as the service counted them.
    pub prompt_tokens: u64,
    /// Tokens of the answers, as the service counted them.
    pub completion_tokens: u64,
    /// Bytes written.
    pub bytes: u64,
    /// What went wrong and was dealt with, in this run's whole life.
    pub incidents: Vec<String>,
    /// Whether the output is complete and delivered: in a file that has appeared, or to a reader that has read to the
    /// end.
    pub delivered: bool,
    /// Whether the run was there before.
    pub resumed: bool,
    /// Time that this process took, in seconds.
    pub seconds: f64,
}

impl Summary {
    pub(super) fn new(
        ledger: &Ledger,
        directory: PathBuf,
        (driven, held_shards, Written { merged, delivered }): (Driven, Vec<HeldShard>, Written),
        lines: u64,
        resumed: bool,
        took: Duration,
    ) -> Result<Self, Error> {
        let totals = ledger.totals()?;
        let Indexed { recognised, duplicates, conflicts, unknown, unreadable, usage, labels, .. } = totals;
        let Usage { prompt, completion } = usage;
        let delivered = delivered && held_shards.is_empty();
        if merged.lines() != lines {
            let what = format!("{} of {lines} lines were written", merged.lines());
            return Err(Error::Internal { what });
        }
        if (totals.outputs, totals.errors) != (merged.outputs, merged.errors) {
            let what = format!(
                "{} outputs and {} errors were indexed, {} and {} were written",
                totals.outputs, totals.errors, merged.outputs, merged.errors
            );
            return Err(Error::Internal { what });
        }
        Ok(Self {
            directory,
            lines,
            outputs: merged.outputs,
            errors: merged.errors,
            errors_by_kind: labels,
            missing: merged.missing,
            invalid: merged.invalid,
            held: merged.held,
            recognised,
            duplicates,
            conflicts,
            unknown,
            unreadable,
            sent_again: ledger.resent()?,
            batches: driven.batches,
            batches_unsound: driven.unsound,
            held_shards,
            surplus_batches: ledger.surplus()?.into_keys().collect(),
            prompt_tokens: prompt,
            completion_tokens: completion,
            bytes: merged.bytes,
            incidents: ledger.incidents()?,
            delivered,
            resumed,
            seconds: took.as_secs_f64(),
        })
    }

    /// Whether every request has an output and no two replies contradict each other.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.outputs == self.lines && self.conflicts == 0
    }
}
