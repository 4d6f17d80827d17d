//! Downloads from servers that interrupt, repeat, redirect and send wrong data.

use super::*;
use crate::remote::http::testing::{Act, CANARY, Memory, Server, Then, answer, api_at, raw};
use crate::remote::retry::Observer;
use crate::remote::service::Api;

const TAG: &str = "ETag: \"v1\"\r\n";
const SIZE: usize = 300_000;

/// Where the rest of a transfer begins that broke off after 200,000 bytes.
const REST: usize = 200_000 - (4 << 10);

fn content() -> Vec<u8> {
    Memory::of(SIZE).bytes
}

/// A 200 that breaks off after `cut` bytes.
fn broken(headers: &str, cut: usize, then: Then) -> Act {
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(&content()[..cut]);
    raw(bytes, then)
}

fn partial(headers: &str, first: usize) -> Act {
    let range = format!("{headers}Content-Range: bytes {first}-{}/{SIZE}\r\n", SIZE - 1);
    answer(206, &range, &content()[first..])
}

/// Downloads from a server that answers the n-th request as `acts` say, and the last for ever.
async fn fetch(acts: Vec<Act>) -> (Result<Downloaded, RemoteError>, Server, tempfile::TempDir) {
    let last = acts.len() - 1;
    let server = Server::start(move |_, number| acts[number.min(last)].clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("00000.output");
    let api = api_at(&server.url, 4, Observer::default());
    (api.download("file-1", &target, Progress::default()).await, server, directory)
}

fn names(directory: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(directory.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Everything came, once, and nothing else is left.
fn assert_fetched(fetched: &(Result<Downloaded, RemoteError>, Server, tempfile::TempDir)) {
    let (result, _, directory) = fetched;
    assert_eq!(result.as_ref().unwrap(), &Downloaded { bytes: SIZE as u64, announced: true });
    assert!(std::fs::read(directory.path().join("00000.output")).unwrap() == content());
    assert_eq!(names(directory), ["00000.output"]);
}

#[tokio::test]
async fn a_transfer_that_broke_off_goes_on_where_it_was() {
    for then in [Then::Close, Then::Hold] {
        let fetched = fetch(vec![broken(TAG, 200_000, then), partial(TAG, REST)]).await;
        assert_fetched(&fetched);
        let seen = fetched.1.seen();
        assert_eq!(seen[1].header("range"), Some(format!("bytes={REST}-").as_str()));
        assert_eq!(seen[1].header("if-range"), Some("\"v1\""));
        assert_eq!(seen.len(), 2);
    }
}

#[tokio::test]
async fn an_ignored_range_starts_over() {
    let fetched = fetch(vec![broken(TAG, 200_000, Then::Close), answer(200, TAG, content())]).await;
    assert_fetched(&fetched);
}

#[tokio::test]
async fn a_rest_that_does_not_fit_starts_over() {
    let other_length = format!("{TAG}Content-Range: bytes {REST}-{}/{}\r\n", SIZE - 1, SIZE + 1);
    let right_range = format!("{TAG}Content-Range: bytes {REST}-{}/{SIZE}\r\n", SIZE - 1);
    for second in [
        partial("ETag: \"v2\"\r\n", REST),
        partial("", REST),
        partial(TAG, REST - 1),
        answer(206, &other_length, &content()[REST..]),
        answer(206, TAG, &content()[REST..]),
        // Other bytes than announced, and just as many.
        answer(206, &right_range, &content()[REST - 1..SIZE - 1]),
        answer(416, TAG, ""),
    ] {
        let fetched = fetch(vec![broken(TAG, 200_000, Then::Close), second, answer(200, "", content())]).await;
        assert_fetched(&fetched);
        assert_eq!(fetched.1.seen()[2].header("range"), None);
    }
}

#[tokio::test]
async fn without_a_strong_tag_nothing_is_resumed() {
    for tag in ["", "ETag: W/\"v1\"\r\n"] {
        let fetched = fetch(vec![broken(tag, 200_000, Then::Close), answer(200, tag, content())]).await;
        assert_fetched(&fetched);
        assert_eq!(fetched.1.seen()[1].header("range"), None);
    }
}

#[tokio::test]
async fn what_never_comes_whole_is_never_published() {
    for act in [
        broken("", 200_000, Then::Close),
        broken("", 1000, Then::Drip),
        raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", Then::Close),
        raw("", Then::Reset),
        answer(503, "", "later"),
        partial(TAG, 0),
    ] {
        let (result, server, directory) = fetch(vec![act]).await;
        let error = result.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(server.seen().len(), 4, "{error}");
        assert_eq!(names(&directory), [""; 0], "{error}");
    }
}

#[tokio::test]
async fn what_is_refused_is_not_repeated() {
    for (act, kind) in [
        (answer(404, "", r#"{"error":{"message":"File not found"}}"#), ErrorKind::Refused),
        (answer(401, "", ""), ErrorKind::Unauthorized),
        (answer(200, "Content-Encoding: deflate\r\n", "bomb"), ErrorKind::Garbled),
        (answer(200, "Content-Encoding: br\r\n", "bomb"), ErrorKind::Garbled),
        (answer(200, "", [0x1f, 0x8b, 8, 0]), ErrorKind::Garbled),
        (answer(200, "", "<html><title>502 Bad Gateway</title></html>"), ErrorKind::Garbled),
        (answer(302, "Location: file:///etc/passwd\r\n", ""), ErrorKind::Protocol),
    ] {
        let (result, server, directory) = fetch(vec![act]).await;
        assert_eq!(result.unwrap_err().kind(), kind);
        let downloads = server.count("GET /v1/files/file-1/content");
        assert_eq!((downloads, names(&directory).len()), (1, 0));
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_whole_only_as_far_as_can_be_told() {
    let (result, ..) = fetch(vec![raw("HTTP/1.1 200 OK\r\n\r\nline\n", Then::Close)]).await;
    assert_eq!(result.unwrap(), Downloaded { bytes: 5, announced: false });
}

#[tokio::test]
async fn another_host_sees_no_key() {
    let storage = Server::start(|_, number| match number {
        0 => broken(TAG, 200_000, Then::Close),
        _ => partial(TAG, REST),
    })
    .await;
    let location = format!("Location: {}/signed?sig=1\r\n", storage.url);
    let fetched = fetch(vec![answer(302, &location, "")]).await;
    assert_fetched(&fetched);
    assert_eq!(storage.seen().len(), 2);
    assert!(storage.seen().iter().all(|seen| !seen.head.contains(CANARY) && !seen.head.contains("authorization")));
    assert!(storage.seen()[1].header("range").is_some());
}

#[tokio::test]
async fn what_an_earlier_process_left_is_not_built_upon() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("00000.output");
    let left = directory.path().join("00000.output.part");
    durable::publish_bytes(&left, &vec![0xff; SIZE * 2]).unwrap();
    let server = Server::start(|_, _| answer(200, TAG, content())).await;
    let api = api_at(&server.url, 1, Observer::default());
    api.download("file-1", &target, Progress::default()).await.unwrap();
    assert!(std::fs::read(&target).unwrap() == content());
    assert_eq!(server.seen()[0].header("range"), None);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_a_local_error() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| answer(200, TAG, content())).await;
    let api = api_at(&server.url, 3, Observer::default());
    let error = api.download("file-1", &directory.path().join("none/x"), Progress::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LocalFile);
    assert!(api.download("..", &directory.path().join("x"), Progress::default()).await.is_err());
    assert_eq!(server.seen().len(), 0);
}
