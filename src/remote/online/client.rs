//! One call: a request to a service without a Batch API, and its answer.
//!
//! In: the `body` of a request, as it is in its line. Out: the body of the answer, as it came, or why there is none.
//!
//! Invariants:
//! - The body goes to an endpoint of [`ENDPOINTS`] at the service's own address. No redirect is followed.
//! - A call is one POST. Whether it is made again, and when, is for others to decide: no throttle is in its way.
//! - An answer has at most [`ANSWER_BYTES`]. At most [`LARGE_ANSWERS`] at a time are held that exceed
//!   [`SMALL_ANSWER_BYTES`].

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::dialect::address::Address;
use crate::remote::error::{ErrorKind, RemoteError, message_in};
use crate::remote::http::client::{CallHeaders, Http, SetupError};
use crate::remote::http::response::{ERROR_BODY_BYTES, Response};
use crate::remote::retry::Observer;
use crate::remote::timeouts::Timeouts;
use crate::remote::token::Token;

/// What can be asked, without a version before it: nothing that manages an account.
pub const ENDPOINTS: &[&str] = &[
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "moderations",
    "rerank",
    "score",
    "classify",
];

/// Most bytes of an answer. A longer one is an error of its request.
pub const ANSWER_BYTES: u64 = 16 << 20;

/// Bytes of an answer that are read without asking for room.
pub const SMALL_ANSWER_BYTES: usize = 64 << 10;

/// Answers beyond [`SMALL_ANSWER_BYTES`] that are held at a time; others wait, in the connection.
pub const LARGE_ANSWERS: usize = 2;

/// Longest wait for an answer, or for more of one. A model may think for minutes before it says a word.
pub const ANSWER_TIMEOUT: Duration = Duration::from_mins(10);

/// An endpoint that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(&'static str);

impl Endpoint {
    /// Finds the endpoint called `path`, with or without a version before it: `/v1/chat/completions`.
    #[must_use]
    pub fn find(path: &str) -> Option<Self> {
        let path = path.trim_start_matches('/');
        let bare = path.strip_prefix("v1/").unwrap_or(path);
        ENDPOINTS.iter().find(|known| **known == bare).map(|known| Self(known))
    }

    fn segments(&self) -> Vec<&'static str> {
        self.0.split('/').collect()
    }
}

/// A request that got no answer, or one that says no.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub error: RemoteError,
    /// The beginning of what the service said about it, without the token.
    pub body: Option<String>,
}

impl From<RemoteError> for Failed {
    fn from(error: RemoteError) -> Self {
        Self { error, body: None }
    }
}

/// An answer. As long as it lives, it takes up the room that a large one needs.
#[derive(Debug)]
pub struct Said<'o> {
    /// Its status, which says success.
    pub status: u16,
    /// Its bytes, as they came.
    pub body: Vec<u8>,
    _room: Option<SemaphorePermit<'o>>,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    http: Http,
    large: Semaphore,
}

