//! Uploads a file in one multipart POST to the API itself.
//!
//! Invariants: the form's exact length is announced, so an interrupted form never becomes a file. Every attempt opens a
//! new body and requests a new file.

use std::sync::Arc;
use std::time::Duration;

use reqwest::multipart::{Form, Part};

use super::check;
use crate::dialect::provider::Provider;
use crate::dialect::upload::MultipartUpload;
use crate::dialect::wire::check_id;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::http::body;
use crate::remote::http::client::Http;
use crate::remote::retry::{Attempts, RetryPolicy};
use crate::remote::service::{Payload, Progress, RemoteFile};

/// Looks at a file that must be processed before it can be used.
const LOOKS_MAX: u32 = 120;

/// Time between two of them.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Uploads a payload; see [`crate::remote::Api::upload`].
pub(super) async fn upload(
    http: &Http,
    retry: &RetryPolicy,
    (plan, provider): (&MultipartUpload, &Provider),
    payload: &Arc<dyn Payload>,
    progress: &Progress,
) -> Result<RemoteFile, RemoteError> {
    let mut attempts = Attempts::new(retry, &http.observer);
    let (file, mut status) = loop {
        match send(http, (plan, provider.purpose), payload, progress).await {
            Ok(sent) => break sent,
            Err(error) => attempts.after(error).await?,
        }
    };
    if !provider.waits_for_file {
        return Ok(file);
    }
    let mut attempts = Attempts::new(retry, &http.observer);
    for _ in 0..LOOKS_MAX {
        if status.is_none() {
            return Ok(file);
        }
        tokio::time::sleep(LOOK_INTERVAL.min(http.timeouts.idle)).await;
        match look(http, plan, &file.id, payload.bytes()).await {
            Ok(now) => status = now,
            Err(error) => attempts.after(error).await?,
        }
    }
    let message = format!("the file is still {}", status.unwrap_or_default());
    Err(RemoteError::new(ErrorKind::Unavailable, format!("file {}", file.id)).with_message(&message))
}

/// Sends the form once, and returns the file with its status, unless it has been processed.
async fn send(
    http: &Http,
    (plan, purpose): (&MultipartUpload, &str),
    payload: &Arc<dyn Payload>,
    progress: &Progress,
) -> Result<(RemoteFile, Option<String>), RemoteError> {
    let target = http.target(&plan.send.method.into(), &http.url(&plan.send, ""));
    let (length, (body, meter)) = (payload.bytes(), body::open(Arc::clone(payload), progress.clone()));
    let file = Part::stream_with_length(body, length).file_name(payload.name()).mime_str(plan.media_type);
    let file = file.map_err(|error| RemoteError::new(ErrorKind::Protocol, &*target).with_source(error))?;
    let form = Form::new().text("purpose", purpose.to_owned()).part("file", file);
    let request = http.upload(&plan.send, |request| request.multipart(form));
    let sent = tokio::select! {
        sent = request => sent,
        why = meter.stalled(&http.timeouts) => Err(RemoteError::new(ErrorKind::Timeout, &*target).with_message(why)),
    };
    if let Some(fault) = meter.take_fault(&target) {
        return Err(fault);
    }
    let answer = sent?.successful().await?;
    if meter.sent() < length {
        // The service's status of a file that it has not received is meaningless.
        let error = RemoteError::new(ErrorKind::Interrupted, target).with_status(answer.status());
        return Err(error.with_message("the service answered before it had all the bytes"));
    }
    let file = answer.file(plan.format.status).await?;
    check(&file, &plan.format, length, &target)?;
    let pending = file.is_pending(&plan.format).map(str::to_owned);
    let Some(id) = file.id else {
        return Err(RemoteError::new(ErrorKind::Protocol, target).with_message("the response has a file without an id"));
    };
    check_id(&id).map_err(RemoteError::malformed(&target))?;
    Ok((RemoteFile { id, bytes: file.bytes, reused: false }, pending))
}

