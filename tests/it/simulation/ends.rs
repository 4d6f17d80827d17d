//! How batches end at the simulated service, and what they leave.
//!
//! In: the lines of a batch's file and how it is to end. Out: its output and its error file. The faults decide whether
//! a request gets its expected outcome.

use batchline::api::{BatchStatus, RequestCounts};
use batchline::model::reply::ReplyKind;

use super::faults::Fault;
use super::rows::{self, ReplyLine, ReplyLines};
use super::world::{Left, Says, StoredReplies, World};

impl World {
    /// Lets the batches end whose time has come.
    pub(super) fn catch_up(&mut self) {
        for number in 0..self.batches.len() {
            let batch = &self.batches[number];
            if batch.left.is_some() || batch.ends > self.last_seen {
                continue;
            }
            let left = self.end(number);
            self.note(format!("batch {number} ends as {}", left.status));
            self.batches[number].left = Some(left);
        }
    }

    fn end(&mut self, number: usize) -> Left {
        let (status, error) = self.batches[number].end.clone();
        if let Some(error) = error {
            return Left { status, error: Some(error.to_owned()), files: [None, None], counts: None };
        }
        let content = self.files[self.batches[number].file].content.clone();
        let [outputs, errors] = answer(self, number, &content, &status);
        let (counts, tells) = self.counts(&content, &outputs, &errors);
        // With an error at hand, nothing tells of an output that has not come.
        let silence_tells = status == BatchStatus::Completed && counts.is_none() && !rows::has_both(&outputs, &errors);
        let mut store = |lines: ReplyLines| {
            (!lines.is_empty()).then(|| {
                let says = match () {
                    () if self.happens(Fault::SizeAbsent) => Says::Nothing,
                    () if self.happens(Fault::SizeLow) => Says::TooLittle,
                    () => Says::Truth,
                };
                let is_witnessed = says == Says::Truth || tells || silence_tells && says == Says::Nothing;
                self.replies.push(StoredReplies { lines, given: None, trouble: None, says, is_witnessed });
                self.replies.len() - 1
            })
        };
        let files = [store(outputs), store(errors)];
        Left { status, error: None, files, counts }
    }

    /// What the service counts of a batch, and whether that tells what it has answered.
    fn counts(&mut self, content: &[u8], outputs: &ReplyLines, errors: &ReplyLines) -> (Option<RequestCounts>, bool) {
        if !self.dialect.carries_tag() || self.happens(Fault::CountsAbsent) {
            return (None, false);
        }
        let total = rows::seqs_of(content).count() as u64;
        let tally = rows::tally(outputs, errors);
        let mut counts = RequestCounts { total, completed: tally.outputs, failed: tally.errors };
        if self.faults.rng.bool() {
            counts.failed += tally.untried;
        }
        let dropped = total - tally.outputs - tally.errors - tally.untried;
        if dropped > 0 && self.happens(Fault::CountsDropped) {
            counts.completed += dropped;
        }
        let low = self.happens(Fault::CountsLow);
        if low {
            counts.completed /= 2;
        }
        (Some(counts), !low)
    }
}

/// The output and the error lines of a batch.
fn answer(world: &mut World, batch: usize, content: &[u8], status: &BatchStatus) -> [ReplyLines; 2] {
    let mut seqs: Vec<u64> = rows::seqs_of(content).collect();
    let mut files = [Vec::new(), Vec::new()];
    if *status != BatchStatus::Completed {
        let tried = world.faults.rng.usize(..=seqs.len());
        let rest = seqs.split_off(tried);
        if *status == BatchStatus::Expired && world.faults.rng.bool() {
            files[1].extend(
                rest.into_iter().map(|seq| rows::error(seq, "batch_expired", "too late", ReplyKind::Retryable)),
            );
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
        let stranger = rows::output(seq, batch, "stranger");
        let bytes = String::from_utf8_lossy(&stranger.bytes).replace("\"r-", "\"R-").into_bytes();
        outputs.push(ReplyLine { bytes, means: None, ..stranger });
    }
    if world.happens(Fault::RowUnreadable) {
        let lines = if world.faults.rng.bool() { &mut *outputs } else { &mut *errors };
        lines.push(ReplyLine { bytes: b"<html>502 Bad Gateway".to_vec(), ending: b"\r\n", means: None });
    }
    if world.happens(Fault::RowRetryable) {
        errors.push(rows::error(seq, "batch_client_error", "Internal Server Error", ReplyKind::Retryable));
        return;
    }
    if rows::fate(world.seed, seq) == ReplyKind::Error {
        errors.push(rows::error(seq, "batch_client_error", "Maximum four stop sequences allowed", ReplyKind::Error));
        return;
    }
    let mut reply = rows::output(seq, batch, "answer");
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
        outputs.push(rows::output(seq, batch, "another answer"));
    }
    if world.happens(Fault::RowInBoth) {
        errors.push(rows::error(seq, "batch_client_error", "Internal Server Error", ReplyKind::Retryable));
    }
    outputs.push(reply);
}
