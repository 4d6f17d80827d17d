//! What must hold when a run has ended, judged by the service's own record.
//!
//! In: the world, the run directory, what was written. Out: nothing, or a panic that says which promise was broken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use batchline::OnAmbiguous;
use batchline::api::BatchStatus;
use batchline::dialect::retry_class::failed_batch_worth_retrying;
use batchline::ledger::Ledger;
use batchline::model::reply::ReplyKind;
use batchline::model::shard_state::{ShardRow, ShardState};
use batchline::run::directory::layout;

use super::life::Ended;
use super::rows::{self, ReplyLine};
use super::scenario::{Mode, Scenario};
use super::world::{Accepted, StoredBatch, World};

/// Judges a run.
pub(super) struct Oracle<'o> {
    pub(super) scenario: &'o Scenario,
    pub(super) world: &'o World,
    pub(super) ended: &'o Ended,
    shards: Vec<ShardRow>,
    surplus: BTreeMap<String, bool>,
    /// Whether nothing more was submitted, because the service has mixed up batches.
    is_stopped: bool,
}

/// What a request has in the end.
#[derive(Debug, Clone, Default)]
struct Standing<'w> {
    line: Option<&'w ReplyLine>,
    /// Whether the shard that it was in last is held, and has no reply to it.
    held: bool,
    /// The batch that it was in last.
    last: Option<usize>,
    round: u32,
}

impl<'o> Oracle<'o> {
    pub(super) fn new(scenario: &'o Scenario, world: &'o World, ended: &'o Ended) -> Self {
        let ledger = Ledger::open(&layout::ledger(&ended.run)).expect("the ledger can be read");
        let shards = ledger.shards().expect("the ledger makes sense");
        let surplus = ledger.surplus().expect("the ledger can be read");
        let is_stopped = ledger.has_mistaken_batch().expect("the ledger can be read");
        Self { scenario, world, ended, shards, surplus, is_stopped }
    }

    pub(super) fn judge(&self) {
        self.nothing_is_accepted_twice();
        self.batches_are_our_own();
        self.nothing_answered_is_sent_again();
        self.surplus_is_found();
        let Some(summary) = &self.ended.summary else {
            assert_eq!(self.scenario.mode, Mode::Safety, "the run has not ended after {} lives", self.ended.lives);
            return;
        };
        assert_eq!(
            summary.report.outcomes.outputs
                + summary.report.outcomes.errors
                + summary.report.outcomes.missing
                + summary.held,
            self.scenario.requests
        );
        self.output_is_what_was_given();
        self.what_is_worth_it_was_sent_again();
        self.held_are_in_doubt();
        if self.scenario.mode == Mode::Liveness && summary.held_shards.is_empty() {
            for (seq, standing) in self.standings() {
                let kind = standing.line.and_then(|line| line.means).map(|(_, kind)| kind);
                assert_eq!(
                    kind,
                    Some(rows::fate(self.world.seed, seq)),
                    "request {seq} is not answered as it deserves"
                );
            }
        }
    }

    /// P3, and the condition under which `--on-ambiguous retry-after` may pay twice.
    fn nothing_is_accepted_twice(&self) {
        let mut by_file: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        let mut by_mark: BTreeMap<u32, u32> = BTreeMap::new();
        for accepted in self.world.accepted.iter().filter(|accepted| !self.is_excused(accepted)) {
            by_file.entry(accepted.file).or_default().push(accepted);
            if let Some(tag) = &self.world.batches[accepted.batch].tag {
                *by_mark.entry(tag.shard).or_default() += 1;
            }
        }
        if self.scenario.options.batches.on_ambiguous == OnAmbiguous::Hold {
            assert!(by_mark.values().all(|batches| *batches <= 1), "batches that were accepted, by shard: {by_mark:?}");
        }
        for (file, accepted) in by_file {
            // The same content can go up again in a later round; the service may know it by the same id.
            let shards = self.world.files[file].shards.len();
            if accepted.len() <= shards {
                continue;
            }
            let OnAmbiguous::RetryAfter(window) = self.scenario.options.batches.on_ambiguous else {
                panic!("{} batches were accepted for file {file} of {shards} shards", accepted.len());
            };
            let hidden = accepted.windows(2).any(|pair| {
                let omitting = self.world.listings.iter().filter(|listing| {
                    (pair[0].at..pair[1].at).contains(&listing.at) && !listing.batches.contains(&pair[0].batch)
                });
                let times: Vec<Duration> = omitting.map(|listing| listing.at).collect();
                times.len() >= 3 && times[times.len() - 1] - times[0] + Duration::from_secs(1) >= window
            });
            assert!(hidden, "file {file} was submitted again although the list showed its batch");
        }
    }

