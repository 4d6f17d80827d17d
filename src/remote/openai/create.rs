//! What a batch is created with, and what the service says to that.

use serde::Serialize;

use crate::model::batch::Batch;
use crate::model::tag::{BatchTag, Metadata};
use crate::remote::client::Http;
use crate::remote::error::RemoteError;
use crate::remote::service::CreateBatch;

/// What a batch is created with.
#[derive(Serialize)]
struct Create<'a> {
    input_file_id: &'a str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_window: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
}

/// Creates a batch: one POST. Whatever this returns but a batch of the same file is an error. `marked` says whether the provider takes
/// metadata.
pub(in crate::remote) async fn create(http: &Http, request: &CreateBatch, marked: bool) -> Result<Batch, RemoteError> {
    let create = Create {
        input_file_id: &request.input_file_id,
        endpoint: &request.endpoint,
        completion_window: request.completion_window.as_deref(),
        model: request.model.as_deref(),
        metadata: request.tag.as_ref().filter(|_| marked).map(BatchTag::metadata),
    };
    let answer = http.bill(&["batches"], |post| post.json(&create)).await?.successful().await?;
    let (status, target) = (answer.status(), answer.target().to_owned());
    answer
        .batch()
        .await?
        .read_created(&request.input_file_id)
        .map_err(|why| RemoteError::malformed(&target)(why).with_status(status))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::batch::BatchStatus;
    use crate::remote::retry::Observer;
    use crate::remote::service::{Api, Submission};
    use crate::remote::testing::{Act, CANARY, Server, Then, answer, api_as, raw};

    const FILE: &str = "file-abc123";

    fn request() -> CreateBatch {
        CreateBatch {
            input_file_id: FILE.into(),
            endpoint: "/v1/chat/completions".into(),
            completion_window: Some("24h".into()),
            model: None,
            tag: Some(BatchTag { run: "r-1".into(), shard: 2, submission: 3 }),
        }
    }

    async fn create(act: Act) -> (Submission, Server) {
        let server = Server::start(move |_, _| act.clone()).await;
        let submission = api_as("openai", &server.url, 5, Observer::default()).create(&request()).await;
        assert!(server.seen().len() <= 1, "a create is never repeated");
        (submission, server)
    }

    #[tokio::test]
    async fn a_created_batch_is_accepted_and_marked_where_there_is_metadata() {
        let batch = format!(
            r#"{{"id":"batch_1","object":"batch","status":"validating","input_file_id":"{FILE}","request_counts":null}}"#
        );
        for (provider, marked) in [("openai", true), ("together", false)] {
            let batch = batch.clone();
            let server = Server::start(move |_, _| answer(200, "", &batch)).await;
            let api = api_as(provider, &server.url, 5, Observer::default());
            let Submission::Accepted(batch) = api.create(&request()).await else { panic!("not accepted") };
            assert_eq!((&*batch.id, batch.status), ("batch_1", BatchStatus::Validating));
            let [post] = server.seen().try_into().unwrap();
            assert_eq!(post.line, "POST /v1/batches");
            let sent: Value = serde_json::from_slice(&post.body).unwrap();
            assert_eq!((&sent["input_file_id"], &sent["completion_window"]), (&json!(FILE), &json!("24h")));
            let tag = json!({"batchline_run": "r-1", "batchline_shard": "2", "batchline_submission": "3"});
            assert_eq!(sent.get("metadata"), marked.then_some(&tag), "{provider}");
        }
    }

    #[tokio::test]
    async fn a_definite_no_is_a_refusal_whatever_its_shape() {
        for (body, said) in [
            (
                r#"{"error":{"message":"no such file","type":"invalid_request_error","param":null,"code":null}}"#,
                "no such file",
            ),
            (r#"{"error":"no such file","request_id":"r"}"#, "no such file"),
            (r#"{"detail":"no such file"}"#, "no such file"),
            (r#"{"detail":{"error":"no such file"}}"#, "no such file"),
            (r#"{"detail":[{"loc":["body"],"msg":"no such file"}]}"#, "no such file"),
            ("no such file\n", "no such file"),
            ("<html><title>no such file</title>", "a page of HTML, titled \"no such file\""),
        ] {
            for status in [400, 401, 402, 403, 404, 413, 422, 429] {
                let (submission, _server) = create(answer(status, "", body)).await;
                let Submission::Refused(error) = submission else { panic!("{status}: {submission:?}") };
                assert_eq!((error.status(), error.message()), (Some(status), Some(said)));
            }
        }
        let (submission, _server) = create(answer(422, "", "")).await;
        assert!(matches!(submission, Submission::Refused(error) if error.to_string().ends_with("refused (HTTP 422)")));
    }

    #[tokio::test]
    async fn whatever_is_not_a_clear_answer_leaves_it_unknown() {
        for act in [
            answer(500, "", ""),
            answer(502, "", "<html><title>Bad Gateway</title>"),
            answer(408, "", r#"{"error":{"message":"timeout"}}"#),
            answer(409, "", ""),
            answer(307, "Location: /v1/elsewhere\r\n", ""),
            answer(200, "", "not json"),
            answer(200, "", "null"),
            answer(200, "", "{}"),
            answer(200, "", r#"{"id":".."}"#),
            answer(200, "", r#"{"id":"a\u0000b"}"#),
            answer(200, "", r#"{"id":"b-1"} and more"#),
            answer(200, "", r#"{"id":"b-1","input_file_id":"file-other"}"#),
            raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"id\":", Then::Close),
            raw("", Then::Close),
            raw("", Then::Reset),
            raw("", Then::Hold),
        ] {
            let shown = String::from_utf8_lossy(&act.answer).into_owned();
            let (submission, server) = create(act).await;
            assert!(matches!(submission, Submission::Unknown(_)), "{shown:?}: {submission:?}");
            assert_eq!(server.seen().len(), 1, "{shown:?}");
        }
    }

    #[tokio::test]
    async fn the_key_goes_where_the_provider_looks_for_it() {
        for (provider, header, value) in
            [("openai", "authorization", format!("bearer {CANARY}")), ("azure-openai", "api-key", CANARY.to_owned())]
        {
            let server = Server::start(|_, _| answer(401, "", "")).await;
            let api = api_as(provider, &server.url, 1, Observer::default());
            assert!(api.batch("b-1").await.is_err());
            assert!(matches!(api.create(&request()).await, Submission::Refused(_)));
            for seen in server.seen() {
                assert_eq!(seen.header(header), Some(&*value), "{provider}");
                assert_eq!(seen.head.matches(CANARY).count(), 1, "{provider}");
            }
        }
    }
}
