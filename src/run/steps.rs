//! The steps that take a shard further, each a piece of work of its own: what is done, without what it means.
//!
//! In: a shard and what the last step left. Out: an [`Outcome`] for the driver to record. A step that is cut off by a crash
//! has done nothing that the next attempt minds.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::layout;
use super::state::{EndedBatch, LeftOver};
use crate::custom_id::IdHasher;
use crate::durable::{self, FileError};
use crate::error::Error;
use crate::input::envelope::Envelope;
use crate::input::members::Members;
use crate::input::pack::Shard;
use crate::input::request_index::{Record, RequestIndex};
use crate::input::shard_reader::ShardReader;
use crate::input::source::Source;
use crate::remote::{
    Api, Batch, BatchStatus, Listing, Payload, Progress, Redactor, RemoteError, RemoteFile, Submission,
};
use crate::results::ResultsError;
use crate::results::id_table::IdTable;
use crate::results::index::{self, Indexed, ReplyFile};
use crate::results::reply::{ReplyKind, ReplyRole};
use crate::results::reply_file::{self, Strays};
use crate::results::reply_index::{ReplyIndex, Slot};
use crate::results::retry_class::failed_batch_worth_retrying;
use crate::results::side_files::SideFiles;

/// What came of a step.
#[derive(Debug)]
pub(crate) enum Outcome {
    Uploaded { shard: u32, result: Result<RemoteFile, RemoteError> },
    Ready { shard: u32, result: Result<Listing, RemoteError> },
    Created { shard: u32, submission: i64, answer: Submission },
    Listed(Result<Listing, RemoteError>),
    Looked { shard: u32, result: Result<Batch, RemoteError> },
    Cancelled { batch_id: String, result: Result<Batch, RemoteError> },
    Downloaded { shard: u32, result: Result<(), (ReplyRole, RemoteError)> },
    Indexed { shard: u32, result: Result<ShardIndexed, Error> },
}

/// What the steps work on.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) run: PathBuf,
    pub(crate) source: Arc<Source>,
    pub(crate) requests: Arc<RequestIndex>,
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
}

/// Fetches the files that a batch left, those that are not here yet. `again` fetches those that are here a second time, and keeps the
/// longer of the two: what the service keeps under an id does not change, so the shorter one was cut off, unless the longer one is no reply
/// file. `absent` takes a file of
/// errors that is not at the service for an empty one; one of outputs never, because what it would have answered is paid for.
///
/// An error comes with the file that it is about.
pub(crate) async fn download<A: Api>(
    api: &A,
    run: &Path,
    submission: i64,
    batch: &EndedBatch,
    (again, absent): (bool, bool),
    progress: impl Fn(ReplyRole) -> Progress,
) -> Result<(), (ReplyRole, RemoteError)> {
    for (role, file_id) in reply_files(batch) {
        let target = layout::reply_file(run, layout::reply_number(submission, role));
        // Whole as far as anybody knew, because it has its name.
        let is_here = target.is_file();
        if is_here && !again {
            continue;
        }
        let to = if is_here { target.with_extension("again") } else { target.clone() };
        let of_role = |error: FileError| (role, error.into());
        match api.download(file_id, &to, progress(role)).await {
            Err(error) if absent && role == ReplyRole::Error && error.is_gone() => {
                durable::publish_bytes(&to, b"").map_err(of_role)?;
            }
            fetched => drop(fetched.map_err(|error| (role, error))?),
        }
        if is_here {
            keep_better(&to, &target).map_err(of_role)?;
        }
    }
    Ok(())
}

/// Puts `second` into the place of `first` if it is longer, or the first one was never a reply file, and removes it otherwise.
fn keep_better(second: &Path, first: &Path) -> Result<(), FileError> {
    let bytes = |path: &Path| Ok(path.metadata().map_err(FileError::on("read", path))?.len());
    let is_better = bytes(second)? > bytes(first)? || reply_file::is_stray(first)? && !reply_file::is_stray(second)?;
    if is_better { durable::publish(second, first) } else { durable::remove_file(second) }
}

/// What became of a shard's replies.
#[derive(Debug)]
pub(crate) enum ShardIndexed {
    /// They are in the index: what they were, what they left, and the numbers and checksums of their files.
    Whole(Indexed, LeftOver, Vec<(u32, u128)>),
    /// So many requests stand in no reply file, which should not be. Nothing was written.
    Lacking(u64),
}

