//! A file on its way down.
//!
//! In: the content of a remote file. Out: a local file that appears whole and durable, or not at all. Until then it
//! stands beside its place as `<name>.part`. What is packed is [unpacked](super::content), and what is no file of replies is an error.
//!
//! A transfer that broke off goes on only where that is provably the same content: the first answer had a strong
//! `ETag`, the next is a 206 with the same one, and it begins with the last [`OVERLAP_BYTES`] that are here already. In
//! all other cases it starts over. What an earlier process left is never built upon: after a power cut it may have holes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::Http;
use super::content::{self, Packing, Unfit};
use super::error::{ErrorKind, RemoteError};
use super::redirect;
use super::response::Response;
use super::retry::{Attempts, RetryPolicy};
use super::service::{Downloaded, Progress};
use crate::dialect::Dialect;
use crate::storage::aligned::BlockWriter;
use crate::storage::durable;
use crate::storage::durable::FileError;

/// Pieces that wait for the disk at most. A piece is what the connection gave at once, below half a MiB.
const PIECES: usize = 4;

/// A transfer that came on by this many bytes since its last failure has its earlier failures forgiven.
const RENEWING_BYTES: u64 = 16 << 20;

/// Bytes in front of the rest that are fetched once more and compared, because headers alone do not tell: a server, or a
/// cache before it, may send other bytes than it says.
const OVERLAP_BYTES: u64 = 4 << 10;

