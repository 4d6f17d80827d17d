//! The objects that services send, read leniently: members that are missing, null, empty, of another type or no JSON are absent.
//!
//! In: bytes. Out: what they say, if they are one whole object by its brackets. Each member is read by itself, so that one that no parser
//! takes (`NaN`, half a surrogate pair, bytes that are not UTF-8) costs itself alone. Only ids are strict, because they come back in requests.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::json::brackets::whole::members_of;
use crate::model::batch::{Batch, BatchStatus, RequestCounts, is_valid_id};
use crate::model::shown::one_line;
use crate::model::tag::BatchTag;

/// Errors in lines that are told of a batch, of which there may be one for each line; others are counted.
const ERRORS_TOLD: usize = 3;

/// Most characters of what is no id in a message about it.
const ID_SHOWN: usize = 256;

/// A batch object.
#[derive(Debug, Default)]
pub(crate) struct RawBatch {
    id: Option<String>,
    input_file_id: Option<String>,
    status: Option<String>,
    progress: Option<f64>,
    counts: Option<RequestCounts>,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    error: Option<String>,
    endpoint: Option<String>,
    model: Option<String>,
    created_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    tag: Option<BatchTag>,
}

/// Why an answer cannot be taken for what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

/// An entry of a list of batches.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A batch.
    Batch(Box<Batch>),
    /// One that cannot be asked for, because its id is missing or none, with the file that it uses.
    Unnamed(String),
    /// Anything else.
    Odd,
}

impl RawBatch {
    /// Reads an object; `None` for what is none, or not whole.
    pub(crate) fn parse(object: &[u8]) -> Option<Self> {
        let [id, input, status, progress, output, errors_in, error, endpoint, model, model_id] = members_of(
            object,
            [
                "id",
                "input_file_id",
                "status",
                "progress",
                "output_file_id",
                "error_file_id",
                "error",
                "endpoint",
                "model",
                "model_id",
            ],
        )?;
        let [created, completed, failed, expired, cancelled, deadline, until, counts, problems, metadata] = members_of(
            object,
            [
                "created_at",
                "completed_at",
                "failed_at",
                "expired_at",
                "cancelled_at",
                "job_deadline",
                "expires_at",
                "request_counts",
                "errors",
                "metadata",
            ],
        )?;
        let first = |moments: &[Option<&[u8]>]| moments.iter().find_map(|raw| moment(*raw));
        Some(Self {
            id: text(id),
            input_file_id: text(input),
            status: text(status),
            progress: number(progress),
            counts: request_counts(counts),
            output_file_id: text(output),
            error_file_id: text(errors_in),
            error: message(error).or_else(|| line_errors(problems)),
            endpoint: text(endpoint),
            model: text(model_id).or_else(|| text(model)),
            created_at: moment(created),
            ended_at: first(&[completed, failed, expired, cancelled]),
            deadline: first(&[deadline, until]),
            tag: value(metadata).as_ref().and_then(BatchTag::read),
        })
    }

    /// Whether there is an id at all, so that this may be a batch.
    pub(crate) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    /// Reads the batch that a create of `input_file_id` was answered with. One of another file is an error.
    pub(crate) fn read_created(self, input_file_id: &str) -> Result<Batch, Malformed> {
        let batch = self.read()?;
        if batch.input_file_id.as_ref().is_some_and(|id| id != input_file_id) {
            return Err(Malformed("the answer is about a batch of another file".to_owned()));
        }
        Ok(batch)
    }

    /// Checks the ids and cleans the texts.
    pub(crate) fn read(self) -> Result<Batch, Malformed> {
        let id = self.id.clone().ok_or_else(|| Malformed("the answer has a batch without an id".to_owned()))?;
        check_id(&id)?;
        for other in [&self.input_file_id, &self.output_file_id, &self.error_file_id].into_iter().flatten() {
            check_id(other)?;
        }
        Ok(self.into_batch(id))
    }

