//! Bringing replies home: downloads, the index, further rounds, and how far the output may grow.

use super::Driver;
use crate::error::Error;
use crate::remote::{Api, BatchStatus, RemoteError};
use crate::results::reply::ReplyRole;
use crate::run::monitor::Event;
use crate::run::rounds;
use crate::run::state::{Recorded, ShardState};
use crate::run::steps::{self, Outcome, ShardIndexed};

/// How often a reply file that is not there is asked for again: files become visible late.
const ABSENT_LOOKUPS: u32 = 5;

/// How often a batch is asked again which files it has when one of them is not there: what it named may have been wrong.
const GONE_LOOKUPS: u32 = 3;

impl<A: Api> Driver<A> {
    pub(super) fn begin_download(&mut self, shard: u32) {
        let known = &self.shards[shard as usize];
        let again = known.refetched;
        let absent = self.absent.contains(&shard);
        let ShardState::Ended { submission, batch } = known.state.clone() else { return };
        let (api, run) = (self.api.clone(), self.files.run.clone());
        let progress = self.transfer(&self.downloaded, |bytes| Event::Downloaded { bytes });
        self.tasks.spawn(async move {
            let result = steps::download(&*api, &run, submission, &batch, (again, absent), |_| progress.clone()).await;
            Outcome::Downloaded { shard, result }
        });
    }

    pub(super) fn begin_index(&mut self, shard: u32) {
        let known = self.shards[shard as usize].clone();
        let Recorded { shard: packed, refetched, followed, .. } = known;
        let ShardState::Downloaded { submission, batch } = known.state else { return };
        // A batch that has completed has tried every request; one that has not leaves some.
        let lacking = refetched || BatchStatus::read(&batch.status) != BatchStatus::Completed;
        let files = self.files.clone();
        self.tasks.spawn_blocking(move || {
            let result = steps::index(&files, &packed, submission, &batch, lacking, followed);
            Outcome::Indexed { shard, result }
        });
    }

    /// A shard's reply files are on disk.
    pub(super) fn downloaded(&mut self, shard: u32) -> Result<(), Error> {
        let ShardState::Ended { submission, batch } = self.shards[shard as usize].state.clone() else { return Ok(()) };
        self.delayed.remove(&shard);
        self.ledger.downloaded(shard)?;
        self.set_state(shard, ShardState::Downloaded { submission, batch });
        Ok(())
    }

    /// A shard's reply files could not be fetched. Where services name files that they have not written, or have deleted since, a file of
    /// errors that is not there however often it is asked for is as good as empty; what it would have answered counts as not answered.
    /// Without its outputs the run ends: nobody knows what they answered, and it is paid for.
    pub(super) fn not_downloaded(&mut self, shard: u32, role: ReplyRole, error: RemoteError) -> Result<(), Error> {
        let may_be_absent = role == ReplyRole::Error && self.options.service.profile().names_absent_files();
        let times = self.delayed.get(&shard).map_or(0, |delay| delay.times);
        if error.is_gone() && times < GONE_LOOKUPS {
            if let ShardState::Ended { submission, batch } = self.shards[shard as usize].state.clone() {
                // The Ledger has it as ended, and where it ends once more that is written over.
                self.set_state(shard, ShardState::Submitted { submission, batch_id: batch.id });
            }
            self.put_off(shard, error, true);
            return Ok(());
        }
        if !error.is_gone() || !may_be_absent {
            let passing = error.is_transient();
            self.put_off(shard, error, passing);
            return Ok(());
        }
        if times >= ABSENT_LOOKUPS {
            let text = format!(
                "shard {shard}: the file of errors that its batch names is not there and counts as empty: {error}"
            );
            self.absent.insert(shard);
            self.incident(Some(shard), &text)?;
            self.delayed.remove(&shard);
            self.enqueue(shard);
        } else {
            self.put_off(shard, error, true);
        }
        Ok(())
    }

    /// A shard's replies are in the index; or they do not add up, and its batch is looked at and its files fetched once more.
    pub(super) fn indexed(&mut self, shard: u32, result: ShardIndexed) -> Result<(), Error> {
        let ShardState::Downloaded { submission, batch } = self.shards[shard as usize].state.clone() else {
            return Ok(());
        };
        match result {
            ShardIndexed::Lacking(requests) => {
                let text =
                    format!("shard {shard}: {requests} requests stand in neither reply file; fetching them again");
                self.monitor.event(Event::Note(&text));
                self.ledger.refetch(shard)?;
                self.shards[shard as usize].refetched = true;
                self.set_state(shard, ShardState::Submitted { submission, batch_id: batch.id });
            }
            ShardIndexed::Whole(indexed, left_over, files) => {
                self.ledger.indexed(shard, &indexed, left_over, &files)?;
                self.close(shard);
                self.shards[shard as usize].left_over = left_over;
                self.set_state(shard, ShardState::Indexed { submission, batch });
            }
        }
        Ok(())
    }

    /// Packs what all rounds so far have left; false if there is nothing worth sending again.
    pub(super) fn begin_round(&mut self) -> Result<bool, Error> {
        if self.failure.is_some() {
            return Ok(false);
        }
        let (limits, rounds) = (self.options.shard, self.options.rounds);
        let Some(round) = rounds::pack(&self.files, &self.ledger, &self.shards, limits, rounds)? else {
            return Ok(false);
        };
        self.ledger.next_round(&round)?;
        for (number, ..) in round.followed {
            self.close(number);
            self.shards[number as usize].followed = true;
        }
        let requests: u64 = round.shards.iter().map(|shard| shard.requests).sum();
        let number = round.shards.first().map_or(0, |shard| shard.round);
        self.monitor.event(Event::Note(&format!("round {number}: {requests} requests are sent again")));
        for shard in round.shards {
            let number = shard.number;
            self.shards.push(Recorded::packed(shard));
            self.counts.waiting += 1;
            self.enqueue(number);
        }
        self.tell();
        Ok(true)
    }

    /// Everything before the first outcome that may still change is final.
    pub(super) fn move_frontier(&mut self) {
        let frontier = self.open.first().map_or(self.files.requests.len(), |(first, _)| *first);
        if self.frontier != Some(frontier) {
            self.frontier = Some(frontier);
            self.merger.advance(frontier);
        }
    }
}
