//! What became of requests, counted.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::reply::Usage;

/// Most kinds of errors that are counted apart; the rest count as [`OTHER_ERRORS`].
const ERROR_LABELS_MAX: usize = 50;

/// What errors beyond the first `ERROR_LABELS_MAX` kinds are counted as.
pub const OTHER_ERRORS: &str = "other errors";

/// What has become of requests whose batches have come back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Outcomes {
    /// Requests with an output.
    pub outputs: u64,
    /// Requests that ended as an error.
    pub errors: u64,
    /// Requests without a reply.
    pub missing: u64,
    /// Replies that are in the run directory alone: in conflict with the one kept, to unknown ids, or unreadable.
    pub set_aside: u64,
}

/// What became of the lines of reply files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// Replies, and lines that are none; blank ones are not counted.
    pub replies: u64,
    /// Requests that have an output.
    pub outputs: u64,
    /// Requests that have an error.
    pub errors: u64,
    /// Of both, those whose reply has an id that is nearly theirs.
    pub recognised: u64,
    /// Replies that say the same as the one kept.
    pub duplicates: u64,
    /// Replies that say something else than the one kept.
    pub conflicts: u64,
    /// Replies to nobody.
    pub unknown: u64,
    /// Lines that are not whole objects, and objects that do not say whom they answer.
    pub unreadable: u64,
    /// Tokens of the replies kept.
    pub usage: Usage,
    /// Errors kept, by code and message.
    pub labels: BTreeMap<String, u64>,
    /// Checksums of the files, in their order: XXH3-128 over the XXH3-64 hashes of their blocks.
    pub checksums: Vec<u128>,
}

impl Indexed {
    /// Adds the counts of other files.
    pub fn add(&mut self, other: &Self) {
        self.replies += other.replies;
        self.outputs += other.outputs;
        self.errors += other.errors;
        self.recognised += other.recognised;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.unknown += other.unknown;
        self.unreadable += other.unreadable;
        self.usage += other.usage;
        for (label, count) in &other.labels {
            self.count_label(label, *count);
        }
    }

    /// Counts a request that has an error.
    pub fn count_error(&mut self, label: &str) {
        self.errors += 1;
        self.count_label(label, 1);
    }

    fn count_label(&mut self, label: &str, count: u64) {
        let known = self.labels.contains_key(label) || self.labels.len() < ERROR_LABELS_MAX;
        *self.labels.entry(if known { label } else { OTHER_ERRORS }.to_owned()).or_default() += count;
    }

    /// Counts the errors by what `rename` makes of their labels.
    pub fn rename_labels(&mut self, rename: impl Fn(String) -> String) {
        for (label, count) in std::mem::take(&mut self.labels) {
            self.count_label(&rename(label), count);
        }
    }

    /// Takes back what [`Indexed::count_error`] counted.
    pub fn forget_error(&mut self, label: &str) {
        self.errors -= 1;
        let label = if self.labels.contains_key(label) { label } else { OTHER_ERRORS };
        if let Some(count) = self.labels.get_mut(label) {
            *count -= 1;
            if *count == 0 {
                self.labels.remove(label);
            }
        }
    }
}

/// What was asked of one model, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ModelCounts {
    /// Requests, each counted once.
    pub requests: u64,
    /// Those with an output.
    pub outputs: u64,
    /// Those that ended as an error.
    pub errors: u64,
    /// Tokens of the prompts, as the service counted them.
    pub prompt_tokens: u64,
    /// Tokens of the answers, as the service counted them.
    pub completion_tokens: u64,
}
