//! Uploads a file to a presigned URL.
//!
//! In three steps: a form announces the file and returns a signed URL and an id; the bytes go to that URL, without the
//! key; a last call completes the upload. `checksum`, which makes the service deduplicate files, is deliberately not
//! sent: every attempt gets a new file id, so that an id identifies one attempt to create a batch.

use std::sync::Arc;

use reqwest::header::CONTENT_LENGTH;
use reqwest::multipart::Form;
use reqwest::{Method, Url};

use super::check;
use crate::dialect::provider::Provider;
use crate::dialect::upload::PresignedUpload;
use crate::dialect::wire::check_id;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::http::body;
use crate::remote::http::client::Http;
use crate::remote::http::redirect;
use crate::remote::http::response::Response;
use crate::remote::retry::{Attempts, RetryPolicy};
use crate::remote::service::{Payload, Progress, RemoteFile};

/// Uploads a payload; see [`crate::remote::Api::upload`].
pub(super) async fn upload(
    http: &Http,
    retry: &RetryPolicy,
    (plan, provider): (&PresignedUpload, &Provider),
    payload: &Arc<dyn Payload>,
    progress: &Progress,
) -> Result<RemoteFile, RemoteError> {
    let mut attempts = Attempts::new(retry, &http.observer);
    let placed = loop {
        match place(http, (plan, provider.purpose), payload, progress).await {
            Ok(placed) => break placed,
            Err(error) => attempts.after(error).await?,
        }
    };
    // The bytes are uploaded: from here on only the last step is retried.
    let mut attempts = Attempts::new(retry, &http.observer);
    loop {
        match settle(http, plan, &placed, payload.bytes()).await {
            Ok(file) => return Ok(file),
            Err(error) => attempts.after(error).await?,
        }
    }
}

/// A file whose bytes are at the service.
struct Placed {
    id: String,
    reused: bool,
}

/// Requests a signed URL and sends the bytes there.
async fn place(
    http: &Http,
    (plan, purpose): (&PresignedUpload, &str),
    payload: &Arc<dyn Payload>,
    progress: &Progress,
) -> Result<Placed, RemoteError> {
    let form = Form::new()
        .text("purpose", purpose.to_owned())
        .text("file_name", payload.name())
        .text("file_type", plan.file_type);
    let answer = http.call(&plan.announce, "", |request| request.multipart(form)).await?;
    if answer.status() == 409 {
        return known_already(answer, plan).await;
    }
    if !redirect::is_redirect(answer.status()) && answer.status() != 200 {
        return Err(answer.into_error().await);
    }
    let id = answer.header_text(plan.id_header);
    let id = id.ok_or_else(|| answer.nonsense("the address for the upload came without a file id"))?;
    check_id(&id).map_err(RemoteError::malformed(answer.target()))?;
    let url = answer.location()?;
    put(http, url, payload, progress).await?;
    Ok(Placed { id, reused: false })
}

/// The file that already has this content, according to the service.
async fn known_already(answer: Response<'_>, plan: &PresignedUpload) -> Result<Placed, RemoteError> {
    let (status, target) = (answer.status(), answer.target().to_owned());
    let file = answer.file(plan.format.status).await?;
    let id = file.known_as.ok_or_else(|| {
        let message = "there is a conflict, and no file id that explains it";
        RemoteError::new(ErrorKind::Refused, &*target).with_status(status).with_message(message)
    })?;
    check_id(&id).map_err(RemoteError::malformed(&target))?;
    Ok(Placed { id, reused: true })
}

/// Sends the bytes to a presigned address, following redirects with a new body each time.
async fn put(http: &Http, url: Url, payload: &Arc<dyn Payload>, progress: &Progress) -> Result<(), RemoteError> {
    let mut url = url;
    for _ in 0..=redirect::HOPS {
        let target = http.target(&Method::PUT, &url);
        let (body, meter) = body::open(Arc::clone(payload), progress.clone());
        let length = payload.bytes();
        let request = http.blob(Method::PUT, url, |request| request.header(CONTENT_LENGTH, length).body(body));
        let sent = tokio::select! {
            sent = request => sent,
            why = meter.stalled(&http.timeouts) => {
                Err(RemoteError::new(ErrorKind::Timeout, &*target).with_message(why))
            }
        };
        if let Some(fault) = meter.take_fault(&target) {
            return Err(fault);
        }
        let answer = sent?;
        match answer.status() {
            200 if meter.sent() >= length => return Ok(()),
            200 => {
                let error = RemoteError::new(ErrorKind::Storage, target).with_status(200);
                return Err(error.with_message("the storage answered before it had all the bytes"));
            }
            status if redirect::is_redirect(status) => url = answer.location()?,
            _ => return Err(answer.into_error().await),
        }
    }
    Err(RemoteError::new(ErrorKind::Protocol, "PUT of the upload").with_message("too many redirects"))
}

