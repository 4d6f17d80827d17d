//! Creating a batch: exactly one POST.
//!
//! In: a create request, and its lines. Out: the batch, a definite refusal, or an unknown outcome.
//!
//! Invariants: nothing here sends a second request. Unless the response is a batch of the same file, the outcome is
//! unknown, except if the service definitely refused, or nothing can have been sent.

use std::sync::Arc;
use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::body;
use super::client::Http;
use super::response::Response;
use super::upload::InlinePayload;
use crate::dialect::provider::Provider;
use crate::dialect::upload::{InlineLines, UploadPlan};
use crate::model::batch::{Batch, CreateBatch};
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::retry::Notice;
use crate::remote::service::{Payload, Progress, Submission};

/// The statuses that mean that the service did not create a batch, and will not because of this request.
const DEFINITE_REFUSALS: [u16; 8] = [400, 401, 402, 403, 404, 413, 422, 429];

/// Timeout of a POST with the lines in it. Stalls are detected separately.
const LONGEST_POST: Duration = Duration::from_hours(4);

/// What the body is.
const MEDIA_TYPE: &str = "application/json";

/// Creates a batch; see [`crate::remote::Api::create`].
pub(super) async fn create(
    http: &Http,
    provider: &Provider,
    request: &CreateBatch,
    lines: &Arc<dyn Payload>,
) -> Submission {
    let tag = request.tag.clone().filter(|_| provider.metadata);
    let request = &CreateBatch { tag, ..request.clone() };
    let body = match provider.dialect.create(request) {
        Ok(body) => body,
        Err(error) => {
            let target = format!("create of a batch from {}", request.input_file_id);
            return Submission::Refused(RemoteError::new(ErrorKind::Protocol, target).with_source(error));
        }
    };
    let answer = match provider.dialect.upload() {
        UploadPlan::Inline(form) => post_lines(http, provider, request, (body, form, lines)).await,
        UploadPlan::Presigned(_) | UploadPlan::Multipart(_) => {
            let build = |post: RequestBuilder| post.header(CONTENT_TYPE, MEDIA_TYPE).body(body);
            http.bill(&provider.dialect.routes().create, &request.model, build).await
        }
    };
    match read(http, provider, request, answer).await {
        Ok(batch) => Submission::Accepted(batch),
        Err(error) if is_refusal(&error) => Submission::Refused(error),
        Err(error) => Submission::Unknown(error),
    }
}

/// The POST of a long body with the lines in it.
async fn post_lines<'h>(
    http: &'h Http,
    provider: &Provider,
    request: &CreateBatch,
    (before, form, lines): (Vec<u8>, InlineLines, &Arc<dyn Payload>),
) -> Result<Response<'h>, RemoteError> {
    let route = &provider.dialect.routes().create;
    let target = http.target(&route.method.into(), &http.url(route, &request.model));
    let payload = Arc::new(InlinePayload { before, form, lines: lines.clone() });
    let length = payload.bytes();
    let (body, meter) = body::open(payload, Progress::default());
    let build = |post: RequestBuilder| {
        let post = post.timeout(LONGEST_POST).header(CONTENT_TYPE, MEDIA_TYPE);
        post.header(CONTENT_LENGTH, length).body(body)
    };
    let sent = tokio::select! {
        sent = http.bill(route, &request.model, build) => sent,
        why = meter.stalled(&http.timeouts) => Err(RemoteError::new(ErrorKind::Timeout, &*target).with_message(why)),
    };
    // A body that was not sent completely is not a request, whatever the service returned: its length was announced.
    meter.take_fault(&target).map_or(sent, Err)
}

async fn read(
    http: &Http,
    provider: &Provider,
    request: &CreateBatch,
    answer: Result<Response<'_>, RemoteError>,
) -> Result<Batch, RemoteError> {
    let answer = answer?.successful().await?;
    let (status, target) = (answer.status(), answer.target().to_owned());
    let malformed = |why| RemoteError::malformed(&target)(why).with_status(status);
    let created = provider.dialect.created(&answer.body().await?).map_err(malformed)?;
    if let Some(text) = &created.warning {
        http.observer.tell(&Notice::Warning { text });
    }
    created.batch.read_created(&request.input_file_id).map_err(malformed)
}