    /// Whether one may be accepted after it: it failed for want of room; or it was one too many, and asked to stop,
    /// until the other one failed for want of room; or the service refused it, and some list that was begun later and
    /// before the next one did not show it.
    fn is_excused(&self, accepted: &Accepted) -> bool {
        let Accepted { file, batch, at, refused, .. } = *accepted;
        let later = self.world.accepted.iter().filter(|other| other.file == file && other.at > at);
        let next = later.map(|other| other.at).min().unwrap_or(Duration::MAX);
        let is_hidden = || {
            let between = self.world.listings.iter().filter(|listing| (at..next).contains(&listing.at));
            between.clone().any(|listing| !listing.batches.contains(&batch))
        };
        let StoredBatch { lacks_room, cancel_asked, .. } = self.world.batches[batch];
        lacks_room || cancel_asked || refused && is_hidden()
    }

    fn batches_are_our_own(&self) {
        let mut owned = BTreeSet::new();
        for known in &self.shards {
            let Some(batch) = batch_of(known) else { continue };
            assert!(owned.insert(batch), "two shards have batch {batch}");
            let stored = &self.world.batches[batch];
            assert!(!stored.foreign, "shard {} has taken another run's batch {batch}", known.shard.number);
            let shards = &self.world.files[stored.file].shards;
            assert!(shards.contains(&known.shard.number), "batch {batch} works on another shard's file");
        }
    }

    /// The Seqs of each shard, from what it uploaded.
    fn members(&self, shard: u32) -> Vec<u64> {
        let file = self.world.files.iter().find(|file| file.shards.contains(&shard));
        file.map(|file| rows::seqs_of(&file.content).collect()).unwrap_or_default()
    }

