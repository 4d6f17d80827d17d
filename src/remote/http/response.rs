//! Responses: what a status means, and how a body is read without trusting its length, its speed or its text.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io::{self, BufRead};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::Response as HttpResponse;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, LOCATION};
use tokio::time::Instant;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::storage::durable::is_out_of_files;

use super::redirect::{self, GivenBy};
use crate::dialect::Malformed;
use crate::dialect::address::Address;
use crate::dialect::queue;
use crate::dialect::wire::FileObject;
use crate::remote::error::{ErrorKind, RemoteError, message_in};
use crate::remote::http::throttle::retry_after;
use crate::remote::redact::Redactor;
use crate::remote::timeouts::Timeouts;

/// Maximum bytes of a list of batches.
pub(in crate::remote) const LIST_BYTES: u64 = 64 << 20;

/// Maximum bytes of a response about one file or batch.
pub(in crate::remote) const OBJECT_BYTES: u64 = 1 << 20;

/// Maximum bytes of an error's body that are read; the rest is left unread.
pub(in crate::remote) const ERROR_BODY_BYTES: usize = 64 << 10;

/// Timeout of reading an error's body.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Buffer between the connection and the parser of a list, in bytes.
const PARSE_BUFFER_BYTES: usize = 64 << 10;

/// The sender of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::remote) enum Origin {
    /// The API: its statuses are the service's.
    Api,
    /// A storage behind an address that the API gave out.
    Storage,
}

/// How to read a response: its sender, its timeouts, and the redaction of its texts.
#[derive(Debug, Clone, Copy)]
pub(in crate::remote) struct Terms<'a> {
    pub(in crate::remote) address: &'a Address,
    pub(in crate::remote) timeouts: Timeouts,
    pub(in crate::remote) redactor: &'a Redactor,
}

/// A response whose body has not been read yet.
pub(in crate::remote) struct Response<'a> {
    terms: Terms<'a>,
    inner: HttpResponse,
    target: String,
    origin: Origin,
}

impl<'a> Response<'a> {
    pub(in crate::remote) fn new(terms: Terms<'a>, response: HttpResponse, target: String, origin: Origin) -> Self {
        Self { terms, inner: response, target, origin }
    }

    pub(in crate::remote) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// The request that was answered, as messages name it.
    pub(in crate::remote) fn target(&self) -> &str {
        &self.target
    }

    pub(in crate::remote) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header, where it is text, without the token.
    pub(in crate::remote) fn header_text(&self, name: &str) -> Option<String> {
        let text = self.headers().get(name)?.to_str().ok()?;
        Some(self.terms.redactor.text(text).into_owned())
    }

    /// The size of the body, where it was announced.
    pub(in crate::remote) fn length(&self) -> Option<u64> {
        self.inner.content_length()
    }

    /// Where a redirect leads, after the checks.
    pub(in crate::remote) fn location(&self) -> Result<reqwest::Url, RemoteError> {
        let by = if self.origin == Origin::Api { GivenBy::Api } else { GivenBy::Hop };
        redirect::target(self.terms.address, self.inner.url(), self.headers().get(LOCATION), by)
            .map_err(|why| self.nonsense(why))
    }

    /// The response, if its status is a success; otherwise the error it represents. Its body may be compressed.
    pub(in crate::remote) async fn with_success(self) -> Result<Self, RemoteError> {
        if self.inner.status().is_success() { Ok(self) } else { Err(self.into_error().await) }
    }

    /// The response, if its status is a success and its body is not compressed; otherwise the error it represents.
    pub(in crate::remote) async fn successful(self) -> Result<Self, RemoteError> {
        let answer = self.with_success().await?;
        answer.not_packed()
    }

    fn not_packed(self) -> Result<Self, RemoteError> {
        let encoding = self.headers().get(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(self.nonsense("the body is encoded, though no encoding was asked for"));
        }
        Ok(self)
    }

    /// An error about the content of this response.
    pub(in crate::remote) fn nonsense(&self, why: &str) -> RemoteError {
        let message = self.terms.redactor.text(why);
        RemoteError::new(ErrorKind::Protocol, &*self.target).with_status(self.status()).with_message(&message)
    }

    /// The error that this response represents, with the service's message.
    pub(in crate::remote) async fn into_error(self) -> RemoteError {
        self.into_error_and_body().await.0
    }

