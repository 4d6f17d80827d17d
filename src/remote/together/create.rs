//! What a batch is created with, and what the service says to that.

use serde::Serialize;

use crate::dialect::wire::RawBatch;
use crate::dialect::wire::message_of;
use crate::json::brackets::whole::members_of;
use crate::model::batch::Batch;
use crate::model::shown::one_line;
use crate::remote::client::Http;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::retry::Notice;
use crate::remote::service::CreateBatch;

/// What a batch is created with.
#[derive(Serialize)]
struct Create<'a> {
    endpoint: &'a str,
    input_file_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_window: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_id: Option<&'a str>,
}

/// Creates a batch: one POST. Whatever this returns but a batch of the same file is an error.
pub(in crate::remote) async fn create(http: &Http, request: &CreateBatch) -> Result<Batch, RemoteError> {
    let create = Create {
        endpoint: &request.endpoint,
        input_file_id: &request.input_file_id,
        completion_window: request.completion_window.as_deref(),
        model_id: request.model.as_deref(),
    };
    let answer = http.bill(&["batches"], |post| post.json(&create)).await?.successful().await?;
    let (status, target) = (answer.status(), answer.target().to_owned());
    let body = answer.body().await?;
    let [job, warning] = members_of(&body, ["job", "warning"]).unwrap_or_default();
    let warning = warning.and_then(|raw| message_of(&serde_json::from_slice(raw).ok()?)).map(|text| one_line(&text));
    // A bare batch, as the later calls give it, is taken, too.
    let raw = job.and_then(RawBatch::parse).or_else(|| RawBatch::parse(&body).filter(RawBatch::has_id));
    let Some(raw) = raw else {
        let said = warning.map(|text| format!(": {text}")).unwrap_or_default();
        let error = RemoteError::new(ErrorKind::Protocol, target).with_status(status);
        return Err(error.with_message(&format!("the answer has no batch{said}")));
    };
    if let Some(text) = &warning {
        http.observer.tell(&Notice::Warning { text });
    }
    raw.read_created(&request.input_file_id).map_err(|why| RemoteError::malformed(&target)(why).with_status(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchStatus;
    use crate::remote::retry::Observer;
    use crate::remote::service::{Api, Submission};
    use crate::remote::testing::{Act, Server, Then, answer, api_at, raw};

    const FILE: &str = "file-8205dffa-8f55";

    fn request() -> CreateBatch {
        CreateBatch {
            input_file_id: FILE.into(),
            endpoint: "/v1/chat/completions".into(),
            completion_window: Some("24h".into()),
            model: None,
            tag: None,
        }
    }

    async fn create(act: Act) -> (Submission, Server) {
        let server = Server::start(move |_, _| act.clone()).await;
        let submission = api_at(&server.url, 5, Observer::default()).create(&request()).await;
        assert!(server.seen().len() <= 1, "a create is never repeated");
        (submission, server)
    }

    #[tokio::test]
    async fn a_created_batch_is_accepted_with_its_warning() {
        let job =
            format!(r#"{{"job":{{"id":"b-1","status":"VALIDATING","input_file_id":"{FILE}"}},"warning":"slow\nday"}}"#);
        let server = Server::start(move |_, _| answer(201, "", &job)).await;
        let warnings = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = std::sync::Arc::clone(&warnings);
        let observer = Observer::new(move |notice| {
            if let Notice::Warning { text } = notice {
                heard.lock().unwrap().push((*text).to_owned());
            }
        });
        let api = api_at(&format!("{}/v1", server.url), 5, observer);
        let Submission::Accepted(batch) = api.create(&request()).await else { panic!("not accepted") };
        assert_eq!((&*batch.id, batch.status), ("b-1", BatchStatus::Validating));
        assert_eq!(*warnings.lock().unwrap(), ["slow day"]);
        let [post] = server.seen().try_into().unwrap();
        assert_eq!(post.line, "POST /v1/batches");
        let body =
            format!(r#"{{"endpoint":"/v1/chat/completions","input_file_id":"{FILE}","completion_window":"24h"}}"#);
        assert_eq!(String::from_utf8(post.body).unwrap(), body);
    }

    #[tokio::test]
    async fn a_definite_no_is_a_refusal() {
        for status in [400, 401, 402, 403, 404, 413, 422, 429] {
            let (submission, server) = create(answer(status, "", r#"{"error":"no"}"#)).await;
            let Submission::Refused(error) = submission else { panic!("{status}: {submission:?}") };
            assert_eq!((error.status(), error.message()), (Some(status), Some("no")));
            assert_eq!(server.seen().len(), 1);
        }
        // Nobody listens there.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let submission = api_at(&format!("http://{closed}"), 5, Observer::default()).create(&request()).await;
        assert!(matches!(&submission, Submission::Refused(error) if error.kind() == ErrorKind::Unreachable));
    }

    #[tokio::test]
    async fn whatever_is_not_a_clear_answer_leaves_it_unknown() {
        let other_file = r#"{"job":{"id":"b-1","input_file_id":"file-other"}}"#;
        for act in [
            answer(500, "", ""),
            answer(502, "", "<html><title>Bad Gateway</title>"),
            answer(408, "", ""),
            answer(409, "", ""),
            answer(307, "Location: /v1/elsewhere\r\n", ""),
            answer(201, "", "not json"),
            answer(201, "", r#"{"job":null,"warning":"Batch job was not created"}"#),
            answer(201, "", r#"{"job":{"id":".."}}"#),
            answer(201, "", r#"{"job":{"id":"b-1"}"#),
            answer(201, "", other_file),
            answer(201, "Content-Encoding: gzip\r\n", "\u{1f}"),
            raw("HTTP/1.1 201 Created\r\ncontent-length: 500\r\n\r\n{\"job\":", Then::Close),
            raw("", Then::Close),
            raw("", Then::Reset),
            raw("", Then::Hold),
            raw("HTTP/1.1 201 Created\r\n\r\n", Then::Drip),
            raw("garbage\r\n\r\n", Then::Close),
        ] {
            let shown = String::from_utf8_lossy(&act.answer).into_owned();
            let (submission, server) = create(act).await;
            assert!(matches!(submission, Submission::Unknown(_)), "{shown:?}: {submission:?}");
            assert_eq!(server.seen().len(), 1, "{shown:?}");
        }
    }
}
