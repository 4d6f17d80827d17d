//! `batchline serve` and unauthorized clients: web pages, other machines, clients that exhaust its connections or its
//! disk.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::program::{MEMORY_KIB, PATIENCE, Place, wait_until};
use crate::requests::{generated, replies_in, request};
use crate::secrets::write_private;
use crate::service::{DIALECTS, Service};
use crate::upstream::{Manner, Upstream};

/// Connections of a flood: fewer than the server takes, so that there is room for somebody else.
const FLOOD: usize = 200;

/// Sends a call as it stands, and gives the whole answer.
fn call(url: &str, head: &str, body: &str) -> String {
    let mut stream = connect(url);
    let head = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn connect(url: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn a_web_page_spends_nothing_of_an_upstream() {
    let upstream = Upstream::start(Manner::default());
    for dialect in DIALECTS {
        let service = Service::speaking(dialect, &format!("--upstream {}", upstream.url()));
        let url = service.base_url();
        // A file, as a page might have got it there before.
        let place = Place::new();
        place.write("in.jsonl", request("a", "m") + "\n");
        place.run(&format!("run in.jsonl -o out.jsonl {}", service.arguments())).with_code(0);
        let (spent, file) =
            (upstream.total(), service.books().batches()[0]["input_file_id"].as_str().unwrap().to_owned());
        let create =
            format!(r#"{{"input_file_id":"{file}","endpoint":"/v1/chat/completions","completion_window":"24h"}}"#);
        let port = url.rsplit(':').next().unwrap().strip_suffix("/v1").unwrap();
        for (headers, status) in [
            // Its name leads to this machine now.
            (format!("Host: rebound.example:{port}\r\n"), 421),
            // It asks this machine without any trick.
            (format!("Host: localhost:{port}\r\nOrigin: https://evil.example\r\n"), 403),
            (format!("Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site\r\n"), 403),
            // What no client sends.
            (String::new(), 400),
        ] {
            let head = format!("POST /v1/batches HTTP/1.1\r\n{headers}Authorization: Bearer local\r\n");
            let answer = call(url, &head, &create);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
            assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
        }
        assert_eq!((service.books().accepted(), upstream.total()), (1, spent), "nothing was created");
        // The same from a program.
        let head = format!("POST /v1/batches HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer local\r\n");
        assert!(call(url, &head, &create).starts_with("HTTP/1.1 20"));
    }
}

#[test]
fn beyond_this_machine_it_listens_with_a_key_and_by_names_that_it_was_given() {
    let place = Place::new();
    write_private(&place.path("key"), "a-key-for-strangers");
    for address in ["0.0.0.0:0", "[::]:0"] {
        let refused = place.run(&format!("serve --listen {address}")).with_code(3);
        refused.saying("could use this server").saying("hint: pass --api-key-file");
    }
    // Said in a script, as a container would: the name by which others know it, and the key.
    let serve = "serve --listen 0.0.0.0:0 -d service --batch-time 0ms --api-key-file key --allow-host batch.internal";
    let serving = place.program(serve).start();
    wait_until(|| serving.stdout_so_far().contains(&b'\n'));
    let url = String::from_utf8(serving.stdout_so_far()).unwrap().trim().to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    for (host, status) in [("batch.internal:80", 200), ("127.0.0.1", 200), ("batch.example", 421), ("0.0.0.0", 421)] {
        let head = format!("GET /v1/batches HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer a-key-for-strangers\r\n");
        assert!(call(&url, &head, "").starts_with(&format!("HTTP/1.1 {status} ")), "{host}");
    }
    let other = "GET /v1/batches HTTP/1.1\r\nHost: batch.internal\r\nAuthorization: Bearer another\r\n";
    assert!(call(&url, other, "").starts_with("HTTP/1.1 401 "));
    let input = generated(5);
    place.write("in.jsonl", &input);
    let run = format!("run in.jsonl -o out.jsonl --provider local --base-url {url} --api-key-file key");
    place.run(&run).with_code(0);
    assert_eq!(place.read("out.jsonl"), replies_in(DIALECTS[0], &input));
}

#[test]
fn a_quota_ends_a_run_and_more_space_resumes_it() {
    for dialect in DIALECTS {
        let input = generated(60);
        let place = Place::new();
        place.write("in.jsonl", &input);
        let service = Service::speaking(dialect, "--batch-time 0ms --quota 30kB");
        let run = format!("run in.jsonl -o out.jsonl {}", service.arguments());
        let ended = place.run(&run).with_code(5);
        assert!(ended.stderr.contains("The quota of this server, 30000 bytes"), "{}", ended.stderr);
        assert!(!place.has("out.jsonl"));
        assert_eq!(service.books().accepted(), service.books().batches().len());
        // Elsewhere there is room: the same input, and none of it twice there.
        let service = Service::speaking(dialect, "--batch-time 0ms --quota 3MB");
        place.run(&format!("run in.jsonl -o out.jsonl {}", service.arguments())).with_code(0);
        assert_eq!(place.read("out.jsonl"), replies_in(dialect, &input));
        service.books().assert_billed_once(&input);
    }
}

#[test]
fn endless_request_heads_exhaust_no_memory_and_block_no_other_client() {
    let service = Service::start_with("--batch-time 200ms");
    let head = format!("GET /v1/files HTTP/1.1\r\nHost: localhost\r\nX-Flood: {}", "x".repeat(60_000));
    let flood: Vec<TcpStream> = (0..FLOOD)
        .map(|_| {
            let mut stream = connect(service.base_url());
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    let (place, input) = (Place::new(), generated(30));
    place.write("in.jsonl", &input);
    place.run(&format!("run in.jsonl -o out.jsonl {}", service.arguments())).with_code(0);
    assert_eq!(place.read("out.jsonl"), crate::requests::replies(&input));
    let peak = service.peak_kib();
    assert!(peak > 0 && peak < MEMORY_KIB / 2, "{peak} KiB");
    drop(flood);
}
