//! The doctor: whether a run directory matches its Ledger, and what can be repaired.
//!
//! In: a run directory that no process is using. Out: findings. What can be rebuilt (slots from reply files, reply
//! files from the service) is reverted to the step that creates it, for the next `run`; nothing is submitted again.
//!
//! What is compared: the database with itself and with the intents beside it; the input with each shard's checksum;
//! each reply file with the checksum taken when it was indexed; each slot with the id, or one that is nearly the id, of
//! the request that it answers; the number of outputs and errors with what was counted.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::directory::{RunDirectory, layout};
use crate::input::request_index::Record;
use crate::input::shard_lines::Members;
use crate::input::shard_reader::ShardReader;
use crate::ledger::Ledger;
use crate::model::reply::ReplyKind;
use crate::model::shard_state::{EndedBatch, ShardRow, ShardState};
use crate::model::shown::Name;
use crate::results::id_table::IdTable;
use crate::results::index;
use crate::results::reply_index::{ReplyIndex, Slot};
use crate::run::error::Error;
use crate::run::open;
use crate::run::open::Prepared;
use crate::storage::durable;

/// A problem that was found.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Finding {
    /// The shard that it concerns; `None` for the run as a whole.
    pub shard: Option<u32>,
    /// What is wrong.
    pub what: String,
    /// What has been, or would be, done about it.
    pub remedy: Remedy,
}

/// What can be done about a [`Finding`].
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// The next run looks for its batch in the service's list.
    LookAgain,
    /// The next run rebuilds the slots from the reply files.
    IndexAgain,
    /// The next run fetches the reply files again.
    DownloadAgain,
    /// Nothing: the original must be restored from elsewhere.
    Restore,
}

/// Examines the run at `path`; with `mend`, reverts what can be rebuilt to the step that creates it.
///
/// # Errors
/// When the run is locked, or its Ledger is unreadable.
pub fn examine(path: &Path, mend: bool) -> Result<Vec<Finding>, Error> {
    let directory = RunDirectory::open(path)?;
    let mut ledger = Ledger::open_unverified(&layout::ledger(path))?;
    let mut findings: Vec<Finding> = ledger.damage()?.into_iter().map(|what| whole("ledger", &what)).collect();
    if !findings.is_empty() {
        return Ok(findings);
    }
    let forgotten = examine_submissions(&mut ledger, mend)?;
    if forgotten.iter().any(|finding| !mend || finding.remedy == Remedy::Restore) {
        return Ok(forgotten);
    }
    findings.extend(forgotten);
    let mut prepared = match open::open_run(directory, Some(ledger), true) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(vec![whole("run directory", &error.to_string())]),
    };
    let replies = open_replies(path, prepared.requests.len(), mend)?;
    let damaged = replies.damaged()?;
    if mend {
        replies.clear(&damaged)?;
    }
    for known in prepared.ledger.shards()? {
        if let Some(what) = examine_input(&prepared, path, &known) {
            findings.push(Finding { shard: Some(known.shard.number), what, remedy: Remedy::Restore });
            continue;
        }
        if let Some((what, remedy)) = examine_replies(&prepared, &replies, &damaged, path, &known)? {
            if mend {
                take_back(&mut prepared.ledger, path, &known, remedy)?;
            }
            findings.push(Finding { shard: Some(known.shard.number), what, remedy });
        }
    }
    Ok(findings)
}

/// Opens the reply index. One that is not an index of this version is replaced by an empty one: with `mend` on disk,
/// otherwise by a temporary one.
fn open_replies(run: &Path, slots: u64, mend: bool) -> Result<ReplyIndex, Error> {
    let path = layout::replies_index(run);
    match ReplyIndex::open_or_create(&path, slots) {
        Err(error) if error.source.kind() == std::io::ErrorKind::InvalidData => {
            if !mend {
                return Ok(ReplyIndex::scratch(run, slots)?);
            }
            durable::remove_file(&path)?;
            Ok(ReplyIndex::open_or_create(&path, slots)?)
        }
        opened => Ok(opened?),
    }
}

/// Submissions that are missing from the Ledger; with `mend` they are restored, with unknown outcomes.
fn examine_submissions(ledger: &mut Ledger, mend: bool) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for intent in ledger.forgotten()? {
        let known = !mend || ledger.remember(&intent)?;
        let what = format!("ledger: submission {} was recorded but is missing", intent.submission);
        let remedy = if known { Remedy::LookAgain } else { Remedy::Restore };
        findings.push(Finding { shard: Some(intent.shard), what, remedy });
    }
    Ok(findings)
}

fn whole(of: &str, what: &str) -> Finding {
    Finding { shard: None, what: format!("{of}: {what}"), remedy: Remedy::Restore }
}

