//! Faults in how bytes get across, seen from a bare socket.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// What came over a socket until its end.
struct Raw {
    head: String,
    body: Vec<u8>,
    /// Whether it ended with a reset.
    is_reset: bool,
}

impl Raw {
    fn has(&self, header: &str) -> bool {
        self.head.to_ascii_lowercase().contains(&header.to_ascii_lowercase())
    }

    /// The content of a body in chunks, and whether it ended in good order.
    fn unchunked(&self) -> (Vec<u8>, bool) {
        let (mut content, mut rest) = (Vec::new(), self.body.as_slice());
        while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            if size == 0 {
                return (content, true);
            }
            content.extend_from_slice(&rest[end + 2..end + 2 + size]);
            rest = &rest[end + 2 + size + 2..];
        }
        (content, false)
    }
}

impl Fixture {
    async fn send_raw(&self, head: &str, body: &[u8]) -> Raw {
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        let head = format!("{head}Host: localhost\r\nAuthorization: Bearer test-token\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may end the connection before it has it all.
        let _ = stream.write_all(body).await;
        let (mut bytes, mut is_reset) = (Vec::new(), false);
        let mut piece = [0; 4096];
        loop {
            match tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await.unwrap() {
                Ok(0) => break,
                Ok(length) => bytes.extend_from_slice(&piece[..length]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    is_reset = true;
                    break;
                }
            }
        }
        let end = memchr::memmem::find(&bytes, b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
        let body = bytes.split_off(end);
        Raw { head: String::from_utf8(bytes).unwrap(), body, is_reset }
    }

    async fn get_raw(&self, file: &str, headers: &str) -> Raw {
        self.send_raw(&format!("GET /v1/files/{file}/content HTTP/1.1\r\n{headers}"), b"").await
    }
}

/// A server with the one fault, and a file of ten digits in it.
async fn digits(fault: &str) -> (Fixture, String) {
    let fixture = faulty(&format!("[[fault]]\n{fault}")).await;
    let file = fixture.upload("0123456789").await;
    (fixture, file)
}

#[tokio::test]
async fn a_truncated_body_keeps_its_length_loses_it_or_pretends() {
    let (fixture, file) = digits("do = 'truncate'\nat = 4").await;
    let raw = fixture.get_raw(&file, "").await;
    assert!(raw.has("content-length: 10\r\n") && !raw.is_reset, "{}", raw.head);
    assert_eq!(raw.body, b"0123");
    let (fixture, file) = digits("do = 'truncate'\nat = 4\nlength = 'cut'").await;
    let raw = fixture.get_raw(&file, "").await;
    assert!(raw.has("content-length: 4\r\n"), "{}", raw.head);
    assert_eq!(raw.body, b"0123");
    let (fixture, file) = digits("do = 'truncate'\nat = 4\nlength = 'absent'").await;
    let raw = fixture.get_raw(&file, "").await;
    assert!(!raw.has("content-length"), "{}", raw.head);
    assert_eq!(raw.unchunked(), (b"0123".to_vec(), true));
    assert_eq!(fixture.acted(), ["get_content 1 200 truncate"]);
}

#[tokio::test]
async fn a_body_that_is_shorter_than_the_cut_is_whole() {
    let (fixture, file) = digits("do = 'truncate'\nat = 10").await;
    assert_eq!(fixture.content(&json!(file)).await, "0123456789");
    assert_eq!(fixture.acted(), [""; 0]);
}

#[tokio::test]
async fn all_before_a_cut_arrives_however_much_it_is() {
    let content = "x".repeat(3_000_000);
    for how in ["truncate", "reset"] {
        let fixture = faulty(&format!("[[fault]]\ndo = '{how}'\nat = 2_345_678")).await;
        let file = fixture.upload(content.clone()).await;
        let raw = fixture.get_raw(&file, "").await;
        assert_eq!(raw.is_reset, how == "reset");
        if how == "truncate" {
            assert_eq!(raw.body.len(), 2_345_678);
        }
        assert!(raw.body.len() <= 2_345_678);
    }
}

#[tokio::test]
async fn a_reset_comes_after_the_given_bytes() {
    let (fixture, file) = digits("do = 'reset'\nat = 4").await;
    let raw = fixture.get_raw(&file, "").await;
    assert!(raw.is_reset && raw.has("content-length: 10\r\n"));
    assert_eq!(raw.body, b"0123");
    let (fixture, _) = digits("do = 'reset'\nat = 0\ncall = 'list'").await;
    let error = fixture.call(Method::GET, "/batches").send().await.unwrap().bytes().await.unwrap_err();
    assert!(format!("{error:?}").contains("ConnectionReset"), "{error:?}");
}

#[tokio::test]
async fn an_upload_breaks_off_after_the_given_bytes() {
    for fault in ["truncate", "reset"] {
        let fixture = faulty(&format!("[[fault]]\ndo = '{fault}'\ncall = 'put'\nat = 100_000\nnth = 1")).await;
        let content = vec![b'x'; 200_000];
        let announced = fixture.announce(&content).await;
        let (id, location) = (header(&announced, "x-together-file-id"), header(&announced, "location"));
        let path = location.split_once(&fixture.server.address().to_string()).unwrap().1.to_owned();
        let raw = fixture.send_raw(&format!("PUT {path} HTTP/1.1\r\nContent-Length: 200000\r\n"), &content).await;
        assert_eq!(raw.head, "", "it was answered");
        assert_eq!(fixture.get(&format!("/files/{id}")).await.1["Processed"], false);
        assert_eq!(fixture.acted(), [format!("put_content 1 null {fault}")]);
        // The second attempt gets through.
        let put = fixture.client.put(location).body(content).send().await.unwrap();
        assert_eq!(put.status(), 200);
        assert_eq!(fixture.acted().len(), 1);
    }
}

#[tokio::test]
async fn an_upload_that_ends_before_the_cut_gets_through() {
    let fixture = faulty("[[fault]]\ndo = 'reset'\ncall = 'put'\nat = 10").await;
    fixture.upload("0123456789").await;
    assert_eq!(fixture.acted(), [""; 0]);
}

#[tokio::test]
async fn the_content_length_is_off() {
    let (fixture, file) = digits("do = 'content_length'\nadd = 5").await;
    let raw = fixture.get_raw(&file, "").await;
    assert!(raw.has("content-length: 15\r\n"), "{}", raw.head);
    assert_eq!(raw.body, b"0123456789");
    let (fixture, file) = digits("do = 'content_length'\nadd = -3").await;
    let raw = fixture.get_raw(&file, "").await;
    assert!(raw.has("content-length: 7\r\n"), "{}", raw.head);
    assert_eq!(raw.body, b"0123456");
}

#[tokio::test]
async fn ranges_are_ignored_misaligned_refused_or_of_another_file() {
    let range = "Range: bytes=4-6\r\n";
    let (fixture, file) = digits("do = 'ignore_range'").await;
    let raw = fixture.get_raw(&file, range).await;
    assert!(raw.has("200 OK") && raw.body == b"0123456789", "{}", raw.head);
    fixture.get_raw(&file, "").await;
    assert_eq!(fixture.acted(), ["get_content 1 200 ignore_range"]);

    let (fixture, file) = digits("do = 'misaligned_range'\nby = -2").await;
    let raw = fixture.get_raw(&file, range).await;
    assert!(raw.has("206 ") && raw.has("content-range: bytes 2-4/10\r\n") && raw.body == b"234", "{}", raw.head);
    let (fixture, file) = digits("do = 'misaligned_range'\nlie = true").await;
    let raw = fixture.get_raw(&file, "Range: bytes=4-\r\n").await;
    assert!(raw.has("206 ") && raw.has("content-range: bytes 4-9/10\r\n") && raw.body == b"56789", "{}", raw.head);

    let (fixture, file) = digits("do = 'refuse_range'").await;
    let raw = fixture.get_raw(&file, range).await;
    assert!(raw.has("416 ") && raw.has("content-range: bytes */10\r\n"), "{}", raw.head);
    assert_eq!(fixture.acted(), ["get_content 1 416 refuse_range"]);

    let (fixture, file) = digits("do = 'change_etag'").await;
    let raw = fixture.get_raw(&file, range).await;
    assert!(raw.has("206 ") && raw.has("etag: \"another\"\r\n") && raw.body == b"456", "{}", raw.head);
    let raw = fixture.get_raw(&file, &format!("{range}If-Range: \"known\"\r\n")).await;
    assert!(raw.has("200 ") && raw.has("etag: \"another\"\r\n") && raw.body == b"0123456789", "{}", raw.head);
    assert!(!fixture.get_raw(&file, "").await.has("another"));
}

#[tokio::test]
async fn bodies_come_compressed_unasked() {
    let (fixture, file) = digits("do = 'gzip'").await;
    let raw = fixture.get_raw(&file, "").await;
    assert!(raw.has("content-encoding: gzip\r\n") && !raw.has("content-length"), "{}", raw.head);
    let mut text = String::new();
    let packed = raw.unchunked().0;
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut text).unwrap();
    assert_eq!(text, "0123456789");
}

#[tokio::test]
async fn a_bomb_is_small_and_inflates_to_what_was_asked_for() {
    let (fixture, file) = digits("do = 'gzip_bomb'\nbytes = 50_000_000").await;
    let (packed, is_whole) = fixture.get_raw(&file, "").await.unchunked();
    assert!(is_whole && packed.len() < 100_000, "{}", packed.len());
    let inflated = std::io::copy(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut std::io::sink());
    assert_eq!(inflated.unwrap(), 48 << 20);
}

#[tokio::test]
async fn bytes_trickle_and_stall() {
    let (fixture, file) = digits("do = 'slow'\nbytes_per_second = 20").await;
    let start = Instant::now();
    assert_eq!(fixture.content(&json!(file)).await, "0123456789");
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());

    let (fixture, file) = digits("do = 'hang'\nat = 3\ndelay = '1s'").await;
    let start = Instant::now();
    let mut response = fixture.call(Method::GET, &format!("/files/{file}/content")).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "012".as_bytes());
    assert_eq!(response.chunk().await.unwrap().unwrap(), "3456789".as_bytes());
    assert!(start.elapsed() >= Duration::from_secs(1));

    let fixture = faulty("[[fault]]\ndo = 'hang'\ncall = 'put'\ndelay = '200ms'").await;
    let start = Instant::now();
    fixture.upload("0123456789").await;
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(fixture.acted(), ["put_content 1 200 hang"]);
}
