//! How a run ended.

use std::time::Duration;

use serde::Serialize;

use super::held::HeldShard;
use super::output::Written;
use super::report::Report;
use crate::model::outcome::Outcomes;
use crate::remote::Again;
use crate::run::error::Error;

/// Why a request was sent again that a service without a Batch API may already have answered.
const CRASHED: &str = "at the service when the process ended";

/// The same, of one whose answer was not received.
const LOST: &str = "the answer was lost in transit";

/// How a run ended: every line of the input accounted for.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Summary {
    /// The report from its Ledger, without the individual shards.
    #[serde(flatten)]
    pub report: Report,
    /// Lines of the input that are not blank.
    pub lines: u64,
    /// Requests without a known outcome, which wait for a decision.
    pub held: u64,
    /// The shards that hold them, and why.
    pub held_shards: Vec<HeldShard>,
    /// Bytes written.
    pub bytes: u64,
    /// Whether the output is complete and delivered: in a published file, or to a reader that has read to the end.
    pub delivered: bool,
    /// Whether the run existed before.
    pub resumed: bool,
    /// Time taken by this process, in seconds.
    pub seconds: f64,
}

impl Summary {
    pub(super) fn new(
        mut report: Report,
        (held_shards, Written { merged, delivered, .. }): (Vec<HeldShard>, Written),
        lines: u64,
        resumed: bool,
        took: Duration,
    ) -> Result<Self, Error> {
        if merged.lines() != lines {
            let what = format!("{} of {lines} lines were written", merged.lines());
            return Err(Error::Internal { what });
        }
        let Outcomes { outputs, errors, .. } = report.outcomes;
        if (outputs, errors) != (merged.outputs, merged.errors) {
            let (written, failed) = (merged.outputs, merged.errors);
            let what =
                format!("{outputs} outputs and {errors} errors were indexed, {written} and {failed} were written");
            return Err(Error::Internal { what });
        }
        report.shards = Vec::new();
        report.outcomes.missing = merged.missing;
        Ok(Self {
            report,
            lines,
            held: merged.held,
            delivered: delivered && held_shards.is_empty(),
            held_shards,
            bytes: merged.bytes,
            resumed,
            seconds: took.as_secs_f64(),
        })
    }

    /// Adds the requests that a service without a Batch API was sent twice.
    pub(super) fn count_again(&mut self, again: Again) {
        for (reason, requests) in [(CRASHED, again.crashed), (LOST, again.lost)] {
            if requests > 0 {
                self.report.sent_again.insert(reason.to_owned(), requests);
            }
        }
    }

    /// Whether every request has an output and no two replies contradict each other.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.report.outcomes.outputs == self.lines && self.report.conflicts == 0
    }
}
