//! Bringing replies home: downloads, the index, further rounds, and how far the output may grow.

use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use super::backoff::Delay;
use super::poll::is_final;
use crate::model::incident::Incident;
use crate::model::reply::ReplyRole;
use crate::model::shard_state::{ShardRow, ShardState};
use crate::remote::Api;
use crate::run::error::Error;
use crate::run::indexing::{self, Indexing, ShardIndexed, Taken, WhenShort};
use crate::run::monitor::{Event, Note};
use crate::run::rounds;
use crate::run::steps::{self, Again, Fetched, Outcome};
use crate::run::verdict::{SaidBytes, name};

/// How long the next attempt waits after replies that were not all there, at first; doubled each time. The first attempt follows at once.
const FETCH_AGAIN: Duration = Duration::from_secs(1);

/// Longest of these waits.
const FETCH_AGAIN_MAX: Duration = Duration::from_secs(60);

/// How long a shard that an earlier process held is fetched again before it is held again.
const HELD_AGAIN: Duration = Duration::from_secs(30);

/// A shard whose replies are fetched again, because what is here is not all of them.
#[derive(Debug)]
pub(super) struct Fetching {
    /// Since when.
    since: Instant,
    /// How often they were found not to be all there.
    times: u32,
    /// After this time what lacks is held.
    patience: Duration,
    /// What is fetched next.
    again: Again,
    /// What the service said last of the sizes of the files.
    said: Vec<(ReplyRole, SaidBytes)>,
    /// Why a file could not be fetched, the last time.
    trouble: Option<String>,
}

impl Fetching {
    fn new(patience: Duration) -> Self {
        Self { since: Instant::now(), times: 0, patience, again: Again::Unproven, said: Vec::new(), trouble: None }
    }

    /// For a shard that an earlier process held.
    pub(super) fn held_before(settle: Duration) -> Self {
        Self { times: 1, again: Again::All, ..Self::new(settle.min(HELD_AGAIN)) }
    }

    fn is_over(&self) -> bool {
        self.times > 1 && self.since.elapsed() >= self.patience
    }

    /// How long the next attempt waits: not beyond the end of all patience.
    fn wait(&self) -> Duration {
        let Some(failures) = self.times.checked_sub(1) else { return Duration::ZERO };
        let wait = FETCH_AGAIN.saturating_mul(2_u32.saturating_pow(failures)).min(FETCH_AGAIN_MAX);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0).min(self.patience.saturating_sub(self.since.elapsed()))
    }
}

impl<A: Api> Driver<A> {
    pub(super) fn begin_download(&mut self, shard: u32) {
        let ShardState::Ended { submission, batch } = self.shards[shard as usize].state.clone() else { return };
        let again = self.fetching.get(&shard).filter(|fetching| fetching.times > 0).map(|fetching| fetching.again);
        let (api, run) = (self.api.clone(), self.files.run.clone());
        let progress = self.transfer(&self.downloaded, |bytes| Event::Downloaded { bytes });
        self.tasks.spawn(async move {
            let result = steps::download(&*api, &run, submission, batch, again, |_| progress.clone()).await;
            Outcome::Downloaded { shard, result }
        });
    }

    pub(super) fn begin_index(&mut self, shard: u32) {
        let ShardRow { shard: packed, accepted, followed, state, .. } = self.shards[shard as usize].clone();
        let ShardState::Downloaded { submission, batch } = state else { return };
        let fetching = self.fetching.get(&shard);
        let when_short = match fetching {
            _ if accepted => WhenShort::Accept,
            Some(fetching) if fetching.is_over() => WhenShort::Hold,
            _ => WhenShort::FetchAgain,
        };
        let recheck = !self.uploaded_here.contains(&shard);
        let said = fetching.map(|fetching| fetching.said.clone()).unwrap_or_default();
        let (task, files) =
            (Indexing { shard: packed, submission, batch, said, when_short, followed, recheck }, self.files.clone());
        self.tasks.spawn_blocking(move || Outcome::Indexed { shard, result: indexing::index(&files, &task) });
    }

