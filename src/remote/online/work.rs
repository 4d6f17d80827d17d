//! A batch: sends what has no row yet, and gives its rows from the journal.
//!
//! In: the lines of a batch, and its journal, if an earlier process began it. Out: a row for each line, though it was
//! cancelled: then for each that was answered by then.
//!
//! Invariant: the rows follow from the journal alone; read again after a kill, they are the same.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::client::Endpoint;
use super::journal::{self, JournalError, Record, Replay};
use super::request::Asker;
use super::sender::{Sender, Stop};
use super::upstream::{Admission, LAST_ANSWERS, Upstream};
use super::writer::Writer;
use crate::dialect::row_form::RowForm;
use crate::model::reply::ReplyRole;
use crate::remote::error::RemoteError;
use crate::remote::service::{Again, Lines};
use crate::storage::local_file::LocalFile;

/// A batch that is being answered.
pub(crate) struct Work {
    lines: Arc<dyn Lines>,
    /// How many of them are to be answered.
    wanted: u64,
    journal: Arc<LocalFile>,
    replay: Replay,
}

/// What a batch is asked for, and what it listens to.
pub(crate) struct Terms {
    pub(crate) endpoint: Endpoint,
    pub(crate) form: RowForm,
    /// Called for each row that is on disk.
    pub(crate) on_row: Arc<dyn Fn() + Send + Sync>,
    /// The process stops: what is in flight is awaited for [`LAST_ANSWERS`].
    pub(crate) stopping: CancellationToken,
    /// The batch sends nothing more; what is in flight is awaited.
    pub(crate) cancelled: CancellationToken,
}

impl Work {
    /// Opens the journal of a batch with these lines, made when it is not there. To be called on a thread that may
    /// block.
    pub(crate) fn open(lines: Arc<dyn Lines>, wanted: u64, path: &Path) -> Result<Self, RemoteError> {
        let (journal, replay) = journal::open(path, lines.count())?;
        Ok(Self { lines, wanted, journal: Arc::new(journal), replay })
    }

    /// How many rows an earlier process has kept.
    pub(crate) fn kept(&self) -> u64 {
        self.replay.done.len()
    }

    /// Sends what has no row. Gives whether all is done: every request that is wanted has its row, or the batch was
    /// cancelled and what was in flight has come back. Otherwise the process stops, or the upstream has failed.
    pub(crate) async fn answer(
        &self,
        upstream: &Arc<Upstream>,
        terms: Terms,
        admission: Option<Admission>,
    ) -> Result<bool, RemoteError> {
        if self.replay.has_output {
            upstream.prove();
        }
        let crowd = upstream.clone();
        let writer = Writer::start(self.journal.clone(), move || crowd.pacing.out());
        let Terms { endpoint, form, on_row, stopping, cancelled } = terms;
        let asker = Asker {
            upstream: upstream.clone(),
            endpoint,
            form,
            journal: writer.journal(),
            quit: CancellationToken::new(),
        };
        let sent = self.send_unless(asker, on_row, admission, (&stopping, &cancelled)).await;
        // Says more than a journal that takes no more records.
        writer.close().await?;
        match sent {
            Ok(all) => {
                Ok(all || cancelled.is_cancelled() && !stopping.is_cancelled() && !upstream.failed.is_cancelled())
            }
            Err(Stop::Journal(_)) => Ok(false),
            Err(Stop::Line(error)) => Err(error),
        }
    }

    /// Sends until every request has its row, or something speaks against sending more; then waits for what is in
    /// flight. Gives whether every request has its row.
    async fn send_unless(
        &self,
        asker: Asker,
        on_row: Arc<dyn Fn() + Send + Sync>,
        admission: Option<Admission>,
        (stopping, cancelled): (&CancellationToken, &CancellationToken),
    ) -> Result<bool, Stop> {
        let (upstream, quit) = (asker.upstream.clone(), asker.quit.clone());
        let ends = async {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = upstream.failed.cancelled() => {}
            }
        };
        let sending = self.send(asker, on_row, admission, cancelled);
        tokio::pin!(ends, sending);
        tokio::select! {
            biased;
            () = &mut ends => {}
            () = cancelled.cancelled() => {
                quit.cancel();
                tokio::select! {
                    biased;
                    () = &mut ends => {}
                    sent = &mut sending => return sent,
                }
            }
            sent = &mut sending => return sent,
        }
        quit.cancel();
        tokio::time::timeout(LAST_ANSWERS, sending).await.unwrap_or(Ok(false))
    }

    /// Sends every request that has no row. Gives whether all have one in the end.
    async fn send(
        &self,
        asker: Asker,
        on_row: Arc<dyn Fn() + Send + Sync>,
        admission: Option<Admission>,
        cancelled: &CancellationToken,
    ) -> Result<bool, Stop> {
        let crashed = self.replay.out.len();
        if crashed > 0 && !cancelled.is_cancelled() {
            asker.journal.keep(Record::Crash(crashed)).await?;
        }
        let left = (1..=self.wanted).filter(|number| !self.replay.done.has(*number));
        Sender::new(&self.lines, left, asker, on_row, admission).send().await
    }

    /// Shows `visit` each row, with the number of its line from 1 and the file that it belongs to. Gives what was sent
    /// twice. To be called on a thread that may block.
    pub(crate) fn each_row<E: From<RemoteError>>(
        &self,
        mut visit: impl FnMut(ReplyRole, u64, &[u8]) -> Result<(), E>,
    ) -> Result<Again, E> {
        let mut again = Again::default();
        let mut each = |_, record: Record<'_>| {
            match record {
                Record::Crash(number) => again.crashed += number,
                Record::Lost(_) => again.lost += 1,
                Record::Sent(_) | Record::Back(_) => {}
                Record::Row(role, number, row) => visit(role, number, row).map_err(Halt::Visit)?,
            }
            Ok(())
        };
        match journal::each_record(&self.journal, &mut each) {
            Ok(_) => Ok(again),
            Err(Halt::Visit(error)) => Err(error),
            Err(Halt::Journal(error)) => Err(RemoteError::from(error).into()),
        }
    }
}

/// Why rows are shown no further.
enum Halt<E> {
    Journal(JournalError),
    Visit(E),
}

impl<E> From<JournalError> for Halt<E> {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}
