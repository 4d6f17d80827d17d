//! The service's batch object, which executes one shard, in the form that all dialects are parsed into.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::shown::{REDACTED, one_line};
use crate::model::tag::BatchTag;

/// Maximum length of the id of a file or batch, in bytes.
pub const ID_BYTES: usize = 4096;

/// The service's batch object. Texts are sanitized, ids are valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its id; see [`is_valid_id`].
    pub id: String,
    /// The file with its requests.
    pub input_file_id: Option<String>,
    /// Its status.
    pub status: BatchStatus,
    /// The progress in percent, 0 to 100.
    pub progress: Option<f64>,
    /// How many requests it has tried, if the service reports it.
    pub counts: Option<RequestCounts>,
    /// The file with the answers of successful requests.
    pub output_file_id: Option<String>,
    /// The file with the errors of failed requests.
    pub error_file_id: Option<String>,
    /// Why the batch as a whole failed.
    pub error: Option<String>,
    /// Whether it failed before it tried any request, because the queue was full.
    pub queue_full: bool,
    /// The endpoint it is for.
    pub endpoint: Option<String>,
    /// The model, according to the service.
    pub model: Option<String>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// When its completion window ends. Batches may overrun it.
    pub deadline: Option<Timestamp>,
    /// Its owner, if the provider stores metadata and this program created it.
    pub tag: Option<BatchTag>,
}

impl Batch {
    /// A batch of which nothing else is known.
    #[must_use]
    pub fn new(id: impl Into<String>, status: BatchStatus) -> Self {
        Self {
            id: id.into(),
            input_file_id: None,
            status,
            progress: None,
            counts: None,
            output_file_id: None,
            error_file_id: None,
            error: None,
            queue_full: false,
            endpoint: None,
            model: None,
            created_at: None,
            completed_at: None,
            deadline: None,
            tag: None,
        }
    }
}

/// A request to create a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateBatch {
    /// The uploaded requests.
    pub input_file_id: String,
    /// The endpoint that answers them, such as `/v1/chat/completions`.
    pub endpoint: String,
    /// How long the service may take, such as `24h`; not sent when absent.
    pub completion_window: Option<String>,
    /// The model of all its requests. Sent if the dialect has it once per batch.
    pub model: String,
    /// Its owner; sent if the provider stores metadata.
    pub tag: Option<BatchTag>,
}

/// The service's counts of a batch's requests. Missing ones are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// How many there are.
    pub total: u64,
    /// How many were answered.
    pub completed: u64,
    /// How many failed.
    pub failed: u64,
}

impl RequestCounts {
    /// The percentage that was tried, 0 to 100 if the counts are consistent; `None` without a total.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for progress bars")]
    pub fn percent(self) -> Option<f64> {
        let done = self.completed as f64 + self.failed as f64;
        (self.total > 0).then(|| done * 100.0 / self.total as f64)
    }
}

/// The status of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchStatus {
    /// Nothing has been done yet.
    Queued,
    /// The service validates the file.
    Validating,
    /// The requests are being executed.
    InProgress,
    /// The requests are done; their files are being written.
    Finalizing,
    /// Terminal: every request was tried.
    Completed,
    /// Terminal: the batch as a whole failed.
    Failed,
    /// Terminal: the completion window ended.
    Expired,
    /// On its way to [`BatchStatus::Cancelled`].
    Cancelling,
    /// Terminal: cancelled by request.
    Cancelled,
    /// An unknown status, or none (empty). Not terminal.
    Other(String),
}

impl BatchStatus {
    /// Parses a status: in any case, with or without the prefixes that some services use, in either spelling of
    /// "cancelled". An unknown one is [`BatchStatus::Other`].
    #[must_use]
    pub fn read(word: &str) -> Self {
        let folded: String = word.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        let prefixes = ["batchstatus", "batchstate", "jobstate"];
        let bare = prefixes.iter().find_map(|prefix| folded.strip_prefix(prefix)).unwrap_or(&folded);
        match bare.replace("cancell", "cancel").as_str() {
            "scheduling" | "scheduled" | "queued" | "pending" | "inqueue" | "submitted" | "created" => Self::Queued,
            "validating" => Self::Validating,
            "inprogress" | "progress" | "running" | "processing" => Self::InProgress,
            "finalizing" | "writingresults" | "postprocessing" => Self::Finalizing,
            "canceling" | "cancelationrequested" | "stopping" => Self::Cancelling,
            "completed" | "succeeded" | "success" | "ended" | "partiallysucceeded" | "partiallycompleted" => {
                Self::Completed
            }
            "failed" => Self::Failed,
            "expired" | "timeoutexceeded" => Self::Expired,
            "canceled" | "stopped" => Self::Cancelled,
            _ => Self::Other(one_line(word)),
        }
    }

    /// Whether the status is terminal. Unknown statuses are not.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Expired | Self::Cancelled)
    }
}

impl fmt::Display for BatchStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Queued => "queued",
            Self::Validating => "validating",
            Self::InProgress => "in progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Other(word) if word.is_empty() => "unknown",
            Self::Other(word) => word,
        })
    }
}

/// Whether `id` can be an id: any text without control characters, at most [`ID_BYTES`] long; only the service knows
/// its meaning. In a URL it is one percent-encoded segment, which `.` and `..` cannot be; no file is named after it. An
/// id that contained the key has been redacted, and is invalid.
#[must_use]
pub fn is_valid_id(id: &str) -> bool {
    !matches!(id, "" | "." | "..") && id.len() <= ID_BYTES && !id.contains(char::is_control) && !id.contains(REDACTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_spelling() {
        for (word, status) in [
            ("VALIDATING", BatchStatus::Validating),
            ("in_progress", BatchStatus::InProgress),
            ("Completed", BatchStatus::Completed),
            ("CANCELING", BatchStatus::Cancelling),
            ("CANCELLING", BatchStatus::Cancelling),
            ("CANCELED", BatchStatus::Cancelled),
            ("cancelled", BatchStatus::Cancelled),
            ("scheduling", BatchStatus::Queued),
            ("in_queue", BatchStatus::Queued),
            ("PROGRESS", BatchStatus::InProgress),
            ("finalizing", BatchStatus::Finalizing),
            ("JOB_STATE_WRITING_RESULTS", BatchStatus::Finalizing),
            ("CANCELLATION_REQUESTED", BatchStatus::Cancelling),
            ("BATCH_STATE_SUCCEEDED", BatchStatus::Completed),
            ("PartiallyCompleted", BatchStatus::Completed),
            ("TIMEOUT_EXCEEDED", BatchStatus::Expired),
            ("AGGREGATING", BatchStatus::Other("AGGREGATING".into())),
            ("\u{1b}[2Jx", BatchStatus::Other("[2Jx".into())),
        ] {
            assert_eq!(BatchStatus::read(word), status);
        }
        for open in ["QUEUED", "finalizing", "cancelling", "archived", ""] {
            assert!(!BatchStatus::read(open).is_terminal(), "{open}");
        }
        assert!(BatchStatus::read("EXPIRED").is_terminal());
    }

    #[test]
    fn a_status_is_read_back_from_what_it_is_shown_as() {
        for word in
            ["queued", "validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired"]
        {
            let status = BatchStatus::read(word);
            assert_eq!(BatchStatus::read(&status.to_string()), status);
        }
    }
}