/// The status of a file that is there, unless it has been processed.
async fn look(http: &Http, plan: &MultipartUpload, id: &str, sent: u64) -> Result<Option<String>, RemoteError> {
    let answer = http.call(&plan.file, id, |request| request).await?.successful().await?;
    let target = answer.target().to_owned();
    let file = answer.file(plan.format.status).await?;
    check(&file, &plan.format, sent, &target)?;
    Ok(file.is_pending(&plan.format).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::remote::HttpApi;
    use crate::remote::http::testing::{Act, CANARY, Memory, Seen, Server, Then, answer, api_as, raw};
    use crate::remote::retry::Observer;
    use crate::remote::service::Api;

    const SIZE: usize = 700_000;

    fn file_object(bytes: usize, status: &str) -> Act {
        answer(200, "", format!(r#"{{"id":"file-1","object":"file","bytes":{bytes},"purpose":"batch"{status}}}"#))
    }

    async fn upload(api: &HttpApi, payload: &Memory) -> Result<RemoteFile, RemoteError> {
        api.upload(Arc::new(payload.clone()), Progress::default()).await
    }

    fn api(server: &Server, attempts: u32) -> HttpApi {
        api_as("openai", &server.url, attempts, Observer::default())
    }

    /// The parts of a form: their heads and their bodies.
    fn parts(seen: &Seen) -> Vec<(String, Vec<u8>)> {
        let head = seen.header("content-type").unwrap();
        // The head was folded to lower case; a boundary of reqwest's has no letters beyond f.
        let boundary = format!("--{}", head.split_once("boundary=").unwrap().1);
        let mut parts = Vec::new();
        let mut rest = &seen.body[..];
        while let Some(start) = memchr::memmem::find(rest, boundary.as_bytes()) {
            rest = &rest[start + boundary.len()..];
            let Some(end) = memchr::memmem::find(rest, boundary.as_bytes()) else { break };
            let split = memchr::memmem::find(rest, b"\r\n\r\n").unwrap();
            parts.push((String::from_utf8_lossy(&rest[..split]).into_owned(), rest[split + 4..end - 2].to_vec()));
        }
        assert!(seen.body.ends_with(format!("{boundary}--\r\n").as_bytes()));
        parts
    }

    #[tokio::test]
    async fn one_post_of_an_announced_length_carries_purpose_and_file() {
        let server = Server::start(|_, _| file_object(SIZE, r#","status":"processed""#)).await;
        let payload = Memory::of(SIZE);
        let last = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&last);
        let progress = Progress::new(move |bytes| told.store(bytes, Ordering::Relaxed));
        let file = api(&server, 1).upload(Arc::new(payload.clone()), progress).await.unwrap();
        assert_eq!(file, RemoteFile { id: "file-1".into(), bytes: Some(SIZE as u64), reused: false });
        assert_eq!(last.load(Ordering::Relaxed), SIZE as u64);

        let [post] = server.seen().try_into().unwrap();
        assert_eq!((&*post.line, post.whole), ("POST /v1/files", true));
        assert_eq!(post.header("content-length"), Some(&*post.body.len().to_string()));
        assert_eq!(post.header("transfer-encoding"), None);
        assert_eq!(post.header("authorization"), Some(&*format!("bearer {CANARY}")));
        let [(purpose, word), (head, bytes)] = parts(&post).try_into().unwrap();
        assert!(purpose.contains("name=\"purpose\"") && word == b"batch", "{purpose}");
        assert!(head.contains("name=\"file\"; filename=\"shard-00000.jsonl\""), "{head}");
        assert!(bytes == payload.bytes);
    }

    #[tokio::test]
    async fn whatever_breaks_an_upload_it_starts_over_with_a_body_of_its_own() {
        let server = Server::start(|_, number| match number {
            0 => Act { take: Some(300_000), then: Then::Reset, ..Act::default() },
            1 => answer(503, "", "<html>"),
            2 => raw("", Then::Close),
            3 => Act { take: Some(10), ..answer(500, "", "") },
            _ => file_object(SIZE, ""),
        })
        .await;
        let payload = Memory::of(SIZE);
        upload(&api(&server, 5), &payload).await.unwrap();
        assert_eq!(server.seen().len(), 5);
        assert_eq!(payload.opened.load(Ordering::Relaxed), 5);
        assert!(parts(server.seen().last().unwrap())[1].1 == payload.bytes);
    }

    #[tokio::test]
    async fn a_stalled_upload_is_noticed_before_and_after_its_last_byte() {
        for take in [Some(1000), None] {
            let server = Server::start(move |_, _| Act { take, then: Then::Hold, ..Act::default() }).await;
            // Above what the system takes into its own buffers.
            let size = if take.is_some() { 32 << 20 } else { SIZE };
            let error = upload(&api(&server, 1), &Memory::of(size)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
    }

    #[tokio::test]
    async fn an_input_that_changed_is_final_and_its_form_never_complete() {
        for (fault, kind) in [
            (std::io::ErrorKind::InvalidData, ErrorKind::InputChanged),
            (std::io::ErrorKind::PermissionDenied, ErrorKind::LocalFile),
        ] {
            let server = Server::start(|_, _| file_object(4 << 20, "")).await;
            let mut payload = Memory::of(4 << 20);
            payload.fails_at_end = Some(fault);
            assert_eq!(upload(&api(&server, 5), &payload).await.unwrap_err().kind(), kind);
            assert_eq!(server.seen().len(), 1);
            assert!(server.seen().iter().all(|seen| !seen.whole));
        }
    }

    #[tokio::test]
    async fn answers_that_cannot_be_true_are_refused() {
        for (act, kind) in [
            (file_object(SIZE - 1, ""), ErrorKind::Protocol),
            (answer(200, "", r#"{"object":"file"}"#), ErrorKind::Protocol),
            (answer(200, "", r#"{"id":".."}"#), ErrorKind::Protocol),
            (file_object(SIZE, r#","status":"error""#), ErrorKind::Refused),
            (answer(307, "Location: http://127.0.0.1:9/x\r\n", ""), ErrorKind::Protocol),
            (answer(413, "", r#"{"error":{"message":"too large"}}"#), ErrorKind::TooLarge),
            (answer(422, "", r#"{"detail":[{"msg":"bad purpose"}]}"#), ErrorKind::Refused),
        ] {
            let server = Server::start(move |_, _| act.clone()).await;
            let error = upload(&api(&server, 5), &Memory::of(SIZE)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(server.seen().len(), 1, "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_must_be_processed_first_is_waited_for() {
        let server = Server::start(|line, number| match (line, number) {
            ("POST /v1/files", _) => file_object(SIZE, r#","status":"pending""#),
            (_, 0) => file_object(SIZE, r#","status":"Running""#),
            (_, 1) => answer(503, "", ""),
            _ => file_object(SIZE, r#","status":"processed""#),
        })
        .await;
        let api = |name| api_as(name, &server.url, 3, Observer::default());
        upload(&api("azure-openai"), &Memory::of(SIZE)).await.unwrap();
        assert_eq!(server.count("GET /v1/files/file-1"), 3);
        upload(&api("openai"), &Memory::of(SIZE)).await.unwrap();
        assert_eq!(server.count("GET /v1/files/file-1"), 3, "elsewhere a pending file can be used");
    }
}