/// Fetches a file; see [`super::service::Api::download`].
pub(super) async fn download(
    http: &Http,
    retry: &RetryPolicy,
    (dialect, file_id): (&'static dyn Dialect, &str),
    target: &Path,
    progress: Progress,
) -> Result<Downloaded, RemoteError> {
    let mut part = Part::create(target, progress)?;
    let mut attempts = Attempts::new(retry, &http.observer);
    loop {
        let before = part.written;
        let error = match part.fetch(http, (dialect, file_id)).await {
            Ok(()) => break,
            Err(error) => error,
        };
        if part.written >= before + RENEWING_BYTES {
            attempts.renew();
        }
        if let Err(error) = attempts.after(error).await {
            part.remove();
            return Err(error);
        }
    }
    let settled = settle(http, &part, (dialect, file_id), target).await;
    // What was packed has been unpacked to a file of its own.
    part.remove();
    Ok(Downloaded { bytes: settled?, announced: part.length.is_some() })
}

/// Gives what came, once it is whole, its place as the file that it stands for. Returns the file's size.
async fn settle(
    http: &Http,
    part: &Part,
    (dialect, file_id): (&'static dyn Dialect, &str),
    target: &Path,
) -> Result<u64, RemoteError> {
    let id_member = dialect.replies().id;
    let (path, to, said) = (part.path.clone(), target.to_owned(), part.packing);
    let looking = path.clone();
    let settled = if blocking(move || content::is_packed(&looking, said)).await? {
        // Without an answer the bytes that came must do.
        let max =
            content::unpacked_max(part.written, content::said_bytes(http, dialect, file_id).await.unwrap_or(None));
        blocking(move || Ok(content::unpack(&path, said, max, id_member, &to))).await?
    } else {
        blocking(move || Ok(content::publish(&path, id_member, &to))).await?
    };
    let garbled = |message: &str| RemoteError::new(ErrorKind::Garbled, &*part.asked).with_message(message);
    settled.map_err(|unfit| match unfit {
        Unfit::Local(error) => error.into(),
        Unfit::Page(text) => garbled(&http.redactor.text(&text)),
        Unfit::Broken(error) => garbled("it cannot be unpacked").with_source(error),
        Unfit::TooDeep => garbled("it is packed more than twice"),
        Unfit::TooLarge(max) => garbled(&format!("it unpacks to more than {max} bytes")),
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, RemoteError> {
    let failed = |panic| RemoteError::new(ErrorKind::LocalFile, "keeping a download").with_source(panic);
    Ok(tokio::task::spawn_blocking(work).await.map_err(failed)??)
}

/// The file while it is on its way.
struct Part {
    file: Arc<File>,
    path: PathBuf,
    written: u64,
    /// The size of the whole, if it was announced.
    length: Option<u64>,
    /// What names this very content, if the service said.
    tag: Option<HeaderValue>,
    /// What it is packed in, if the service said.
    packing: Option<Packing>,
    /// The request that was answered last, as messages name it.
    asked: String,
    progress: Progress,
}

impl Part {
    fn create(target: &Path, progress: Progress) -> Result<Self, RemoteError> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = target.with_file_name(name);
        let file = Arc::new(durable::open_or_create(&path)?);
        Ok(Self { file, path, written: 0, length: None, tag: None, packing: None, asked: String::new(), progress })
    }

    /// What is left is in nobody's way, should this fail; what there is to tell is something else.
    fn remove(&self) {
        let _ = durable::remove_file(&self.path);
    }

    /// One attempt: the rest of the content, or all of it.
    async fn fetch(&mut self, http: &Http, file: (&'static dyn Dialect, &str)) -> Result<(), RemoteError> {
        let resume = self.tag.clone().filter(|_| self.written > 0);
        let mut from = self.written.saturating_sub(OVERLAP_BYTES);
        let answer = content(http, file, resume.as_ref().map(|tag| (from, tag))).await?;
        let target = answer.target().to_owned();
        self.asked.clone_from(&target);
        let packing = Packing::of_answer(answer.headers()).map_err(|word| {
            let message = format!("it is packed as {word:?}");
            RemoteError::new(ErrorKind::Garbled, &*target).with_message(&http.redactor.text(&message))
        })?;
        match answer.status() {
            // Doubleword's: the batch goes on writing it.
            200 | 206 if answer.headers().get("x-incomplete").is_some_and(|value| value == "true") => {
                let error = RemoteError::new(ErrorKind::Unavailable, target).with_status(answer.status());
                return Err(error.with_message("the file is still being written"));
            }
            200 => {
                self.start_over(&answer)?;
                self.packing = packing;
                from = 0;
            }
            206 if resume.is_some() && packing == self.packing && self.is_continued_by(answer.headers(), from) => {}
            206 | 416 => return Err(self.of_another(target)),
            _ => return Err(answer.into_error().await),
        }
        self.copy(answer, from).await?;
        match self.length {
            Some(length) if length != self.written => {
                let message = format!("{} of {length} bytes came", self.written);
                // More than announced cannot be continued.
                self.tag = self.tag.take().filter(|_| self.written < length);
                Err(RemoteError::new(ErrorKind::Interrupted, target).with_message(&message))
            }
            _ => Ok(()),
        }
    }

    /// Drops what was written and takes note of what this answer will bring.
    fn start_over(&mut self, answer: &Response<'_>) -> Result<(), RemoteError> {
        self.forget();
        self.file.set_len(0).map_err(FileError::on("truncate", &self.path))?;
        self.length = answer.length();
        self.tag = strong_tag(answer.headers());
        self.progress.tell(0);
        Ok(())
    }

    fn forget(&mut self) {
        (self.written, self.length, self.tag) = (0, None, None);
    }

    /// What came belongs to something else than what is here: the next attempt starts over.
    fn of_another(&mut self, target: String) -> RemoteError {
        self.forget();
        let message = "the rest of the file is not that of its beginning";
        RemoteError::new(ErrorKind::Interrupted, target).with_message(message)
    }

    /// Whether a 206 brings everything from `from` on.
    fn is_continued_by(&self, headers: &HeaderMap, from: u64) -> bool {
        let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).and_then(parse_range);
        let fits = range.is_some_and(|(first, last, length)| {
            first == from
                && length.is_none_or(|length| last.checked_add(1) == Some(length))
                && (length.is_none() || self.length.is_none() || length == self.length)
                && (length.is_some() || self.length.is_some_and(|length| last.checked_add(1) == Some(length)))
        });
        fits && strong_tag(headers) == self.tag
    }

    /// Writes the body, which begins at `from`, behind what is there. Whatever happens, `written` says afterwards how much that is.
    async fn copy(&mut self, answer: Response<'_>, from: u64) -> Result<(), RemoteError> {
        let target = answer.target().to_owned();
        let mut pieces = answer.pieces(None);
        let (sender, writer) = self.writer(from);
        let mut on_the_way = from;
        let mut received = Ok(());
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    on_the_way += piece.len() as u64;
                    if sender.send(piece).await.is_err() {
                        break; // The writer failed, and says why below.
                    }
                    self.progress.tell(on_the_way);
                }
                Err(error) => {
                    received = Err(error);
                    break;
                }
            }
        }
        drop(sender);
        let failed = |path: &Path, error| Err(RemoteError::from(FileError::on("write", path)(error)));
        match writer.await {
            Ok(Ok(Some(written))) => self.written = written,
            Ok(Ok(None)) => return Err(self.of_another(target)),
            Ok(Err(error)) => return failed(&self.path, error),
            Err(panic) => return failed(&self.path, io::Error::other(panic)),
        }
        received
    }

    /// A thread that writes what it is sent, from the byte `from` on, behind what is there, and returns where that ends; `None` when
    /// what is sent again is not what is there.
    fn writer(&self, from: u64) -> (mpsc::Sender<Bytes>, JoinHandle<io::Result<Option<u64>>>) {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES);
        let (file, mut offset, known) = (Arc::clone(&self.file), from, self.written);
        let write = move || {
            let mut behind = BlockWriter::starting_at(Behind { file: &file, offset: known }, known);
            while let Some(mut piece) = receiver.blocking_recv() {
                let overlap = known.saturating_sub(offset).min(piece.len() as u64);
                let again = piece.split_to(usize::try_from(overlap).unwrap_or(usize::MAX));
                let mut there = vec![0; again.len()];
                file.read_exact_at(&mut there, offset)?;
                if there != again {
                    return Ok(None);
                }
                behind.write_all(&piece)?;
                offset += overlap + piece.len() as u64;
            }
            behind.flush()?;
            Ok(Some(offset.max(known)))
        };
        (sender, tokio::task::spawn_blocking(write))
    }
}