    /// The same, and the first [`ERROR_BODY_BYTES`] of the body, without the token.
    pub(in crate::remote) async fn into_error_and_body(self) -> (RemoteError, String) {
        let Self { terms, inner: response, target, origin } = self;
        let status = response.status().as_u16();
        let wait = retry_after(response.headers());
        let body = beginning(response).await;
        let text = terms.redactor.beginning(&String::from_utf8_lossy(&body)).into_owned();
        let kind = match origin {
            Origin::Storage if status == 413 => ErrorKind::TooLarge,
            Origin::Storage => ErrorKind::Storage,
            Origin::Api => kind_of(status, &body),
        };
        let queue_full = queue::is_full(&serde_json::from_str(&text).unwrap_or_else(|_| text.as_str().into()));
        let error = RemoteError::new(kind, target).with_status(status).with_retry_after(wait);
        let error = error.with_queue_full(queue_full);
        (error.with_message(&message_in(text.as_bytes())), text)
    }

    /// Reads a body of at most [`OBJECT_BYTES`], without the token.
    pub(in crate::remote) async fn body(self) -> Result<Vec<u8>, RemoteError> {
        let redactor = self.terms.redactor.clone();
        let mut body = Vec::new();
        let mut pieces = self.pieces(Some(OBJECT_BYTES));
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece?);
        }
        Ok(redactor.bytes(body))
    }

    /// Reads a file object, whose status is the member `status`.
    pub(in crate::remote) async fn file(self, status: &str) -> Result<FileObject, RemoteError> {
        let (code, target) = (self.status(), self.target.clone());
        let file = FileObject::parse(&self.body().await?, status);
        file.ok_or_else(|| RemoteError::malformed(&target)(Malformed::object()).with_status(code))
    }

    /// Streams a body of at most [`LIST_BYTES`] to `read`, on a thread that may block; what it extracts has yet to be
    /// redacted. It receives an error of the connection as an I/O error; see [`broken_off`].
    pub(in crate::remote) async fn streamed<T: Send + 'static>(
        self,
        read: impl FnOnce(Box<dyn BufRead>) -> T + Send + 'static,
    ) -> Result<T, RemoteError> {
        let target = self.target.clone();
        let pieces = self.pieces(Some(LIST_BYTES)).map(|piece| piece.map_err(io::Error::other));
        let reader = SyncIoBridge::new(StreamReader::new(pieces));
        let read = move || read(Box::new(io::BufReader::with_capacity(PARSE_BUFFER_BYTES, reader)));
        let reading = tokio::task::spawn_blocking(read).await;
        reading.map_err(|panic| RemoteError::new(ErrorKind::Protocol, target).with_source(panic))
    }

    /// The body as it comes in. Fails when it stalls, crawls, breaks off, or exceeds `cap`.
    pub(in crate::remote) fn pieces(self, cap: Option<u64>) -> BoxStream<'static, Result<Bytes, RemoteError>> {
        let Self { terms, inner: response, target, .. } = self;
        let timeouts = terms.timeouts;
        let about = (target, terms.redactor.clone());
        let state = (Box::pin(response.bytes_stream()), Pace::new(timeouts), about, false);
        futures::stream::unfold(state, move |(mut body, mut pace, about, ended)| async move {
            let (target, redactor) = &about;
            if ended {
                return None;
            }
            let piece = match tokio::time::timeout(timeouts.idle, body.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(piece))) => pace.note(piece.len(), cap, target).map(|()| piece),
                Ok(Some(Err(error))) => Err(transport_error(redactor, error, target.clone())),
                Err(_) => Err(RemoteError::new(ErrorKind::Timeout, target.as_str())
                    .with_message(&format!("nothing came for {:?}", timeouts.idle))),
            };
            let ended = piece.is_err();
            Some((piece, (body, pace, about, ended)))
        })
        .boxed()
    }
}

/// Enforces the minimum speed and the maximum size of a body.
struct Pace {
    timeouts: Timeouts,
    window_began: Instant,
    in_window: u64,
    in_all: u64,
}

impl Pace {
    fn new(timeouts: Timeouts) -> Self {
        Self { timeouts, window_began: Instant::now(), in_window: 0, in_all: 0 }
    }

    fn note(&mut self, bytes: usize, cap: Option<u64>, target: &str) -> Result<(), RemoteError> {
        self.in_window += bytes as u64;
        self.in_all += bytes as u64;
        if let Some(cap) = cap.filter(|cap| self.in_all > *cap) {
            let message = format!("the response exceeds {cap} bytes");
            return Err(RemoteError::new(ErrorKind::TooLarge, target).with_message(&message));
        }
        let elapsed = self.window_began.elapsed();
        if elapsed >= self.timeouts.idle {
            let per_second = self.timeouts.least_bytes_per_second;
            if u128::from(self.in_window) * 1000 < elapsed.as_millis() * u128::from(per_second) {
                let message = format!("less than {per_second} bytes per second came in");
                return Err(RemoteError::new(ErrorKind::Timeout, target).with_message(&message));
            }
            (self.window_began, self.in_window) = (Instant::now(), 0);
        }
        Ok(())
    }
}

