//! Together's dialect.
//!
//! Its specifics (2026): an upload takes three steps, and the bytes go to a signed URL without the key; a create
//! request returns `{"job": …}`, possibly with a `warning`, later calls return the bare batch; the list is an array
//! without pagination, or `null`; a batch has no metadata and no counts, but a `progress`, and its `error` is a text;
//! uploading a file that the account already has returns 409 and its id.

use serde::Serialize;

use super::error_table::ErrorTable;
use super::protocol::{Created, Dialect};
use super::queue;
use super::route::{FILES_AND_BATCHES, ListFormat, NextPage, Route, Routes};
use super::upload::{FileFormat, PresignedUpload, UploadPlan};
use super::wire::{BatchObject, Malformed, message, message_of, moment, number, text, words};
use crate::json::brackets::whole::members_of;
use crate::model::batch::CreateBatch;
use crate::model::shown::one_line;

static UPLOAD: PresignedUpload = PresignedUpload {
    announce: Route::post("files"),
    file_type: "jsonl",
    id_header: "x-together-file-id",
    finish: Route::post("files/{}/preprocess"),
    file: Route::get("files/{}"),
    format: FileFormat { status: "processing_status", processed: &[], unusable: &["failed", "invalid_format"] },
};

/// The request that creates a batch. It does not name the model, which the lines do: here, an unusable one would fail
/// the whole batch.
#[derive(Serialize)]
struct Create<'a> {
    endpoint: &'a str,
    input_file_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_window: Option<&'a str>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Together;

impl Dialect for Together {
    fn name(&self) -> &'static str {
        "together"
    }

    fn title(&self) -> &'static str {
        "Together"
    }

    fn routes(&self) -> &'static Routes {
        &FILES_AND_BATCHES
    }

    fn list(&self) -> ListFormat {
        ListFormat { entries: "data", page: None, next: NextPage::AfterLast("after") }
    }

    fn upload(&self) -> UploadPlan {
        UploadPlan::Presigned(&UPLOAD)
    }

    fn create(&self, request: &CreateBatch) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Create {
            endpoint: &request.endpoint,
            input_file_id: &request.input_file_id,
            completion_window: request.completion_window.as_deref(),
        })
    }

    fn created(&self, body: &[u8]) -> Result<Created, Malformed> {
        let [job, warning] = members_of(body, ["job", "warning"]).unwrap_or_default();
        let warning = warning.and_then(|raw| message_of(&serde_json::from_slice(raw).ok()?));
        let warning = warning.map(|text| one_line(&text));
        // A bare batch, as later calls return it, is accepted, too.
        let batch = job.and_then(|job| self.batch(job)).or_else(|| self.batch(body).filter(|batch| batch.id.is_some()));
        let Some(batch) = batch else {
            let said = warning.map(|text| format!(": {text}")).unwrap_or_default();
            return Err(Malformed(format!("the response has no batch{said}")));
        };
        Ok(Created { batch, warning })
    }

    fn batch(&self, object: &[u8]) -> Option<BatchObject> {
        let names =
            ["status", "progress", "error", "endpoint", "model_id", "created_at", "completed_at", "job_deadline"];
        let [status, progress, error, endpoint, model, created, completed, deadline] = members_of(object, names)?;
        let files = BatchObject::files(object)?;
        Some(BatchObject {
            status: text(status),
            progress: number(progress),
            error: message(error),
            says_full: words(error).is_some_and(|error| queue::is_full(&error)),
            endpoint: text(endpoint),
            model: text(model),
            created_at: moment(created),
            ended_at: moment(completed),
            deadline: moment(deadline),
            ..files
        })
    }

    fn errors(&self) -> ErrorTable {
        // "Failed to download input file" was seen for a file that did not exist; for one that was just uploaded it is
        // a fault of the service.
        ErrorTable { batch_messages: &["failed to download input file"], ..ErrorTable::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::TOGETHER;
    use crate::model::batch::{Batch, BatchStatus};
    use crate::model::tag::BatchTag;

    fn read(json: &str) -> Result<Batch, Malformed> {
        TOGETHER.batch(json.as_bytes()).unwrap().read()
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
        assert_eq!(batch.deadline.unwrap().to_string(), "2025-06-12T06:11:22.752345Z");
    }

    #[test]
    fn malformed_fields_are_absent_and_unknown_statuses_are_not_terminal() {
        let batch =
            read(r#"{"id":"b","status":null,"progress":"50.5","created_at":1765175491,"error":{"message":"no\nway"}}"#);
        let batch = batch.unwrap();
        assert_eq!(batch.status, BatchStatus::Other(String::new()));
        assert!(!batch.status.is_terminal());
        assert_eq!(batch.progress, Some(50.5));
        assert_eq!(batch.error.as_deref(), Some("no way"));
        assert_eq!(batch.created_at, jiff::Timestamp::from_second(1_765_175_491).ok());
        assert_eq!(read(r#"{"id":"b","progress":1e300,"output_file_id":null,"model_id":[]}"#).unwrap().progress, None);
    }

    #[test]
    fn a_create_request_has_the_file_and_no_unsupported_members() {
        let request = CreateBatch {
            input_file_id: "file-1".into(),
            endpoint: "/v1/chat/completions".into(),
            completion_window: Some("24h".into()),
            model: "m".into(),
            tag: Some(BatchTag { run: "r".into(), shard: 1, submission: 2 }),
        };
        let body = TOGETHER.create(&request).unwrap();
        let wanted = r#"{"endpoint":"/v1/chat/completions","input_file_id":"file-1","completion_window":"24h"}"#;
        assert_eq!(String::from_utf8(body).unwrap(), wanted);
        let plain = CreateBatch { completion_window: None, ..request };
        let body = TOGETHER.create(&plain).unwrap();
        assert_eq!(body, br#"{"endpoint":"/v1/chat/completions","input_file_id":"file-1"}"#);
    }

    #[test]
    fn a_created_batch_is_read_from_a_job_or_bare_with_its_warning() {
        for (body, id, warning) in [
            (r#"{"job":{"id":"b-1","status":"VALIDATING"},"warning":"slow\nday"}"#, "b-1", Some("slow day")),
            (r#"{"job":{"id":"b-1"}}"#, "b-1", None),
            (r#"{"id":"b-1","status":"VALIDATING"}"#, "b-1", None),
        ] {
            let created = TOGETHER.created(body.as_bytes()).unwrap();
            assert_eq!((created.batch.id.as_deref(), created.warning.as_deref()), (Some(id), warning), "{body}");
        }
        for (body, why) in [
            ("{}", "the response has no batch"),
            ("not json", "the response has no batch"),
            (r#"{"job":null,"warning":"it was not created"}"#, "the response has no batch: it was not created"),
            (r#"{"job":{"id":"b-1"}"#, "the response has no batch"),
        ] {
            assert_eq!(TOGETHER.created(body.as_bytes()).unwrap_err().to_string(), why, "{body}");
        }
    }
}