/// Completes the upload and verifies that the file is what was sent.
async fn settle(http: &Http, plan: &PresignedUpload, placed: &Placed, bytes: u64) -> Result<RemoteFile, RemoteError> {
    let Placed { id, reused } = placed;
    let look_up = || http.call(&plan.file, id, |request| request);
    let mut answer = if *reused { look_up().await? } else { http.call_without_body(&plan.finish, id).await? };
    if answer.status() == 409 {
        // Already completed, by an earlier attempt whose response was lost.
        answer = look_up().await?;
    }
    let answer = answer.successful().await?;
    let target = answer.target().to_owned();
    let file = answer.file(plan.format.status).await?;
    if file.id.as_ref().is_some_and(|other| other != id) {
        let error = RemoteError::new(ErrorKind::Protocol, &*target);
        return Err(error.with_message("the response is about another file"));
    }
    check(&file, &plan.format, bytes, &target)?;
    Ok(RemoteFile { id: id.clone(), bytes: file.bytes, reused: *reused })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::HttpApi;
    use crate::remote::http::testing::{Act, CANARY, Memory, Server, Then, answer, api_at, raw};
    use crate::remote::retry::Observer;
    use crate::remote::service::Api;

    const FILE: &str = "file-8205dffa-8f55";
    const SIZE: usize = 700_000;

    /// Where the bytes go, as the API answers it.
    fn address(storage: &str) -> Act {
        answer(302, &format!("Location: {storage}/put/object?X-Sig=secret\r\nX-Together-File-Id: {FILE}\r\n"), "")
    }

    fn file_object(bytes: usize) -> Act {
        answer(200, "", format!(r#"{{"id":"{FILE}","object":"file","bytes":{bytes},"processing_status":null}}"#))
    }

    async fn storage(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Server {
        Server::start(move |_, number| act(number)).await
    }

    /// An API in front of `storage`, to which everything goes well.
    async fn front(storage: &Server) -> Server {
        let storage = storage.url.clone();
        Server::start(move |line, _| match line {
            "POST /v1/files" => address(&storage),
            _ => file_object(SIZE),
        })
        .await
    }

    async fn upload(api: &HttpApi, payload: &Memory) -> Result<RemoteFile, RemoteError> {
        api.upload(Arc::new(payload.clone()), Progress::default()).await
    }

    fn api(server: &Server, attempts: u32) -> HttpApi {
        api_at(&server.url, attempts, Observer::default())
    }

    #[tokio::test]
    async fn an_upload_takes_three_steps_and_the_storage_never_sees_the_key() {
        let storage = storage(|_| answer(200, "ETag: \"x\"\r\n", "")).await;
        let server = front(&storage).await;
        let payload = Memory::of(SIZE);
        let last = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let heard = Arc::clone(&last);
        let progress = Progress::new(move |bytes| heard.store(bytes, std::sync::atomic::Ordering::Relaxed));
        let file = api(&server, 1).upload(Arc::new(payload.clone()), progress).await.unwrap();
        assert_eq!(file, RemoteFile { id: FILE.into(), bytes: Some(SIZE as u64), reused: false });
        assert_eq!(last.load(std::sync::atomic::Ordering::Relaxed), SIZE as u64);

        let lines: Vec<_> = server.seen().into_iter().map(|seen| seen.line).collect();
        assert_eq!(lines, ["POST /v1/files", "POST /v1/files/file-8205dffa-8f55/preprocess"]);
        let [form, preprocess] = server.seen().try_into().unwrap();
        let text = String::from_utf8(form.body.clone()).unwrap();
        for part in
            ["name=\"purpose\"\r\n\r\nbatch-api", "name=\"file_name\"\r\n\r\nshard-00000.jsonl", "\r\n\r\njsonl"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("checksum"));
        for seen in [&form, &preprocess] {
            assert_eq!(seen.header("authorization"), Some(&*format!("bearer {CANARY}")));
            assert_eq!(seen.header("accept-encoding"), Some("identity"));
            assert!(seen.header("user-agent").unwrap().starts_with("batchline/"));
        }

        let [put] = storage.seen().try_into().unwrap();
        assert_eq!(put.line, "PUT /put/object?X-Sig=secret");
        assert!(put.whole && put.body == payload.bytes);
        assert_eq!(put.header("content-length"), Some("700000"));
        assert_eq!(put.header("transfer-encoding"), None);
        assert!(!put.head.contains("authorization") && !put.head.contains(CANARY));
    }

    #[tokio::test]
    async fn whatever_breaks_an_upload_it_starts_over_with_a_new_address() {
        let storage = storage(|number| match number {
            0 => Act { take: Some(300_000), then: Then::Reset, ..Act::default() },
            1 => Act { take: Some(1000), then: Then::Hold, ..Act::default() },
            2 => answer(403, "", "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
            3 => answer(503, "Retry-After: 0.01\r\n", "slow down"),
            4 => raw("", Then::Close),
            _ => answer(200, "", ""),
        })
        .await;
        let server = front(&storage).await;
        let payload = Memory::of(SIZE);
        upload(&api(&server, 6), &payload).await.unwrap();
        assert_eq!((server.count("POST /v1/files"), storage.count("PUT")), (6 + 1, 6));
        assert_eq!(payload.opened.load(std::sync::atomic::Ordering::Relaxed), 6, "every attempt opens its own body");
        assert!(storage.seen().last().unwrap().body == payload.bytes);
    }

    #[tokio::test]
    async fn a_stalled_upload_is_noticed_before_and_after_its_last_byte() {
        for take in [Some(1000), None] {
            let storage = storage(move |_| Act { take, then: Then::Hold, ..Act::default() }).await;
            let server = front(&storage).await;
            // Above what the system takes into its own buffers.
            let size = if take.is_some() { 32 << 20 } else { SIZE };
            let error = upload(&api(&server, 1), &Memory::of(size)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            assert!(!error.to_string().contains("X-Sig"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_input_that_changed_is_final_and_its_body_never_complete() {
        let storage = storage(|_| answer(200, "", "")).await;
        let server = front(&storage).await;
        // Too large to be read completely before the connection takes some of it.
        let mut payload = Memory::of(4 << 20);
        payload.fails_at_end = Some(std::io::ErrorKind::InvalidData);
        let error = upload(&api(&server, 5), &payload).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InputChanged);
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("checksum"));
        assert_eq!((storage.count("PUT"), server.count("POST /v1/files/")), (1, 0));
        assert!(storage.seen().iter().all(|seen| !seen.whole));
    }

    #[tokio::test]
    async fn an_unreadable_input_is_a_local_error() {
        let storage = storage(|_| answer(200, "", "")).await;
        let server = front(&storage).await;
        let mut payload = Memory::of(SIZE);
        payload.fails_at_end = Some(std::io::ErrorKind::PermissionDenied);
        assert_eq!(upload(&api(&server, 5), &payload).await.unwrap_err().kind(), ErrorKind::LocalFile);
    }

    #[tokio::test]
    async fn a_storage_that_answers_too_early_has_not_got_the_file() {
        let storage = storage(|_| Act { take: Some(10), then: Then::Hold, ..answer(200, "", "") }).await;
        let server = front(&storage).await;
        let error = upload(&api(&server, 1), &Memory::of(32 << 20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
        assert_eq!(server.count("POST /v1/files/"), 0);
    }

    #[tokio::test]
    async fn the_put_follows_hops_without_the_key_but_not_for_ever() {
        let last = storage(|_| answer(200, "", "")).await;
        let url = last.url.clone();
        let middle = storage(move |_| answer(307, &format!("Location: {url}/final\r\n"), "")).await;
        let server = front(&middle).await;
        let payload = Memory::of(SIZE);
        upload(&api(&server, 1), &payload).await.unwrap();
        assert!(last.seen()[0].body == payload.bytes && !last.seen()[0].head.contains(CANARY));

        let looping = storage(|_| answer(302, "Location: /again\r\n", "")).await;
        let server = front(&looping).await;
        let error = upload(&api(&server, 3), &payload).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert_eq!(looping.count("PUT"), 6);
    }

    #[tokio::test]
    async fn addresses_and_ids_that_must_not_be_used_are_refused() {
        for headers in [
            "Location: file:///etc/passwd\r\nX-Together-File-Id: file-1\r\n",
            "X-Together-File-Id: file-1\r\n",
            "Location: http://127.0.0.1:9/x\r\n",
            "Location: http://127.0.0.1:9/x\r\nX-Together-File-Id: ..\r\n",
            "Location: http://127.0.0.1:9/x\r\nX-Together-File-Id: \r\n",
        ] {
            let server = Server::start(move |_, _| answer(302, headers, "")).await;
            let error = upload(&api(&server, 3), &Memory::of(10)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{headers}: {error}");
            assert_eq!(server.seen().len(), 1, "{headers}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_there_already_is_taken_if_its_size_is_right() {
        for (bytes, right) in [(SIZE, true), (SIZE - 1, false)] {
            let server = Server::start(move |line, _| match line {
                "POST /v1/files" => answer(409, "", format!(r#"{{"file_id":"{FILE}"}}"#)),
                _ => file_object(bytes),
            })
            .await;
            let file = upload(&api(&server, 1), &Memory::of(SIZE)).await;
            assert_eq!(file.is_ok_and(|file| file.reused && file.id == FILE), right);
            assert_eq!(server.count("GET /v1/files/file-8205dffa-8f55"), 1);
        }
    }

    #[tokio::test]
    async fn only_the_last_step_is_repeated_when_only_that_fails() {
        let storage = storage(|_| answer(200, "", "")).await;
        let url = storage.url.clone();
        let server = Server::start(move |line, number| match (line, number) {
            ("POST /v1/files", _) => address(&url),
            ("GET /v1/files/file-8205dffa-8f55", _) => file_object(SIZE),
            (_, 0) => answer(500, "", ""),
            _ => answer(409, "", r#"{"error":"already processed"}"#),
        })
        .await;
        upload(&api(&server, 3), &Memory::of(SIZE)).await.unwrap();
        assert_eq!(storage.count("PUT"), 1);
    }
}
