//! What a Batch API can be asked, and what it answers: the [`Api`] trait and its words.
//!
//! [`super::HttpApi`] speaks to a Batch API, [`super::OnlineApi`] makes one of a service that has none, and a
//! simulation can take their place. All methods but [`Api::create`] may be called again after an error, an interruption
//! or a crash.

use std::fmt;
use std::future::Future;
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{ErrorKind, RemoteError};
use crate::model::batch::{Batch, CreateBatch};

/// The operations of a Batch API. [`HttpApi`](super::HttpApi) and [`OnlineApi`](super::OnlineApi) are implementations;
/// this is another, a service in memory that answers each request with the length of its line:
///
/// ```
/// use std::io::{self, BufRead};
/// use std::path::Path;
/// use std::sync::{Arc, Mutex};
///
/// use batchline::api::{
///     Batch, BatchStatus, CreateBatch, Downloaded, ErrorKind, Listing, Payload, Progress, RemoteError, RemoteFile, Submission,
///     publish_bytes,
/// };
/// use batchline::{Api, Options, Outputs, Run, Silent, provider};
///
/// /// Its batches, each with its reply file. A batch is over as soon as it is created.
/// #[derive(Default)]
/// struct Measuring {
///     uploads: Mutex<u32>,
///     batches: Mutex<Vec<(Batch, Vec<u8>)>>,
/// }
///
/// /// The replies to all requests, in whatever order.
/// fn answer(requests: &dyn Payload) -> io::Result<Vec<u8>> {
///     let mut replies = Vec::new();
///     for line in requests.open()?.lines() {
///         let line = line?;
///         let request: serde_json::Value = serde_json::from_str(&line)?;
///         let (id, body) = (&request["custom_id"], serde_json::json!({ "bytes": line.len() }));
///         replies.push(serde_json::json!({ "custom_id": id, "response": { "status_code": 200, "body": body } }).to_string());
///     }
///     replies.reverse();
///     Ok(replies.join("\n").into_bytes())
/// }
///
/// impl Measuring {
///     fn find(&self, wanted: impl Fn(&Batch) -> bool) -> Result<(Batch, Vec<u8>), RemoteError> {
///         let batches = self.batches.lock().unwrap();
///         let found = batches.iter().find(|(batch, _)| wanted(batch)).cloned();
///         found.ok_or_else(|| RemoteError::new(ErrorKind::Refused, "look for a batch").with_message("there is none"))
///     }
///
///     fn replies(&self, file_id: &str) -> Result<Vec<u8>, RemoteError> {
///         Ok(self.find(|batch| batch.output_file_id.as_deref() == Some(file_id))?.1)
///     }
/// }
///
/// impl Api for Measuring {
///     async fn ready(&self) {}
///
///     async fn upload(&self, payload: Arc<dyn Payload>, _: Progress) -> Result<RemoteFile, RemoteError> {
///         // The lines come once more when the batch is created: nothing need be kept. No id is used twice.
///         let mut uploads = self.uploads.lock().unwrap();
///         *uploads += 1;
///         Ok(RemoteFile { id: format!("requests-{uploads}"), bytes: Some(payload.bytes()), reused: false })
///     }
///
///     async fn create(&self, request: &CreateBatch, lines: Arc<dyn Payload>) -> Submission {
///         let answering = tokio::task::spawn_blocking(move || answer(&*lines));
///         let replies = match answering.await.expect("it does not panic") {
///             Ok(replies) => replies,
///             Err(error) => {
///                 let refused = RemoteError::new(ErrorKind::InputChanged, "read the requests of a batch");
///                 return Submission::Refused(refused.with_source(error));
///             }
///         };
///         let mut batches = self.batches.lock().unwrap();
///         let number = batches.len();
///         let batch = Batch {
///             input_file_id: Some(request.input_file_id.clone()),
///             output_file_id: Some(format!("replies-{number}")),
///             tag: request.tag.clone(),
///             ..Batch::new(format!("batch-{number}"), BatchStatus::Completed)
///         };
///         batches.push((batch.clone(), replies));
///         Submission::Accepted(batch)
///     }
///
///     async fn batch(&self, id: &str) -> Result<Batch, RemoteError> {
///         Ok(self.find(|batch| batch.id == id)?.0)
///     }
///
///     async fn batches(&self) -> Result<Listing, RemoteError> {
///         let batches = self.batches.lock().unwrap().iter().map(|(batch, _)| batch.clone()).collect();
///         Ok(Listing { batches, ..Listing::default() })
///     }
///
///     async fn cancel(&self, id: &str) -> Result<Batch, RemoteError> {
///         self.batch(id).await
///     }
///
///     async fn download(&self, file_id: &str, target: &Path, _: Progress) -> Result<Downloaded, RemoteError> {
///         let replies = self.replies(file_id)?;
///         let failed = |error| RemoteError::new(ErrorKind::LocalFile, "write a reply file").with_source(error);
///         publish_bytes(target, &replies).map_err(failed)?;
///         Ok(Downloaded { bytes: replies.len() as u64, announced: true })
///     }
///
///     async fn file_bytes(&self, file_id: &str) -> Result<Option<u64>, RemoteError> {
///         Ok(Some(self.replies(file_id)?.len() as u64))
///     }
///
///     async fn delete_file(&self, _: &str) -> Result<(), RemoteError> {
///         Ok(())
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let output = directory.path().join("results.jsonl");
/// // The provider says how lines look and how large a batch may be.
/// let mut options = Options::new(["data/prompts.jsonl"], provider("local").expect("it is built in"));
/// # options.places.home = directory.path().to_owned();
/// options.input.shard.requests = 3;
/// let run = Run::open(options, Arc::new(Silent), Default::default()).await?;
/// let summary = run.execute(Measuring::default(), Outputs::file(&output)).await?;
/// assert_eq!(summary.report.outcomes.outputs, summary.lines);
/// assert!(summary.report.batches > 1);
/// # let (input, output) = (std::fs::read_to_string("data/prompts.jsonl")?, std::fs::read_to_string(output)?);
/// # assert_eq!(input.lines().count(), output.lines().count());
/// # for (request, reply) in input.lines().zip(output.lines()) {
/// #     let [request, reply] = [request, reply].map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
/// #     assert_eq!(request["custom_id"], reply["custom_id"]);
/// # }
/// # Ok(())
/// # }
/// ```
pub trait Api: Send + Sync + 'static {
    /// Waits until the service takes calls: at once, unless it asked for a pause. To be awaited before the intent to
    /// create a batch is written down, so that a crash while waiting does not leave a doubt.
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Uploads a payload as a new file. Tried again from its beginning when it fails on the way; every attempt asks
    /// for a file of its own, so that a returned id (unless [`RemoteFile::reused`]) has never been used before.
    fn upload(
        &self,
        payload: Arc<dyn Payload>,
        progress: Progress,
    ) -> impl Future<Output = Result<RemoteFile, RemoteError>> + Send;

    /// Creates a batch: exactly one POST, never repeated here. `lines` is the payload that was uploaded, for services
    /// that take it only now.
    fn create(&self, request: &CreateBatch, lines: Arc<dyn Payload>) -> impl Future<Output = Submission> + Send;

    /// Looks at a batch.
    fn batch(&self, id: &str) -> impl Future<Output = Result<Batch, RemoteError>> + Send;

    /// All batches that the service lists for this key.
    fn batches(&self) -> impl Future<Output = Result<Listing, RemoteError>> + Send;

    /// Asks for a batch to be cancelled. One that has ended already is returned as it is.
    fn cancel(&self, id: &str) -> impl Future<Output = Result<Batch, RemoteError>> + Send;

    /// Fetches a file's content as `target`, which appears whole and durable or not at all, unpacked if it comes
    /// packed. A page instead of it is an error of [`Garbled`](super::ErrorKind::Garbled). What is on the way stands
    /// beside it as `<name>.part`. An interrupted transfer goes on where it broke off if the service can prove that the
    /// content is the same; after a restart of the program it begins anew.
    fn download(
        &self,
        file_id: &str,
        target: &Path,
        progress: Progress,
    ) -> impl Future<Output = Result<Downloaded, RemoteError>> + Send;

    /// How many bytes the service says that a file has; `None` where it does not say, or says 0, which services do that
    /// do not count.
    fn file_bytes(&self, file_id: &str) -> impl Future<Output = Result<Option<u64>, RemoteError>> + Send;

    /// Deletes a file. Idempotent: one that is not there is no error.
    fn delete_file(&self, id: &str) -> impl Future<Output = Result<(), RemoteError>> + Send;

    /// Says which lines a file stands for that an earlier process has uploaded and whose batch, if it has one, has not
    /// ended. For services that keep no lines and answer within this process; others have nothing to do.
    fn attach(&self, file_id: &str, lines: Arc<dyn Payload>) {
        let _ = (file_id, lines);
    }

    /// Waits until no batch can go on, and says why: the run then ends with that error, to be resumed. Services
    /// elsewhere never say so.
    fn failed(&self) -> impl Future<Output = RemoteError> + Send {
        std::future::pending()
    }

    /// Brings what is under way in this process to an end, in good order. Called once, after the last call of
    /// everything else.
    fn close(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// What was sent twice for the batches that have ended, as far as that is known here.
    fn sent_again(&self) -> Again {
        Again::default()
    }
}

