//! Sends the requests of a batch: which is next, how many are in hand, and what becomes of those that come back.
//!
//! In: the lines of a batch that have no row. Out: a row in the journal for each, or the word that not all have one.
//!
//! Invariants: new requests go out in the order of the input. What is in hand is bounded by its number and by the bytes
//! of its bodies; a request that waits until it may be tried again is not in hand. Answers that cast doubt on the
//! upstream's address are held back until that is settled (see [`first`](super::first)).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::first::Suspicion;
use super::journal::Record;
use super::queue::{Next, Queue, Tries};
use super::read_ahead::ReadAhead;
use super::request::{Asker, Came, Suspect};
use super::upstream::{Admission, BODY_BYTES, SUSPECTS_AGAIN};
use super::writer::Closed;
use crate::model::reply::ReplyRole;
use crate::remote::error::RemoteError;
use crate::remote::service::{Lines, unreadable};

/// How often it is looked whether the requests of another batch have come back.
const OTHERS: Duration = Duration::from_millis(20);

/// How an attempt ended, and for which request.
type Ended = (u64, Result<Came, Closed>);

/// Why nothing more is sent.
pub(super) enum Stop {
    /// A line cannot be read, or is not what it was.
    Line(RemoteError),
    /// The journal takes no more records.
    Journal(Closed),
}

impl From<Closed> for Stop {
    fn from(closed: Closed) -> Self {
        Self::Journal(closed)
    }
}

/// See the module.
pub(super) struct Sender<I: Iterator<Item = u64>> {
    asker: Asker,
    /// Called for each row that is on disk.
    on_row: Arc<dyn Fn() + Send + Sync>,
    queue: Queue<I>,
    ahead: ReadAhead<I>,
    tasks: JoinSet<Ended>,
    suspects: Vec<(u64, Suspect)>,
    /// Held while there are requests that were never sent: other batches wait for it.
    admission: Option<Admission>,
    all: bool,
}

impl<I: Iterator<Item = u64> + Clone> Sender<I> {
    /// Sends the lines with these numbers, from 1.
    pub(super) fn new(
        lines: &Arc<dyn Lines>,
        numbers: I,
        asker: Asker,
        on_row: Arc<dyn Fn() + Send + Sync>,
        admission: Option<Admission>,
    ) -> Self {
        Self {
            asker,
            on_row,
            queue: Queue::new(numbers.clone()),
            ahead: ReadAhead::new(lines, numbers),
            tasks: JoinSet::new(),
            suspects: Vec::new(),
            admission,
            all: true,
        }
    }

    /// Sends until each request has its row, or none may go out any more. Gives whether all have one.
    pub(super) async fn send(mut self) -> Result<bool, Stop> {
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
    async fn start(&mut self, number: u64, tries: Tries) -> Result<(), Stop> {
        if let Some(admission) = self.admission.as_mut().filter(|_| self.queue.all_were_given()) {
            admission.turn = None;
        }
        let line = self.ahead.take(number).await.map_err(|error| Stop::Line(unreadable(error)))?;
        let Some(room) = self.room_for(line.len()).await else {
            self.all = false;
            return Ok(());
        };
        let asker = self.asker.clone();
        self.tasks.spawn(async move {
            let came = asker.attempt(number, line, tries).await;
            drop(room);
            (number, came)
        });
        Ok(())
    }

    /// Waits until an attempt ends, the moment comes, or no request may go out any more.
    async fn wait(&mut self, until: Option<Instant>) -> Result<(), Stop> {
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
    async fn take(&mut self, ended: Result<Ended, JoinError>) -> Result<(), Stop> {
        let (number, came) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {
                self.all = false;
                return Ok(());
            }
        };
        match came? {
            Came::Done => (self.on_row)(),
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
    async fn settle(&mut self) -> Result<(), Stop> {
        if !self.tasks.is_empty() {
            self.wait(None).await
        } else if self.asker.upstream.pacing.is_idle() {
            self.condemn().await
        } else {
            self.wait(Some(Instant::now() + OTHERS)).await
        }
    }

    /// Nothing is left but suspects: a few requests whose answers all say the same.
    async fn decide(&mut self) -> Result<(), Stop> {
        let is_sure = self.suspects.iter().all(|(_, suspect)| suspect.suspicion == Suspicion::Strong);
        if is_sure && !self.asker.upstream.first.is_proven() { self.condemn().await } else { self.believe().await }
    }

    /// The address is right: what was held back are the rows of their requests. But what no API says is asked once
    /// more: it may have become right just now.
    async fn believe(&mut self) -> Result<(), Stop> {
        for (number, suspect) in std::mem::take(&mut self.suspects) {
            if suspect.suspicion == Suspicion::Strong {
                self.asker.journal.note(Record::Back(number)).await?;
                self.queue.defer(number, suspect.tries, Instant::now());
                continue;
            }
            self.asker.journal.keep(Record::Row(ReplyRole::Error, number, &suspect.row)).await?;
            (self.on_row)();
        }
        Ok(())
    }

    /// The address is wrong: nothing is recorded, and the requests are tried again if the server is one that does not
    /// give up.
    async fn condemn(&mut self) -> Result<(), Stop> {
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
