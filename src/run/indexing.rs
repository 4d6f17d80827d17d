//! The step that puts a shard's replies into the reply index.
//!
//! In: a shard, the reply files of its batch, and what the service reports about them. Out: slots, counts, and
//! unfinished requests; or that the replies are incomplete, and nothing is written.
//!
//! Invariants: of a file that was fetched more than once, the version that answers more requests is kept. While the
//! service reports more answers than were fetched, a request without a reply is neither counted nor sent again.

use serde::{Deserialize, Serialize};

use super::directory::layout;
use super::download;
use super::files::Files;
use super::retry_decision::RetryDecision;
use super::verdict::{Evidence, FileEvidence, SaidBytes, Verdict};
use crate::dialect::retry_class::is_untried;
use crate::input::request_index::Record;
use crate::input::shard_lines::Members;
use crate::model::outcome::Indexed;
use crate::model::reply::{ReplyKind, ReplyRole};
use crate::model::shard::Shard;
use crate::model::shard_state::{EndedBatch, Unfinished};
use crate::results::ResultsError;
use crate::results::id_table::IdTable;
use crate::results::index::{self, IndexOptions, ReplyFile};
use crate::results::reply_file::Strays;
use crate::results::reply_index::Slot;
use crate::results::side_files::SideFiles;
use crate::run::error::Error;
use crate::storage::durable;

/// What to do when the fetched replies are incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenShort {
    /// Write nothing: they are fetched again.
    FetchAgain,
    /// Index the fetched replies, and hold the missing ones.
    Hold,
    /// Accept the fetched replies as complete.
    Accept,
}

/// What is to be indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexing {
    /// The shard.
    pub shard: Shard,
    /// The submission whose reply files they are.
    pub submission: i64,
    /// The batch that it created.
    pub batch: EndedBatch,
    /// The reported sizes of its files.
    pub said: Vec<(ReplyRole, SaidBytes)>,
    /// What to do when they are incomplete.
    pub when_short: WhenShort,
    /// Whether a later round has taken over their unfinished requests, and counts them.
    pub followed: bool,
    /// Whether another process sent its requests, so that the input may have changed since.
    pub recheck: bool,
}

/// Replies that are in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Their counts.
    pub indexed: Indexed,
    /// The unfinished requests.
    pub unfinished: Unfinished,
    /// The numbers of their files, and their checksums.
    pub files: Vec<(u32, u128)>,
}

/// The result for a shard's replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardIndexed {
    /// All of them are in the index.
    Whole(Taken),
    /// The fetched ones are in the index; there are more, with the reason why that is known.
    Held(Taken, String),
    /// There are more at the service, or it must be asked whether there are. Nothing was written.
    Short {
        /// Why there are more; without a reason, the service must be asked.
        why: Option<String>,
        /// Whether there are unreadable or unmatched replies.
        strays: bool,
    },
}

/// Puts the replies to a shard into the reply index.
pub(crate) fn index(files: &Files, task: &Indexing) -> Result<ShardIndexed, Error> {
    if task.recheck {
        files.recheck.shard(&task.shard)?;
    }
    let members = members_of(files, &task.shard)?;
    let seqs: Vec<u64> = members.iter().map(|(seq, _)| *seq).collect();
    let table = IdTable::new(members.iter().map(|(_, record)| record.id_hash));
    let own = own_files(files, task, &members, &table)?;
    let mut slots = files.replies.read_each(&seqs)?;
    for slot in &mut slots {
        // Left by an attempt that was interrupted before it was recorded, or that had fewer replies.
        slot.take_if(|slot| task.is_own(slot));
    }
    let mut aside = SideFiles::new(&layout::aside(&files.run, task.submission));
    // Something else in place of a reply file may be right when it is fetched again; if not, its readable part counts.
    let strays = if task.when_short() == WhenShort::FetchAgain { Strays::RefuseWhole } else { Strays::SetAside };
    let options = IndexOptions { ids: files.ids, threads: files.threads, strays };
    let each_id = |tell: &mut dyn FnMut(u64, &str)| each_id(files, &members, tell);
    let mut indexed = match index::index(&own, &table, options, each_id, &mut slots, &mut aside) {
        Err(Error::Results(error @ ResultsError::NotReplies { .. })) => {
            return Ok(ShardIndexed::Short { why: Some(error.to_string()), strays: true });
        }
        indexed => indexed?,
    };
    indexed.rename_labels(|label| files.redactor.beginning(&label).into_owned());
    let evidence = task.evidence(files, &indexed, &slots);
    let held = match (evidence.judge(), task.when_short()) {
        (Verdict::Settled, _) | (_, WhenShort::Accept) => None,
        (Verdict::Short(why), WhenShort::Hold) => Some(why),
        (Verdict::Unproven, WhenShort::Hold) => Some("the sizes of its files are unknown".to_owned()),
        (verdict, WhenShort::FetchAgain) => {
            let why = if let Verdict::Short(why) = verdict { Some(why) } else { None };
            return Ok(ShardIndexed::Short { why, strays: evidence.has_stray_answers() });
        }
    };
    aside.finish()?;
    count_others(files, task, held.is_some(), &slots, &mut indexed)?;
    files.replies.write_each(&seqs, &slots)?;
    let decision = RetryDecision::of(&task.batch, false);
    let unfinished = if held.is_some() { Unfinished::default() } else { decision.unfinished(&seqs, &slots) };
    let files = own.iter().map(|file| file.number).zip(indexed.checksums.iter().copied()).collect();
    let taken = Taken { indexed, unfinished, files };
    Ok(match held {
        Some(why) => ShardIndexed::Held(taken, why),
        None => ShardIndexed::Whole(taken),
    })
}

