//! An OpenAI-compatible server in the test's own process, with a rate limit: what it let in, and how often, is known
//! afterwards.
//!
//! In: chat requests. Out: answers that follow from the last message alone. What the message says decides: `FAIL400`
//! and `FAIL404` get that status each time, `WALL403` a web page with it, `ONCE503` at first, `FAIL200` and `ONCE200` a
//! failure with a status of success, `PROSE` an answer that is not JSON, `LATIN` one that is not UTF-8, `SLOW9` an
//! answer after nine seconds more, `QUOTE400`, `QUOTE200` and at first `QUOTE503` a failure that quotes the key.
//! Nothing is counted that was turned away. Until it is mended, an upstream may be one that is not there at all, or
//! that refuses everything.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

/// How it treats its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Requests a second; beyond, they are turned away.
    pub(crate) per_second: f64,
    /// Requests that a client may save up.
    pub(crate) burst: f64,
    /// The share that is turned away whatever comes.
    pub(crate) refuses: f64,
    /// Everything is turned away for so long from the first request on.
    pub(crate) dark: Duration,
    /// With which status.
    pub(crate) refusal: u16,
    /// What those that are turned away are told; nothing if it is empty, and the date in two seconds for `date`.
    pub(crate) retry_after: &'static str,
    /// What it answers to everything until it is mended: a status, a type, and a body.
    pub(crate) broken: Option<(u16, &'static str, &'static str)>,
    pub(crate) latency: Duration,
    /// The only key that it accepts.
    pub(crate) key: Option<&'static str>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            per_second: 1e9,
            burst: 1e9,
            refuses: 0.0,
            dark: Duration::ZERO,
            refusal: 429,
            retry_after: "1",
            broken: None,
            latency: Duration::from_millis(20),
            key: None,
        }
    }
}

/// See the module. Dropped, it is gone.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    manner: Manner,
    seen: Mutex<Seen>,
}

struct Seen {
    saved: f64,
    at: Instant,
    let_in: HashMap<String, u32>,
    turned_away: u32,
    keys: Vec<String>,
    out: usize,
    most_out: usize,
    /// Requests that were let in while the same one was being answered.
    twice_at_a_time: u32,
    being_answered: HashMap<String, u32>,
    hurries: bool,
    rng: fastrand::Rng,
    began: Option<Instant>,
    is_mended: bool,
    /// How often it answered although it is broken.
    in_vain: u32,
}

impl Upstream {
    pub(crate) fn start(manner: Manner) -> Self {
        let seen = Seen {
            saved: manner.burst,
            at: Instant::now(),
            let_in: HashMap::new(),
            turned_away: 0,
            keys: Vec::new(),
            out: 0,
            most_out: 0,
            twice_at_a_time: 0,
            being_answered: HashMap::new(),
            hurries: false,
            rng: fastrand::Rng::with_seed(7),
            began: None,
            is_mended: false,
            in_vain: 0,
        };
        let shared = Arc::new(Shared { manner, seen: Mutex::new(seen) });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/v1/chat/completions", post(chat)).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self { address, shared, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// How often each message was let in.
    pub(crate) fn let_in(&self) -> HashMap<String, u32> {
        self.shared.seen.lock().unwrap().let_in.clone()
    }

    /// How many requests were let in, each time counted.
    pub(crate) fn total(&self) -> u64 {
        self.let_in().values().map(|times| u64::from(*times)).sum()
    }

    /// From now on nothing is slow.
    pub(crate) fn hurry(&self) {
        self.shared.seen.lock().unwrap().hurries = true;
    }

    /// From now on it is as it should be.
    pub(crate) fn mend(&self) {
        self.shared.seen.lock().unwrap().is_mended = true;
    }

    /// How often it answered although it was broken.
    pub(crate) fn in_vain(&self) -> u32 {
        self.shared.seen.lock().unwrap().in_vain
    }

    pub(crate) fn turned_away(&self) -> u32 {
        self.shared.seen.lock().unwrap().turned_away
    }

    pub(crate) fn most_out(&self) -> usize {
        self.shared.seen.lock().unwrap().most_out
    }

    pub(crate) fn twice_at_a_time(&self) -> u32 {
        self.shared.seen.lock().unwrap().twice_at_a_time
    }

    /// Every `Authorization` that came.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().keys.clone()
    }
}

/// A request that is being answered; dropped when it was, or when its client has gone.
struct Out(Arc<Shared>, String);

impl Drop for Out {
    fn drop(&mut self) {
        let mut seen = self.0.seen.lock().unwrap();
        seen.out -= 1;
        *seen.being_answered.get_mut(&self.1).unwrap() -= 1;
    }
}