impl Client {
    /// A client of the service at `address`, which waits for an answer for at most `patience`.
    ///
    /// # Errors
    /// As for every client: a token does not cross a network in the clear.
    pub fn new(
        address: Address,
        token: Option<Token>,
        patience: Duration,
        observer: Observer,
    ) -> Result<Self, SetupError> {
        // However few words there are in a minute: they are worth waiting for.
        let timeouts = Timeouts { idle: patience, least_bytes_per_second: 0, ..Timeouts::default() };
        Ok(Self {
            http: Http::new(address, token, CallHeaders::BEARER, timeouts, observer)?,
            large: Semaphore::new(LARGE_ANSWERS),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.http.address
    }

    /// What is in an answer that is no reply at all, as an error: a web page's title, or how it begins.
    #[must_use]
    pub fn no_reply(&self, endpoint: &Endpoint, status: u16, body: &[u8]) -> RemoteError {
        let url = self.http.address.join(&endpoint.segments());
        let beginning = String::from_utf8_lossy(&body[..body.len().min(ERROR_BODY_BYTES)]);
        let message = message_in(self.http.redactor.beginning(&beginning).as_bytes());
        let message = if message.is_empty() { "nothing" } else { &message };
        RemoteError::new(ErrorKind::Protocol, self.http.target(&Method::POST, &url))
            .with_status(status)
            .with_message(message)
    }

    /// Sends `body` to `endpoint`, once, and gives the answer.
    pub async fn ask(&self, endpoint: &Endpoint, body: Bytes) -> Result<Said<'_>, Failed> {
        let build = |request: reqwest::RequestBuilder| request.header(CONTENT_TYPE, "application/json").body(body);
        let answer = self.http.post_unpaced(&endpoint.segments(), build).await?;
        if !(200..300).contains(&answer.status()) {
            let (error, body) = answer.into_error_and_body().await;
            return Err(Failed { error, body: Some(body) });
        }
        Ok(self.read(answer.successful().await?).await?)
    }

    async fn read(&self, answer: Response<'_>) -> Result<Said<'_>, RemoteError> {
        let status = answer.status();
        let mut room = None;
        let mut body = Vec::new();
        let mut pieces = answer.pieces(Some(ANSWER_BYTES));
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if body.len() + piece.len() > SMALL_ANSWER_BYTES && room.is_none() {
                // Never closed: the semaphore lives as long as the client.
                room = self.large.acquire().await.ok();
            }
            body.extend_from_slice(&piece);
        }
        Ok(Said { status, body, _room: room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::http::testing::{Act, CANARY, Server, answer};

    /// Asks a server that answers each request with `act`, and gives what it saw, too.
    async fn ask(act: Act) -> (Result<Vec<u8>, Failed>, Server) {
        let server = Server::start(move |_, _| act.clone()).await;
        let address = Address::parse(&server.url).unwrap();
        let token = Some(Token::new(CANARY).unwrap());
        let client = Client::new(address, token, Duration::from_secs(5), Observer::default()).unwrap();
        let endpoint = Endpoint::find("/v1/chat/completions").unwrap();
        let said = client.ask(&endpoint, Bytes::from_static(b"{\"n\": 1e5}")).await.map(|said| said.body);
        (said, server)
    }

    #[tokio::test]
    async fn a_body_goes_out_and_comes_back_as_it_is() {
        let (said, server) = ask(answer(200, "", "{\n \"m\": 2 }\n")).await;
        assert_eq!(said.unwrap(), b"{\n \"m\": 2 }\n");
        let seen = &server.seen()[0];
        assert_eq!((seen.line.as_str(), &seen.body[..]), ("POST /v1/chat/completions", &b"{\"n\": 1e5}"[..]));
        assert_eq!(seen.header("content-type"), Some("application/json"));
        assert_eq!(seen.header("authorization"), Some(format!("bearer {CANARY}").as_str()));
    }

    #[tokio::test]
    async fn no_redirect_is_followed_and_no_key_comes_back() {
        let elsewhere = Server::start(|_, _| answer(200, "", "{}")).await;
        let (said, _) = ask(answer(307, &format!("location: {}/v1/chat/completions\r\n", elsewhere.url), "")).await;
        assert_eq!(said.unwrap_err().error.status(), Some(307));
        assert_eq!(elsewhere.seen().len(), 0);
        let (said, _) = ask(answer(400, "", format!(r#"{{"error":{{"message":"no {CANARY}"}}}}"#))).await;
        let Failed { error, body } = said.unwrap_err();
        assert_eq!((error.message(), error.kind()), (Some("no [redacted]"), ErrorKind::Refused));
        assert_eq!(body.as_deref(), Some(r#"{"error":{"message":"no [redacted]"}}"#));
    }

    #[tokio::test]
    async fn an_answer_has_a_most() {
        let (said, _) = ask(answer(200, "", vec![b' '; usize::try_from(ANSWER_BYTES).unwrap()])).await;
        assert!(said.is_ok());
        let (said, _) = ask(answer(200, "", vec![b' '; usize::try_from(ANSWER_BYTES).unwrap() + 1])).await;
        assert_eq!(said.unwrap_err().error.kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn what_manages_an_account_cannot_be_asked() {
        for path in ["/v1/chat/completions", "chat/completions", "/v1/embeddings"] {
            assert!(Endpoint::find(path).is_some(), "{path}");
        }
        for path in
            ["/v1/files", "/v1/fine_tuning/jobs", "/v1/chat/completions/../../files", "/v1/chat/completions?x", ""]
        {
            assert!(Endpoint::find(path).is_none(), "{path}");
        }
    }
}
