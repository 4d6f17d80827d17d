//! For tests: payloads in memory, and a scripted server on loopback that controls every byte, and records what
//! it saw. Every connection carries one exchange.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::api::{HttpApi, Settings};
use crate::dialect::address::Address;
use crate::dialect::provider::Provider;
use crate::dialect::providers::provider;
use crate::remote::retry::{Backoff, Observer, RetryPolicy};
use crate::remote::service::{Lines, Payload};
use crate::remote::timeouts::Timeouts;
use crate::remote::token::Token;

/// The key that tests use and that must turn up nowhere.
pub(in crate::remote) const CANARY: &str = "canary-key-4711";

/// Bytes that are a payload, with a fault if wanted.
#[derive(Clone, Debug)]
pub(in crate::remote) struct Memory {
    pub(in crate::remote) bytes: Vec<u8>,
    pub(in crate::remote) promised: u64,
    pub(in crate::remote) fails_at_end: Option<io::ErrorKind>,
    pub(in crate::remote) opened: Arc<AtomicUsize>,
}

impl Memory {
    /// These bytes.
    pub(in crate::remote) fn with(bytes: Vec<u8>) -> Self {
        Self { promised: bytes.len() as u64, bytes, fails_at_end: None, opened: Arc::default() }
    }

    /// `size` bytes that differ from place to place.
    pub(in crate::remote) fn of(size: usize) -> Self {
        Self::with((0..size).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect())
    }
}

impl Payload for Memory {
    fn name(&self) -> String {
        "shard-00000.jsonl".into()
    }

    fn bytes(&self) -> u64 {
        self.promised
    }

    fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let bytes = io::Cursor::new(self.bytes.clone());
        Ok(match self.fails_at_end {
            Some(kind) => Box::new(BufReader::new(Read::chain(bytes, Failing(kind)))),
            None => Box::new(bytes),
        })
    }

    fn lines(&self) -> io::Result<Arc<dyn Lines>> {
        io::copy(&mut self.open()?, &mut io::sink())?;
        Ok(Arc::new(self.clone()))
    }
}

impl Lines for Memory {
    fn count(&self) -> u64 {
        self.bytes.split(|byte| *byte == b'\n').count() as u64 - 1
    }

    fn read(&self, number: u64, line: &mut Vec<u8>) -> io::Result<()> {
        let number = usize::try_from(number).map_err(io::Error::other)?;
        let found = self.bytes.split(|byte| *byte == b'\n').nth(number);
        found.ok_or(io::ErrorKind::UnexpectedEof)?.clone_into(line);
        Ok(())
    }
}

struct Failing(io::ErrorKind);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(self.0, "the shard's checksum is another"))
    }
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(in crate::remote) struct Seen {
    /// `METHOD /path?query`.
    pub(in crate::remote) line: String,
    /// The head, in lower case.
    pub(in crate::remote) head: String,
    pub(in crate::remote) body: Vec<u8>,
    /// Whether the body was as long as announced.
    pub(in crate::remote) whole: bool,
}

impl Seen {
    pub(in crate::remote) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// What to do about a request.
#[derive(Clone, Debug, Default)]
pub(in crate::remote) struct Act {
    /// Bytes of the body to read; all of it when absent.
    pub(in crate::remote) take: Option<usize>,
    /// The raw answer, head and body.
    pub(in crate::remote) answer: Vec<u8>,
    pub(in crate::remote) then: Then,
}

/// How the connection ends.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::remote) enum Then {
    #[default]
    Close,
    /// With a reset, so that nothing but what arrived counts.
    Reset,
    /// Not within any test.
    Hold,
    /// One byte now and then, without end.
    Drip,
}

/// An answer with `status`, further `headers` (each ending in CR LF) and a body of known length.
pub(in crate::remote) fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Act {
    let body = body.as_ref();
    let mut answer =
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    let mut answer = std::mem::take(&mut answer).into_bytes();
    answer.extend_from_slice(body);
    Act { answer, ..Act::default() }
}

/// An answer made of exactly these bytes.
pub(in crate::remote) fn raw(answer: impl Into<Vec<u8>>, then: Then) -> Act {
    Act { answer: answer.into(), then, take: None }
}

/// The server. `act` is given each request's line, and how many of the same line came before it.
#[derive(Clone)]
pub(in crate::remote) struct Server {
    pub(in crate::remote) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(in crate::remote) async fn start(act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, seen: Arc::default() };
        let (handle, act) = (server.clone(), Arc::new(act));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (handle, act) = (handle.clone(), Arc::clone(&act));
                tokio::spawn(async move { handle.exchange(connection, &*act).await });
            }
        });
        server
    }

    /// All requests so far.
    pub(in crate::remote) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests had a line that starts so.
    pub(in crate::remote) fn count(&self, line: &str) -> usize {
        self.seen().iter().filter(|seen| seen.line.starts_with(line)).count()
    }

    async fn exchange(&self, mut connection: TcpStream, act: &(dyn Fn(&str, usize) -> Act + Send + Sync)) {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
                break end + 4;
            }
            if connection.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let mut seen = Seen { line, head: head.to_lowercase(), body: bytes.split_off(end), whole: false };
        let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
        let number = {
            let mut all = self.seen.lock().unwrap();
            all.push(seen.clone());
            all.iter().filter(|other| other.line == seen.line).count() - 1
        };
        let act = act(&seen.line, number);
        while seen.body.len() < act.take.unwrap_or(length).min(length) {
            if connection.read_buf(&mut seen.body).await.unwrap_or(0) == 0 {
                break;
            }
        }
        seen.whole = seen.body.len() == length;
        let line = seen.line.clone();
        *self.seen.lock().unwrap().iter_mut().filter(|other| other.line == line).nth(number).unwrap() = seen;
        let _ = connection.write_all(&act.answer).await;
        finish(connection, act.then).await;
    }
}

async fn finish(mut connection: TcpStream, then: Then) {
    match then {
        Then::Close => {
            let _ = connection.shutdown().await;
        }
        Then::Reset => {
            connection.set_zero_linger().unwrap();
        }
        Then::Hold => std::future::pending().await,
        Then::Drip => {
            while connection.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Timeouts that tests can wait for.
pub(in crate::remote) fn short() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(5),
        idle: Duration::from_millis(250),
        billing: Duration::from_millis(500),
        answer: Duration::from_millis(400),
        least_bytes_per_second: 1024,
    }
}

/// Lines of a batch that have been uploaded.
pub(in crate::remote) fn lines() -> Arc<dyn Payload> {
    Arc::new(Memory::of(10))
}

/// An API at `base` that tries `attempts` times in quick succession.
pub(in crate::remote) fn api_at(base: &str, attempts: u32, observer: Observer) -> HttpApi {
    api_as("together", base, attempts, observer)
}

/// The same as that of another provider.
pub(in crate::remote) fn api_as(name: &str, base: &str, attempts: u32, observer: Observer) -> HttpApi {
    api_of(provider(name).unwrap(), base, attempts, observer)
}

/// The same as that of any row.
pub(in crate::remote) fn api_of(provider: &'static Provider, base: &str, attempts: u32, observer: Observer) -> HttpApi {
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(5) };
    let retry = RetryPolicy { attempts, backoff, ..RetryPolicy::default() };
    let settings = Settings { timeouts: short(), retry, observer };
    let token = Some(Token::new(CANARY).unwrap());
    HttpApi::new(provider, Address::parse(base).unwrap(), token, settings).unwrap()
}