    /// A shard's reply files are on disk, or as much of them as could be fetched. What keeps for a long time from coming does not keep the
    /// rest from being given out.
    pub(super) fn downloaded(&mut self, shard: u32, fetched: Fetched) -> Result<(), Error> {
        let ShardState::Ended { submission, batch } = self.shards[shard as usize].state.clone() else { return Ok(()) };
        let Fetched { batch: seen, said, trouble } = fetched;
        let too_long = trouble.as_ref().is_some_and(|(_, error)| self.has_failed_for_long(shard, error));
        let trouble = match trouble {
            Some((_, error)) if is_final(&error) || error.is_transient() && !too_long => {
                let transient = error.is_transient();
                self.retry_later(shard, error, transient);
                return Ok(());
            }
            other => other,
        };
        self.delayed.remove(&shard);
        if seen != batch {
            self.ledger.ended(shard, &seen)?;
        }
        self.ledger.downloaded(shard)?;
        if trouble.is_some() || self.fetching.contains_key(&shard) {
            let patience = self.options.settle;
            let fetching = self.fetching.entry(shard).or_insert_with(|| Fetching::new(patience));
            fetching.said = said;
            fetching.trouble = trouble.map(|(role, error)| format!("its {} cannot be fetched: {error}", name(role)));
            if too_long {
                (fetching.times, fetching.patience) = (fetching.times.max(2), Duration::ZERO);
            }
        }
        self.set_state(shard, ShardState::Downloaded { submission, batch: seen });
        Ok(())
    }

    /// A shard's replies are in the index; or there is more of them at the service.
    pub(super) fn indexed(&mut self, shard: u32, result: ShardIndexed) -> Result<(), Error> {
        let ShardState::Downloaded { submission, batch } = self.shards[shard as usize].state.clone() else {
            return Ok(());
        };
        match result {
            ShardIndexed::Whole(Taken { indexed, unfinished, files }) => {
                self.ledger.indexed(shard, &indexed, unfinished, &files)?;
                self.fetching.remove(&shard);
                self.close(shard);
                self.shards[shard as usize].unfinished = unfinished;
                self.shards[shard as usize].note = None;
                self.set_state(shard, ShardState::Indexed { submission, batch });
            }
            ShardIndexed::Held(Taken { indexed, files, .. }, why) => {
                let why = self.fetching.remove(&shard).and_then(|fetching| fetching.trouble).unwrap_or(why);
                self.ledger.incomplete(shard, &indexed, &files, &why)?;
                let held = self.shards[shard as usize].shard.requests - indexed.outputs - indexed.errors;
                self.warn(&Incident::RepliesLacking { shard, why: why.clone(), held });
                self.shards[shard as usize].note = Some(why);
                self.set_state(shard, ShardState::Incomplete { submission, batch });
            }
            ShardIndexed::Short { why, strays } => self.fetch_again(shard, why, strays)?,
        }
        Ok(())
    }

    /// What is here of a shard's replies is not all of them: its batch is looked at and its files are fetched once more, after a while.
    fn fetch_again(&mut self, shard: u32, why: Option<String>, strays: bool) -> Result<(), Error> {
        let ShardState::Downloaded { submission, batch } = self.shards[shard as usize].state.clone() else {
            return Ok(());
        };
        let patience = self.options.settle;
        let fetching = self.fetching.entry(shard).or_insert_with(|| Fetching::new(patience));
        let wait = fetching.wait();
        fetching.times += 1;
        fetching.again = if strays { Again::All } else { Again::Unproven };
        if let Some(why) = fetching.trouble.clone().or(why) {
            self.note(&Note::FetchingAgain { shard, why });
        }
        self.ledger.take_back(shard, true)?;
        self.delayed.insert(shard, Delay::until(Instant::now() + wait));
        self.set_state(shard, ShardState::Ended { submission, batch });
        Ok(())
    }

    /// Packs what all rounds so far have left; false if there is nothing worth sending again.
    pub(super) fn begin_round(&mut self) -> Result<bool, Error> {
        if self.failure.is_some() || self.admission.is_stopped {
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
        self.note(&Note::Round { number, requests });
        for shard in round.shards {
            let number = shard.number;
            self.shards.push(ShardRow::packed(shard));
            self.counts.waiting += 1;
            self.enqueue(number);
        }
        self.tell();
        Ok(true)
    }

    /// Everything before the first outcome that may still change is final.
    pub(super) fn advance_watermark(&mut self) {
        let watermark = self.open.first().map_or(self.files.requests.len(), |(first, _)| *first);
        if self.watermark != Some(watermark) {
            self.watermark = Some(watermark);
            self.merger.advance(watermark);
        }
    }
}
