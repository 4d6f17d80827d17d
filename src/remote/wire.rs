//! The objects that services send, read leniently: keys that are missing, null, empty or of another type are absent.
//! Only ids are strict, because they come back in requests.

use std::fmt;

use jiff::Timestamp;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::{ErrorKind, RemoteError, clean, message_of};
use super::mark::Mark;
use super::service::{Batch, BatchStatus, RequestCounts, check_id};

/// Errors in lines that are told of a batch, of which there may be one for each line; others are counted.
const ERRORS_TOLD: usize = 3;

/// A batch object.
#[derive(Debug, Deserialize)]
pub(super) struct RawBatch {
    #[serde(default, deserialize_with = "text")]
    id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    input_file_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    status: Option<String>,
    #[serde(default, deserialize_with = "number")]
    progress: Option<f64>,
    #[serde(default, deserialize_with = "text")]
    output_file_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    error_file_id: Option<String>,
    #[serde(default, deserialize_with = "message")]
    error: Option<String>,
    #[serde(default, deserialize_with = "text")]
    endpoint: Option<String>,
    #[serde(default, deserialize_with = "text", alias = "model")]
    model_id: Option<String>,
    #[serde(default, deserialize_with = "moment")]
    created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "moment")]
    completed_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "moment")]
    failed_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "moment")]
    expired_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "moment")]
    cancelled_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "moment")]
    job_deadline: Option<Timestamp>,
    #[serde(default, deserialize_with = "moment")]
    expires_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "counts")]
    request_counts: Option<RequestCounts>,
    #[serde(default, deserialize_with = "line_errors")]
    errors: Option<String>,
    #[serde(default, deserialize_with = "mark")]
    metadata: Option<Mark>,
}

impl RawBatch {
    /// Whether there is an id at all, so that this may be a batch.
    pub(super) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    /// Reads the batch that a create of `input_file_id` was answered with; `status` is that of the answer. One of another file is an error.
    pub(super) fn read_created(self, input_file_id: &str, target: &str, status: u16) -> Result<Batch, RemoteError> {
        let batch = self.read(target)?;
        if batch.input_file_id.as_ref().is_some_and(|id| id != input_file_id) {
            let error = RemoteError::new(ErrorKind::Protocol, target).with_status(status);
            return Err(error.with_message("the answer is about a batch of another file"));
        }
        Ok(batch)
    }

    /// Checks the ids and cleans the texts. `target` is for the error.
    pub(super) fn read(self, target: &str) -> Result<Batch, RemoteError> {
        let id = self.id.ok_or_else(|| {
            RemoteError::new(ErrorKind::Protocol, target).with_message("the answer has a batch without an id")
        })?;
        check_id(&id, target)?;
        for other in [&self.input_file_id, &self.output_file_id, &self.error_file_id].into_iter().flatten() {
            check_id(other, target)?;
        }
        let cleaned = |text: Option<String>| text.map(|text| clean(&text));
        let progress = self.progress.or_else(|| self.request_counts.and_then(RequestCounts::percent));
        Ok(Batch {
            id,
            input_file_id: self.input_file_id,
            status: BatchStatus::read(self.status.as_deref().unwrap_or_default()),
            progress: progress.filter(|progress| (0.0..=100.0).contains(progress)),
            counts: self.request_counts,
            output_file_id: self.output_file_id,
            error_file_id: self.error_file_id,
            error: self.error.or(self.errors),
            endpoint: cleaned(self.endpoint),
            model: cleaned(self.model_id),
            created_at: self.created_at,
            completed_at: self.completed_at.or(self.failed_at).or(self.expired_at).or(self.cancelled_at),
            deadline: self.job_deadline.or(self.expires_at),
            mark: self.metadata,
        })
    }
}

/// Most batches of a list: in memory the smallest ones take thirty times the bytes of their text.
const LIST_BATCHES: usize = 100_000;

/// A list of batches that does not go on for ever.
#[derive(Debug, Default)]
pub(super) struct RawBatches(pub(super) Vec<RawBatch>);

impl<'de> Deserialize<'de> for RawBatches {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchesVisitor;
        impl<'de> Visitor<'de> for BatchesVisitor {
            type Value = RawBatches;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of batches")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawBatches, A::Error> {
                let mut batches = Vec::new();
                while let Some(batch) = list.next_element()? {
                    if batches.len() == LIST_BATCHES {
                        return Err(de::Error::custom(format!("there are more than {LIST_BATCHES} batches")));
                    }
                    batches.push(batch);
                }
                Ok(RawBatches(batches))
            }
        }
        deserializer.deserialize_seq(BatchesVisitor)
    }
}

/// A file object, and what stands in for one when the service has the content already (`file_id`).
#[derive(Debug, Deserialize)]
pub(super) struct RawFile {
    #[serde(default, deserialize_with = "text")]
    pub(super) id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    pub(super) file_id: Option<String>,
    #[serde(default)]
    bytes: Value,
    #[serde(default, deserialize_with = "text")]
    pub(super) processing_status: Option<String>,
    /// OpenAI's word for the same.
    #[serde(default, deserialize_with = "text")]
    pub(super) status: Option<String>,
}

impl RawFile {
    /// The file's size, if the service said it.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.bytes.as_u64()
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().ok(),
        value => value.as_f64(),
    })
}

fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(message_of(&Value::deserialize(deserializer)?).map(|text| clean(&text)).filter(|text| !text.is_empty()))
}

/// RFC 3339 text, or Unix seconds, whole or not.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    #[expect(clippy::cast_possible_truncation, reason = "a moment beyond the range of a timestamp is none")]
    let whole = |value: &Value| value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().ok(),
        value => whole(&value).and_then(|seconds| Timestamp::from_second(seconds).ok()),
    })
}

/// OpenAI's `request_counts`. What is no count in it is none.
fn counts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RequestCounts>, D::Error> {
    let counts = Value::deserialize(deserializer)?;
    let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
    let counts = RequestCounts { total: count("total"), completed: count("completed"), failed: count("failed") };
    Ok(Some(counts).filter(|counts| *counts != RequestCounts::default()))
}

/// OpenAI's `errors`: `{"data":[{"code","message","line"}]}`, or whatever else has words in it.
fn line_errors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let errors = Value::deserialize(deserializer)?;
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
    Ok(Some(clean(&told.join("; "))).filter(|text| !text.is_empty()))
}

/// One of them, in words.
fn line_error(error: &Value) -> Option<String> {
    let message = message_of(error)?;
    let line = error.get("line").and_then(Value::as_u64).map(|line| format!("line {line}: ")).unwrap_or_default();
    let code = error.get("code").and_then(Value::as_str).map(|code| format!(" ({code})")).unwrap_or_default();
    Some(format!("{line}{message}{code}"))
}

fn mark<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mark>, D::Error> {
    Ok(Mark::read(&Value::deserialize(deserializer)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Batch, RemoteError> {
        serde_json::from_str::<RawBatch>(json).unwrap().read("GET /v1/batches/b")
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
        assert_eq!(batch.mark, Some(Mark { run: "r".into(), shard: 3, submission: 4 }));
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
            r#"{"id":"../../etc/passwd"}"#,
            r#"{"id":"a\nb"}"#,
            r#"{"id":"b","output_file_id":"..%2f..%2fx"}"#,
            r#"{"id":"b","input_file_id":"/abs"}"#,
        ] {
            assert_eq!(read(json).unwrap_err().kind(), ErrorKind::Protocol, "{json}");
        }
    }
}
