//! OpenAI's dialect, and that of all services that copied it.
//!
//! Its specifics: a file is uploaded in one multipart form; batches are bare objects with `metadata`, `request_counts`
//! and `errors.data[{code,message,line}]`; lists are paginated. Clones omit members, and write some with other types.

use serde::Serialize;

use super::error_table::ErrorTable;
use super::protocol::Dialect;
use super::queue;
use super::route::{FILES_AND_BATCHES, ListFormat, NextPage, Route, Routes};
use super::upload::{FileFormat, MultipartUpload, UploadPlan};
use super::wire::{BatchObject, line_errors, message, moment, number, request_counts, text, value, words};
use crate::json::brackets::whole::members_of;
use crate::model::batch::CreateBatch;
use crate::model::tag::{BatchTag, Metadata};

/// Maximum batches per page of a list.
pub(crate) const PAGE_BATCHES: usize = 100;

static UPLOAD: MultipartUpload = MultipartUpload {
    send: Route::post("files"),
    media_type: "application/jsonl",
    file: Route::get("files/{}"),
    format: FileFormat {
        status: "status",
        processed: &["processed", "uploaded", "ready", "succeeded"],
        unusable: &["error", "failed", "invalid", "deleted", "deleting"],
    },
};

/// The request that creates a batch. It does not name the model, which the lines do: OpenAI rejects unknown members.
#[derive(Serialize)]
struct Create<'a> {
    input_file_id: &'a str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_window: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct OpenAi;

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn title(&self) -> &'static str {
        "OpenAI"
    }

    fn routes(&self) -> &'static Routes {
        &FILES_AND_BATCHES
    }

    fn list(&self) -> ListFormat {
        ListFormat { entries: "data", page: Some(("limit", PAGE_BATCHES)), next: NextPage::AfterLast("after") }
    }

    fn upload(&self) -> UploadPlan {
        UploadPlan::Multipart(&UPLOAD)
    }

    fn carries_tag(&self) -> bool {
        true
    }

    fn create(&self, request: &CreateBatch) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Create {
            input_file_id: &request.input_file_id,
            endpoint: &request.endpoint,
            completion_window: request.completion_window.as_deref(),
            metadata: request.tag.as_ref().map(BatchTag::metadata),
        })
    }

    fn batch(&self, object: &[u8]) -> Option<BatchObject> {
        let names = ["status", "progress", "error", "errors", "endpoint", "model", "request_counts", "metadata"];
        let [status, progress, error, errors, endpoint, model, counts, metadata] = members_of(object, names)?;
        let times = ["created_at", "completed_at", "failed_at", "expired_at", "cancelled_at", "expires_at"];
        let [created, completed, failed, expired, cancelled, deadline] = members_of(object, times)?;
        let files = BatchObject::files(object)?;
        Some(BatchObject {
            status: text(status),
            progress: number(progress),
            counts: request_counts(counts),
            error: message(error).or_else(|| line_errors(errors)),
            says_full: [error, errors].into_iter().filter_map(words).any(|error| queue::is_full(&error)),
            endpoint: text(endpoint),
            model: text(model),
            created_at: moment(created),
            ended_at: [completed, failed, expired, cancelled].into_iter().find_map(moment),
            deadline: moment(deadline),
            tag: value(metadata).as_ref().and_then(BatchTag::read),
            ..files
        })
    }

    fn errors(&self) -> ErrorTable {
        ErrorTable {
            codes: &[("batch_expired", true), ("batch_cancelled", false)],
            // AIBrix, about its upstream server (observed in 0.8.0): after five retries, and when there was no
            // response.
            messages: &["all endpoints failed", "[transport_error]"],
            untried: &["batch_expired", "batch_cancelled"],
            ..ErrorTable::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::dialect::OPENAI;
    use crate::dialect::wire::Malformed;
    use crate::model::batch::{Batch, BatchStatus, RequestCounts};

    fn read(json: &str) -> Result<Batch, Malformed> {
        OPENAI.batch(json.as_bytes()).unwrap().read()
    }

    #[test]
    fn a_batch_is_read() {
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
    fn line_errors_are_reported_with_line_and_code() {
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
    fn a_create_request_has_the_file_and_the_tag() {
        let request = CreateBatch {
            input_file_id: "file-1".into(),
            endpoint: "/v1/chat/completions".into(),
            completion_window: Some("24h".into()),
            model: "m".into(),
            tag: Some(BatchTag { run: "r-1".into(), shard: 2, submission: 3 }),
        };
        for tag in [request.tag.clone(), None] {
            let body = OPENAI.create(&CreateBatch { tag: tag.clone(), ..request.clone() }).unwrap();
            let mut wanted =
                json!({"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"});
            if tag.is_some() {
                let tag = json!({"batchline_run": "r-1", "batchline_shard": "2", "batchline_submission": "3"});
                wanted["metadata"] = tag;
            }
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), wanted);
        }
    }
}
