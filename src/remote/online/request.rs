//! One request: one attempt to have it answered.
//!
//! In: a line of the input, and how often it was tried. Out: what came of it ([`Came`]): its row, on disk; or when to
//! retry it.
//!
//! Invariants: a request is at the upstream once at a time, and what is on disk about it says so: `sent` before it
//! goes, a row, `back` or `lost` before it goes again. Once it is out, its answer is waited for, whatever happens to
//! the batch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_128;

use super::client::{Endpoint, Failed, Said};
use super::first::{self, Suspicion};
use super::journal::Record;
use super::pacing::Turn;
use super::queue::Tries;
use super::rows::{self, Named};
use super::upstream::Upstream;
use super::writer::{Closed, Journal};
use crate::dialect::row_form::RowForm;
use crate::json::exact::Object;
use crate::model::reply::ReplyRole;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::retry::Notice;
use crate::storage::lines::trim_json_whitespace;

/// What services say with a 429 that no waiting ends.
const SPENT: &[u8] = b"\"insufficient_quota\"";

/// What the requests of a batch share.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) upstream: Arc<Upstream>,
    pub(super) endpoint: Endpoint,
    pub(super) form: RowForm,
    pub(super) journal: Journal,
    /// No request goes out any more.
    pub(super) quit: CancellationToken,
}

/// What came of an attempt.
#[derive(Debug)]
pub(super) enum Came {
    /// The request has its row.
    Done,
    /// It can be retried after so long.
    Again(Tries, Duration),
    /// There would be a row, if the address of the upstream is right.
    Suspect(Suspect),
    /// No request goes out any more.
    Stopped,
}

/// A row that is not written yet.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) row: Vec<u8>,
    pub(super) suspicion: Suspicion,
    /// What makes it one.
    pub(super) error: RemoteError,
    pub(super) tries: Tries,
}

/// What is to be done about a failure.
enum Next {
    /// It says nothing about the request, which is retried after so long.
    Again(Duration),
    /// The request may be retried, unless it was tried often enough.
    Failed(Failed),
    /// It is the request's own.
    Final(Failed),
}

impl Asker {
    /// Tries once to have the request in `line` answered, the `number`th of the input from 1.
    pub(super) async fn attempt(&self, number: u64, line: Bytes, mut tries: Tries) -> Result<Came, Closed> {
        let row_id = row_id(&line);
        // A batch with a line that does not parse never begins.
        let Some((custom_id, body)) = parts(&line) else { return Ok(Came::Stopped) };
        let named = Named { form: self.form, row_id: &row_id, custom_id };
        let Some(body) = body else {
            let row = rows::unsendable(named, "missing 'body' field");
            self.journal.keep(Record::Row(ReplyRole::Error, number, &row)).await?;
            return Ok(Came::Done);
        };
        let body = line.slice_ref(body.as_bytes());
        let turn = tokio::select! {
            biased;
            () = self.quit.cancelled() => return Ok(Came::Stopped),
            turn = self.upstream.pacing.turn() => turn,
        };
        self.journal.keep(Record::Sent(number)).await?;
        if !turn.moment().await || self.quit.is_cancelled() || self.upstream.first.is_doubtful() {
            turn.unsent();
            self.journal.note(Record::Back(number)).await?;
            return Ok(Came::Again(tries, Duration::ZERO));
        }
        let began = Instant::now();
        let failed = match self.upstream.client.ask(&self.endpoint, body).await {
            Ok(said) => {
                turn.answered(began.elapsed());
                self.upstream.reached();
                return self.answered(number, named, said, tries).await;
            }
            Err(failed) => failed,
        };
        let record = match failed.error.kind() {
            ErrorKind::Interrupted | ErrorKind::Timeout => Record::Lost(number),
            _ => Record::Back(number),
        };
        let wait = match self.failed(turn, began.elapsed(), failed, &mut tries) {
            Next::Again(wait) => wait,
            Next::Final(failed) => return self.ended(number, named, failed, tries).await,
            Next::Failed(failed) => match tries.failed(failed.error.retry_after(), &self.upstream.patience) {
                Some(wait) => {
                    self.tell(&failed.error, &tries, wait);
                    wait
                }
                None => return self.ended(number, named, failed, tries).await,
            },
        };
        self.journal.note(record).await?;
        Ok(Came::Again(tries, wait))
    }

