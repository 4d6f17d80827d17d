//! The lines of reply files, each with what it means, so that the oracle need not parse them.
//!
//! The expected outcome of a request depends on the seed and its id alone: an output, or an error of its own fault.

use std::collections::BTreeSet;

use batchline::model::reply::ReplyKind;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A line of a reply file.
#[derive(Debug, Clone)]
pub(super) struct ReplyLine {
    /// Without its end.
    pub(super) bytes: Vec<u8>,
    pub(super) ending: &'static [u8],
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

/// The expected outcome of a request.
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

/// An output.
pub(super) fn output(seq: u64, batch: usize, text: &str) -> ReplyLine {
    let id = custom_id(seq);
    let line = format!(
        r#"{{"id":"{batch}","custom_id":"{id}","response":{{"status_code":200,"body":{{"text":"{text}","usage":{{"prompt_tokens":1,"completion_tokens":2}}}}}}}}"#
    );
    ReplyLine { bytes: line.into_bytes(), ending: b"\n", means: Some((seq, ReplyKind::Output)) }
}

/// An error.
pub(super) fn error(seq: u64, code: &str, message: &str, kind: ReplyKind) -> ReplyLine {
    let id = custom_id(seq);
    let line = format!(r#"{{"custom_id":"{id}","error":{{"code":"{code}","message":"{message}"}}}}"#);
    ReplyLine { bytes: line.into_bytes(), ending: b"\n", means: Some((seq, kind)) }
}