    /// What was given out of a batch's reply files, outputs first.
    fn given(&self, batch: usize) -> impl Iterator<Item = &'o ReplyLine> {
        let files = self.world.batches[batch].left.as_ref().map(|left| left.files).into_iter().flatten().flatten();
        files.flat_map(|file| {
            let replies = &self.world.replies[file];
            &replies.lines[..replies.given.unwrap_or(0)]
        })
    }

    /// The reply that stands: the first output, or else the first error.
    fn reply(&self, batch: usize, seq: u64) -> Option<&'o ReplyLine> {
        let own = || self.given(batch).filter(|line| line.means.is_some_and(|(answered, _)| answered == seq));
        own().find(|line| is_output(line)).or_else(|| own().next())
    }

    /// What a batch of ours has answered is in no later round, whether the answer has come here or not.
    fn nothing_answered_is_sent_again(&self) {
        let mut answered: BTreeMap<u64, (u32, usize)> = BTreeMap::new();
        for known in &self.shards {
            let (members, number) = (self.members(known.shard.number), known.shard.number);
            for seq in &members {
                if let Some((round, batch)) = answered.get(seq) {
                    assert!(
                        *round >= known.shard.round,
                        "request {seq}: shard {number} repeats it after batch {batch}"
                    );
                }
            }
            if let Some(batch) = batch_of(known) {
                let outputs = members.iter().filter(|seq| self.is_answered(batch, **seq));
                answered.extend(outputs.map(|seq| (*seq, (known.shard.round, batch))));
            }
        }
    }

    /// Whether an output stands in a batch's reply files at the service.
    fn is_answered(&self, batch: usize, seq: u64) -> bool {
        let files = self.world.batches[batch].left.as_ref().map(|left| left.files).into_iter().flatten().flatten();
        let mut lines = files.flat_map(|file| &self.world.replies[file].lines);
        lines.any(|line| line.means == Some((seq, ReplyKind::Output)))
    }

    fn standings(&self) -> BTreeMap<u64, Standing<'o>> {
        let mut standings: BTreeMap<u64, Standing<'o>> =
            (0..self.scenario.requests).map(|seq| (seq, Standing::default())).collect();
        for known in &self.shards {
            let batch = batch_of(known).filter(|_| matches!(known.state, ShardState::Indexed { .. }));
            let here = batch_of(known)
                .filter(|_| matches!(known.state, ShardState::Indexed { .. } | ShardState::Incomplete { .. }));
            for seq in self.members(known.shard.number) {
                let standing = standings.get_mut(&seq).expect("requests of the input alone are sent");
                standing.last = batch;
                standing.round = known.shard.round;
                let line = here.and_then(|batch| self.reply(batch, seq));
                let may_pass = |line: &ReplyLine| line.means.is_some_and(|(_, kind)| kind == ReplyKind::Retryable);
                let is_held = known.state.is_held() || self.is_stopped && known.state.next().is_some();
                standing.held = is_held && line.is_none_or(may_pass);
                standing.line = if standing.held { None } else { line.or(standing.line) };
            }
        }
        standings
    }

    fn output_is_what_was_given(&self) {
        let mut lines: Vec<&[u8]> = self.ended.output.split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.pop(), Some(&b""[..]), "the output ends in a line end");
        let standings = self.standings();
        assert_eq!(lines.len(), standings.len(), "there is a line for each request");
        for (line, (seq, standing)) in lines.iter().zip(standings) {
            if self.may_be_unsent(seq) && has_code(line, "held") {
                continue;
            }
            if let Some(given) = standing.line {
                let (line, given) = (String::from_utf8_lossy(line), String::from_utf8_lossy(&given.bytes));
                assert_eq!(line, given, "request {seq}");
                continue;
            }
            let value: serde_json::Value = serde_json::from_slice(line).expect("a line of our own is JSON");
            assert_eq!(value["custom_id"], rows::custom_id(seq));
            assert_eq!(value["error"]["code"], if standing.held { "held" } else { "missing" }, "request {seq}");
        }
    }

    /// Whether a request may be in a shard that was not even uploaded before everything was stopped.
    fn may_be_unsent(&self, seq: u64) -> bool {
        let is_packed = |known: &&ShardRow| known.state == ShardState::Packed;
        let mut packed = self.shards.iter().filter(is_packed).map(|known| &known.shard);
        self.is_stopped && packed.any(|shard| (shard.first..=shard.last).contains(&seq))
    }

    fn what_is_worth_it_was_sent_again(&self) {
        if self.is_stopped {
            return;
        }
        for (seq, standing) in self.standings() {
            let (Some(batch), rounds) = (standing.last, self.scenario.options.batches.rounds) else { continue };
            let left = self.world.batches[batch].left.as_ref().expect("it was indexed");
            assert!(!standing.held);
            let kind = standing.line.and_then(|line| line.means).map(|(_, kind)| kind);
            let worth = match (kind, &left.status) {
                (_, BatchStatus::Cancelled) | (Some(ReplyKind::Output | ReplyKind::Error), _) => false,
                (None, BatchStatus::Failed) => failed_batch_worth_retrying(left.error.as_deref()),
                _ => true,
            };
            assert!(!worth || standing.round >= rounds, "request {seq} was not sent again");
        }
    }

    /// A shard is held only when no answer came and the list did not show its batch.
    fn held_are_in_doubt(&self) {
        for known in &self.shards {
            let number = known.shard.number;
            if let ShardState::Lost { batch_id, .. } = &known.state {
                let settled = self.scenario.mode == Mode::Liveness;
                assert!(!settled, "shard {number} is still held, although its batch {batch_id} can be looked at");
            }
            let ShardState::Held { .. } = known.state else { continue };
            let accepted = self.world.accepted.iter().filter(|accepted| {
                self.world.files[accepted.file].shards.contains(&number)
                    && !self.world.batches[accepted.batch].lacks_room
                    // It was one too many when another one, which failed later, worked for the shard.
                    && !self.surplus.contains_key(&format!("batch-{}", accepted.batch))
                    && !self.shards.iter().any(|other| batch_of(other) == Some(accepted.batch))
            });
            for accepted in accepted {
                let settled = self.scenario.mode == Mode::Liveness;
                assert!(!settled, "shard {number} is still held, although batch {} can be found", accepted.batch);
                let last = self.world.listings.iter().rfind(|listing| listing.life == self.world.life);
                let shown = last.is_some_and(|listing| listing.batches.contains(&accepted.batch));
                assert!(!shown, "shard {number} is held although the list shows its batch {}", accepted.batch);
            }
        }
    }

    /// R6: a second batch that a list showed is known, and was asked to stop.
    fn surplus_is_found(&self) {
        let adopted: BTreeSet<usize> = self.shards.iter().filter_map(batch_of).collect();
        let serving = |accepted: &&Accepted| !self.world.batches[accepted.batch].lacks_room;
        let unknown = self.world.accepted.iter().filter(|accepted| !adopted.contains(&accepted.batch));
        for accepted in unknown.filter(serving) {
            let file = &self.world.files[accepted.file];
            let decided = file.shards.iter().all(|shard| batch_of(&self.shards[*shard as usize]).is_some());
            let listed = self
                .world
                .listings
                .iter()
                .any(|listing| listing.life == self.world.life && listing.batches.contains(&accepted.batch));
            if !decided || !listed || self.ended.summary.is_none() {
                continue;
            }
            let id = format!("batch-{}", accepted.batch);
            assert!(self.surplus.contains_key(&id), "nobody noticed the second batch {id}");
        }
    }
}

fn has_code(line: &[u8], code: &str) -> bool {
    serde_json::from_slice(line).is_ok_and(|line: serde_json::Value| line["error"]["code"] == code)
}

fn is_output(line: &ReplyLine) -> bool {
    line.means.is_some_and(|(_, kind)| kind == ReplyKind::Output)
}

fn batch_of(known: &ShardRow) -> Option<usize> {
    known.state.batch_id()?.strip_prefix("batch-")?.parse().ok()
}
