//! How the simulated service answers the requests of a batch.
//!
//! In: the lines of a batch's file and how the batch ends. Out: the lines of its output and its error file, each with what it means, so
//! that the oracle need not parse them.
//!
//! What a request deserves depends on the seed and its id alone: an output, or an error of its own fault. The faults decide whether
//! it gets that.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::faults::Fault;
use super::world::World;
use crate::model::reply::ReplyKind;
use crate::remote::BatchStatus;

/// A line of a reply file.
#[derive(Debug, Clone)]
pub(super) struct ReplyLine {
    /// Without its end.
    pub(super) bytes: Vec<u8>,
    ending: &'static [u8],
    /// Whom it answers, and how; `None` for nobody.
    pub(super) means: Option<(u64, ReplyKind)>,
}

/// The lines of a reply file.
pub(super) type ReplyLines = Vec<ReplyLine>;

/// The `custom_id` of a request.
pub(super) fn custom_id(seq: u64) -> String {
    format!("r-{seq}")
}

/// The Seq of a request line.
pub(super) fn seq_of(line: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(line).expect("the run uploads requests");
    let id = value["custom_id"].as_str().expect("a request has an id");
    id.strip_prefix("r-").and_then(|seq| seq.parse().ok()).expect("an id as the simulation made it")
}

/// The Seqs of a file with requests.
pub(super) fn seqs_of(content: &[u8]) -> impl Iterator<Item = u64> {
    content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(seq_of)
}

/// What a request deserves.
pub(super) fn fate(seed: u64, seq: u64) -> ReplyKind {
    let tenth = xxh3_64_with_seed(&seq.to_le_bytes(), seed).is_multiple_of(10);
    if tenth { ReplyKind::Error } else { ReplyKind::Output }
}

/// The first lines of a file as bytes.
pub(super) fn bytes_of(lines: &[ReplyLine]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.bytes.as_slice(), line.ending]).flatten().copied().collect()
}

/// How many requests have an output, an error, or a line that says that they were not tried.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) outputs: u64,
    pub(super) errors: u64,
    pub(super) untried: u64,
}

/// Whether a request has an output and an error.
pub(super) fn has_both(outputs: &ReplyLines, errors: &ReplyLines) -> bool {
    let seqs = |lines: &ReplyLines| lines.iter().filter_map(|line| line.means).map(|(seq, _)| seq).collect();
    let (outputs, errors): (BTreeSet<u64>, BTreeSet<u64>) = (seqs(outputs), seqs(errors));
    !outputs.is_disjoint(&errors)
}

/// Counts the requests that reply lines answer, each once.
pub(super) fn tally(outputs: &ReplyLines, errors: &ReplyLines) -> Tally {
    let is_untried = |line: &ReplyLine| line.bytes.windows(13).any(|window| window == b"batch_expired");
    let mut seen = BTreeSet::new();
    let mut tally = Tally::default();
    let is_output = |line: &&ReplyLine| line.means.is_some_and(|(_, kind)| kind == ReplyKind::Output);
    let all = || outputs.iter().chain(errors);
    for line in all().filter(is_output).chain(all().filter(|line| !is_output(line))) {
        let Some((seq, kind)) = line.means else { continue };
        if seen.insert(seq) {
            *match kind {
                ReplyKind::Output => &mut tally.outputs,
                _ if is_untried(line) => &mut tally.untried,
                _ => &mut tally.errors,
            } += 1;
        }
    }
    tally
}

/// The output and the error lines of a batch.
pub(super) fn answer(world: &mut World, batch: usize, content: &[u8], status: &BatchStatus) -> [ReplyLines; 2] {
    let mut seqs: Vec<u64> = seqs_of(content).collect();
    let mut files = [Vec::new(), Vec::new()];
    if *status != BatchStatus::Completed {
        let tried = world.faults.rng.usize(..=seqs.len());
        let rest = seqs.split_off(tried);
        if *status == BatchStatus::Expired && world.faults.rng.bool() {
            files[1].extend(rest.into_iter().map(|seq| error(seq, "batch_expired", "too late", ReplyKind::Retryable)));
        }
    }
    for seq in seqs {
        answer_one(world, batch, seq, &mut files);
    }
    for lines in &mut files {
        world.faults.rng.shuffle(lines);
        if world.faults.rng.bool()
            && let Some(last) = lines.last_mut()
        {
            last.ending = b"";
        }
    }
    files
}

fn answer_one(world: &mut World, batch: usize, seq: u64, [outputs, errors]: &mut [ReplyLines; 2]) {
    if world.happens(Fault::RowDropped) {
        return;
    }
    if world.happens(Fault::RowUnknown) {
        let stranger = output(seq, batch, "stranger");
        let bytes = String::from_utf8_lossy(&stranger.bytes).replace("\"r-", "\"R-").into_bytes();
        outputs.push(ReplyLine { bytes, means: None, ..stranger });
    }
    if world.happens(Fault::RowUnreadable) {
        let lines = if world.faults.rng.bool() { &mut *outputs } else { &mut *errors };
        lines.push(ReplyLine { bytes: b"<html>502 Bad Gateway".to_vec(), ending: b"\r\n", means: None });
    }
    if world.happens(Fault::RowRetryable) {
        errors.push(error(seq, "batch_client_error", "Internal Server Error", ReplyKind::Retryable));
        return;
    }
    if fate(world.seed, seq) == ReplyKind::Error {
        errors.push(error(seq, "batch_client_error", "Maximum four stop sequences allowed", ReplyKind::Error));
        return;
    }
    let mut reply = output(seq, batch, "answer");
    if world.happens(Fault::RowUgly) {
        let ugly: &[u8] = match world.faults.rng.u8(..3) {
            0 => br"half a pair: \ud83d",
            1 => b"no UTF-8: \xff\xfe",
            _ => "\u{2028}\u{0}".as_bytes(),
        };
        let at = reply.bytes.windows(6).position(|window| window == b"answer").expect("it is in there");
        reply.bytes.splice(at..at, ugly.iter().copied());
    }
    if world.happens(Fault::RowDuplicated) {
        outputs.push(reply.clone());
    }
    if world.happens(Fault::RowConflict) {
        outputs.push(output(seq, batch, "another answer"));
    }
    if world.happens(Fault::RowInBoth) {
        errors.push(error(seq, "batch_client_error", "Internal Server Error", ReplyKind::Retryable));
    }
    outputs.push(reply);
}

fn output(seq: u64, batch: usize, text: &str) -> ReplyLine {
    let id = custom_id(seq);
    let line = format!(
        r#"{{"id":"{batch}","custom_id":"{id}","response":{{"status_code":200,"body":{{"text":"{text}","usage":{{"prompt_tokens":1,"completion_tokens":2}}}}}}}}"#
    );
    ReplyLine { bytes: line.into_bytes(), ending: b"\n", means: Some((seq, ReplyKind::Output)) }
}

fn error(seq: u64, code: &str, message: &str, kind: ReplyKind) -> ReplyLine {
    let id = custom_id(seq);
    let line = format!(r#"{{"custom_id":"{id}","error":{{"code":"{code}","message":"{message}"}}}}"#);
    ReplyLine { bytes: line.into_bytes(), ending: b"\n", means: Some((seq, kind)) }
}