/// Writes behind a place in a file.
struct Behind<'f> {
    file: &'f File,
    offset: u64,
}

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.offset)?;
        self.offset += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks for the content, or the rest of it, and follows redirects to a storage without the key.
async fn content<'a>(
    http: &'a Http,
    (dialect, file_id): (&'static dyn Dialect, &str),
    resume: Option<(u64, &HeaderValue)>,
) -> Result<Response<'a>, RemoteError> {
    let build = |request: reqwest::RequestBuilder| match resume {
        Some((from, tag)) => request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, tag.clone()),
        None => request,
    };
    let mut answer = http.call(&dialect.routes().content, file_id, build).await?;
    for _ in 0..=redirect::HOPS {
        if !redirect::is_redirect(answer.status()) {
            // A 416 is no error here: it says that there is nothing to go on with.
            return if answer.status() == 416 { Ok(answer) } else { answer.with_success().await };
        }
        let url = answer.location()?;
        answer = http.blob(Method::GET, url, build).await?;
    }
    Err(answer.nonsense("too many redirects"))
}

/// An `ETag` that names exact bytes; a weak one does not.
fn strong_tag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")).cloned()
}

/// `bytes FIRST-LAST/LENGTH`, where the length may be `*`.
fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let length = if length == "*" { None } else { Some(length.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::retry::Observer;
    use crate::remote::service::Api;
    use crate::remote::testing::{Act, CANARY, Memory, Server, Then, answer, api_at, raw};

    const TAG: &str = "ETag: \"v1\"\r\n";
    const SIZE: usize = 300_000;

    /// Where the rest of a transfer begins that broke off after 200,000 bytes.
    const REST: usize = 200_000 - (4 << 10);

    fn content() -> Vec<u8> {
        Memory::of(SIZE).bytes
    }

    /// A 200 that breaks off after `cut` bytes.
    fn broken(headers: &str, cut: usize, then: Then) -> Act {
        let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n{headers}\r\n").into_bytes();
        bytes.extend_from_slice(&content()[..cut]);
        raw(bytes, then)
    }

    fn partial(headers: &str, first: usize) -> Act {
        let range = format!("{headers}Content-Range: bytes {first}-{}/{SIZE}\r\n", SIZE - 1);
        answer(206, &range, &content()[first..])
    }

    /// Downloads from a server that answers the n-th request as `acts` say, and the last for ever.
    async fn fetch(acts: Vec<Act>) -> (Result<Downloaded, RemoteError>, Server, tempfile::TempDir) {
        let last = acts.len() - 1;
        let server = Server::start(move |_, number| acts[number.min(last)].clone()).await;
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("00000.output");
        let api = api_at(&server.url, 4, Observer::default());
        (api.download("file-1", &target, Progress::default()).await, server, directory)
    }

    fn names(directory: &tempfile::TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Everything came, once, and nothing else is left.
    fn assert_fetched(fetched: &(Result<Downloaded, RemoteError>, Server, tempfile::TempDir)) {
        let (result, _, directory) = fetched;
        assert_eq!(result.as_ref().unwrap(), &Downloaded { bytes: SIZE as u64, announced: true });
        assert!(std::fs::read(directory.path().join("00000.output")).unwrap() == content());
        assert_eq!(names(directory), ["00000.output"]);
    }

    #[tokio::test]
    async fn a_transfer_that_broke_off_goes_on_where_it_was() {
        for then in [Then::Close, Then::Hold] {
            let fetched = fetch(vec![broken(TAG, 200_000, then), partial(TAG, REST)]).await;
            assert_fetched(&fetched);
            let seen = fetched.1.seen();
            assert_eq!(seen[1].header("range"), Some(format!("bytes={REST}-").as_str()));
            assert_eq!(seen[1].header("if-range"), Some("\"v1\""));
            assert_eq!(seen.len(), 2);
        }
    }

    #[tokio::test]
    async fn an_ignored_range_starts_over() {
        let fetched = fetch(vec![broken(TAG, 200_000, Then::Close), answer(200, TAG, content())]).await;
        assert_fetched(&fetched);
    }

    #[tokio::test]
    async fn a_rest_that_does_not_fit_starts_over() {
        let other_length = format!("{TAG}Content-Range: bytes {REST}-{}/{}\r\n", SIZE - 1, SIZE + 1);
        let right_range = format!("{TAG}Content-Range: bytes {REST}-{}/{SIZE}\r\n", SIZE - 1);
        for second in [
            partial("ETag: \"v2\"\r\n", REST),
            partial("", REST),
            partial(TAG, REST - 1),
            answer(206, &other_length, &content()[REST..]),
            answer(206, TAG, &content()[REST..]),
            // Other bytes than it says, and just as many.
            answer(206, &right_range, &content()[REST - 1..SIZE - 1]),
            answer(416, TAG, ""),
        ] {
            let fetched = fetch(vec![broken(TAG, 200_000, Then::Close), second, answer(200, "", content())]).await;
            assert_fetched(&fetched);
            assert_eq!(fetched.1.seen()[2].header("range"), None);
        }
    }

    #[tokio::test]
    async fn without_a_strong_tag_nothing_is_resumed() {
        for tag in ["", "ETag: W/\"v1\"\r\n"] {
            let fetched = fetch(vec![broken(tag, 200_000, Then::Close), answer(200, tag, content())]).await;
            assert_fetched(&fetched);
            assert_eq!(fetched.1.seen()[1].header("range"), None);
        }
    }

    #[tokio::test]
    async fn what_never_comes_whole_is_never_published() {
        for act in [
            broken("", 200_000, Then::Close),
            broken("", 1000, Then::Drip),
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", Then::Close),
            raw("", Then::Reset),
            answer(503, "", "later"),
            partial(TAG, 0),
        ] {
            let (result, server, directory) = fetch(vec![act]).await;
            let error = result.unwrap_err();
            assert!(error.is_transient(), "{error}");
            assert_eq!(server.seen().len(), 4, "{error}");
            assert_eq!(names(&directory), [""; 0], "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_not_repeated() {
        for (act, kind) in [
            (answer(404, "", r#"{"error":{"message":"File not found"}}"#), ErrorKind::Refused),
            (answer(401, "", ""), ErrorKind::Unauthorized),
            (answer(200, "Content-Encoding: deflate\r\n", "bomb"), ErrorKind::Garbled),
            (answer(200, "Content-Encoding: br\r\n", "bomb"), ErrorKind::Garbled),
            (answer(200, "", [0x1f, 0x8b, 8, 0]), ErrorKind::Garbled),
            (answer(200, "", "<html><title>502 Bad Gateway</title></html>"), ErrorKind::Garbled),
            (answer(302, "Location: file:///etc/passwd\r\n", ""), ErrorKind::Protocol),
        ] {
            let (result, server, directory) = fetch(vec![act]).await;
            assert_eq!(result.unwrap_err().kind(), kind);
            let downloads = server.count("GET /v1/files/file-1/content");
            assert_eq!((downloads, names(&directory).len()), (1, 0));
        }
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_whole_only_as_far_as_can_be_told() {
        let (result, ..) = fetch(vec![raw("HTTP/1.1 200 OK\r\n\r\nline\n", Then::Close)]).await;
        assert_eq!(result.unwrap(), Downloaded { bytes: 5, announced: false });
    }

    #[tokio::test]
    async fn another_host_sees_no_key() {
        let storage = Server::start(|_, number| match number {
            0 => broken(TAG, 200_000, Then::Close),
            _ => partial(TAG, REST),
        })
        .await;
        let location = format!("Location: {}/signed?sig=1\r\n", storage.url);
        let fetched = fetch(vec![answer(302, &location, "")]).await;
        assert_fetched(&fetched);
        assert_eq!(storage.seen().len(), 2);
        assert!(storage.seen().iter().all(|seen| !seen.head.contains(CANARY) && !seen.head.contains("authorization")));
        assert!(storage.seen()[1].header("range").is_some());
    }

    #[tokio::test]
    async fn what_an_earlier_process_left_is_not_built_upon() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("00000.output");
        let left = directory.path().join("00000.output.part");
        durable::publish_bytes(&left, &vec![0xff; SIZE * 2]).unwrap();
        let server = Server::start(|_, _| answer(200, TAG, content())).await;
        let api = api_at(&server.url, 1, Observer::default());
        api.download("file-1", &target, Progress::default()).await.unwrap();
        assert!(std::fs::read(&target).unwrap() == content());
        assert_eq!(server.seen()[0].header("range"), None);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_a_local_error() {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(|_, _| answer(200, TAG, content())).await;
        let api = api_at(&server.url, 3, Observer::default());
        let error = api.download("file-1", &directory.path().join("none/x"), Progress::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LocalFile);
        assert!(api.download("..", &directory.path().join("x"), Progress::default()).await.is_err());
        assert_eq!(server.seen().len(), 0);
    }
}