    /// Reads an entry of a list, where most are somebody else's: a file that cannot be asked for is absent there, because what a list says
    /// of files is not relied upon.
    pub(crate) fn into_entry(mut self) -> Entry {
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
        let progress = self.progress.or_else(|| self.counts.and_then(RequestCounts::percent));
        Batch {
            id,
            input_file_id: self.input_file_id,
            status: BatchStatus::read(self.status.as_deref().unwrap_or_default()),
            progress: progress.filter(|progress| (0.0..=100.0).contains(progress)),
            counts: self.counts,
            output_file_id: self.output_file_id,
            error_file_id: self.error_file_id,
            error: self.error,
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

/// A file object, and what stands in for one when the service has the content already (`file_id`).
#[derive(Debug, Deserialize)]
pub(crate) struct RawFile {
    #[serde(default, deserialize_with = "text_value")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "text_value")]
    pub(crate) file_id: Option<String>,
    #[serde(default)]
    bytes: Value,
    #[serde(default, deserialize_with = "text_value")]
    pub(crate) processing_status: Option<String>,
    /// OpenAI's word for the same.
    #[serde(default, deserialize_with = "text_value")]
    pub(crate) status: Option<String>,
}

impl RawFile {
    /// The file's size, if the service said it.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.bytes.as_u64().or_else(|| self.bytes.as_str()?.parse().ok())
    }
}

/// What a member says, if it is JSON.
fn value(raw: Option<&[u8]>) -> Option<Value> {
    serde_json::from_slice(raw?).ok()
}

/// The same of words that are only shown, with a replacement for each byte that is not UTF-8.
fn words(raw: Option<&[u8]>) -> Option<Value> {
    serde_json::from_str(&String::from_utf8_lossy(raw?)).ok()
}

fn text(raw: Option<&[u8]>) -> Option<String> {
    text_in(value(raw)?)
}

fn text_in(value: Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn text_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Value::deserialize(deserializer).map(text_in)
}

fn number(raw: Option<&[u8]>) -> Option<f64> {
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

fn message(raw: Option<&[u8]>) -> Option<String> {
    message_of(&words(raw)?).map(|text| one_line(&text)).filter(|text| !text.is_empty())
}

/// RFC 3339 text, or Unix seconds, whole or not.
fn moment(raw: Option<&[u8]>) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "a moment beyond the range of a timestamp is none")]
    let whole = |value: &Value| value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
    match value(raw)? {
        Value::String(text) => text.parse().ok(),
        value => whole(&value).and_then(|seconds| Timestamp::from_second(seconds).ok()),
    }
}

/// OpenAI's `request_counts`. What is no count in it is none.
fn request_counts(raw: Option<&[u8]>) -> Option<RequestCounts> {
    let counts = value(raw)?;
    let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let counts = RequestCounts { total: count("total"), completed: count("completed"), failed: count("failed") };
    Some(counts).filter(|counts| *counts != RequestCounts::default())
}

