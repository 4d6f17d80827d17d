//! Something between the client and a service: a proxy that passes on all calls, and spoils downloads as it is told.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::program::PATIENCE;
use crate::service::Service;

/// The content of a reply file, on its way.
pub(crate) struct Content<'c> {
    /// How often it was asked for, this time included.
    pub(crate) nth: usize,
    pub(crate) body: &'c [u8],
}

/// What comes instead of a download, head and all; `None` for the download itself.
type Spoil = dyn Fn(&Content<'_>) -> Option<Vec<u8>> + Send + Sync;

/// A proxy before one service. It goes with the test.
pub(crate) struct Between {
    arguments: String,
    spoilt: Arc<AtomicUsize>,
}

struct Proxy {
    service: SocketAddr,
    spoil: Box<Spoil>,
    asked: Mutex<HashMap<String, usize>>,
    spoilt: Arc<AtomicUsize>,
}

impl Between {
    pub(crate) fn start(
        service: &Service,
        spoil: impl Fn(&Content<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = service.base_url();
        let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let own = url.replace(address, &listener.local_addr().unwrap().to_string());
        let (arguments, spoilt) = (service.arguments().replace(url, &own), Arc::new(AtomicUsize::new(0)));
        let proxy = Arc::new(Proxy {
            service: address.parse().unwrap(),
            spoil: Box::new(spoil),
            asked: Mutex::default(),
            spoilt: spoilt.clone(),
        });
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (proxy, connection) = (proxy.clone(), connection.unwrap());
                // A client that goes away amid a call is no matter of the proxy's.
                std::thread::spawn(move || proxy.pass(connection).is_ok());
            }
        });
        Self { arguments, spoilt }
    }

    /// The arguments that lead a client here.
    pub(crate) fn arguments(&self) -> &str {
        &self.arguments
    }

    /// How many downloads were spoilt.
    pub(crate) fn spoilt(&self) -> usize {
        self.spoilt.load(Ordering::Relaxed)
    }
}

impl Proxy {
    /// Passes on one call, the only one of its connection.
    fn pass(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        let (head, begun) = head_of(&mut client)?;
        let mut service = TcpStream::connect(self.service)?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let text = text.strip_suffix("\r\n").unwrap_or(&text);
        write!(service, "{text}Connection: close\r\n\r\n")?;
        service.write_all(&begun)?;
        let (mut from, mut to) = (client.try_clone()?, service.try_clone()?);
        std::thread::spawn(move || io::copy(&mut from, &mut to));
        let path = text.split(' ').nth(1).unwrap_or_default();
        let file = path.strip_suffix("/content").and_then(|path| path.rsplit('/').next());
        let mut answer = Vec::new();
        if let Some(file) = file.filter(|_| text.starts_with("GET ")) {
            service.read_to_end(&mut answer)?;
            if let Some(spoilt) = self.spoilt(file, &answer) {
                self.spoilt.fetch_add(1, Ordering::Relaxed);
                answer = spoilt;
            }
            client.write_all(&answer)?;
        } else {
            io::copy(&mut service, &mut client)?;
        }
        client.shutdown(Shutdown::Both)
    }

    fn spoilt(&self, file: &str, answer: &[u8]) -> Option<Vec<u8>> {
        let nth = {
            let mut asked = self.asked.lock().unwrap();
            let times = asked.entry(file.to_owned()).or_default();
            *times += 1;
            *times
        };
        let body = memchr::memmem::find(answer, b"\r\n\r\n")? + 4;
        let is_whole = answer.starts_with(b"HTTP/1.1 200");
        (self.spoil)(&Content { nth, body: &answer[body..] }).filter(|_| is_whole)
    }
}

/// The head of a request, and what came of its body with it.
fn head_of(client: &mut TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
            let body = head.split_off(end + 4);
            return Ok((head, body));
        }
        let mut piece = [0; 4096];
        let read = client.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..read]);
    }
}

/// An answer whose length is announced, and right.
pub(crate) fn announced(headers: &str, body: &[u8]) -> Vec<u8> {
    lying(headers, body.len(), body)
}

/// One that announces another length.
pub(crate) fn lying(headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n").as_bytes(), body]
        .concat()
}

/// One in chunks, which ends in good order.
pub(crate) fn chunked(body: &[u8]) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(1000) {
        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

/// One that ends where the connection does.
pub(crate) fn closing(body: &[u8]) -> Vec<u8> {
    [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".as_slice(), body].concat()
}

/// One that says that there is no such file.
pub(crate) fn gone() -> Vec<u8> {
    let body = br#"{"error":{"message":"No such File object"}}"#;
    let head = format!("HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
