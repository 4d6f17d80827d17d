//! The objects that services send, read leniently: members that are missing, null, empty, of another type or no JSON are absent.
//!
//! In: bytes. Out: what they say, if they are one whole object by its brackets. Each member is read by itself, so that one that no parser
//! takes (`NaN`, half a surrogate pair, bytes that are not UTF-8) costs itself alone. Only ids are strict, because they come back in requests.

use jiff::Timestamp;
use serde_json::Value;

use super::upload::FileFormat;
use crate::json::brackets::whole::members_of;
use crate::model::batch::{Batch, BatchStatus, RequestCounts, is_valid_id};
use crate::model::shown::one_line;
use crate::model::tag::BatchTag;

/// Errors in lines that are told of a batch, of which there may be one for each line; others are counted.
const ERRORS_TOLD: usize = 3;

/// Most characters of what is no id in a message about it.
const ID_SHOWN: usize = 256;

/// A batch object, as far as it says. What is not there, or of another type, is absent.
#[derive(Debug, Default)]
pub struct BatchObject {
    /// Its id.
    pub id: Option<String>,
    /// The file with its requests.
    pub input_file_id: Option<String>,
    /// The service's word for where it stands.
    pub status: Option<String>,
    /// How much is done, 0 to 100, where the service says so and not only counts.
    pub progress: Option<f64>,
    /// How many requests it has tried.
    pub counts: Option<RequestCounts>,
    /// What its outputs are fetched by.
    pub output_file_id: Option<String>,
    /// What its errors are fetched by.
    pub error_file_id: Option<String>,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// Whether its errors say that too much is queued.
    pub says_full: bool,
    /// The endpoint it is for.
    pub endpoint: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Until when the service means to be done.
    pub deadline: Option<Timestamp>,
    /// Whose it is.
    pub tag: Option<BatchTag>,
}

/// Why an answer cannot be taken for what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    /// Of what is not a whole JSON object.
    #[must_use]
    pub fn object() -> Self {
        Self("the answer is not a whole JSON object".to_owned())
    }
}

/// An entry of a list of batches.
#[derive(Debug)]
pub enum Entry {
    /// A batch.
    Batch(Box<Batch>),
    /// One that cannot be asked for, because its id is missing or none, with the file that it uses.
    Unnamed(String),
    /// Anything else.
    Odd,
}

impl BatchObject {
    /// The id and the files of an object that calls them as most do; `None` for what is no object, or not whole.
    pub(crate) fn files(object: &[u8]) -> Option<Self> {
        let names = ["id", "input_file_id", "output_file_id", "error_file_id"];
        let [id, input_file_id, output_file_id, error_file_id] = members_of(object, names)?.map(text);
        Some(Self { id, input_file_id, output_file_id, error_file_id, ..Self::default() })
    }

    /// Reads the batch that a create of `input_file_id` was answered with. One of another file is an error.
    pub fn read_created(self, input_file_id: &str) -> Result<Batch, Malformed> {
        let batch = self.read()?;
        if batch.input_file_id.as_ref().is_some_and(|id| id != input_file_id) {
            return Err(Malformed("the answer is about a batch of another file".to_owned()));
        }
        Ok(batch)
    }

    /// Checks the ids and cleans the texts.
    pub fn read(self) -> Result<Batch, Malformed> {
        let id = self.id.clone().ok_or_else(|| Malformed("the answer has a batch without an id".to_owned()))?;
        check_id(&id)?;
        for other in [&self.input_file_id, &self.output_file_id, &self.error_file_id].into_iter().flatten() {
            check_id(other)?;
        }
        Ok(self.into_batch(id))
    }

    /// Reads an entry of a list, where most are somebody else's: a file that cannot be asked for is absent there, because what a list says
    /// of files is not relied upon.
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

/// Refuses an id that is none, before it becomes part of a URL or of anything else.
pub(crate) fn check_id(id: &str) -> Result<&str, Malformed> {
    if is_valid_id(id) {
        return Ok(id);
    }
    let shown: String = id.chars().take(ID_SHOWN).collect();
    let cut = if shown.len() < id.len() { "…" } else { "" };
    Err(Malformed(format!("{shown:?}{cut} is not an id")))
}

/// A file object, and what stands in for one when the service has the content already.
#[derive(Debug, Default)]
pub(crate) struct FileObject {
    pub(crate) id: Option<String>,
    /// The id of the file with the same content: `file_id`.
    pub(crate) known_as: Option<String>,
    /// Its size, if the service said it.
    pub(crate) bytes: Option<u64>,
    /// Its status, folded to lower case.
    status: Option<String>,
}

impl FileObject {
    /// Reads an object whose status is the member `status`; `None` for what is none, or not whole.
    pub(crate) fn parse(object: &[u8], status: &str) -> Option<Self> {
        let [id, known_as, bytes, status] = members_of(object, ["id", "file_id", "bytes", status])?;
        let bytes = value(bytes).and_then(|bytes| bytes.as_u64().or_else(|| bytes.as_str()?.parse().ok()));
        let status = text(status).map(|status| status.to_ascii_lowercase());
        Some(Self { id: text(id), known_as: text(known_as), bytes, status })
    }

    /// Its status, if that says that it cannot be used.
    pub(crate) fn is_unusable(&self, format: &FileFormat) -> Option<&str> {
        self.status.as_deref().filter(|status| format.unusable.contains(status))
    }

    /// Its status, if that does not say that it has been processed.
    pub(crate) fn is_pending(&self, format: &FileFormat) -> Option<&str> {
        self.status.as_deref().filter(|status| !format.processed.contains(status))
    }
}

/// What a member says, if it is JSON.
pub(crate) fn value(raw: Option<&[u8]>) -> Option<Value> {
    serde_json::from_slice(raw?).ok()
}

/// The same of words that are only shown, with a replacement for each byte that is not UTF-8.
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

/// The words of whoever made an error, in any shape that services are known to write.
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

/// RFC 3339 text, or Unix seconds, whole or not.
pub(crate) fn moment(raw: Option<&[u8]>) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "a moment beyond the range of a timestamp is none")]
    let whole = |value: &Value| value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
    match value(raw)? {
        Value::String(text) => text.parse().ok(),
        value => whole(&value).and_then(|seconds| Timestamp::from_second(seconds).ok()),
    }
}

/// OpenAI's `request_counts`. What is no count in it is none.
pub(crate) fn request_counts(raw: Option<&[u8]>) -> Option<RequestCounts> {
    let counts = value(raw)?;
    let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let counts = RequestCounts { total: count("total"), completed: count("completed"), failed: count("failed") };
    Some(counts).filter(|counts| *counts != RequestCounts::default())
}

/// OpenAI's `errors`: `{"data":[{"code","message","line"}]}`, or whatever else has words in it.
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

/// One of them, in words.
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
    fn ids_that_are_none_are_refused() {
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
    fn ids_are_any_text_that_can_stand_in_an_address() {
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