/// Requests that were sent a second time although the first may have been answered, and so paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Because they were in flight when the process ended, or just about to go: the next process cannot tell.
    pub crashed: u64,
    /// Because the connection broke, or no answer came in time.
    pub lost: u64,
}

impl std::ops::AddAssign for Again {
    fn add_assign(&mut self, other: Self) {
        self.crashed += other.crashed;
        self.lost += other.lost;
    }
}

/// Bytes to upload. Every attempt opens its own body.
pub trait Payload: Send + Sync {
    /// The file's name at the service, with its extension. Of no meaning here.
    fn name(&self) -> String;

    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Opens the bytes at their beginning. Called, and read, on a thread that may block. A reader that fails with
    /// [`io::ErrorKind::InvalidData`] or `UnexpectedEof`, at the latest where it ends, says that the bytes are not
    /// those that were promised: the upload is then left incomplete and the error is final.
    fn open(&self) -> io::Result<Box<dyn BufRead + Send>>;

    /// Its lines one by one, for services that are asked request by request. Reads all of them once, on a thread that
    /// may block; fails like a reader of [`Payload::open`]. A payload that is only ever read through has none:
    /// [`io::ErrorKind::Unsupported`].
    fn lines(&self) -> io::Result<Arc<dyn Lines>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The lines of a payload, each by its number.
pub trait Lines: Send + Sync {
    /// How many there are.
    fn count(&self) -> u64;

