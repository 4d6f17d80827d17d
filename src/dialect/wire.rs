//! The objects that services send, read leniently: members that are missing, null, empty, of another type or not JSON
//! are absent.
//!
//! In: bytes. Out: their content, if they are one object, whole by its brackets. Each member is parsed separately, so
//! that a malformed one (`NaN`, a lone surrogate, bytes that are not UTF-8) affects no other. Only ids are strict,
//! because they are sent back in requests.

use jiff::Timestamp;
use serde_json::Value;

use super::upload::FileFormat;
use crate::json::brackets::whole::members_of;
use crate::model::batch::{Batch, BatchStatus, RequestCounts, is_valid_id};
use crate::model::shown::one_line;
use crate::model::tag::BatchTag;

/// Maximum line errors of a batch that are shown, since there may be one per line; the others are counted.
const ERRORS_TOLD: usize = 3;

/// Maximum characters of an invalid id in a message about it.
const ID_SHOWN: usize = 256;

/// A batch object. Members that are missing, or of another type, are absent.
#[derive(Debug, Default)]
pub struct BatchObject {
    /// Its id.
    pub id: Option<String>,
    /// The file with its requests.
    pub input_file_id: Option<String>,
    /// The status, as the service names it.
    pub status: Option<String>,
    /// The progress in percent, 0 to 100, if the service reports it besides counts.
    pub progress: Option<f64>,
    /// How many requests it has tried.
    pub counts: Option<RequestCounts>,
    /// The id to fetch its outputs by.
    pub output_file_id: Option<String>,
    /// The id to fetch its errors by.
    pub error_file_id: Option<String>,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// Whether its errors mean that the queue is full.
    pub says_full: bool,
    /// The endpoint it is for.
    pub endpoint: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When its completion window ends.
    pub deadline: Option<Timestamp>,
    /// The tag that identifies its owner.
    pub tag: Option<BatchTag>,
}

/// Why a response is not what was requested.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    /// The response is not one whole JSON object.
    #[must_use]
    pub fn object() -> Self {
        Self("the response is not a whole JSON object".to_owned())
    }
}

/// An entry of a list of batches.
#[derive(Debug)]
pub enum Entry {
    /// A batch.
    Batch(Box<Batch>),
    /// A batch that cannot be fetched, because its id is missing or invalid, with the file that it uses.
    Unnamed(String),
    /// Anything else.
    Odd,
}

impl BatchObject {
    /// The id and the files of an object with the usual names; `None` if it is not one whole object.
    pub(crate) fn files(object: &[u8]) -> Option<Self> {
        let names = ["id", "input_file_id", "output_file_id", "error_file_id"];
        let [id, input_file_id, output_file_id, error_file_id] = members_of(object, names)?.map(text);
        Some(Self { id, input_file_id, output_file_id, error_file_id, ..Self::default() })
    }

    /// Reads the batch that the create request for `input_file_id` returned. A batch of another file is an error.
    pub fn read_created(self, input_file_id: &str) -> Result<Batch, Malformed> {
        let batch = self.read()?;
        if batch.input_file_id.as_ref().is_some_and(|id| id != input_file_id) {
            return Err(Malformed("the response is about a batch of another file".to_owned()));
        }
        Ok(batch)
    }

    /// Validates the ids and sanitizes the texts.
    pub fn read(self) -> Result<Batch, Malformed> {
        let id = self.id.clone().ok_or_else(|| Malformed("the response has a batch without an id".to_owned()))?;
        check_id(&id)?;
        for other in [&self.input_file_id, &self.output_file_id, &self.error_file_id].into_iter().flatten() {
            check_id(other)?;
        }
        Ok(self.into_batch(id))
    }

    /// Reads an entry of a list, where most batches belong to others: an invalid file id is treated as absent, because
    /// the files in a list are not relied upon.
    pub fn into_entry(mut self) -> Entry {
        for file in [&mut self.input_file_id, &mut self.output_file_id, &mut self.error_file_id] {
            file.take_if(|file| !is_valid_id(file));
        }
        match self.id.take_if(|id| is_valid_id(id)) {
            Some(id) => Entry::Batch(Box::new(self.into_batch(id))),
            None => self.input_file_id.map_or(Entry::Odd, Entry::Unnamed),
        }
    }

    fn into_batch(self, id: String) -> Batch {
        let cleaned = |text: Option<String>| text.map(|text| one_line(&text));
        let status = BatchStatus::read(self.status.as_deref().unwrap_or_default());
        let did_nothing = self.output_file_id.is_none()
            && self.error_file_id.is_none()
            && self.counts.is_none_or(|counts| counts.completed + counts.failed == 0);
        let queue_full = self.says_full && did_nothing && status == BatchStatus::Failed;
        let progress = self.progress.or_else(|| self.counts.and_then(RequestCounts::percent));
        Batch {
            id,
            input_file_id: self.input_file_id,
            status,
            progress: progress.filter(|progress| (0.0..=100.0).contains(progress)),
            counts: self.counts,
            output_file_id: self.output_file_id,
            error_file_id: self.error_file_id,
            error: self.error,
            queue_full,
            endpoint: cleaned(self.endpoint),
            model: cleaned(self.model),
            created_at: self.created_at,
            completed_at: self.ended_at,
            deadline: self.deadline,
            tag: self.tag,
        }
    }
}

/// Rejects an invalid id, before it becomes part of a URL or of anything else.
pub(crate) fn check_id(id: &str) -> Result<&str, Malformed> {
    if is_valid_id(id) {
        return Ok(id);
    }
    let shown: String = id.chars().take(ID_SHOWN).collect();
    let cut = if shown.len() < id.len() { "…" } else { "" };
    Err(Malformed(format!("{shown:?}{cut} is not an id")))
}

