//! A service without a Batch API: one request, one answer.
//!
//! In: the `body` of a request, as it stands in its line. Out: the body of the answer, as it came, or why there is none.
//!
//! What always holds:
//! - The body goes to an endpoint of [`ENDPOINTS`] at the service's own address. No redirect is followed.
//! - A call is one POST. Whether it is made again is for others to decide.
//! - An answer has at most [`ANSWER_BYTES`]. At most [`LARGE_ANSWERS`] at a time are held that exceed [`SMALL_ANSWER_BYTES`].

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::Answer;
use super::client::{Address, Http, SetupError, Timeouts};
use super::error::RemoteError;
use super::gate::Gate;
use super::retry::Observer;
use super::token::Token;

/// What can be asked, without a version before it: nothing that manages an account, whoever names the endpoint.
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
    /// Its bytes, as they came.
    pub body: Vec<u8>,
    _room: Option<SemaphorePermit<'o>>,
}

/// See the module.
#[derive(Debug)]
pub struct Online {
    http: Http,
    large: Semaphore,
}

impl Online {
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
        Ok(Self { http: Http::new(address, token, timeouts, observer)?, large: Semaphore::new(LARGE_ANSWERS) })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.http.address
    }

    /// The gate that is shut when the service asks for a pause.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.http.gate
    }

    /// Sends `body` to `endpoint`, once, and gives the answer.
    pub async fn ask(&self, endpoint: &Endpoint, body: Bytes) -> Result<Said<'_>, Failed> {
        let segments: Vec<&str> = endpoint.0.split('/').collect();
        let dress = |request: reqwest::RequestBuilder| request.header(CONTENT_TYPE, "application/json").body(body);
        let answer = self.http.call(Method::POST, &segments, dress).await?;
        if !(200..300).contains(&answer.status()) {
            let (error, body) = answer.into_error_and_body().await;
            return Err(Failed { error, body: Some(body) });
        }
        Ok(self.read(answer.successful().await?).await?)
    }

    async fn read(&self, answer: Answer<'_>) -> Result<Said<'_>, RemoteError> {
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
        Ok(Said { body, _room: room })
    }
}
