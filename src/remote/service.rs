//! What a Batch API can be asked, and what it answers: the [`Api`] trait and its words.
//!
//! [`super::HttpApi`] is the real thing; a simulation can stand in for it. All methods but [`Api::create`] may be
//! called again after an error, an interruption or a crash.

use std::fmt;
use std::future::Future;
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::error::{ErrorKind, RemoteError};
use super::mark::Mark;
use super::redact::REDACTED;

/// Longest id of a file or batch, in bytes.
pub const ID_BYTES: usize = 4096;

/// Most characters of what is no id in a message about it.
const ID_SHOWN: usize = 256;

/// The operations of a Batch API.
pub trait Api: Send + Sync + 'static {
    /// Waits until the service takes calls: at once, unless it asked for a pause. To be awaited before the intent to
    /// create a batch is written down, so that a crash while waiting does not leave a doubt.
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Uploads a payload as a new file. Tried again from its beginning when it fails on the way; every attempt asks
    /// for a file of its own, so that a returned id (unless [`RemoteFile::reused`]) has never been used before.
    fn upload(
        &self,
        payload: Arc<dyn Payload>,
        progress: Progress,
    ) -> impl Future<Output = Result<RemoteFile, RemoteError>> + Send;

    /// Creates a batch: exactly one POST, never repeated here.
    fn create(&self, request: &CreateBatch) -> impl Future<Output = Submission> + Send;

    /// Looks at a batch.
    fn batch(&self, id: &str) -> impl Future<Output = Result<Batch, RemoteError>> + Send;

    /// All batches that the service lists for this key.
    fn batches(&self) -> impl Future<Output = Result<Listing, RemoteError>> + Send;

    /// Asks for a batch to be cancelled. One that has ended already is returned as it is.
    fn cancel(&self, id: &str) -> impl Future<Output = Result<Batch, RemoteError>> + Send;

    /// Fetches a file's content as `target`, which appears whole and durable or not at all, unpacked if it comes packed. A page instead of
    /// it is an error of [`ErrorKind::Garbled`]. What is on the way
    /// stands beside it as `<name>.part`. An interrupted transfer goes on where it broke off if the service can prove
    /// that the content is the same; after a restart of the program it begins anew.
    fn download(
        &self,
        file_id: &str,
        target: &Path,
        progress: Progress,
    ) -> impl Future<Output = Result<Downloaded, RemoteError>> + Send;

    /// How many bytes the service says that a file has; `None` where it does not say, or says 0, which services do that do not count.
    fn file_bytes(&self, file_id: &str) -> impl Future<Output = Result<Option<u64>, RemoteError>> + Send;

    /// Deletes a file. One that is not there is as good as deleted.
    fn delete_file(&self, id: &str) -> impl Future<Output = Result<(), RemoteError>> + Send;
}

/// Bytes to upload. Every attempt opens its own body.
pub trait Payload: Send + Sync {
    /// The file's name at the service, with its extension. Of no meaning here.
    fn name(&self) -> String;

    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Opens the bytes at their beginning. Called, and read, on a thread that may block. A reader that fails with
    /// [`io::ErrorKind::InvalidData`] or `UnexpectedEof`, at the latest where it ends, says that the bytes are not
    /// those that were promised: the upload is then left incomplete and the error is final.
    fn open(&self) -> io::Result<Box<dyn BufRead + Send>>;
}

/// Hears how many bytes of a transfer are done. The count falls back when an attempt starts over.
/// Called on the task that moves the bytes: it must not block.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64) + Send + Sync>);

impl Progress {
    /// A progress that calls `hear` with the bytes done so far.
    pub fn new(hear: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Tells how many bytes are done. For those that implement [`Api`].
    pub fn tell(&self, bytes: u64) {
        (self.0)(bytes);
    }
}

impl Default for Progress {
    /// Hears nothing.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Progress")
    }
}

/// A file as the service holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its id; see [`is_valid_id`].
    pub id: String,
    /// Its size, as far as the service said.
    pub bytes: Option<u64>,
    /// Whether the service returned a file that it had already, so that batches may exist that use it.
    pub reused: bool,
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
    /// The batch's model, where the provider wants one besides the lines' own; not sent when absent.
    pub model: Option<String>,
    /// Whose it is; sent where the provider keeps metadata.
    pub mark: Option<Mark>,
}

/// What became of an attempt to create a batch.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per batch, and it is taken apart at once")]
pub enum Submission {
    /// The service created this batch.
    Accepted(Batch),
    /// Nothing was created, for certain: nothing was sent, or the answer was 400, 401, 402, 403, 404, 413, 422 or 429.
    Refused(RemoteError),
    /// A batch may or may not exist. To be settled by [`Api::batches`], never by asking again.
    Unknown(RemoteError),
}

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
    pub mark: Option<Mark>,
}

/// What a service says of the number of a batch's requests. What it does not say is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// A list of batches, as far as it can be read: most of it is other people's business.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The batches that can be named, in the service's order. Files that cannot be asked for are left out.
    pub batches: Vec<Batch>,
    /// The files of batches that are there and cannot be named. What the list says about these files is not all there is.
    pub unnamed: Vec<String>,
    /// Entries that are nothing that anybody could know again.
    pub odd: u64,
}

impl Listing {
    /// Adds the next page.
    pub(super) fn add(&mut self, page: Self) {
        self.batches.extend(page.batches);
        self.unnamed.extend(page.unnamed);
        self.odd += page.odd;
    }

    /// How many entries are held.
    pub(super) fn entries(&self) -> usize {
        self.batches.len() + self.unnamed.len()
    }
}

/// Where a batch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            _ => Self::Other(super::error::clean(word)),
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

/// A file that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Its size.
    pub bytes: u64,
    /// Whether the service announced the size beforehand. If not, a file that was cut short at the service cannot be
    /// told from a whole one here, and its lines have to be counted.
    pub announced: bool,
}

/// Whether `id` can be an id: any text without control characters, at most [`ID_BYTES`] long, for the service alone knows what it means.
/// In an address it stands as one segment, percent-encoded, which `.` and `..` cannot be; no file is named after it. One that had the key
/// in it has lost its meaning.
#[must_use]
pub fn is_valid_id(id: &str) -> bool {
    !matches!(id, "" | "." | "..") && id.len() <= ID_BYTES && !id.contains(char::is_control) && !id.contains(REDACTED)
}

/// Refuses an id that is none, before it becomes part of a URL or of anything else.
pub(super) fn check_id<'a>(id: &'a str, target: &str) -> Result<&'a str, RemoteError> {
    if is_valid_id(id) {
        return Ok(id);
    }
    let shown: String = id.chars().take(ID_SHOWN).collect();
    let cut = if shown.len() < id.len() { "…" } else { "" };
    Err(RemoteError::new(ErrorKind::Protocol, target).with_message(&format!("{shown:?}{cut} is not an id")))
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

    #[test]
    fn ids_are_any_text_that_can_stand_in_an_address() {
        let long = "x".repeat(ID_BYTES);
        let arn = "arn:aws:bedrock:us-east-1:1:model-invocation-job/x";
        for id in ["file-8205dffa", "s3://bucket/a b", arn, "../etc/passwd", "%2e%2e", "-x", "a?b#c", "ä", "...", &long]
        {
            assert!(is_valid_id(id), "{id:?}");
        }
        for id in ["", ".", "..", "a\nb", "a\0", "\u{1b}[2J", "a\u{85}", &format!("{long}x")] {
            assert!(!is_valid_id(id), "{id:?}");
            assert!(!check_id(id, "GET /").unwrap_err().to_string().contains(char::is_control));
        }
    }
}
