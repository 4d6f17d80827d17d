//! The service's object that works on one shard, in the words that all dialects are read into.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::shown::{REDACTED, one_line};
use crate::model::tag::BatchTag;

/// Longest id of a file or batch, in bytes.
pub const ID_BYTES: usize = 4096;

/// The service's batch object, as far as it says. Texts are cleaned, ids are valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its id; see [`is_valid_id`].
    pub id: String,
    /// The file with its requests.
    pub input_file_id: Option<String>,
    /// Where it stands.
    pub status: BatchStatus,
    /// How much is done, 0 to 100.
    pub progress: Option<f64>,
    /// How many requests it has tried, where the service counts them.
    pub counts: Option<RequestCounts>,
    /// The file with the answers of successful requests.
    pub output_file_id: Option<String>,
    /// The file with the errors of failed requests.
    pub error_file_id: Option<String>,
    /// Why the batch as a whole failed.
    pub error: Option<String>,
    /// Whether it failed before it did anything, because too much was queued already.
    pub queue_full: bool,
    /// The endpoint it is for.
    pub endpoint: Option<String>,
    /// The model that the service sees it as.
    pub model: Option<String>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Until when the service means to be done. Batches overrun it.
    pub deadline: Option<Timestamp>,
    /// Whose it is, where the provider keeps metadata and a program like this one created it.
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

/// What a batch is created from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateBatch {
    /// The uploaded requests.
    pub input_file_id: String,
    /// The endpoint that answers them, such as `/v1/chat/completions`.
    pub endpoint: String,
    /// How long the service may take, such as `24h`; not sent when absent.
    pub completion_window: Option<String>,
    /// The model that all its requests name. Sent where the dialect wants it once for the batch.
    pub model: String,
    /// Whose it is; sent where the provider keeps metadata.
    pub tag: Option<BatchTag>,
}

/// What a service says of the number of a batch's requests. What it does not say is 0.
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
    /// The share that was tried, 0 to 100 where the counts make sense; `None` without a total.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for progress bars")]
    pub fn percent(self) -> Option<f64> {
        let done = self.completed as f64 + self.failed as f64;
        (self.total > 0).then(|| done * 100.0 / self.total as f64)
    }
}

/// Where a batch stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchStatus {
    /// Nothing has been done yet.
    Queued,
    /// The service looks at the file.
    Validating,
    /// The requests are worked on.
    InProgress,
    /// The requests are done, and their files are written.
    Finalizing,
    /// Over: every request was tried.
    Completed,
    /// Over: the batch as a whole was refused.
    Failed,
    /// Over: time ran out.
    Expired,
    /// On its way to [`BatchStatus::Cancelled`].
    Cancelling,
    /// Over: by request.
    Cancelled,
    /// A word that is not known here, or none (empty). Not over.
    Other(String),
}

impl BatchStatus {
    /// Reads the service's word for a status: in any case, with or without the prefixes that some put before it, in either
    /// spelling of "cancelled". What no service is known to say is [`BatchStatus::Other`].
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

    /// Whether nothing will change any more. A status that is not known is not an end.
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

/// Whether `id` can be an id: any text without control characters, at most [`ID_BYTES`] long, for the service alone knows what it means.
/// In an address it stands as one segment, percent-encoded, which `.` and `..` cannot be; no file is named after it. One that had the key
/// in it has lost its meaning.
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
