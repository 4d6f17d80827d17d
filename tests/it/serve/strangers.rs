//! Who is not let in, who is not waited for, and how much is kept.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use batchline::dialect::{Dialect, OPENAI, TOGETHER};
use batchline::serve::{ConnectionLimits, QuotaChoice};
use reqwest::header;

use super::*;
use crate::service::DIALECTS;

/// A time that is short, and yet longer than anything takes that does not wait for a client.
const SHORT: Duration = Duration::from_millis(400);

async fn speaking(dialect: &'static dyn Dialect) -> Fixture {
    Fixture::start_with(|options| options.dialect = dialect).await
}

/// A server that waits for nobody for long.
async fn impatient(change: impl FnOnce(&mut ConnectionLimits)) -> Fixture {
    Fixture::start_with(|options| {
        options.connections = ConnectionLimits { head_time: SHORT, stall_time: SHORT, ..ConnectionLimits::default() };
        change(&mut options.connections);
    })
    .await
}

impl Fixture {
    /// Does something with a connection, away from the threads of the runtime, and tells how long that took.
    async fn connected<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut TcpStream) -> T + Send + 'static,
    ) -> (T, Duration) {
        let address = self.server.address();
        let acting = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            (act(&mut stream), start.elapsed())
        });
        acting.await.unwrap()
    }
}

/// All that comes until the other side closes the connection, in whatever way.
fn rest(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let read = stream.read_to_end(&mut heard);
    let was_closed = read.is_ok() || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    assert!(was_closed, "it stays open: {}", String::from_utf8_lossy(&heard));
    String::from_utf8_lossy(&heard).into_owned()
}

