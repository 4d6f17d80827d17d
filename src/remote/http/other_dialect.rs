//! Tests that a new dialect works without changes to this module, which has no knowledge of it.

use std::sync::{Arc, LazyLock};

use super::HttpApi;
use super::testing::{Act, CANARY, Memory, Server, Then, answer, api_of, raw};
use crate::dialect::another::{Another, LINE};
use crate::dialect::provider::{Auth, Provider};
use crate::dialect::providers::provider;
use crate::model::batch::{BatchStatus, CreateBatch};
use crate::remote::error::ErrorKind;
use crate::remote::retry::Observer;
use crate::remote::service::{Api, Payload, Progress, RemoteFile, Submission};

/// The row of a provider of that dialect.
static ROW: LazyLock<Provider> = LazyLock::new(|| Provider {
    name: "another",
    dialect: &Another,
    line: &LINE,
    auth: Auth { name: "x-api-key", header: "x-api-key", prefix: "" },
    metadata: false,
    ..*provider("custom").unwrap()
});

fn api(server: &Server) -> HttpApi {
    api_of(&ROW, &server.url, 3, Observer::default())
}

/// Two requests, written as the dialect has them.
fn lines() -> Memory {
    let mut lines = Vec::new();
    for id in [r#""a""#, r#""b""#] {
        LINE.write(id, "", br#"{"max_tokens":1}"#, &mut lines);
        lines.push(b'\n');
    }
    Memory::with(lines)
}

fn request(lines: &Memory) -> CreateBatch {
    CreateBatch {
        input_file_id: lines.name(),
        endpoint: "/v1/messages".into(),
        completion_window: None,
        model: "m".into(),
        tag: None,
    }
}

#[tokio::test]
async fn lines_go_up_inside_of_the_create_and_nothing_before() {
    let server = Server::start(|_, _| answer(200, "", r#"{"id":"m-1","processing_status":"in_progress"}"#)).await;
    let lines = lines();
    let uploaded = api(&server).upload(Arc::new(lines.clone()), Progress::default()).await.unwrap();
    assert_eq!(uploaded, RemoteFile { id: lines.name(), bytes: None, reused: false });
    assert_eq!(server.seen().len(), 0);
    let created = api(&server).create(&request(&lines), Arc::new(lines)).await;
    let Submission::Accepted(batch) = created else { panic!("{created:?}") };
    assert_eq!((&*batch.id, batch.status), ("m-1", BatchStatus::InProgress));
    let [post] = server.seen().try_into().unwrap();
    assert_eq!((&*post.line, post.whole), ("POST /v1/messages/batches", true));
    let body = concat!(
        r#"{"model":"m","requests":[{"key":"a","params":{"max_tokens":1}},"#,
        r#"{"key":"b","params":{"max_tokens":1}}]}"#
    );
    assert_eq!(std::str::from_utf8(&post.body).unwrap(), body);
    for (name, value) in
        [("x-api-key", CANARY), ("another-version", "2023-06-01"), ("content-type", "application/json")]
    {
        assert_eq!(post.header(name), Some(value));
    }
    assert_eq!((post.header("authorization"), post.header("transfer-encoding")), (None, None));
}

#[tokio::test]
async fn a_create_with_lines_is_never_sent_twice_and_is_a_no_only_where_that_is_certain() {
    for (act, is_refused) in [
        (answer(400, "", r#"{"error":{"message":"no"}}"#), true),
        (answer(500, "", ""), false),
        (raw("", Then::Reset), false),
        (raw("", Then::Hold), false),
        (Act { take: Some(10), then: Then::Reset, ..Act::default() }, false),
    ] {
        let server = Server::start(move |_, _| act.clone()).await;
        let lines = lines();
        let created = api(&server).create(&request(&lines), Arc::new(lines)).await;
        assert_eq!(matches!(created, Submission::Refused(_)), is_refused, "{created:?}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn lines_that_changed_never_make_a_whole_request() {
    let server = Server::start(|_, _| answer(200, "", r#"{"id":"m-1"}"#)).await;
    let mut lines = Memory::of(4 << 20);
    lines.fails_at_end = Some(std::io::ErrorKind::InvalidData);
    let created = api(&server).create(&request(&lines), Arc::new(lines)).await;
    let Submission::Refused(error) = created else { panic!("{created:?}") };
    assert_eq!(error.kind(), ErrorKind::InputChanged);
    assert!(server.seen().iter().all(|seen| !seen.whole));
}

#[tokio::test]
async fn a_list_goes_on_by_tokens() {
    let server = Server::start(|line, _| {
        let page = match line.split_once("page_token=").map(|(_, token)| token) {
            None => r#"{"batches":[{"id":"m-1"},{"id":"m-2"}],"next_page":"t/2"}"#,
            // A page may be empty and not the last.
            Some("t%2F2") => r#"{"batches":[],"next_page":"t3"}"#,
            _ => r#"{"batches":[{"id":"m-3"}],"next_page":""}"#,
        };
        answer(200, "", page)
    })
    .await;
    let listing = api(&server).batches().await.unwrap();
    assert_eq!(listing.batches.iter().map(|batch| &*batch.id).collect::<Vec<_>>(), ["m-1", "m-2", "m-3"]);
    let lines: Vec<String> = server.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines[0], "GET /v1/messages/batches?page_size=2");
    assert_eq!(lines[1..], ["t%2F2", "t3"].map(|token| format!("{}&page_token={token}", lines[0])));
    let server = Server::start(|_, _| answer(200, "", r#"{"batches":[{"id":"m-1"}],"next_page":"t"}"#)).await;
    assert_eq!(api(&server).batches().await.unwrap_err().kind(), ErrorKind::Protocol, "it turns in a circle");
}

#[tokio::test]
async fn results_come_in_one_stream_and_what_the_service_has_not_got_is_not_asked_for() {
    let server = Server::start(|line, _| match line {
        "GET /v1/messages/batches/m-1" => answer(200, "", r#"{"id":"m-1","processing_status":"ended"}"#),
        "GET /v1/messages/batches/m-1/results" => answer(200, "", "{\"key\":\"a\"}\n"),
        _ => answer(404, "", ""),
    })
    .await;
    let api = api(&server);
    let results = api.batch("m-1").await.unwrap().output_file_id.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let fetched = api.download(&results, &directory.path().join("x"), Progress::default()).await.unwrap();
    assert_eq!(fetched.bytes, 12);
    assert_eq!(api.file_bytes(&results).await.unwrap(), None);
    api.delete_file(&results).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}
