//! Downloads a file, and resumes interrupted transfers.
//!
//! In: the content of a remote file. Out: a local file that appears complete and durable, or not at all. Until then it
//! is next to its target as `<name>.part`. Compressed content is [unpacked](super::content); anything but a file of
//! replies is an error.
//!
//! Invariants: an interrupted transfer is resumed only if the content is provably the same: the first response had a
//! strong `ETag`, the next is a 206 with the same one, and it begins with the last [`OVERLAP_BYTES`] that are here
//! already. In all other cases it starts over. A partial file of an earlier process is never resumed: after a power
//! failure it may have holes.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::Http;
use super::content::{self, Packing, Unfit};
use super::redirect;
use super::response::Response;
use crate::dialect::Dialect;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::retry::{Attempts, RetryPolicy};
use crate::remote::service::{Downloaded, Progress};
use crate::storage::aligned::BlockWriter;
use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Maximum number of pieces queued for the disk. A piece is what the connection returned at once, below half a MiB.
const PIECES: usize = 4;

/// A transfer that has progressed by this many bytes since its last failure has its count of failures reset.
const RENEWING_BYTES: u64 = 16 << 20;

/// Bytes before the rest that are fetched again and compared, because headers alone are no proof: a server, or a cache
/// in front of it, may send other bytes than it says.
const OVERLAP_BYTES: u64 = 4 << 10;

/// Fetches a file; see [`crate::remote::service::Api::download`].
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
    // Compressed content has been unpacked to a separate file.
    part.remove();
    Ok(Downloaded { bytes: settled?, announced: part.length.is_some() })
}

/// Publishes a complete download under its final name, decompressed if necessary. Returns the file's size.
async fn settle(
    http: &Http,
    part: &Part,
    (dialect, file_id): (&'static dyn Dialect, &str),
    target: &Path,
) -> Result<u64, RemoteError> {
    let id_member = dialect.replies().id;
    let (path, to, said) = (part.file.path().to_owned(), target.to_owned(), part.packing);
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
    file: Arc<LocalFile>,
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
        let file = Arc::new(LocalFile::open_or_create(&path)?);
        Ok(Self { file, written: 0, length: None, tag: None, packing: None, asked: String::new(), progress })
    }

    /// Should this fail, the remaining file does no harm; the error to report is another one.
    fn remove(&self) {
        let _ = durable::remove_file(self.file.path());
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
            // Doubleword's: the batch is still writing it.
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
        self.file.resize(0).map_err(FileError::on("truncate", self.file.path()))?;
        self.length = answer.length();
        self.tag = strong_tag(answer.headers());
        self.progress.tell(0);
        Ok(())
    }

    fn forget(&mut self) {
        (self.written, self.length, self.tag) = (0, None, None);
    }

    /// The response is about other content than what is here: the next attempt starts over.
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

    /// Writes the body, which begins at `from`, behind what is there. Whatever happens, `written` says afterwards how
    /// much that is.
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
            Ok(Err(error)) => return failed(self.file.path(), error),
            Err(panic) => return failed(self.file.path(), io::Error::other(panic)),
        }
        received
    }

    /// A thread that writes what it is sent, from the byte `from` on, behind what is there, and returns where that
    /// ends; `None` when what is sent again is not what is there.
    fn writer(&self, from: u64) -> (mpsc::Sender<Bytes>, JoinHandle<io::Result<Option<u64>>>) {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES);
        let (file, mut offset, known) = (Arc::clone(&self.file), from, self.written);
        let write = move || {
            let mut behind = BlockWriter::starting_at(file.writer_at(known), known);
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
            // A 416 is not an error here: it means that there is nothing to resume.
            return if answer.status() == 416 { Ok(answer) } else { answer.with_success().await };
        }
        let url = answer.location()?;
        answer = http.blob(Method::GET, url, build).await?;
    }
    Err(answer.nonsense("too many redirects"))
}

/// A strong `ETag`, which identifies exact bytes; a weak one does not.
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
mod tests;