/// All requests of a shard.
fn members_of(files: &Files, shard: &Shard) -> Result<Vec<(u64, Record)>, Error> {
    let members = Members::collect(shard, &files.requests, &files.run)?;
    if members.len() as u64 != shard.requests {
        let (number, requests) = (shard.number, shard.requests);
        return Err(files.damaged(format!("has {} requests of shard {number}'s {requests}", members.len())));
    }
    Ok(members)
}

/// Counts the errors that did not, or not only, come from this batch.
fn count_others(
    files: &Files,
    task: &Indexing,
    is_held: bool,
    slots: &[Option<Slot>],
    indexed: &mut Indexed,
) -> Result<(), Error> {
    let (before, decision) =
        (layout::reply_number(task.submission, ReplyRole::Output), RetryDecision::of(&task.batch, false));
    for slot in slots.iter().flatten() {
        if is_held && is_held_too(slot, task.submission) {
            indexed.forget_error(&files.error_label(*slot)?);
        } else if !is_held && slot.file < before {
            // The error of an earlier round remains, because this one returned nothing.
            indexed.count_error(&files.error_label(*slot)?);
        } else if task.followed && task.is_own(slot) && decision.again(Some(*slot)) {
            // The later round has returned nothing either, and counts it.
            indexed.forget_error(&files.error_label(*slot)?);
        }
    }
    Ok(())
}

/// Whether a reply of an incomplete shard is held like a missing one: a retryable error, whose request may have an
/// output that was not fetched.
pub(crate) fn is_held_too(slot: &Slot, submission: i64) -> bool {
    layout::is_of(slot.file, submission) && slot.kind == ReplyKind::Retryable
}

impl Indexing {
    /// What to do when replies are incomplete: requests that a later round has taken over are not fetched again.
    fn when_short(&self) -> WhenShort {
        if self.followed { WhenShort::Accept } else { self.when_short }
    }

    fn is_own(&self, slot: &Slot) -> bool {
        layout::is_of(slot.file, self.submission)
    }

    fn evidence(&self, files: &Files, indexed: &Indexed, slots: &[Option<Slot>]) -> Evidence {
        let said = |role| self.said.iter().find(|(of, _)| *of == role).map_or(SaidBytes::Unasked, |(_, said)| *said);
        let evidence = |role| FileEvidence {
            role,
            here: layout::reply_file(&files.run, layout::reply_number(self.submission, role))
                .metadata()
                .ok()
                .map(|metadata| metadata.len()),
            said: said(role),
        };
        let retryable = slots.iter().flatten().filter(|slot| is_held_too(slot, self.submission)).count() as u64;
        let untried = indexed.labels.iter().filter(|(label, _)| is_untried(label)).map(|(_, count)| count).sum();
        Evidence {
            requests: self.shard.requests,
            answered: indexed.outputs + indexed.errors,
            outputs: indexed.outputs,
            retryable,
            untried,
            strays: indexed.unknown + indexed.unreadable,
            status: self.batch.status.clone(),
            counts: self.batch.counts,
            files: self.batch.reply_files().map(|(role, _)| evidence(role)).collect(),
        }
    }
}

/// The fetched reply files, each in its better version.
fn own_files(
    files: &Files,
    task: &Indexing,
    members: &[(u64, Record)],
    table: &IdTable,
) -> Result<Vec<ReplyFile>, Error> {
    let answers = |file: &ReplyFile| answers(files, file, members, table);
    let mut own = Vec::new();
    for (role, _) in task.batch.reply_files() {
        let number = layout::reply_number(task.submission, role);
        let file = ReplyFile { number, path: layout::reply_file(&files.run, number), role };
        let newer = ReplyFile { path: download::beside(&file.path), ..file.clone() };
        if newer.path.is_file() {
            // A service's file does not change: the version with fewer replies was truncated.
            if !file.path.is_file() || answers(&newer)? >= answers(&file)? {
                durable::publish(&newer.path, &file.path)?;
            } else {
                durable::remove_file(&newer.path)?;
            }
        }
        if file.path.is_file() {
            own.push(file);
        }
    }
    Ok(own)
}

/// How many of the requests of `table` a file answers.
fn answers(files: &Files, file: &ReplyFile, members: &[(u64, Record)], table: &IdTable) -> Result<u64, Error> {
    let mut slots = vec![None; members.len()];
    // Never finished, so nothing is set aside.
    let mut aside = SideFiles::new(&file.path);
    let own = std::slice::from_ref(file);
    let options = IndexOptions { ids: files.ids, threads: files.threads, strays: Strays::SetAside };
    let each_id = |tell: &mut dyn FnMut(u64, &str)| each_id(files, members, tell);
    let indexed = index::index(own, table, options, each_id, &mut slots, &mut aside)?;
    Ok(indexed.outputs + indexed.errors)
}

/// Yields the ids of the requests of a shard, each with its number there, and verifies that the request index still has
/// them: otherwise replies would seem unmatched, and their requests would be sent and paid for again.
fn each_id(files: &Files, members: &[(u64, Record)], tell: &mut dyn FnMut(u64, &str)) -> Result<(), Error> {
    for (number, (seq, record)) in (0..).zip(members) {
        let mut line = vec![0; record.length as usize];
        files.source.read_at(record.offset, &mut line)?;
        let custom_id = record.custom_id(*seq, &line).filter(|custom_id| files.ids.hash(custom_id) == record.id_hash);
        let Some(custom_id) = custom_id else {
            return Err(files.damaged(format!("does not know request {seq} by the id that it has in the input")));
        };
        tell(number, &custom_id);
    }
    Ok(())
}
