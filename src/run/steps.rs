//! The steps that take a shard further, each a piece of work of its own: what is done, without what it means.
//!
//! In: a shard and what the last step left. Out: an [`Outcome`] for the driver to record. A step that is cut off by a crash
//! has done nothing that the next attempt minds.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::layout;
use super::indexing::ShardIndexed;
use super::verdict::{FileEvidence, SaidBytes};
use crate::dialect::retry_class::failed_batch_worth_retrying;
use crate::input::envelope::Envelope;
use crate::input::line_table::LineTable;
use crate::input::recheck::Recheck;
use crate::input::request_index::RequestIndex;
use crate::input::shard_reader::ShardReader;
use crate::input::source::Source;
use crate::model::custom_id::IdHasher;
use crate::model::reply::{ReplyKind, ReplyRole};
use crate::model::shard::Shard;
use crate::model::shard_state::{EndedBatch, LeftOver};
use crate::remote::{
    Api, Batch, BatchStatus, Lines, Listing, Payload, Progress, Redactor, RemoteError, RemoteFile, Submission,
};
use crate::results::index;
use crate::results::reply_index::{ReplyIndex, Slot};
use crate::run::error::Error;

/// What came of a step.
#[derive(Debug)]
pub(crate) enum Outcome {
    Uploaded { shard: u32, result: Result<RemoteFile, RemoteError> },
    Ready { shard: u32, result: Result<Listing, RemoteError> },
    Created { shard: u32, submission: i64, answer: Submission },
    Listed(Result<Listing, RemoteError>),
    Looked { shard: u32, result: Result<Batch, RemoteError> },
    Cancelled { batch_id: String, result: Result<Batch, RemoteError> },
    Downloaded { shard: u32, result: Result<Fetched, RemoteError> },
    Indexed { shard: u32, result: Result<ShardIndexed, Error> },
}

/// What the steps work on.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) run: PathBuf,
    pub(crate) source: Arc<Source>,
    pub(crate) requests: Arc<RequestIndex>,
    /// Whether the input still is what was checked.
    pub(crate) recheck: Recheck,
    pub(crate) replies: ReplyIndex,
    pub(crate) ids: IdHasher,
    /// What lines have around their bodies at the service.
    pub(crate) envelope: Envelope,
    pub(crate) threads: usize,
    /// Memory for reply files, in bytes.
    pub(crate) memory_bytes: usize,
    /// Takes keys out of what replies say, where it is told or recorded.
    pub(crate) redactor: Redactor,
}

/// A shard as an upload wants it.
pub(crate) struct ShardPayload {
    pub(crate) files: Arc<Files>,
    pub(crate) shard: Shard,
}

impl Payload for ShardPayload {
    fn name(&self) -> String {
        format!("shard-{:06}.jsonl", self.shard.number)
    }

    fn bytes(&self) -> u64 {
        self.shard.bytes
    }

    fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        let Files { source, requests, envelope, .. } = &*self.files;
        let reader = ShardReader::open(source.clone(), requests.clone(), self.shard.clone(), &self.files.run);
        Ok(Box::new(reader.map_err(|error| error.source)?.with_envelope(*envelope)))
    }

    fn lines(&self) -> io::Result<Arc<dyn Lines>> {
        let Files { run, source, requests, envelope, .. } = &*self.files;
        let table = LineTable::read(source.clone(), requests.clone(), &self.shard, *envelope, run)?;
        Ok(Arc::new(ShardLines(table)))
    }
}

/// The same, line by line.
struct ShardLines(LineTable);

impl Lines for ShardLines {
    fn count(&self) -> u64 {
        self.0.count()
    }

    fn read(&self, number: u64, line: &mut Vec<u8>) -> io::Result<()> {
        self.0.line(number, line)
    }
}

/// What is fetched again of a shard whose replies did not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Every file that is not whole by its own size.
    Unproven,
    /// Every file: what stands in them makes no sense.
    All,
}

/// What came of fetching a batch's reply files.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The batch as it was last seen; its files may show late.
    pub(crate) batch: EndedBatch,
    /// What the service says of the sizes of its files.
    pub(crate) said: Vec<(ReplyRole, SaidBytes)>,
    /// The first file that could not be fetched, and why.
    pub(crate) trouble: Option<(ReplyRole, RemoteError)>,
}