/// Whether it is certain that no batch was created: nothing or not everything was sent, or the service said so.
fn is_refusal(error: &RemoteError) -> bool {
    match error.status() {
        Some(status) => DEFINITE_REFUSALS.contains(&status),
        None => matches!(
            error.kind(),
            ErrorKind::Unreachable
                | ErrorKind::Insecure
                | ErrorKind::OutOfFiles
                | ErrorKind::InputChanged
                | ErrorKind::LocalFile
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::batch::BatchStatus;
    use crate::model::tag::BatchTag;
    use crate::remote::http::testing::{Act, CANARY, Server, Then, answer, api_as, lines, raw};
    use crate::remote::retry::Observer;
    use crate::remote::service::{Api, Submission};

    const FILE: &str = "file-abc123";

    fn request() -> CreateBatch {
        CreateBatch {
            input_file_id: FILE.into(),
            endpoint: "/v1/chat/completions".into(),
            completion_window: Some("24h".into()),
            model: "m".into(),
            tag: Some(BatchTag { run: "r-1".into(), shard: 2, submission: 3 }),
        }
    }

    /// The rows of the dialects.
    const PROVIDERS: [&str; 2] = ["together", "openai"];

    async fn create(provider: &str, act: Act) -> (Submission, Server) {
        let server = Server::start(move |_, _| act.clone()).await;
        let submission = api_as(provider, &server.url, 5, Observer::default()).create(&request(), lines()).await;
        assert!(server.seen().len() <= 1, "a create is never repeated");
        (submission, server)
    }

    #[tokio::test]
    async fn a_warning_is_passed_on() {
        let job =
            format!(r#"{{"job":{{"id":"b-1","status":"VALIDATING","input_file_id":"{FILE}"}},"warning":"slow\nday"}}"#);
        let server = Server::start(move |_, _| answer(201, "", &job)).await;
        let warnings = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&warnings);
        let observer = Observer::new(move |notice| {
            if let Notice::Warning { text } = notice {
                heard.lock().unwrap().push((*text).to_owned());
            }
        });
        let api = api_as("together", &format!("{}/v1", server.url), 5, observer);
        let Submission::Accepted(batch) = api.create(&request(), lines()).await else { panic!("not accepted") };
        assert_eq!((&*batch.id, batch.status), ("b-1", BatchStatus::Validating));
        assert_eq!(*warnings.lock().unwrap(), ["slow day"]);
        let [post] = server.seen().try_into().unwrap();
        assert_eq!((&*post.line, post.header("content-type")), ("POST /v1/batches", Some("application/json")));
    }

    #[tokio::test]
    async fn a_created_batch_is_accepted_and_tagged_where_there_is_metadata() {
        let batch = format!(
            r#"{{"id":"batch_1","object":"batch","status":"validating","input_file_id":"{FILE}","request_counts":null}}"#
        );
        for (provider, tagged) in [("openai", true), ("together", false)] {
            let batch = batch.clone();
            let server = Server::start(move |_, _| answer(200, "", &batch)).await;
            let api = api_as(provider, &server.url, 5, Observer::default());
            let Submission::Accepted(batch) = api.create(&request(), lines()).await else { panic!("not accepted") };
            assert_eq!((&*batch.id, batch.status), ("batch_1", BatchStatus::Validating));
            let [post] = server.seen().try_into().unwrap();
            assert_eq!(post.line, "POST /v1/batches");
            let sent: Value = serde_json::from_slice(&post.body).unwrap();
            assert_eq!((&sent["input_file_id"], &sent["completion_window"]), (&json!(FILE), &json!("24h")));
            let tag = json!({"batchline_run": "r-1", "batchline_shard": "2", "batchline_submission": "3"});
            assert_eq!(sent.get("metadata"), tagged.then_some(&tag), "{provider}");
        }
    }

    #[tokio::test]
    async fn a_definite_refusal_is_recognized_in_any_format() {
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
                for provider in PROVIDERS {
                    let (submission, _server) = create(provider, answer(status, "", body)).await;
                    let Submission::Refused(error) = submission else { panic!("{status}: {submission:?}") };
                    assert_eq!((error.status(), error.message()), (Some(status), Some(said)));
                }
            }
        }
        let (submission, _server) = create("openai", answer(422, "", "")).await;
        assert!(matches!(submission, Submission::Refused(error) if error.to_string().ends_with("refused (HTTP 422)")));
        // No server listens there.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let api = api_as("openai", &format!("http://{closed}"), 5, Observer::default());
        let submission = api.create(&request(), lines()).await;
        assert!(matches!(&submission, Submission::Refused(error) if error.kind() == ErrorKind::Unreachable));
    }

    #[tokio::test]
    async fn an_ambiguous_response_is_an_unknown_outcome() {
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
            answer(201, "", r#"{"job":{"id":"b-1","input_file_id":"file-other"}}"#),
            answer(201, "", r#"{"job":null,"warning":"Batch job was not created"}"#),
            answer(201, "", r#"{"job":{"id":".."}}"#),
            answer(201, "", r#"{"job":{"id":"b-1"}"#),
            answer(201, "Content-Encoding: gzip\r\n", "\u{1f}"),
            raw("HTTP/1.1 201 Created\r\n\r\n", Then::Drip),
            raw("garbage\r\n\r\n", Then::Close),
            raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"id\":", Then::Close),
            raw("", Then::Close),
            raw("", Then::Reset),
            raw("", Then::Hold),
        ] {
            let shown = String::from_utf8_lossy(&act.answer).into_owned();
            for provider in PROVIDERS {
                let (submission, server) = create(provider, act.clone()).await;
                assert!(matches!(submission, Submission::Unknown(_)), "{shown:?}: {submission:?}");
                assert_eq!(server.seen().len(), 1, "{shown:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_key_is_sent_in_the_providers_header() {
        for (provider, header, value) in
            [("openai", "authorization", format!("bearer {CANARY}")), ("azure-openai", "api-key", CANARY.to_owned())]
        {
            let server = Server::start(|_, _| answer(401, "", "")).await;
            let api = api_as(provider, &server.url, 1, Observer::default());
            assert!(api.batch("b-1").await.is_err());
            assert!(matches!(api.create(&request(), lines()).await, Submission::Refused(_)));
            for seen in server.seen() {
                assert_eq!(seen.header(header), Some(&*value), "{provider}");
                assert_eq!(seen.head.matches(CANARY).count(), 1, "{provider}");
            }
        }
    }
}