/// Reads a shard's lines as an upload would.
fn examine_input(prepared: &Prepared, run: &Path, known: &ShardRow) -> Option<String> {
    let (source, requests, envelope) = (prepared.source.clone(), prepared.requests.clone(), prepared.line.envelope);
    let read = ShardReader::open(source, requests, known.shard.clone(), run)
        .map_err(|error| std::io::Error::other(error.to_string()))
        .and_then(|reader| std::io::copy(&mut reader.with_envelope(envelope), &mut std::io::sink()));
    read.err().map(|error| error.to_string())
}

/// Compares a shard's slots and reply files with each other and with the Ledger.
fn examine_replies(
    prepared: &Prepared,
    replies: &ReplyIndex,
    damaged: &BTreeSet<u64>,
    run: &Path,
    known: &ShardRow,
) -> Result<Option<(String, Remedy)>, Error> {
    let ShardState::Indexed { submission, batch } = &known.state else { return Ok(None) };
    for number in reply_numbers(*submission, batch) {
        let path = layout::reply_file(run, number);
        match index::file_checksum(&path) {
            // It could not be fetched, and the user decided to continue without it.
            Err(_) if known.accepted && prepared.ledger.reply_checksum(number)?.is_none() => {}
            Err(error) => return Ok(Some((error.to_string(), Remedy::DownloadAgain))),
            Ok(found) if prepared.ledger.reply_checksum(number)? != Some(format!("{found:032x}")) => {
                let what = format!("{} has changed since it was indexed", Name(&path));
                return Ok(Some((what, Remedy::DownloadAgain)));
            }
            Ok(_) => {}
        }
    }
    let members = Members::collect(&known.shard, &prepared.requests, run)?;
    let seqs: Vec<u64> = members.iter().map(|(seq, _)| *seq).collect();
    let unsound = seqs.iter().filter(|seq| damaged.contains(seq)).count();
    if unsound > 0 {
        return Ok(Some((format!("{unsound} of its slots in the reply index are damaged"), Remedy::IndexAgain)));
    }
    let own: Vec<u32> = reply_numbers(*submission, batch).collect();
    // A later round accounts for the requests that it has taken over: the slots that it filled, and retryable errors.
    let answers_for = |slot: &Slot| !known.followed || own.contains(&slot.file) && slot.kind != ReplyKind::Retryable;
    let table = IdTable::new(members.iter().map(|(_, record)| record.id_hash));
    let (mut outputs, mut errors) = (0, 0);
    for ((seq, record), slot) in members.iter().zip(replies.read_each(&seqs)?) {
        let Some(slot) = slot.filter(answers_for) else { continue };
        let answered = index::id_at(&layout::reply_file(run, slot.file), slot, prepared.ids);
        let is_other = || answered.is_none_or(|id_hash| table.get(id_hash).is_some());
        if answered != Some(record.id_hash) && (is_other() || !is_near(prepared, run, slot, *seq, record)?) {
            return Ok(Some((
                format!("the slot of Seq {seq} does not refer to a reply of that request"),
                Remedy::IndexAgain,
            )));
        }
        *if slot.kind.is_error() { &mut errors } else { &mut outputs } += 1;
    }
    let counted = prepared.ledger.outcomes(known.shard.number)?;
    if counted != (outputs, errors) {
        let what = format!(
            "{} outputs and {} errors were counted, the index has {outputs} and {errors}",
            counted.0, counted.1
        );
        return Ok(Some((what, Remedy::IndexAgain)));
    }
    Ok(None)
}

/// Whether a slot refers to a reply whose id is nearly that of this request.
fn is_near(prepared: &Prepared, run: &Path, slot: Slot, seq: u64, record: &Record) -> Result<bool, Error> {
    let path = layout::reply_file(run, slot.file);
    let mut line = vec![0; record.length as usize];
    prepared.source.read_at(record.offset, &mut line)?;
    Ok(record.custom_id(seq, &line).is_some_and(|id| index::is_near(&path, slot, &id).unwrap_or(false)))
}

fn take_back(ledger: &mut Ledger, run: &Path, known: &ShardRow, remedy: Remedy) -> Result<(), Error> {
    let ShardState::Indexed { submission, batch } = &known.state else { return Ok(()) };
    if remedy == Remedy::DownloadAgain {
        for number in reply_numbers(*submission, batch) {
            durable::remove_file(&layout::reply_file(run, number))?;
        }
    }
    Ok(ledger.take_back(known.shard.number, remedy == Remedy::DownloadAgain)?)
}

fn reply_numbers(submission: i64, batch: &EndedBatch) -> impl Iterator<Item = u32> {
    batch.reply_files().map(move |(role, _)| layout::reply_number(submission, role))
}