impl Shared {
    /// Lets a request in, if the limit has room. Gives how often that was so.
    fn enter(self: &Arc<Self>, message: &str) -> Option<(u32, Out)> {
        let mut seen = self.seen.lock().unwrap();
        let is_dark = seen.began.get_or_insert_with(Instant::now).elapsed() < self.manner.dark && !seen.is_mended;
        if is_dark || seen.rng.f64() < self.manner.refuses {
            seen.turned_away += 1;
            return None;
        }
        let earned = seen.at.elapsed().as_secs_f64() * self.manner.per_second;
        seen.at = Instant::now();
        seen.saved = (seen.saved + earned).min(self.manner.burst);
        if seen.saved < 1.0 {
            seen.turned_away += 1;
            return None;
        }
        seen.saved -= 1.0;
        seen.out += 1;
        seen.most_out = seen.most_out.max(seen.out);
        let at_once = seen.being_answered.entry(message.to_owned()).or_default();
        *at_once += 1;
        let is_twice = *at_once > 1;
        seen.twice_at_a_time += u32::from(is_twice);
        let times = seen.let_in.entry(message.to_owned()).or_default();
        *times += 1;
        Some((*times, Out(self.clone(), message.to_owned())))
    }
}

impl Shared {
    /// The answer of one that is broken.
    fn broken(&self) -> Option<Response> {
        let (status, kind, body) = self.manner.broken?;
        let mut seen = self.seen.lock().unwrap();
        if seen.is_mended {
            return None;
        }
        seen.in_vain += 1;
        Some((StatusCode::from_u16(status).unwrap(), [("content-type", kind)], body).into_response())
    }

    fn refusal(&self) -> Response {
        let mut refusal = failure(StatusCode::from_u16(self.manner.refusal).unwrap(), "Rate limit reached");
        let when = match self.manner.retry_after {
            "" => return refusal,
            "date" => httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(2)),
            when => when.to_owned(),
        };
        refusal.headers_mut().insert("retry-after", when.parse().unwrap());
        refusal
    }

    /// How much longer than others this message takes.
    fn slowness(&self, message: &str) -> Duration {
        let digits = |text: &str| text.split(|digit: char| !digit.is_ascii_digit()).next().unwrap().to_owned();
        let seconds = message.split_once("SLOW").map(|(_, rest)| digits(rest).parse().unwrap());
        Duration::from_secs(seconds.filter(|_| !self.seen.lock().unwrap().hurries).unwrap_or(0))
    }
}

async fn chat(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
    shared.seen.lock().unwrap().keys.extend(key.clone());
    if shared.manner.key.is_some_and(|wanted| key != Some(format!("Bearer {wanted}"))) {
        let key = key.unwrap_or_default();
        return failure(StatusCode::UNAUTHORIZED, &format!("Incorrect API key provided: {key}"));
    }
    if let Some(broken) = shared.broken() {
        return broken;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let message = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
    let Some((times, _out)) = shared.enter(&message) else { return shared.refusal() };
    tokio::time::sleep(shared.manner.latency + shared.slowness(&message)).await;
    if message.contains("FAIL400") {
        return failure(StatusCode::BAD_REQUEST, "this message is not liked");
    }
    if message.contains("FAIL404") {
        return failure(StatusCode::NOT_FOUND, "there is no such model");
    }
    if message.contains("WALL403") {
        return (StatusCode::FORBIDDEN, "<html><title>Attention Required!</title></html>").into_response();
    }
    if message.contains("LATIN") {
        return LATIN.into_response();
    }
    if message.contains("ONCE503") && times == 1 {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the model is being loaded");
    }
    if message.contains("FAIL200") {
        return failure(StatusCode::OK, "this message is not liked");
    }
    if message.contains("ONCE200") && times == 1 {
        return Json(json!({"error": {"message": "upstream failed", "code": 502}})).into_response();
    }
    let quote = || format!("no room for {}", key.unwrap_or_default());
    if message.contains("QUOTE400") {
        return failure(StatusCode::BAD_REQUEST, &quote());
    }
    if message.contains("QUOTE200") {
        return failure(StatusCode::OK, &quote());
    }
    if message.contains("QUOTE503") && times == 1 {
        return failure(StatusCode::SERVICE_UNAVAILABLE, &quote());
    }
    if message.contains("PROSE") {
        return "no JSON,\nbut prose".into_response();
    }
    serde_json::to_string_pretty(&answer(&message)).unwrap().into_response()
}

/// An answer that is not UTF-8.
pub(crate) const LATIN: &[u8] = b"{\"id\":\"1\",\"choices\":[{\"message\":{\"content\":\"caf\xe9\"}}]}";

fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message, "type": "test", "code": null}}))).into_response()
}

/// The answer to a message.
pub(crate) fn answer(message: &str) -> Value {
    json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": format!("heard: {message}")}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    })
}