/// Writes as long as that works, a piece at a time.
fn drip(stream: &mut TcpStream, piece: &[u8], pause: Duration) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if stream.write_all(piece).is_err() {
            return;
        }
        std::thread::sleep(pause);
    }
    panic!("it is listened to for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_other_hosts_and_of_web_pages_are_refused_in_the_shape_of_each_endpoint() {
    for dialect in DIALECTS {
        let fixture = speaking(dialect).await;
        let stranger = [(header::HOST, "rebound.example"), (header::ORIGIN, "https://evil.example")];
        for (path, is_text) in [("/batches", dialect == TOGETHER), ("/files", false), ("/nothing", false)] {
            for ((name, value), status) in stranger.iter().zip([421, 403]) {
                for method in [Method::GET, Method::POST, Method::OPTIONS] {
                    let call = fixture.call(method, path).header(name, *value);
                    let response = call.send().await.unwrap();
                    assert!(!response.headers().keys().any(|name| name.as_str().starts_with("access-control")));
                    let (refused, body) = read(response).await;
                    assert_eq!(refused, status, "{path} {name}");
                    let message = if is_text { &body["error"] } else { &body["error"]["message"] };
                    assert!(message.is_string(), "{path}: {body}");
                }
            }
        }
        for (site, taken) in [("cross-site", false), ("same-site", false), ("none", true)] {
            let response = fixture.call(Method::GET, "/batches").header("sec-fetch-site", site).send().await.unwrap();
            assert_eq!(response.status().is_success(), taken, "{site}");
        }
        // Each is in the log, and nothing was done for any of them.
        let calls = records(&fixture.directory.path().join("access.jsonl"));
        assert_eq!(calls.iter().filter(|call| call["status"] == 421).count(), 9);
        assert_eq!(calls.iter().filter(|call| call["status"] == 403).count(), 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_in_the_request_line_counts_too() {
    let fixture = Fixture::start().await;
    for (url, status) in [("http://evil.example/v1/batches", 421), ("http://localhost/v1/v1/batches", 200)] {
        let head = "HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\nConnection: close\r\n\r\n";
        let (said, _) = fixture
            .connected(move |stream| {
                stream.write_all(format!("GET {url} {head}").as_bytes()).unwrap();
                rest(stream)
            })
            .await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{url}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_by_the_names_that_it_is_given() {
    let fixture = Fixture::start_with(|options| options.hosts = vec!["batch.internal".to_owned()]).await;
    let asked = async |host: &str| {
        fixture.call(Method::GET, "/files").header(header::HOST, host).send().await.unwrap().status().as_u16()
    };
    assert_eq!(asked("Batch.Internal:8080").await, 200);
    assert_eq!(asked("localhost").await, 200);
    assert_eq!(asked("batch.internal.example").await, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_takes_its_time_is_not_waited_for() {
    let fixture = impatient(|_| ()).await;
    for begin in ["", "GET /v1/files HTTP/1.1\r\nHost: localhost\r\n"] {
        let ((), took) = fixture
            .connected(move |stream| {
                stream.write_all(begin.as_bytes()).unwrap();
                drip(stream, if begin.is_empty() { b"G" } else { b"X-A: 1\r\n" }, Duration::from_millis(20));
            })
            .await;
        assert!(took < SHORT * 10, "{took:?}");
        let (said, took) = fixture.connected(rest).await;
        assert!(said.is_empty() && took < SHORT * 10, "{said} {took:?}");
    }
    assert_eq!(fixture.get("/batches").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_long_is_refused_before_it_ends() {
    let fixture = Fixture::start().await;
    let long = format!("X-Long: {}\r\n", "x".repeat(1000));
    let many = "X-Many: 1\r\n".to_owned();
    let head_bytes = ConnectionLimits::default().head_bytes;
    let name = format!("X-{}", "y".repeat(head_bytes));
    for (line, times) in [(long, 2 * head_bytes / 1000), (many, 1000), (name, 10)] {
        let begin = line[..10].to_owned();
        let (said, took) = fixture
            .connected(move |stream| {
                let _ = stream.write_all(b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n");
                // It need not listen to all of it.
                let _ = (0..times).try_for_each(|_| stream.write_all(line.as_bytes()));
                if line.len() < 100 {
                    // There is no need to wait for as many bytes: it ends, and has too many lines.
                    let _ = stream.write_all(b"\r\n");
                }
                rest(stream)
            })
            .await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{begin}: {said}");
        assert!(took < PATIENCE, "{begin}: {took:?}");
    }
    assert_eq!(fixture.get("/batches").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_most_connections_others_wait_and_come_in_once_the_silent_ones_are_out() {
    let fixture = impatient(|limits| limits.connections = 3).await;
    let silent: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(fixture.server.address()).unwrap()).collect();
    // However many wait: each is answered, after the silent ones have had their time.
    let start = Instant::now();
    let asked: Vec<_> = (0..6).map(|_| fixture.call(Method::GET, "/batches").send()).collect();
    for response in futures::future::join_all(asked).await {
        assert_eq!(response.unwrap().status(), 200);
    }
    assert!(start.elapsed() > SHORT / 2, "{:?}", start.elapsed());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_or_drips_is_given_up() {
    let fixture = impatient(|limits| limits.least_bytes_per_second = 100_000).await;
    for pause in [None, Some(Duration::from_millis(20))] {
        let (said, took) = fixture
            .connected(move |stream| {
                let head = "POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n";
                stream.write_all(format!("{head}Content-Length: 60000\r\n\r\n{{").as_bytes()).unwrap();
                if let Some(pause) = pause {
                    drip(stream, b" ", pause);
                }
                rest(stream)
            })
            .await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
        assert!(took < SHORT * 20, "{took:?}");
    }
    // One that is only slow, and has enough to say, comes through: a second and more, in pieces.
    let content = requests(2_000);
    let announced = fixture.announce(content.as_bytes()).await;
    let pieces: Vec<Vec<u8>> = content.into_bytes().chunks(30_000).map(<[u8]>::to_vec).collect();
    let slowly = futures::stream::unfold(pieces.into_iter(), async |mut pieces| {
        tokio::time::sleep(SHORT / 4).await;
        Some((Ok::<_, io::Error>(pieces.next()?), pieces))
    });
    let put = fixture.client.put(header(&announced, "location")).header("content-length", requests(2_000).len());
    let put = put.body(reqwest::Body::wrap_stream(slowly)).send().await.unwrap();
    assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_an_answer_is_given_up() {
    let fixture = impatient(|_| ()).await;
    // More than the buffers of the system hold.
    let content = vec![b'x'; 64 << 20];
    let (length, file) = (content.len(), fixture.upload(content).await);
    let (heard, _) = fixture
        .connected(move |stream| {
            let head = "HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer test-token\r\n\r\n";
            stream.write_all(format!("GET /v1/files/{file}/content {head}").as_bytes()).unwrap();
            std::thread::sleep(SHORT * 4);
            rest(stream).len()
        })
        .await;
    assert!(heard < length, "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_quota_nothing_is_taken_and_what_is_deleted_makes_room() {
    let content = requests(300);
    let bytes = content.len() as u64;
    let fixture = Fixture::start_with(|options| {
        options.batch_time = Duration::ZERO;
        options.quota = QuotaChoice::Bytes(bytes * 5 / 2);
    })
    .await;
    let first = fixture.upload(content.clone()).await;
    let again = format!("{content}\n");
    let second = fixture.upload(again.clone()).await;
    let announced = fixture.announce(format!("{again}\n").as_bytes()).await;
    let put = fixture.client.put(header(&announced, "location")).body(again.clone()).send().await.unwrap();
    assert_eq!(put.status(), 413);
    assert!(put.text().await.unwrap().contains("<Message>The quota of this server"));
    let form = || {
        let part = reqwest::multipart::Part::text(again.clone()).file_name("a.jsonl");
        reqwest::multipart::Form::new().text("purpose", "batch-api").text("file_name", "a.jsonl").part("file", part)
    };
    let whole = fixture.call(Method::POST, "/files/upload").multipart(form()).send().await.unwrap();
    let (status, body) = read(whole).await;
    assert!(status == 413 && body["error"]["message"].as_str().unwrap().contains("quota"), "{status} {body}");
    let batch = json!({"input_file_id": first, "endpoint": "/v1/chat/completions"});
    let (status, body) = fixture.post("/batches", &batch).await;
    assert!(status == 413 && body["error"].as_str().unwrap().contains("quota"), "{status} {body}");
    // Half-written uploads have left nothing.
    let files = fixture.directory.path().join("files");
    let paths = fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(paths.filter(|path| path.extension().is_none_or(|ending| ending != "json")).count(), 2);
    // With one of them gone there is room for a batch, also after a restart, which counts anew.
    let fixture = fixture.restart(|_, _| ()).await;
    assert_eq!(fixture.post("/batches", &batch).await.0, 413);
    assert_eq!(fixture.call(Method::DELETE, &format!("/files/{second}")).send().await.unwrap().status(), 200);
    let (status, created) = fixture.post("/batches", &batch).await;
    assert_eq!(status, 201, "{created}");
    let ended = fixture.until_ended(created["job"]["id"].as_str().unwrap()).await;
    assert_eq!(ended["status"], "COMPLETED");
    assert!(!fixture.content(&ended["output_file_id"]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_openais_dialect_a_quota_is_told_in_its_shape() {
    let fixture = Fixture::start_with(|options| {
        options.dialect = OPENAI;
        options.quota = QuotaChoice::Bytes(60_000);
    })
    .await;
    let upload = async |bytes: usize| {
        let part = reqwest::multipart::Part::bytes(vec![b'x'; bytes]).file_name("a.jsonl");
        let form = reqwest::multipart::Form::new().text("purpose", "batch").part("file", part);
        read(fixture.call(Method::POST, "/files").multipart(form).send().await.unwrap()).await
    };
    let (status, file) = upload(30_000).await;
    assert_eq!(status, 200, "{file}");
    let batch = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    for (status, body) in [upload(30_000).await, fixture.post("/batches", &batch).await] {
        assert_eq!((status, &body["error"]["type"]), (413, &json!("invalid_request_error")));
        assert!(body["error"]["message"].as_str().unwrap().contains("quota"), "{body}");
    }
}