/// OpenAI's `errors`: `{"data":[{"code","message","line"}]}`, or whatever else has words in it.
fn line_errors(raw: Option<&[u8]>) -> Option<String> {
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

    fn read(json: &str) -> Result<Batch, Malformed> {
        RawBatch::parse(json.as_bytes()).unwrap().read()
    }

    #[test]
    fn a_real_batch_is_read() {
        let batch = read(
            r#"{"id":"1ea94710-592e","user_id":"66f0","input_file_id":"file-7","file_size_bytes":2237747,"status":"IN_PROGRESS",
                "job_deadline":"2025-06-12T06:11:22.752345Z","created_at":"2025-06-11T06:11:22.752350Z","progress":71.75,
                "endpoint":"/v1/chat/completions","model_id":"deepseek-ai/DeepSeek-V3","error_file_id":"","future":[1]}"#,
        )
        .unwrap();
        assert_eq!(batch.status, BatchStatus::InProgress);
        assert_eq!((batch.progress, batch.error_file_id), (Some(71.75), None));
        assert_eq!(batch.model.as_deref(), Some("deepseek-ai/DeepSeek-V3"));
        assert_eq!(batch.created_at.unwrap().to_string(), "2025-06-11T06:11:22.75235Z");
    }

    #[test]
    fn a_batch_in_openais_words_is_read() {
        let batch = read(
            r#"{"id":"batch_1","object":"batch","endpoint":"/v1/chat/completions","model":"m","errors":null,"input_file_id":"file-7",
                "completion_window":"24h","status":"finalizing","output_file_id":null,"error_file_id":null,"created_at":1711471533,
                "expires_at":1711557933.5,"request_counts":{"total":200,"completed":50,"failed":1},"usage":{},
                "metadata":{"batchline_run":"r","batchline_shard":"3","batchline_submission":"4","note":"x"}}"#,
        )
        .unwrap();
        assert_eq!((batch.status, batch.progress), (BatchStatus::Finalizing, Some(25.5)));
        assert_eq!(batch.counts, Some(RequestCounts { total: 200, completed: 50, failed: 1 }));
        assert_eq!(batch.tag, Some(BatchTag { run: "r".into(), shard: 3, submission: 4 }));
        assert_eq!((batch.model.as_deref(), batch.error), (Some("m"), None));
        assert_eq!(batch.deadline, Timestamp::from_second(1_711_557_933).ok());
        for (counts, none) in [
            ("null", true),
            ("{}", true),
            (r#"{"total":0,"completed":0}"#, true),
            (r#"{"total":1,"completed":7}"#, false),
            ("[]", true),
            (r#"{"total":"1","completed":-1,"failed":0.5}"#, true),
        ] {
            let batch = read(&format!(r#"{{"id":"b","request_counts":{counts}}}"#)).unwrap();
            assert_eq!((batch.progress, batch.counts.is_none()), (None, none), "{counts}");
        }
    }

    #[test]
    fn errors_in_lines_are_told_with_line_and_code() {
        let errors =
            |errors: &str| read(&format!(r#"{{"id":"b","status":"failed","errors":{errors}}}"#)).unwrap().error;
        let one = r#"{"code":"invalid_url","message":"The\nURL is wrong","param":"url","line":2}"#;
        let said = "line 2: The URL is wrong (invalid_url)";
        assert_eq!(errors(&format!(r#"{{"object":"list","data":[{one}]}}"#)).as_deref(), Some(said));
        assert_eq!(
            errors(&format!("[{}]", [one; 4].join(","))).unwrap(),
            format!("{}; and 1 more", [said; 3].join("; "))
        );
        assert_eq!(errors(r#"{"data":[{"message":"no line","line":null}]}"#).as_deref(), Some("no line"));
        assert_eq!(errors(r#""a text""#).as_deref(), Some("a text"));
        for nothing in ["null", "[]", "{}", r#"{"data":[]}"#, r#"{"data":null}"#, "3"] {
            assert_eq!(errors(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn odd_fields_are_absent_and_odd_statuses_go_on() {
        let batch =
            read(r#"{"id":"b","status":null,"progress":"50.5","created_at":1765175491,"error":{"message":"no\nway"}}"#);
        let batch = batch.unwrap();
        assert_eq!(batch.status, BatchStatus::Other(String::new()));
        assert!(!batch.status.is_terminal());
        assert_eq!(batch.progress, Some(50.5));
        assert_eq!(batch.error.as_deref(), Some("no way"));
        assert_eq!(batch.created_at, Timestamp::from_second(1_765_175_491).ok());
        assert_eq!(read(r#"{"id":"b","progress":1e300,"output_file_id":null,"model_id":[]}"#).unwrap().progress, None);
    }

    #[test]
    fn ids_that_are_none_are_refused() {
        for json in [
            r#"{"status":"COMPLETED"}"#,
            r#"{"id":".."}"#,
            r#"{"id":"a\nb"}"#,
            r#"{"id":"b","output_file_id":"\u0000"}"#,
            r#"{"id":"b","input_file_id":"."}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
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
