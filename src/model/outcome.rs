//! Counts of the outcomes of requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::reply::Usage;

/// Maximum kinds of errors that are counted separately; the rest count as [`OTHER_ERRORS`].
const ERROR_LABELS_MAX: usize = 50;

/// The label of errors beyond the first `ERROR_LABELS_MAX` kinds.
pub const OTHER_ERRORS: &str = "other errors";

/// The outcomes of requests whose batches have been collected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Outcomes {
    /// Requests with an output.
    pub outputs: u64,
    /// Requests that ended as an error.
    pub errors: u64,
    /// Requests without a reply.
    pub missing: u64,
    /// Replies that are only in the run directory: conflicting with the one kept, unmatched, or unreadable.
    pub set_aside: u64,
}

/// Counts of the lines of reply files, by what they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// All lines, replies or not; blank ones are not counted.
    pub replies: u64,
    /// Requests that have an output.
    pub outputs: u64,
    /// Requests that have an error.
    pub errors: u64,
    /// Of both, those whose reply has a near id.
    pub recognised: u64,
    /// Duplicates: replies equal to the one kept.
    pub duplicates: u64,
    /// Conflicts: replies that differ from the one kept.
    pub conflicts: u64,
    /// Unmatched replies: to unknown ids.
    pub unknown: u64,
    /// Lines that are not whole objects, and objects that identify no request.
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

    /// Renames the labels of the counted errors.
    pub fn rename_labels(&mut self, rename: impl Fn(String) -> String) {
        for (label, count) in std::mem::take(&mut self.labels) {
            self.count_label(&rename(label), count);
        }
    }

    /// Reverts [`Indexed::count_error`].
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

/// The requests to one model, and their outcomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
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