/// What kind of failure a status of the API is.
fn kind_of(status: u16, body: &[u8]) -> ErrorKind {
    match status {
        401 => ErrorKind::Unauthorized,
        402 => ErrorKind::PaymentRequired,
        403 if is_from_the_edge(body) => ErrorKind::Blocked,
        408 | 425 | 500.. => ErrorKind::Unavailable,
        413 => ErrorKind::TooLarge,
        429 => ErrorKind::RateLimited,
        400..500 => ErrorKind::Refused,
        _ => ErrorKind::Protocol,
    }
}

/// Whether a 403 came from the network edge: APIs speak JSON, some of them plain text.
fn is_from_the_edge(body: &[u8]) -> bool {
    let text = body.trim_ascii_start();
    text.is_empty() || text.starts_with(b"<") || memchr::memmem::find(body, b"error code: 1010").is_some()
}

/// As much of an error's body as arrives in time and fits.
async fn beginning(mut response: HttpResponse) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            let room = ERROR_BODY_BYTES - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() == ERROR_BODY_BYTES {
                break;
            }
        }
    };
    // A timeout counts as the end: what has been received is used.
    let _ = tokio::time::timeout(ERROR_BODY_TIMEOUT, reading).await;
    body
}

/// The error of a body that could not be read to its end; see [`Response::streamed`].
pub(in crate::remote) fn broken_off(error: io::Error, target: String) -> RemoteError {
    match error.downcast::<RemoteError>() {
        Ok(inner) => inner,
        Err(error) => RemoteError::new(ErrorKind::Interrupted, target).with_source(error),
    }
}

/// The error of a request without a response, or of an interrupted body.
pub(in crate::remote) fn transport_error(redactor: &Redactor, error: reqwest::Error, target: String) -> RemoteError {
    let kind = if error.is_connect() {
        // rustls wraps what the other side said in TLS as `InvalidData`.
        if comes_from(&error, |cause| cause.kind() == io::ErrorKind::InvalidData) {
            ErrorKind::Insecure
        } else if comes_from(&error, is_out_of_files) {
            ErrorKind::OutOfFiles
        } else {
            ErrorKind::Unreachable
        }
    } else if error.is_timeout() {
        ErrorKind::Timeout
    } else {
        ErrorKind::Interrupted
    };
    // Its URL may contain a signature.
    let error = error.without_url();
    let words = in_full(&error);
    match redactor.text(&words) {
        // Such as a certificate that was issued for it.
        Cow::Owned(redacted) => RemoteError::new(kind, target).with_source(redacted),
        Cow::Borrowed(_) => RemoteError::new(kind, target).with_source(error),
    }
}

/// An error and its causes in one line.
fn in_full(error: &dyn StdError) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// Whether one of the I/O errors that caused `error` matches.
fn comes_from(error: &reqwest::Error, is_such: impl Fn(&io::Error) -> bool) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let mut inner = error.downcast_ref::<io::Error>();
        // An I/O error inside an I/O error is not its source.
        while let Some(error) = inner {
            if is_such(error) {
                return true;
            }
            inner = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_their_kinds() {
        for (status, body, kind) in [
            (401, "", ErrorKind::Unauthorized),
            (402, "{}", ErrorKind::PaymentRequired),
            (403, "error code: 1010", ErrorKind::Blocked),
            (403, "<html>", ErrorKind::Blocked),
            (403, "", ErrorKind::Blocked),
            (403, r#"{"error":"not yours"}"#, ErrorKind::Refused),
            (403, "forbidden", ErrorKind::Refused),
            (404, "", ErrorKind::Refused),
            (408, "", ErrorKind::Unavailable),
            (409, "", ErrorKind::Refused),
            (413, "", ErrorKind::TooLarge),
            (429, "", ErrorKind::RateLimited),
            (500, "", ErrorKind::Unavailable),
            (599, "", ErrorKind::Unavailable),
            (302, "", ErrorKind::Protocol),
        ] {
            assert_eq!(kind_of(status, body.as_bytes()), kind, "{status} {body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_crawls_is_given_up() {
        let mut pace = Pace::new(Timeouts::default());
        let mut seconds = 0;
        let error = loop {
            tokio::time::advance(Duration::from_secs(1)).await;
            seconds += 1;
            if let Err(error) = pace.note(100, None, "GET /") {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(seconds, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_just_fast_enough_goes_on_until_its_cap() {
        let mut pace = Pace::new(Timeouts::default());
        for _ in 0..1000 {
            tokio::time::advance(Duration::from_secs(1)).await;
            pace.note(1024, Some(1_024_000), "GET /").unwrap();
        }
        assert_eq!(pace.note(1, Some(1_024_000), "GET /").unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