/// Fetches the files that a batch left, those that are not here yet. With `again` the batch is looked at once more, and the service is
/// asked how large its files are; a file that is here already is then fetched beside it, for the index to choose between the two.
///
/// One file that cannot be fetched does not keep the other from coming. An error is this machine's fault.
pub(crate) async fn download<A: Api>(
    api: &A,
    run: &Path,
    submission: i64,
    batch: EndedBatch,
    again: Option<Again>,
    progress: impl Fn(ReplyRole) -> Progress,
) -> Result<Fetched, RemoteError> {
    let batch = if again.is_some() { look_again(api, batch).await } else { batch };
    let (mut said, mut trouble) = (Vec::new(), None);
    for (role, file_id) in reply_files(&batch) {
        let target = layout::reply_file(run, layout::reply_number(submission, role));
        // Whole as far as anybody knew, because it has its name.
        let here = target.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        let bytes = if again.is_some() { said_bytes(api, file_id).await } else { SaidBytes::Unasked };
        said.push((role, bytes));
        let is_proven = FileEvidence { role, here, said: bytes }.is_proven();
        let is_wanted = match again {
            _ if here.is_none() => true,
            // A process that died had it fetched again. The index chooses first.
            _ if beside(&target).is_file() => false,
            None => false,
            Some(Again::Unproven) => !is_proven,
            Some(Again::All) => true,
        };
        if !is_wanted {
            continue;
        }
        let to = if here.is_some() { beside(&target) } else { target };
        match api.download(file_id, &to, progress(role)).await {
            Err(error) if error.is_local() => return Err(error),
            Err(error) => trouble = trouble.or(Some((role, error))),
            Ok(_) => {}
        }
    }
    Ok(Fetched { batch, said, trouble })
}

/// Where a reply file is put that is fetched although it is here.
pub(crate) fn beside(target: &Path) -> PathBuf {
    target.with_extension("again")
}

/// The batch as the service shows it now, if it does; what it once named stays named.
async fn look_again<A: Api>(api: &A, batch: EndedBatch) -> EndedBatch {
    match api.batch(&batch.id).await {
        Ok(seen) if seen.status.is_terminal() => {
            let seen = EndedBatch::of(&seen);
            EndedBatch {
                output_file_id: seen.output_file_id.or(batch.output_file_id),
                error_file_id: seen.error_file_id.or(batch.error_file_id),
                error: seen.error.or(batch.error),
                counts: seen.counts.or(batch.counts),
                ..seen
            }
        }
        _ => batch,
    }
}

async fn said_bytes<A: Api>(api: &A, file_id: &str) -> SaidBytes {
    match api.file_bytes(file_id).await {
        Ok(Some(bytes)) => SaidBytes::Bytes(bytes),
        Ok(None) => SaidBytes::Nothing,
        Err(_) => SaidBytes::Unknown,
    }
}

pub(crate) fn damaged(files: &Files, what: String) -> Error {
    let hint = "restore the directory or the input; nothing is submitted meanwhile".to_owned();
    Error::Directory { path: files.run.clone(), what, hint }
}

/// What an error reply says, as it is counted.
pub(crate) fn error_label(files: &Files, slot: Slot) -> Result<String, Error> {
    let path = layout::reply_file(&files.run, slot.file);
    Ok(files.redactor.beginning(&index::error_label(&path, slot, files.ids)?).into_owned())
}

/// Which requests of a batch that has ended are worth sending again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchWorth {
    /// Somebody cancelled it: that was a decision.
    cancelled: bool,
    /// A request without a reply may get one.
    unanswered: bool,
}

impl BatchWorth {
    /// With a decision, nothing speaks against what has no output.
    pub(crate) fn of(batch: &EndedBatch, decided: bool) -> Self {
        if decided {
            return Self { cancelled: false, unanswered: true };
        }
        let status = BatchStatus::read(&batch.status);
        let unanswered = match status {
            BatchStatus::Failed => failed_batch_worth_retrying(batch.error.as_deref()),
            _ => true,
        };
        Self { cancelled: status == BatchStatus::Cancelled, unanswered }
    }

    /// How many requests with these slots are worth sending again, and the first.
    pub(crate) fn left_over(self, seqs: &[u64], slots: &[Option<Slot>]) -> LeftOver {
        let mut left = seqs.iter().zip(slots).filter(|(_, slot)| self.again(**slot)).map(|(seq, _)| *seq);
        left.next().map_or(LeftOver::default(), |first| LeftOver { count: 1 + left.count() as u64, first })
    }

    /// Whether a request with this slot is worth sending again.
    pub(crate) fn again(self, slot: Option<Slot>) -> bool {
        !self.cancelled
            && match slot {
                None => self.unanswered,
                Some(slot) => slot.kind == ReplyKind::Retryable,
            }
    }
}

pub(crate) fn reply_files(batch: &EndedBatch) -> impl Iterator<Item = (ReplyRole, &str)> {
    let output = batch.output_file_id.as_deref().map(|id| (ReplyRole::Output, id));
    let errors = batch.error_file_id.as_deref().map(|id| (ReplyRole::Error, id));
    output.into_iter().chain(errors)
}
