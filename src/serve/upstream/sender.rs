//! Sends the requests of a batch: which is next, how many are in hand, and what becomes of those that come back.
//!
//! In: the places of a batch's requests that have no row. Out: a row in the journal for each, or the word that not all have one.
//!
//! Invariants: new requests go out in the order of the input. What is in hand is bounded by its number and by the bytes of its bodies; a
//! request that waits until it may be tried again is not in hand. Answers that cast doubt on the upstream's address are held back
//! until that is settled (see [`first`](super::first)).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::executor::{Failure, Work};
use super::first::Suspicion;
use super::journal::Record;
use super::queue::{Next, Queue, Tries};
use super::request::{Asker, Came, Suspect};
use super::writer::Closed;
use super::{BODY_BYTES, SUSPECTS_AGAIN};
use crate::serve::batch::progress::Progress;
use crate::serve::batch::row::Kind;

/// How often it is looked whether the requests of another batch have come back.
const OTHERS: Duration = Duration::from_millis(20);

/// How an attempt ended, and for which request.
type Ended = (u64, Result<Came, Closed>);

/// See the module.
pub(super) struct Sender<'w, I: Iterator<Item = u64>> {
    work: &'w Work,
    asker: Asker,
    progress: Arc<Progress>,
    queue: Queue<I>,
    tasks: JoinSet<Ended>,
    suspects: Vec<(u64, Suspect)>,
    /// Held while there are requests that were never sent: other batches wait for it.
    turn: Option<OwnedSemaphorePermit>,
    all: bool,
}

/// The requests of `work` that have no row, as far as they are wanted.
pub(super) fn left(work: &Work) -> impl Iterator<Item = u64> + '_ {
    (1..=work.wanted as u64).filter(|number| !work.replay.done.has(*number))
}

impl<'w, I: Iterator<Item = u64>> Sender<'w, I> {
    pub(super) fn new(
        work: &'w Work,
        numbers: impl IntoIterator<IntoIter = I>,
        asker: Asker,
        progress: &Arc<Progress>,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            work,
            asker,
            progress: progress.clone(),
            queue: Queue::new(numbers),
            tasks: JoinSet::new(),
            suspects: Vec::new(),
            turn,
            all: true,
        }
    }

    /// Sends until each request has its row, or none may go out any more. Gives whether all have one.
    pub(super) async fn send(mut self) -> Result<bool, Failure> {
        loop {
            while let Some(ended) = self.tasks.try_join_next() {
                self.take(ended).await?;
            }
            if self.asker.quit.is_cancelled() || self.asker.upstream.failed.is_cancelled() {
                break;
            }
            if self.asker.upstream.first.is_doubtful() {
                self.settle().await?;
                continue;
            }
            let has_room = self.tasks.len() < self.asker.upstream.in_hand;
            match if has_room { self.queue.next(Instant::now()) } else { Next::Nothing } {
                Next::Request(number, tries) => self.start(number, tries).await?,
                Next::At(at) => self.wait(Some(at)).await?,
                Next::Nothing if !self.tasks.is_empty() => self.wait(None).await?,
                Next::Nothing if self.suspects.is_empty() => return Ok(self.all),
                Next::Nothing => self.decide().await?,
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.take(ended).await?;
        }
        for (number, _) in std::mem::take(&mut self.suspects) {
            self.asker.journal.note(Record::Back(number)).await?;
        }
        Ok(false)
    }

    /// Begins an attempt.
    async fn start(&mut self, number: u64, tries: Tries) -> Result<(), Failure> {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        let Some(place) = self.work.places.get(index).copied() else { return Ok(()) };
        if self.queue.all_were_given() {
            self.turn = None;
        }
        let Some(room) = self.room_for(place.bytes()).await else {
            self.all = false;
            return Ok(());
        };
        let line = self.work.read(place).await?;
        let asker = self.asker.clone();
        self.tasks.spawn(async move {
            let came = asker.attempt(number, Bytes::from(line), tries).await;
            drop(room);
            (number, came)
        });
        Ok(())
    }

    /// Waits until an attempt ends, the moment comes, or no request may go out any more.
    async fn wait(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        let quit = self.asker.quit.clone();
        // Something to wait for where there is no moment; it is not reached.
        let until = until.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
        let ended = tokio::select! {
            biased;
            () = quit.cancelled() => None,
            Some(ended) = self.tasks.join_next() => Some(ended),
            () = tokio::time::sleep_until(until) => None,
        };
        match ended {
            Some(ended) => self.take(ended).await,
            None => Ok(()),
        }
    }

    /// Takes in what came of an attempt.
    async fn take(&mut self, ended: Result<Ended, JoinError>) -> Result<(), Failure> {
        let (number, came) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {
                self.all = false;
                return Ok(());
            }
        };
        match came? {
            Came::Done => self.progress.count_row(),
            Came::Again(tries, wait) => self.queue.defer(number, tries, Instant::now() + wait),
            Came::Stopped => self.all = false,
            Came::Suspect(suspect) => {
                self.suspects.push((number, suspect));
                self.asker.upstream.first.suspect();
            }
        }
        if self.asker.upstream.first.is_proven() { self.believe().await } else { Ok(()) }
    }

    /// Finds out whether what is still out says something else than the suspects.
    async fn settle(&mut self) -> Result<(), Failure> {
        if !self.tasks.is_empty() {
            self.wait(None).await
        } else if self.asker.upstream.pacing.is_idle() {
            self.condemn().await
        } else {
            self.wait(Some(Instant::now() + OTHERS)).await
        }
    }

    /// Nothing is left but suspects: a few requests whose answers all say the same.
    async fn decide(&mut self) -> Result<(), Failure> {
        let is_sure = self.suspects.iter().all(|(_, suspect)| suspect.suspicion == Suspicion::Strong);
        if is_sure && !self.asker.upstream.first.is_proven() { self.condemn().await } else { self.believe().await }
    }

    /// The address is right: what was held back are the rows of their requests. But what no API says is asked once more: it may have
    /// become right just now.
    async fn believe(&mut self) -> Result<(), Failure> {
        for (number, suspect) in std::mem::take(&mut self.suspects) {
            if suspect.suspicion == Suspicion::Strong {
                self.asker.journal.note(Record::Back(number)).await?;
                self.queue.defer(number, suspect.tries, Instant::now());
                continue;
            }
            self.asker.journal.keep(Record::Row(Kind::Error, number, &suspect.row)).await?;
            self.progress.count_row();
        }
        Ok(())
    }

    /// The address is wrong: nothing is recorded, and the requests are tried again if the server is one that does not give up.
    async fn condemn(&mut self) -> Result<(), Failure> {
        self.asker.upstream.first.start_over();
        let answers = self.suspects.len();
        let mut error = None;
        for (number, suspect) in std::mem::take(&mut self.suspects) {
            self.asker.journal.note(Record::Back(number)).await?;
            self.queue.defer(number, suspect.tries, Instant::now() + SUSPECTS_AGAIN);
            error.get_or_insert(suspect.error);
        }
        if let Some(error) = error {
            self.asker.upstream.condemn(answers, error);
        }
        Ok(())
    }

    /// Waits until there is room for a body; `None` when none is to go out any more.
    async fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(BODY_BYTES)).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = self.asker.quit.cancelled() => None,
            room = self.asker.upstream.bodies.clone().acquire_many_owned(bytes) => room.ok(),
        }
    }
}
