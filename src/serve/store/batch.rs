//! What is known about a batch.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::records::Record;
use crate::remote::service::Again;
use crate::serve::clock;

/// A batch, as much of it as must survive a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) id: String,
    /// Which one it is among all batches of the directory, from 1 in the order of creation. By it, scripted faults
    /// pick batches.
    #[serde(default)]
    pub(crate) number: u64,
    /// Whose it is; see `auth`.
    pub(crate) account: String,
    pub(crate) input_file_id: String,
    pub(crate) file_size_bytes: u64,
    pub(crate) endpoint: String,
    /// Unix microseconds.
    pub(crate) created_at: i64,
    /// Unix microseconds.
    pub(crate) completed_at: Option<i64>,
    pub(crate) status: Status,
    /// Share of the rows, 0 to 1, that were done when the batch was told to cancel or broke off.
    pub(crate) cancelled_at: Option<f64>,
    pub(crate) model_id: Option<String>,
    pub(crate) output_file_id: Option<String>,
    pub(crate) error_file_id: Option<String>,
    /// Why it FAILED.
    pub(crate) error: Option<String>,
    /// What an upstream was sent twice, once the batch has ended.
    #[serde(default)]
    pub(crate) again: Again,
    #[serde(default)]
    pub(crate) details: Details,
}

/// What only OpenAI's dialect shows of a batch. Times are Unix microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    /// As it was given.
    pub(crate) completion_window: String,
    /// When the window is over: what is not done by then is not done. Together's batches have no such moment.
    pub(crate) expires_at: Option<i64>,
    /// Whether that moment came before the end.
    pub(crate) is_overdue: bool,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) in_progress_at: Option<i64>,
    pub(crate) finalizing_at: Option<i64>,
    pub(crate) cancelling_at: Option<i64>,
    pub(crate) requests: u64,
    /// Rows of the output file, once it is there.
    pub(crate) outputs: u64,
    /// Rows of the error file, once it is there.
    pub(crate) failures: u64,
    /// The line for which it failed, and how.
    pub(crate) fault: Option<LineFault>,
}

/// What is wrong with a batch, mostly with a line of its input file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LineFault {
    /// Counted from 1; `None` for what is wrong with the file or the batch as a whole.
    pub(crate) line: Option<u64>,
    pub(crate) code: String,
    pub(crate) param: Option<String>,
}

impl Batch {
    /// A batch of `account` that is created now, of a file with that many bytes.
    pub(crate) fn new(
        id: String,
        number: u64,
        account: String,
        (input_file_id, file_size_bytes): (String, u64),
        endpoint: String,
    ) -> Self {
        Self {
            id,
            number,
            account,
            input_file_id,
            file_size_bytes,
            endpoint,
            created_at: clock::now(),
            completed_at: None,
            status: Status::Validating,
            cancelled_at: None,
            model_id: None,
            output_file_id: None,
            error_file_id: None,
            error: None,
            again: Again::default(),
            details: Details::default(),
        }
    }
}

impl Record for Batch {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The status of a batch, as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Status {
    Validating,
    InProgress,
    /// Only ever in OpenAI's dialect.
    Finalizing,
    Canceling,
    Completed,
    Failed,
    Cancelled,
    /// In Together's dialect only ever by a scripted fault.
    Expired,
}

impl Status {
    /// Whether nothing comes after it.
    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// Its name on the wire, in Together's dialect.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Validating => "VALIDATING",
            Self::InProgress => "IN_PROGRESS",
            Self::Finalizing => "FINALIZING",
            Self::Canceling => "CANCELING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
        }
    }

    /// Its name on the wire, in OpenAI's dialect.
    pub(crate) fn openai_name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Canceling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}