/// Puts the replies to a shard into the reply index. `lacking` says that requests without a reply are taken as they are, `followed`
/// that a later round has taken up what they left, and counts it.
pub(crate) fn index(
    files: &Files,
    shard: &Shard,
    submission: i64,
    batch: &EndedBatch,
    lacking: bool,
    followed: bool,
) -> Result<ShardIndexed, Error> {
    let members = Members::collect(shard, &files.requests, &files.run)?;
    if members.len() as u64 != shard.requests {
        return Err(damaged(
            files,
            format!("has {} requests of shard {}'s {}", members.len(), shard.number, shard.requests),
        ));
    }
    let seqs: Vec<u64> = members.iter().map(|(seq, _)| *seq).collect();
    let table = IdTable::new(members.iter().map(|(_, record)| record.id_hash));
    let own: Vec<ReplyFile> = reply_files(batch)
        .map(|(role, _)| {
            let number = layout::reply_number(submission, role);
            ReplyFile { number, path: layout::reply_file(&files.run, number), role }
        })
        .collect();
    let is_own = |slot: &Slot| own.iter().any(|file| file.number == slot.file);
    let mut slots = files.replies.read_each(&seqs)?;
    for slot in &mut slots {
        // Left by an attempt that was cut off before it was recorded.
        slot.take_if(|slot| is_own(slot));
    }
    let mut aside = SideFiles::new(&layout::aside(&files.run, submission));
    // What came in the place of a reply file may come right when it is fetched again; if not, what can be read of it counts.
    let strays = if lacking || followed { Strays::SetAside } else { Strays::RefuseWhole };
    let indexed = index::index(&own, &table, files.ids, files.threads, strays, &mut slots, &mut aside);
    let mut indexed = match indexed {
        Err(ResultsError::NotReplies { .. }) => return Ok(ShardIndexed::Lacking(seqs.len() as u64)),
        indexed => indexed?,
    };
    indexed.rename_labels(|label| files.redactor.beginning(&label).into_owned());
    let unnamed = seqs.len() as u64 - indexed.outputs - indexed.errors;
    if unnamed > 0 && indexed.unknown > 0 {
        // Before they are taken for strangers, and what they answer is sent and paid for again.
        know_ids(files, &members)?;
    }
    if unnamed > 0 && !lacking && !followed {
        return Ok(ShardIndexed::Lacking(unnamed));
    }
    aside.finish()?;
    let before = layout::reply_number(submission, ReplyRole::Output);
    for slot in slots.iter().flatten().filter(|slot| slot.file < before) {
        // The error of an earlier round stands, because this one brought nothing.
        indexed.count_error(&error_label(files, *slot)?);
    }
    let worth = BatchWorth::of(batch, false);
    for slot in slots.iter().flatten().filter(|slot| followed && is_own(slot) && worth.again(Some(**slot))) {
        // The later round has brought nothing either, and counts it.
        indexed.forget_error(&error_label(files, *slot)?);
    }
    files.replies.write_each(&seqs, &slots)?;
    let left_over = worth.left_over(&seqs, &slots);
    let files = own.iter().map(|file| file.number).zip(indexed.checksums.iter().copied()).collect();
    Ok(ShardIndexed::Whole(indexed, left_over, files))
}

/// Makes sure that the request index still knows the requests by the ids that stand in their lines.
fn know_ids(files: &Files, members: &[(u64, Record)]) -> Result<(), Error> {
    for (seq, record) in members {
        let mut line = vec![0; record.length as usize];
        files.source.read_at(record.offset, &mut line)?;
        let hash = record.custom_id(*seq, &line).map(|custom_id| files.ids.hash(&custom_id));
        if hash != Some(record.id_hash) {
            return Err(damaged(files, format!("does not know request {seq} by the id that it has in the input")));
        }
    }
    Ok(())
}

fn damaged(files: &Files, what: String) -> Error {
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

fn reply_files(batch: &EndedBatch) -> impl Iterator<Item = (ReplyRole, &str)> {
    let output = batch.output_file_id.as_deref().map(|id| (ReplyRole::Output, id));
    let errors = batch.error_file_id.as_deref().map(|id| (ReplyRole::Error, id));
    output.into_iter().chain(errors)
}
