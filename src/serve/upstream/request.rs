//! One request: from its turn to its row.
//!
//! In: a line of the input. Out: its row, on disk; or nothing, when the batch is to stop before the request could go out.
//! What always holds: it is at the upstream once at a time, and what is on disk about it says so: `sent` before it goes, a row, `back`
//! or `lost` before it goes again. Once it is out, its answer is waited for, whatever happens to the batch.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Upstream;
use super::journal::Record;
use super::pacing::Turn;
use super::rows::{self, Named};
use super::writer::{Closed, Journal};
use crate::remote::ErrorKind;
use crate::remote::online::{Endpoint, Failed};
use crate::remote::retry::Attempts;
use crate::serve::dialect::Dialect;
use crate::serve::echo::{self, Kind, Request};

/// What the requests of a batch share.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) upstream: Arc<Upstream>,
    pub(super) endpoint: Endpoint,
    /// What rows are written in.
    pub(super) dialect: Dialect,
    pub(super) journal: Journal,
    /// No request goes out any more.
    pub(super) quit: CancellationToken,
}

/// What became of one attempt.
enum Attempt<'u> {
    /// There is a row.
    Done(Kind, Vec<u8>, Option<crate::remote::online::Said<'u>>),
    /// It did not go out, or was turned away to nobody's fault here.
    Back,
    /// It failed.
    Failed(Failed),
}

impl Asker {
    /// Answers the request in `line`, the `number`th of the input from 1. Gives whether it has its row.
    pub(super) async fn answer(&self, number: u64, line: Bytes) -> Result<bool, Closed> {
        let row_id = echo::row_id(&self.dialect.bare(&line));
        // A batch with a line that does not parse fails before.
        let Ok(request) = Request::parse(&line) else { return Ok(false) };
        let named = Named { dialect: self.dialect, row_id: &row_id, custom_id: request.custom_id };
        let Some(body) = request.body else {
            let row = rows::unsendable(named, "missing 'body' field");
            self.journal.keep(Record::Row(Kind::Error, number, &row)).await?;
            return Ok(true);
        };
        let body = line.slice_ref(body.as_bytes());
        let (patience, observer) = (&self.upstream.patience, &self.upstream.observer);
        let mut attempts = Attempts::new(patience, observer);
        loop {
            let turn = tokio::select! {
                biased;
                () = self.quit.cancelled() => return Ok(false),
                turn = self.upstream.pacing.turn(self.upstream.online.gate()) => turn,
            };
            match self.attempt(number, named, &body, turn).await? {
                Attempt::Done(kind, row, _said) => {
                    self.journal.keep(Record::Row(kind, number, &row)).await?;
                    return Ok(true);
                }
                Attempt::Back => self.journal.note(Record::Back(number)).await?,
                Attempt::Failed(failed) => {
                    let record = match failed.error.kind() {
                        ErrorKind::Interrupted | ErrorKind::Timeout => Record::Lost(number),
                        _ => Record::Back(number),
                    };
                    let Failed { error, body } = failed;
                    let waited = tokio::select! {
                        biased;
                        waited = attempts.after(error) => waited,
                        () = self.quit.cancelled() => Ok(()),
                    };
                    if let Err(error) = waited {
                        let row = rows::failed(named, &Failed { error, body });
                        self.journal.keep(Record::Row(Kind::Error, number, &row)).await?;
                        return Ok(true);
                    }
                    self.journal.note(record).await?;
                }
            }
        }
    }

    /// Sends the request once, if its moment is good.
    async fn attempt(
        &self,
        number: u64,
        named: Named<'_>,
        body: &Bytes,
        turn: Turn<'_>,
    ) -> Result<Attempt<'_>, Closed> {
        self.journal.keep(Record::Sent(number)).await?;
        if !turn.moment(self.upstream.online.gate()).await || self.quit.is_cancelled() {
            turn.unsent();
            return Ok(Attempt::Back);
        }
        let began = Instant::now();
        let failed = match self.upstream.online.ask(&self.endpoint, body.clone()).await {
            Ok(mut said) => {
                turn.answered(began.elapsed());
                self.upstream.reached();
                let (kind, row) = rows::answered(named, std::mem::take(&mut said.body));
                return Ok(Attempt::Done(kind, row, Some(said)));
            }
            Err(failed) => failed,
        };
        match failed.error.kind() {
            ErrorKind::Unreachable
            | ErrorKind::Insecure
            | ErrorKind::Unauthorized
            | ErrorKind::PaymentRequired
            | ErrorKind::Blocked => {
                turn.unsent();
                self.upstream.trouble(failed.error);
                return Ok(Attempt::Back);
            }
            ErrorKind::RateLimited => turn.limited(),
            ErrorKind::Unavailable | ErrorKind::Interrupted | ErrorKind::Timeout => turn.overloaded(),
            _ => turn.answered(began.elapsed()),
        }
        if failed.error.status().is_some() {
            self.upstream.reached();
        }
        if failed.error.is_transient() {
            return Ok(Attempt::Failed(failed));
        }
        Ok(Attempt::Done(Kind::Error, rows::failed(named, &failed), None))
    }
}
