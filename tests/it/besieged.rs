//! A hostile service: endless bodies, compressed or not, endless headers, ids that look like paths. The run ends with
//! an error message, within its memory limit, and writes nowhere but to its own files.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::program::{Ended, Place, end_within_memory};
use crate::requests::{assert_same, generated, replies};
use crate::service::Service;

/// More than this no answer sends, in bytes: a client that reads it all has failed already.
const ENOUGH: u64 = 1 << 30;

/// A host on this machine that answers every call with `head`, and then with `piece` for as long as anybody reads. What
/// it has sent is counted.
fn host(head: &'static [u8], piece: Vec<u8>) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    // The threads end with their connections, and the listener with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (piece, counter) = (piece.clone(), counter.clone());
            std::thread::spawn(move || answer(connection, head, &piece, &counter));
        }
    });
    (url, sent)
}

fn answer(mut connection: TcpStream, head: &[u8], piece: &[u8], sent: &AtomicU64) {
    let _ = connection.read(&mut [0; 16 * 1024]);
    let mut written = connection.write_all(head);
    while written.is_ok() && sent.load(Ordering::Relaxed) < ENOUGH {
        written = connection.write_all(piece);
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
}

#[test]
fn an_endless_response_is_aborted_within_the_memory_limit() {
    let repeated = |text: &str| text.repeat((1 << 16) / text.len() + 1).into_bytes();
    let cases: [(&str, &'static [u8], Vec<u8>); 6] = [
        ("the smallest batches", b"HTTP/1.1 200 OK\r\n\r\n[", repeated(r#"{"id":"b"},"#)),
        (
            "batches",
            b"HTTP/1.1 200 OK\r\n\r\n[",
            repeated(r#"{"id":"b-1","status":"IN_PROGRESS","model_id":"some-model"},"#),
        ),
        ("one string", b"HTTP/1.1 200 OK\r\n\r\n[{\"id\":\"", b"y".repeat(1 << 16)),
        ("depth", b"HTTP/1.1 200 OK\r\n\r\n", b"[".repeat(1 << 16)),
        ("headers", b"HTTP/1.1 200 OK\r\n", repeated("x-flood: and one more, and one more, and one more\r\n")),
        ("one header", b"HTTP/1.1 200 OK\r\nx-flood: ", b"z".repeat(1 << 16)),
    ];
    for (what, head, piece) in cases {
        let (url, sent) = host(head, piece);
        let place = Place::new();
        place.write("in.jsonl", generated(6));
        let command = format!("run in.jsonl -o out.jsonl --provider local --base-url {url}");
        let (ended, _) = end_within_memory(place.program(&command).start());
        assert_eq!(ended.status.code(), Some(5), "{what}: {}", ended.stderr);
        assert!(ended.stderr.contains("/v1/batches"), "{what}: {}", ended.stderr);
        assert!(!place.has("out.jsonl"), "{what}");
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent > 100_000 && sent < ENOUGH, "{what}: {sent} bytes were sent");
    }
}

/// A run against a service that follows a script, to its end.
fn run(script: &str, requests: &[u8]) -> (Place, Service, Ended) {
    let host = Place::new();
    host.write("faults.toml", script);
    let service = Service::start_in(host, "--batch-time 0ms --faults faults.toml");
    let place = Place::new();
    place.write("in.jsonl", requests);
    let (ended, _) = end_within_memory(place.program(&arguments(&service)).start());
    (place, service, ended)
}

fn arguments(service: &Service) -> String {
    format!("run in.jsonl -o out.jsonl --shard-requests 20 {}", service.arguments())
}

#[test]
fn compressed_zeros_long_lists_and_deep_replies_cost_neither_memory_nor_a_reply() {
    let requests = generated(60);
    for script in [
        "[[fault]]\ndo = \"gzip_bomb\"\nnth = [1, 2]\nbytes = 10_000_000_000\n",
        "[[fault]]\ndo = \"gzip_bomb\"\ncall = [\"list\", \"retrieve\"]\nnth = [2, 3]\nbytes = 10_000_000_000\n",
        "[[fault]]\ndo = \"list_huge\"\nentries = 30_000\n",
        "[[fault]]\ndo = \"redirect\"\ncall = [\"retrieve\", \"content\"]\nnth = [1, 3]\nlocation = \"file\"\n",
        "[[fault]]\ndo = \"redirect\"\ncall = [\"retrieve\", \"content\"]\nnth = [1, 3]\nlocation = \"loop\"\n",
    ] {
        let (place, service, mut ended) = run(script, &requests);
        for _ in 0..3 {
            if ended.status.success() {
                break;
            }
            // Refused, in words; the same command goes on.
            assert_eq!(ended.status.code(), Some(5), "{script}: {}", ended.stderr);
            assert!(!place.has("out.jsonl"));
            ended = end_within_memory(place.program(&arguments(&service)).start()).0;
        }
        assert_eq!(ended.status.code(), Some(0), "{script}: {}", ended.stderr);
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        service.books().assert_billed_once(&requests);
        assert!(service.books().faults() > 0, "{script}");
    }
    // What is in the rows is kept, too, however deep and long.
    let (place, service, ended) = run(
        "[[fault]]\ndo = \"deep\"\nrows = 1\n[[fault]]\ndo = \"huge_line\"\nrows = 2\nbytes = 20_000_000\n",
        &requests,
    );
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(memchr::memchr_iter(b'\n', &place.read("out.jsonl")).count(), 60);
    assert!(service.books().rows_of_fault("deep") > 0 && service.books().rows_of_fault("huge_line") > 0);
    service.books().assert_billed_once(&requests);
}

#[test]
fn hostile_ids_never_become_paths() {
    let requests = generated(60);
    for field in ["output_file_id", "error_file_id", "id", "input_file_id"] {
        for id in ["dots", "encoded_dots", "newline", "nul", "long"] {
            let script = format!("[[fault]]\ndo = \"bad_id\"\nid = \"{id}\"\nfield = \"{field}\"\nlooks = 2\n");
            let (place, service, ended) = run(&script, &requests);
            // Any text is an id, and one that leads nowhere is asked for at the service and nowhere else. A batch of
            // another id on our file is one that is too many, for all that anybody can tell.
            let code = if field == "id" && id.ends_with("dots") { 7 } else { 0 };
            assert_eq!(ended.status.code(), Some(code), "{field} {id}: {}", ended.stderr);
            assert_same(&place.read("out.jsonl"), &replies(&requests));
            assert!(service.books().faults() > 0, "{field} {id}");
            service.books().assert_billed_once(&requests);
            assert_eq!(place.names(), [".batchline", "in.jsonl", "out.jsonl"]);
            let parts = crate::program::names_in(&place.run_directory().join("replies"));
            let ours = |name: &String| name.starts_with("00000") && name.ends_with("-output.jsonl");
            assert!(parts.iter().all(ours), "names of files follow from numbers of ours: {parts:?}");
        }
    }
}