    /// The upstream answered.
    async fn answered(&self, number: u64, named: Named<'_>, mut said: Said<'_>, tries: Tries) -> Result<Came, Closed> {
        let suspicion = first::of_answer(&said).filter(|suspicion| self.upstream.suspects(*suspicion));
        let error = suspicion.map(|_| self.upstream.client.no_reply(&self.endpoint, said.status, &said.body));
        let (kind, row) = rows::answered(named, std::mem::take(&mut said.body));
        if let (Some(suspicion), Some(error)) = (suspicion, error) {
            return Ok(Came::Suspect(Suspect { row, suspicion, error, tries }));
        }
        if kind == ReplyRole::Output {
            self.upstream.first.prove();
        }
        self.journal.keep(Record::Row(kind, number, &row)).await?;
        Ok(Came::Done)
    }

    /// The request ends with a failure.
    async fn ended(&self, number: u64, named: Named<'_>, failed: Failed, tries: Tries) -> Result<Came, Closed> {
        let row = rows::failed(named, &failed);
        if let Some(suspicion) = first::of_failure(&failed).filter(|suspicion| self.upstream.suspects(*suspicion)) {
            return Ok(Came::Suspect(Suspect { row, suspicion, error: failed.error, tries }));
        }
        self.journal.keep(Record::Row(ReplyRole::Error, number, &row)).await?;
        Ok(Came::Done)
    }

    /// Tells the pace and the upstream that a request failed.
    fn failed(&self, turn: Turn<'_>, took: Duration, failed: Failed, tries: &mut Tries) -> Next {
        let error = &failed.error;
        match error.kind() {
            ErrorKind::Unreachable
            | ErrorKind::Insecure
            | ErrorKind::OutOfFiles
            | ErrorKind::Unauthorized
            | ErrorKind::PaymentRequired => {
                self.upstream.trouble(failed.error, turn.useless());
                Next::Again(Duration::ZERO)
            }
            ErrorKind::RateLimited if is_spent(failed.body.as_deref()) => {
                self.upstream.spent(failed.error, turn.useless());
                Next::Again(Duration::ZERO)
            }
            _ if is_refusal(error) => self.refused(turn, took, failed, tries),
            ErrorKind::Unavailable | ErrorKind::Interrupted | ErrorKind::Timeout => {
                turn.overloaded();
                if error.status().is_some() {
                    self.upstream.reached();
                }
                Next::Failed(failed)
            }
            _ => {
                turn.answered(took);
                self.upstream.reached();
                if error.is_transient() { Next::Failed(failed) } else { Next::Final(failed) }
            }
        }
    }

    /// The upstream refused a request because of how many there are.
    fn refused(&self, turn: Turn<'_>, took: Duration, failed: Failed, tries: &mut Tries) -> Next {
        let asked = failed.error.retry_after();
        let pause = turn.refused(took, asked);
        if self.upstream.refused(pause) {
            self.upstream.give_up(failed.error);
            return Next::Again(Duration::ZERO);
        }
        // A server that is not ready says 503, but so may one that a request is too much for. Not to the one that finds
        // out for all.
        if failed.error.kind() != ErrorKind::RateLimited && pause.is_none() {
            return Next::Failed(failed);
        }
        let wait = tries.refused(asked);
        if tries.is_refused_for_good(&self.upstream.patience) && self.upstream.first.is_proven() {
            return Next::Final(failed);
        }
        self.tell(&failed.error, tries, wait);
        Next::Again(wait)
    }

    fn tell(&self, error: &RemoteError, tries: &Tries, wait: Duration) {
        self.upstream.observer.tell(&Notice::Retrying { error, attempt: tries.made(), wait });
    }
}

/// The raw `custom_id` and `body` of a request line; the last counts of those that are there twice.
fn parts(line: &[u8]) -> Option<(&str, Option<&str>)> {
    let [custom_id, body] = Object::read(std::str::from_utf8(line).ok()?).ok()?.last(["custom_id", "body"]);
    Some((custom_id?, body))
}

/// What the `id` of a row ends with: it follows from the line, so it is the same at each attempt.
fn row_id(line: &[u8]) -> String {
    format!("{:032x}", xxh3_128(trim_json_whitespace(line).0))
}

/// Whether the upstream refuses the request because of how many there are.
fn is_refusal(error: &RemoteError) -> bool {
    error.kind() == ErrorKind::RateLimited || matches!(error.status(), Some(503 | 529))
}

fn is_spent(body: Option<&str>) -> bool {
    body.is_some_and(|body| memchr::memmem::find(body.as_bytes(), SPENT).is_some())
}