/// A file object, or what a service returns instead if it already has the content.
#[derive(Debug, Default)]
pub(crate) struct FileObject {
    pub(crate) id: Option<String>,
    /// The id of the file with the same content: `file_id`.
    pub(crate) known_as: Option<String>,
    /// Its size in bytes, if the service reports it.
    pub(crate) bytes: Option<u64>,
    /// Its status, folded to lower case.
    status: Option<String>,
}

impl FileObject {
    /// Reads an object whose status is the member `status`; `None` if it is not one whole object.
    pub(crate) fn parse(object: &[u8], status: &str) -> Option<Self> {
        let [id, known_as, bytes, status] = members_of(object, ["id", "file_id", "bytes", status])?;
        let bytes = value(bytes).and_then(|bytes| bytes.as_u64().or_else(|| bytes.as_str()?.parse().ok()));
        let status = text(status).map(|status| status.to_ascii_lowercase());
        Some(Self { id: text(id), known_as: text(known_as), bytes, status })
    }

    /// Its status, if that means that it cannot be used.
    pub(crate) fn is_unusable(&self, format: &FileFormat) -> Option<&str> {
        self.status.as_deref().filter(|status| format.unusable.contains(status))
    }

    /// Its status, if that does not mean that it has been processed.
    pub(crate) fn is_pending(&self, format: &FileFormat) -> Option<&str> {
        self.status.as_deref().filter(|status| !format.processed.contains(status))
    }
}

/// The value of a member, if it is JSON.
pub(crate) fn value(raw: Option<&[u8]>) -> Option<Value> {
    serde_json::from_slice(raw?).ok()
}

/// The same for text that is only displayed: bytes that are not UTF-8 are replaced.
pub(crate) fn words(raw: Option<&[u8]>) -> Option<Value> {
    serde_json::from_str(&String::from_utf8_lossy(raw?)).ok()
}

pub(crate) fn text(raw: Option<&[u8]>) -> Option<String> {
    match value(raw)? {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(crate) fn number(raw: Option<&[u8]>) -> Option<f64> {
    match value(raw)? {
        Value::String(text) => text.parse().ok(),
        value => value.as_f64(),
    }
}

/// The message of an error, in any form that services are known to use.
pub(crate) fn message_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(map) => {
            ["error", "message", "msg", "detail", "data"].iter().find_map(|key| map.get(*key).and_then(message_of))
        }
        Value::Array(items) => items.iter().find_map(message_of),
        _ => None,
    }
}

pub(crate) fn message(raw: Option<&[u8]>) -> Option<String> {
    message_of(&words(raw)?).map(|text| one_line(&text)).filter(|text| !text.is_empty())
}

/// A point in time: RFC 3339 text, or Unix seconds, integer or fractional.
pub(crate) fn moment(raw: Option<&[u8]>) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "a moment beyond the range of a timestamp is none")]
    let whole = |value: &Value| value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
    match value(raw)? {
        Value::String(text) => text.parse().ok(),
        value => whole(&value).and_then(|seconds| Timestamp::from_second(seconds).ok()),
    }
}

/// OpenAI's `request_counts`. Invalid counts are 0.
pub(crate) fn request_counts(raw: Option<&[u8]>) -> Option<RequestCounts> {
    let counts = value(raw)?;
    let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let counts = RequestCounts { total: count("total"), completed: count("completed"), failed: count("failed") };
    Some(counts).filter(|counts| *counts != RequestCounts::default())
}

/// OpenAI's `errors`: `{"data":[{"code","message","line"}]}`, or anything else with a message.
pub(crate) fn line_errors(raw: Option<&[u8]>) -> Option<String> {
    let errors = words(raw)?;
    let told: Vec<String> = match errors.get("data").unwrap_or(&errors) {
        Value::Array(list) => {
            let mut all = list.iter().filter_map(line_error);
            let mut told: Vec<String> = all.by_ref().take(ERRORS_TOLD).collect();
            let more = all.count();
            told.extend((more > 0).then(|| format!("and {more} more")));
            told
        }
        other => message_of(other).into_iter().collect(),
    };
    Some(one_line(&told.join("; "))).filter(|text| !text.is_empty())
}

/// The text of one of them.
fn line_error(error: &Value) -> Option<String> {
    let message = message_of(error)?;
    let line = error.get("line").and_then(Value::as_u64).map(|line| format!("line {line}: ")).unwrap_or_default();
    let code = error.get("code").and_then(Value::as_str).map(|code| format!(" ({code})")).unwrap_or_default();
    Some(format!("{line}{message}{code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_ids_are_rejected() {
        for json in [
            r#"{"status":"COMPLETED"}"#,
            r#"{"id":".."}"#,
            r#"{"id":"a\nb"}"#,
            r#"{"id":"b","output_file_id":"\u0000"}"#,
            r#"{"id":"b","input_file_id":"."}"#,
        ] {
            assert!(BatchObject::files(json.as_bytes()).unwrap().read().is_err(), "{json}");
        }
    }

    #[test]
    fn any_text_that_fits_a_url_segment_is_an_id() {
        let long = "x".repeat(crate::model::batch::ID_BYTES);
        let arn = "arn:aws:bedrock:us-east-1:1:model-invocation-job/x";
        for id in ["file-8205dffa", "s3://bucket/a b", arn, "../etc/passwd", "%2e%2e", "-x", "a?b#c", "ä", "...", &long]
        {
            assert!(is_valid_id(id), "{id:?}");
        }
        for id in ["", ".", "..", "a\nb", "a\0", "\u{1b}[2J", "a\u{85}", &format!("{long}x")] {
            assert!(!is_valid_id(id), "{id:?}");
            assert!(!check_id(id).unwrap_err().to_string().contains(char::is_control));
        }
    }
}
