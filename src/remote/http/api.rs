//! The [`Api`] over HTTP: sends the requests of the provider's [`Dialect`](crate::dialect::Dialect), which parses the
//! responses.

use std::path::Path;
use std::sync::Arc;

use super::client::{CallHeaders, Http, SetupError};
use super::response::Response;
use super::{content, create, download, list, upload};
use crate::dialect::Malformed;
use crate::dialect::address::Address;
use crate::dialect::provider::Provider;
use crate::dialect::wire::check_id;
use crate::model::batch::{Batch, CreateBatch};
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::retry::{Attempts, Observer, RetryPolicy};
use crate::remote::service::{Api, Downloaded, Listing, Payload, Progress, RemoteFile, Submission};
use crate::remote::timeouts::Timeouts;
use crate::remote::token::Token;

/// What can be set besides the provider.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How often and for how long to retry.
    pub retry: RetryPolicy,
    /// Is notified of retries, throttling and warnings.
    pub observer: Observer,
}

/// A provider's Batch API. Cheap calls and long transfers may run at the same time, from any number of tasks.
#[derive(Debug)]
pub struct HttpApi {
    http: Http,
    provider: &'static Provider,
    retry: RetryPolicy,
}

impl HttpApi {
    /// Prepares to talk to `provider`'s service at `address`; sends nothing yet. Without a token no credentials are
    /// sent.
    ///
    /// # Errors
    /// When a token would go to another machine over plain http, or TLS cannot be set up.
    pub fn new(
        provider: &'static Provider,
        address: Address,
        token: Option<Token>,
        settings: Settings,
    ) -> Result<Self, SetupError> {
        let Settings { timeouts, retry, observer } = settings;
        let headers = CallHeaders { auth: provider.auth, headers: provider.dialect.headers() };
        Ok(Self { http: Http::new(address, token, headers, timeouts, observer)?, provider, retry })
    }

    /// Where the API is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.http.address
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts::new(&self.retry, &self.http.observer)
    }

    async fn look(&self, id: &str) -> Result<Batch, RemoteError> {
        let answer = self.http.call(&self.provider.dialect.routes().batch, id, |request| request).await?;
        self.read_batch(answer, id).await
    }

    async fn ask_to_cancel(&self, id: &str) -> Result<Batch, RemoteError> {
        let Some(route) = &self.provider.dialect.routes().cancel else {
            let error = RemoteError::new(ErrorKind::Refused, format!("cancel of batch {id}"));
            return Err(error.with_message("the service has no way to cancel a batch"));
        };
        let answer = self.http.call_without_body(route, id).await?;
        if answer.status() == 409 {
            // It has ended already.
            return self.look(id).await;
        }
        self.read_batch(answer, id).await
    }

    async fn delete(&self, id: &str) -> Result<(), RemoteError> {
        let Some(route) = &self.provider.dialect.routes().delete_file else { return Ok(()) };
        let answer = self.http.call(route, id, |request| request).await?;
        if answer.status() == 404 {
            return Ok(());
        }
        answer.successful().await.map(drop)
    }

    /// Reads the batch that was requested.
    async fn read_batch(&self, answer: Response<'_>, id: &str) -> Result<Batch, RemoteError> {
        let answer = answer.successful().await?;
        let (status, target) = (answer.status(), answer.target().to_owned());
        let object = self.provider.dialect.batch(&answer.body().await?);
        let object = object.ok_or_else(|| RemoteError::malformed(&target)(Malformed::object()).with_status(status))?;
        same(object.read().map_err(RemoteError::malformed(&target))?, id, &target)
    }
}

/// The batch, if it is the one that was requested.
fn same(batch: Batch, id: &str, target: &str) -> Result<Batch, RemoteError> {
    if batch.id == id {
        return Ok(batch);
    }
    Err(RemoteError::new(ErrorKind::Protocol, target).with_message("the response is about another batch"))
}

impl Api for HttpApi {
    async fn ready(&self) {
        self.http.throttle.wait().await;
    }

    async fn upload(&self, payload: Arc<dyn Payload>, progress: Progress) -> Result<RemoteFile, RemoteError> {
        upload::upload(&self.http, &self.retry, self.provider, &payload, &progress).await
    }

    async fn create(&self, request: &CreateBatch, lines: Arc<dyn Payload>) -> Submission {
        create::create(&self.http, self.provider, request, &lines).await
    }

