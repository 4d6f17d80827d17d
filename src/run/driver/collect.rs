//! Collecting results: downloads, the index, further rounds.
//!
//! In: batches that have ended. Out: shards that are indexed, and the shards of the next round; or shards that are
//! held, because the service has more replies than could be fetched.

use tokio::time::Instant;

use super::state::{Driver, StepOf};
use crate::ledger::NextRound;
use crate::model::incident::Incident;
use crate::model::shard_state::{ShardRow, ShardState};
use crate::remote::Api;
use crate::run::download::{Download, Fetched};
use crate::run::error::Error;
use crate::run::executor::Executor;
use crate::run::indexing::{Indexing, ShardIndexed, Taken};
use crate::run::monitor::Note;
use crate::run::rounds;
use crate::run::step::Step;
use crate::run::verdict::name;

impl<A: Api, E: Executor> Driver<A, E> {
    pub(super) fn begin_download(&mut self, shard: u32) {
        let ShardState::Ended { submission, batch } = self.shards[shard].state.clone() else { return };
        let again = self.fetches.again(shard);
        self.begin(StepOf::Download(shard), Step::Download(Download { submission, batch, again }));
    }

    pub(super) fn begin_index(&mut self, shard: u32) {
        let ShardRow { shard: packed, accepted, followed, state, .. } = self.shards[shard].clone();
        let ShardState::Downloaded { submission, batch } = state else { return };
        let when_short = self.fetches.when_short(shard, accepted);
        let (said, recheck) = (self.fetches.said(shard), self.fetches.wants_recheck(shard));
        let task = Indexing { shard: packed, submission, batch, said, when_short, followed, recheck };
        self.begin(StepOf::Index(shard), Step::Index(task));
    }

    /// A shard's reply files are on disk, or as much of them as could be fetched. A file that cannot be fetched for a
    /// long time does not delay the delivery of the rest.
    pub(super) fn downloaded(&mut self, shard: u32, fetched: Fetched) -> Result<(), Error> {
        let ShardState::Ended { submission, batch } = self.shards[shard].state.clone() else { return Ok(()) };
        let Fetched { batch: seen, said, trouble } = fetched;
        let too_long = trouble.as_ref().is_some_and(|(_, error)| self.has_failed_for_long(shard, error));
        let trouble = match trouble {
            Some((_, error)) if error.is_final() || error.is_transient() && !too_long => {
                let transient = error.is_transient();
                self.retry_later(shard, error, transient);
                return Ok(());
            }
            other => other.map(|(role, error)| format!("its {} cannot be fetched: {error}", name(role))),
        };
        self.queue.end_delay(shard);
        if seen != batch {
            self.ledger.ended(shard, &seen)?;
        }
        self.ledger.downloaded(shard)?;
        self.fetches.fetched(shard, said, trouble, too_long);
        self.set_state(shard, ShardState::Downloaded { submission, batch: seen });
        Ok(())
    }

    /// A shard's replies are in the index, or the service has more of them.
    pub(super) fn indexed(&mut self, shard: u32, result: ShardIndexed) -> Result<(), Error> {
        let ShardState::Downloaded { submission, batch } = self.shards[shard].state.clone() else {
            return Ok(());
        };
        match result {
            ShardIndexed::Whole(Taken { indexed, unfinished, files }) => {
                self.ledger.indexed(shard, &indexed, unfinished, &files)?;
                self.fetches.end(shard);
                self.watermark.close(&self.shards[shard]);
                self.shards.update(shard, |row| (row.unfinished, row.note) = (unfinished, None));
                self.set_state(shard, ShardState::Indexed { submission, batch });
            }
            ShardIndexed::Held(Taken { indexed, files, .. }, why) => {
                let why = self.fetches.end(shard).unwrap_or(why);
                self.ledger.incomplete(shard, &indexed, &files, &why)?;
                let held = self.shards[shard].shard.requests - indexed.outputs - indexed.errors;
                self.warn(&Incident::RepliesLacking { shard, why: why.clone(), held });
                self.shards.update(shard, |row| row.note = Some(why));
                self.set_state(shard, ShardState::Incomplete { submission, batch });
            }
            ShardIndexed::Short { why, strays } => self.fetch_again(shard, why, strays)?,
        }
        Ok(())
    }

    /// The fetched replies of a shard are incomplete: its batch is looked up and its files are fetched again, after a
    /// delay.
    fn fetch_again(&mut self, shard: u32, why: Option<String>, strays: bool) -> Result<(), Error> {
        let ShardState::Downloaded { submission, batch } = self.shards[shard].state.clone() else {
            return Ok(());
        };
        let (wait, why) = self.fetches.short(shard, why, strays);
        if let Some(why) = why {
            self.note(&Note::FetchingAgain { shard, why });
        }
        self.ledger.take_back(shard, true)?;
        self.queue.delay_until(shard, Instant::now() + wait);
        self.set_state(shard, ShardState::Ended { submission, batch });
        Ok(())
    }

    /// Begins to pack the retryable requests of all rounds so far; false if there are none.
    pub(super) fn begin_round(&mut self) -> Result<bool, Error> {
        if self.failure.is_some() || self.admission.is_stopped {
            return Ok(false);
        }
        let (limits, rounds) = (self.options.input.shard, self.options.batches.rounds);
        let plan = rounds::plan(&self.ledger, self.shards.rows(), limits, rounds)?;
        let begins = plan.is_some();
        if let Some(plan) = plan {
            self.begin(StepOf::Round, Step::PackRound(plan));
        }
        Ok(begins)
    }

    /// The shards of the next round are known, and their list is on disk.
    pub(super) fn round_packed(&mut self, round: NextRound) -> Result<(), Error> {
        self.ledger.next_round(&round)?;
        for (number, ..) in round.followed {
            self.watermark.close(&self.shards[number]);
            self.shards.update(number, |row| row.followed = true);
        }
        let requests: u64 = round.shards.iter().map(|shard| shard.requests).sum();
        let number = round.shards.first().map_or(0, |shard| shard.round);
        self.note(&Note::Round { number, requests });
        for shard in round.shards {
            let number = shard.number;
            self.shards.add(ShardRow::packed(shard));
            self.enqueue(number);
        }
        self.tell();
        Ok(())
    }
}
