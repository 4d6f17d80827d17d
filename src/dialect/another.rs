//! A dialect for tests only, which shows that one can be added. It resembles Anthropic's: lines are sent inside the
//! create request, lists are paginated by tokens, a batch has one stream of results that is fetched by the batch's id,
//! and replies identify their requests by a `key`.

use serde::Serialize;

use super::line::LineFormat;
use super::protocol::Dialect;
use super::reply_parts::ReplyNames;
use super::route::{ListFormat, NextPage, Route, Routes};
use super::upload::{InlineLines, UploadPlan};
use super::wire::{BatchObject, moment, text, value};
use crate::json::brackets::whole::members_of;
use crate::model::batch::{CreateBatch, RequestCounts};

static ROUTES: Routes = Routes {
    create: Route::post("messages/batches"),
    batch: Route::get("messages/batches/{}"),
    list: Route::get("messages/batches"),
    cancel: Some(Route::post("messages/batches/{}/cancel")),
    content: Route::get("messages/batches/{}/results"),
    file: None,
    delete_file: None,
};

static NAMES: ReplyNames = ReplyNames { id: "key", ..ReplyNames::COMMON };

/// The format of its lines.
pub(crate) static LINE: LineFormat = LineFormat { name: "another", id: "key", body: "params", has_target: false };

/// The start of a create request: the batch's description precedes its requests.
#[derive(Serialize)]
struct Create<'a> {
    model: &'a str,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Another;

impl Dialect for Another {
    fn name(&self) -> &'static str {
        "another"
    }

    fn title(&self) -> &'static str {
        "Another"
    }

    fn routes(&self) -> &'static Routes {
        &ROUTES
    }

    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("another-version", "2023-06-01")]
    }

    fn list(&self) -> ListFormat {
        let next = NextPage::Token { parameter: "page_token", member: "next_page" };
        ListFormat { entries: "batches", page: Some(("page_size", 2)), next }
    }

    fn upload(&self) -> UploadPlan {
        UploadPlan::Inline(InlineLines { between: b',', after: "]}" })
    }

    fn create(&self, request: &CreateBatch) -> serde_json::Result<Vec<u8>> {
        let mut body = serde_json::to_vec(&Create { model: &request.model })?;
        // In place of the closing brace.
        body.pop();
        body.extend_from_slice(br#","requests":["#);
        Ok(body)
    }

    fn batch(&self, object: &[u8]) -> Option<BatchObject> {
        let [id, status, counts, created, ended, deadline] =
            members_of(object, ["id", "processing_status", "request_counts", "created_at", "ended_at", "expires_at"])?;
        let (id, status) = (text(id), text(status));
        let counts = value(counts).map(|counts| {
            let count = |name: &str| counts[name].as_u64().unwrap_or(0);
            let [open, good, bad] = ["processing", "succeeded", "errored"].map(count);
            RequestCounts { total: open + good + bad, completed: good, failed: bad }
        });
        Some(BatchObject {
            // One stream for all replies; each says itself whether it is an output or an error.
            output_file_id: id.clone().filter(|_| status.as_deref() == Some("ended")),
            id,
            status,
            counts,
            created_at: moment(created),
            ended_at: moment(ended),
            deadline: moment(deadline),
            ..BatchObject::default()
        })
    }

    fn replies(&self) -> &'static ReplyNames {
        &NAMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::reply_reader::ReplyReader;
    use crate::model::batch::BatchStatus;
    use crate::model::custom_id::IdHasher;
    use crate::model::reply::{ReplyKind, ReplyRole, Usage};

    #[test]
    fn a_batch_and_its_results_are_read() {
        let open = r#"{"id":"msgbatch_1","processing_status":"in_progress","created_at":"2024-09-24T18:37:24.100435Z",
            "request_counts":{"processing":1,"succeeded":2,"errored":1}}"#;
        let batch = Another.batch(open.as_bytes()).unwrap().read().unwrap();
        assert_eq!((batch.status, batch.progress, batch.output_file_id), (BatchStatus::InProgress, Some(75.0), None));
        let ended = r#"{"id":"msgbatch_1","processing_status":"ended"}"#;
        let batch = Another.batch(ended.as_bytes()).unwrap().read().unwrap();
        assert_eq!((batch.status, batch.output_file_id.as_deref()), (BatchStatus::Completed, Some("msgbatch_1")));
        assert_eq!(ROUTES.content.segments("msgbatch_1"), ["messages", "batches", "msgbatch_1", "results"]);
    }

    #[test]
    fn a_reply_is_read_by_its_own_names() {
        let ids = IdHasher { key: 1 };
        let mut reader = ReplyReader::new(ids, Another.replies());
        for (line, kind, prompt) in [
            (
                r#"{"key":"a","result":{"type":"succeeded","message":{"content":[],"usage":{"input_tokens":7}}}}"#,
                ReplyKind::Output,
                7,
            ),
            (r#"{"key":"a","result":{"type":"expired"}}"#, ReplyKind::Retryable, 0),
            // Read by simd-json, and by brackets.
            ("{\t\"k\\u0065y\":\"a\",\"result\":{\"type\":\"canceled\"}}", ReplyKind::Error, 0),
            (r#"{"key":"a","x":NaN,"result":{"type":"expired"}}"#, ReplyKind::Retryable, 0),
        ] {
            let reply = reader.read(line.as_bytes(), ReplyRole::Output).expect(line);
            let wanted = (ids.hash("a"), kind, Usage { prompt, completion: 0 });
            assert_eq!((reply.id_hash, reply.kind, reply.usage), wanted, "{line}");
        }
        assert_eq!(reader.read(br#"{"custom_id":"a","result":{"type":"expired"}}"#, ReplyRole::Output), None);
    }
}