    async fn batch(&self, id: &str) -> Result<Batch, RemoteError> {
        check_id(id).map_err(RemoteError::malformed("GET batches"))?;
        let mut attempts = self.attempts();
        loop {
            match self.look(id).await {
                Ok(batch) => return Ok(batch),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn batches(&self) -> Result<Listing, RemoteError> {
        let mut attempts = self.attempts();
        loop {
            match Box::pin(list::list(&self.http, self.provider.dialect)).await {
                Ok(listing) => return Ok(listing),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn cancel(&self, id: &str) -> Result<Batch, RemoteError> {
        check_id(id).map_err(RemoteError::malformed("POST batches"))?;
        let mut attempts = self.attempts();
        loop {
            match self.ask_to_cancel(id).await {
                Ok(batch) => return Ok(batch),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn download(&self, file_id: &str, target: &Path, progress: Progress) -> Result<Downloaded, RemoteError> {
        check_id(file_id).map_err(RemoteError::malformed("GET files"))?;
        download::download(&self.http, &self.retry, (self.provider.dialect, file_id), target, progress).await
    }

    async fn file_bytes(&self, file_id: &str) -> Result<Option<u64>, RemoteError> {
        check_id(file_id).map_err(RemoteError::malformed("GET files"))?;
        let mut attempts = self.attempts();
        loop {
            match content::said_bytes(&self.http, self.provider.dialect, file_id).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == ErrorKind::Refused => return Ok(None),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn delete_file(&self, id: &str) -> Result<(), RemoteError> {
        check_id(id).map_err(RemoteError::malformed("DELETE files"))?;
        let mut attempts = self.attempts();
        loop {
            match self.delete(id).await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.after(error).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::model::batch::BatchStatus;
    use crate::remote::http::testing::{Act, CANARY, Server, Then, answer, api_as, api_at, raw};
    use crate::remote::retry::Notice;

    const BATCH: &str = r#"{"id":"b-1","status":"IN_PROGRESS","progress":50.5}"#;

    /// Batches of a long list: as many as an unoptimised reader takes well within the short timeouts, on a busy machine
    /// too.
    const MANY: usize = 2_000;

    async fn always(act: Act) -> (HttpApi, Server) {
        let server = Server::start(move |_, _| act.clone()).await;
        (api_at(&server.url, 3, Observer::default()), server)
    }

    /// An error with all its causes, as a user may see it.
    fn in_full(error: &RemoteError) -> String {
        let mut text = format!("{error} {error:?}");
        let mut cause = error.source();
        while let Some(inner) = cause {
            text = format!("{text} {inner} {inner:?}");
            cause = inner.source();
        }
        text
    }

    #[tokio::test]
    async fn transient_errors_are_retried() {
        let server = Server::start(|_, number| match number {
            0 => answer(502, "", "<html><title>Bad Gateway</title>"),
            1 => raw("", Then::Reset),
            _ => answer(200, "", BATCH),
        })
        .await;
        let batch = api_at(&server.url, 3, Observer::default()).batch("b-1").await.unwrap();
        assert_eq!((batch.status, batch.progress), (BatchStatus::InProgress, Some(50.5)));
        assert_eq!(server.count("GET /v1/batches/b-1"), 3);
    }

    #[tokio::test]
    async fn a_persistent_error_is_returned() {
        let (api, server) = always(answer(500, "", r#"{"error":"broken"}"#)).await;
        let error = api.batch("b-1").await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unavailable, Some("broken")));
        assert_eq!(server.seen().len(), 3);
        assert_eq!(error.to_string(), format!("GET {}/v1/batches/b-1: unavailable (HTTP 500): broken", server.url));
    }

    #[tokio::test]
    async fn a_wrong_key_is_reported_once_with_a_hint_and_redacted() {
        let body = format!(r#"{{"error":{{"message":"Invalid API key provided: {CANARY}"}}}}"#);
        let (api, server) = always(answer(401, "", body)).await;
        let error = api.batches().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.hint().unwrap().contains("key"));
        assert_eq!(error.message(), Some("Invalid API key provided: [redacted]"));
        assert_eq!(server.seen().len(), 1);
        assert!(!in_full(&error).contains(CANARY) && !format!("{api:?}").contains(CANARY));
    }

    #[tokio::test]
    async fn all_calls_are_throttled_when_one_is() {
        let server = Server::start(|line, number| match (line, number) {
            ("GET /v1/batches/b-1", 0) => answer(429, "Retry-After-Ms: 400\r\n", r#"{"error":"slow down"}"#),
            ("GET /v1/batches", _) => answer(200, "", "[]"),
            _ => answer(200, "", BATCH),
        })
        .await;
        let pauses = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&pauses);
        let observer = Observer::new(move |notice| {
            if let Notice::Paused { wait } = notice {
                heard.lock().unwrap().push(*wait);
            }
        });
        let api = Arc::new(api_at(&server.url, 1, observer));
        let first = tokio::spawn({
            let api = Arc::clone(&api);
            async move { api.batch("b-1").await }
        });
        while pauses.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let start = Instant::now();
        assert!(api.batches().await.unwrap().batches.is_empty());
        assert!(start.elapsed() >= Duration::from_millis(350), "{:?}", start.elapsed());
        first.await.unwrap().unwrap();
        assert_eq!(*pauses.lock().unwrap(), [Duration::from_millis(400)]);
        assert_eq!(server.seen().len(), 3, "no call was wasted");
    }

    #[tokio::test]
    async fn lists_are_read_in_every_format() {
        for (body, count) in [("null", 0), ("[]", 0), (r#"[{"id":"a"},{"id":"b","status":"NEW"}]"#, 2)] {
            let (api, _server) = always(answer(200, "", body)).await;
            assert_eq!(api.batches().await.unwrap().batches.len(), count);
        }
        let many = format!("[{}]", vec![BATCH; MANY].join(","));
        let (api, _server) = always(answer(200, "", many)).await;
        assert_eq!(api.batches().await.unwrap().batches.len(), MANY);
    }

    #[tokio::test]
    async fn an_invalid_list_is_rejected_and_a_truncated_one_retried() {
        for body in ["{}", "<html>", "", "3", "nul", "{\"data\":{}}", "{\"error\":\"no\"}"] {
            let (api, server) = always(answer(200, "", body)).await;
            assert_eq!(api.batches().await.unwrap_err().kind(), ErrorKind::Protocol, "{body}");
            assert_eq!(server.seen().len(), 1);
        }
        let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n[{BATCH},");
        for (then, kind) in [(Then::Close, ErrorKind::Interrupted), (Then::Hold, ErrorKind::Timeout)] {
            let (api, server) = always(raw(cut.clone(), then)).await;
            assert_eq!(api.batches().await.unwrap_err().kind(), kind);
            assert_eq!(server.seen().len(), 3);
        }
    }

    #[tokio::test]
    async fn an_endless_response_is_aborted() {
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n[{BATCH},{}", " ".repeat(65 << 20));
        let (api, _server) = always(raw(endless, Then::Close)).await;
        assert_eq!(api.batches().await.unwrap_err().kind(), ErrorKind::TooLarge);
        let short = format!("HTTP/1.1 200 OK\r\n\r\n[{}", r#"{"id":"b"},"#.repeat(200_000));
        let (api, _server) = always(raw(short, Then::Close)).await;
        assert_eq!(
            api.batches().await.unwrap_err().kind(),
            ErrorKind::TooLarge,
            "small ones take more memory than bytes"
        );
        let (api, _server) = always(raw(format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(2 << 20)), Then::Close)).await;
        assert_eq!(api.batch("b-1").await.unwrap_err().kind(), ErrorKind::TooLarge);
        let (api, _server) = always(raw(format!("HTTP/1.1 404 X\r\n\r\n{}", "x".repeat(2 << 20)), Then::Hold)).await;
        assert!(api.batch("b-1").await.unwrap_err().message().unwrap().ends_with('…'));
    }

    #[tokio::test]
    async fn a_redirect_of_the_api_is_not_followed() {
        let other = Server::start(|_, _| answer(200, "", BATCH)).await;
        let (api, _server) = always(answer(302, &format!("Location: {}/\r\n", other.url), "")).await;
        assert_eq!(api.batch("b-1").await.unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!(other.seen().len(), 0);
    }

    #[tokio::test]
    async fn cancelling_an_ended_batch_succeeds() {
        let server = Server::start(|line, _| match line {
            "POST /v1/batches/b-1/cancel" => answer(409, "", r#"{"error":"Cannot cancel job"}"#),
            _ => answer(200, "", r#"{"id":"b-1","status":"CANCELED"}"#),
        })
        .await;
        let batch = api_at(&server.url, 1, Observer::default()).cancel("b-1").await.unwrap();
        assert_eq!(batch.status, BatchStatus::Cancelled);
        let (api, _server) = always(answer(200, "", r#"{"id":"b-1","status":"CANCELING"}"#)).await;
        assert_eq!(api.cancel("b-1").await.unwrap().status, BatchStatus::Cancelling);
    }

    #[tokio::test]
    async fn the_size_of_a_file_is_known_only_if_the_service_reports_it() {
        for (status, body, bytes) in [
            (200, r#"{"id":"file-1","bytes":174}"#, Some(174)),
            (200, r#"{"id":"file-1","bytes":"174"}"#, Some(174)),
            (200, r#"{"id":"file-1","bytes":0}"#, None),
            (200, r#"{"id":"file-2","bytes":174}"#, None),
            (200, r#"{"id":"file-1","bytes":null}"#, None),
            (404, "", None),
            (405, "", None),
        ] {
            let (api, server) = always(answer(status, "", body)).await;
            assert_eq!(api.file_bytes("file-1").await.unwrap(), bytes, "{status} {body}");
            assert_eq!(server.count("GET /v1/files/file-1"), 1);
        }
        let (api, server) = always(answer(503, "", "")).await;
        assert!(api.file_bytes("file-1").await.unwrap_err().is_transient());
        assert_eq!(server.seen().len(), 3);
    }

    #[tokio::test]
    async fn deleting_a_missing_file_succeeds() {
        for status in [200, 404] {
            let (api, _server) = always(answer(status, "", r#"{"id":"file-1","deleted":true}"#)).await;
            api.delete_file("file-1").await.unwrap();
        }
        let (api, _server) = always(answer(403, "", r#"{"error":"not yours"}"#)).await;
        assert_eq!(api.delete_file("file-1").await.unwrap_err().kind(), ErrorKind::Refused);
    }

    #[tokio::test]
    async fn ids_are_escaped_as_one_url_segment_or_rejected() {
        let server = Server::start(|_, _| answer(404, "", "")).await;
        let api = api_at(&server.url, 1, Observer::default());
        for id in ["..", ".", "", "b\r\nX: y", "\0", &"x".repeat(4097)] {
            assert!(
                api.batch(id).await.is_err() && api.cancel(id).await.is_err() && api.delete_file(id).await.is_err()
            );
        }
        assert_eq!(server.seen().len(), 0);
        for (id, segment) in [
            ("../files", "..%2Ffiles"),
            ("s3://bucket/key", "s3:%2F%2Fbucket%2Fkey"),
            ("%2e%2e", "%252e%252e"),
            ("a b?c=d#e", "a%20b%3Fc=d%23e"),
            ("\\..\\", "%5C..%5C"),
            ("ä", "%C3%A4"),
            ("...", "..."),
            (".%2e", ".%252e"),
        ] {
            for provider in ["together", "openai"] {
                let api = api_as(provider, &server.url, 1, Observer::default());
                let path = format!("/v1/batches/{segment}");
                assert_eq!(api.batch(id).await.unwrap_err().status(), Some(404));
                assert_eq!(server.seen().last().unwrap().line, format!("GET {path}"));
                assert!(api.cancel(id).await.is_err());
                assert_eq!(server.seen().last().unwrap().line, format!("POST {path}/cancel"));
                api.delete_file(id).await.unwrap();
                assert_eq!(server.seen().last().unwrap().line, format!("DELETE /v1/files/{segment}"));
                let directory = tempfile::tempdir().unwrap();
                let fetched = api.download(id, &directory.path().join("x"), Progress::default()).await;
                assert!(fetched.unwrap_err().is_gone());
                assert_eq!(server.seen().last().unwrap().line, format!("GET /v1/files/{segment}/content"));
            }
        }
        let (api, _server) = always(answer(200, "", BATCH)).await;
        assert_eq!(api.batch("b-2").await.unwrap_err().kind(), ErrorKind::Protocol, "another batch's answer");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_not_trusted_and_not_retried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                connection.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
                let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        let api = api_at(&base, 3, Observer::default());
        assert_eq!(api.batch("b-1").await.unwrap_err().kind(), ErrorKind::Insecure);
        assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_silent_service_times_out() {
        let (api, server) = always(raw("", Then::Hold)).await;
        assert_eq!(api.batch("b-1").await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(server.seen().len(), 3);
    }
}