    /// Reads the line with this number, from 0, without its end, in place of what is in `line`. Called on a thread that
    /// may block. One that is not what it was is an error of [`io::ErrorKind::InvalidData`] or `UnexpectedEof`.
    fn read(&self, number: u64, line: &mut Vec<u8>) -> io::Result<()>;
}

/// Lines cannot be read, or are not those that were promised.
pub(crate) fn unreadable(error: io::Error) -> RemoteError {
    let kind = match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::InputChanged,
        _ => ErrorKind::LocalFile,
    };
    RemoteError::new(kind, "cannot read the requests of a batch").with_source(error)
}

/// Hears how many bytes of a transfer are done. The count falls back when an attempt starts over.
/// Called on the task that moves the bytes: it must not block.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64) + Send + Sync>);

impl Progress {
    /// A progress that calls `hear` with the bytes done so far.
    pub fn new(hear: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Tells how many bytes are done. For those that implement [`Api`].
    pub fn tell(&self, bytes: u64) {
        (self.0)(bytes);
    }
}

impl Default for Progress {
    /// Hears nothing.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Progress")
    }
}

/// A file as the service holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its id; see [`is_valid_id`](super::is_valid_id).
    pub id: String,
    /// Its size, as far as the service said.
    pub bytes: Option<u64>,
    /// Whether the service returned a file that it had already, so that batches may exist that use it.
    pub reused: bool,
}

/// What became of an attempt to create a batch.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per batch, and it is taken apart at once")]
pub enum Submission {
    /// The service created this batch.
    Accepted(Batch),
    /// Nothing was created, for certain: nothing was sent, or the answer was 400, 401, 402, 403, 404, 413, 422 or 429.
    Refused(RemoteError),
    /// A batch may or may not exist. To be settled by [`Api::batches`], never by asking again.
    Unknown(RemoteError),
}

/// A list of batches, as far as it can be read: most of it is other people's business.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The batches that can be named, in the service's order. Files that cannot be asked for are left out.
    pub batches: Vec<Batch>,
    /// The files of batches that are there and cannot be named. What the list says about these files is not all there
    /// is.
    pub unnamed: Vec<String>,
    /// Entries that are nothing that anybody could know again.
    pub odd: u64,
}

impl Listing {
    /// Adds the next page.
    pub(super) fn add(&mut self, page: Self) {
        self.batches.extend(page.batches);
        self.unnamed.extend(page.unnamed);
        self.odd += page.odd;
    }

    /// How many entries are held.
    pub(super) fn entries(&self) -> usize {
        self.batches.len() + self.unnamed.len()
    }
}

/// A file that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Its size.
    pub bytes: u64,
    /// Whether the service announced the size beforehand. If not, a file that was cut short at the service cannot be
    /// told from a whole one here, and its lines have to be counted.
    pub announced: bool,
}
