//! A service without a Batch API: batches whose requests are asked one by one, with the promises of a Batch API.
//!
//! In: the lines of a batch, and the address of an OpenAI-compatible server, the **upstream**. Out: reply files, with
//! what it answered; [`OnlineApi`] makes an [`Api`](super::Api) of that, and `serve --upstream` a server.
//!
//! Each request is `POST {upstream}{endpoint}` with the line's `body` as it is; the answer's body is put into the reply
//! as it came, but for line ends between its tokens, which become spaces. A request that failed is a reply of the error
//! file with `"error":{"code":"http_503","message":…}`, and `response.status_code` and `response.body` where there was
//! an answer; in OpenAI's dialect an answer in JSON speaks for itself, without an `error` beside it.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `api`, `record` | batches of a run, as an `Api`: their records, their reply files |
//! | `work` | a batch: what is left of it, and its replies when it is done |
//! | `sender`, `read_ahead`, `queue` | its requests: which is next, and what becomes of those that come back |
//! | `request` | one attempt: from its turn to its row, or to when it is retried |
//! | `upstream`, `given_up` | the service that is asked, and when it is not asked any more |
//! | `first` | whether the first answers say that the address is right |
//! | `client` | one call over HTTP |
//! | `rows` | how answers and failures look in reply files |
//! | `pacing` | when the next request may go: how many at a time, how many a second, and when none |
//! | `journal`, `writer` | what is on disk about requests that went out and came back |
//!
//! # What is sent, and when
//!
//! The requests of at most [`BATCHES`] batches go out together, in input order. How many are in flight adapts to how
//! the upstream does: up to [`UpstreamOptions::concurrency`], fewer when it is overloaded or slow.
//!
//! A request that is throttled (429, 503, 529) waits as long as its answer asks for (`Retry-After`), and no other does.
//! When more is refused than is tolerated, the pace falls to what was let in, and grows again; refusals that do not
//! depend on the pace do not slow it down. When nothing is let in any more, all requests pause, as long as was asked,
//! and one at a time finds out whether that is over. A run ends when that takes longer than
//! [`UpstreamOptions::give_up_after`].
//!
//! A request that is refused [`REFUSALS`] times while others are answered ends as an error; so does one whose answer
//! does not come, whose connection breaks, or that the upstream could not answer for another reason, after
//! [`ATTEMPTS`]. An upstream that cannot be reached, or does not accept the key, is no request's error: one request at
//! a time finds out when that has changed. Nor is an address that is wrong: [`FIRST_ANSWERS`] first answers that say so
//! end a run.
//!
//! # Invariants
//!
//! - A request is at the upstream once at a time. Before it goes out, that it does is on disk, and before it counts as
//!   done, its row is: in the batch's journal, which is removed when the reply files are there.
//! - After a kill or a power cut the next process resumes with what the journal has no row for. What was at the
//!   upstream in that moment is sent a second time; how many requests that were is counted
//!   ([`Again`](super::service::Again)). Nothing else is sent twice, except on a refusal, or when an answer was lost on
//!   its way, which is counted too.
//! - A process that stops waits for requests in flight for [`LAST_ANSWERS`]; a batch that is cancelled for as long as
//!   they take, and sends no other.
//! - The key goes to the upstream's address alone. A batch names an endpoint of [`ENDPOINTS`], never an address.
//! - No line is copied: it is read where it is when its turn comes near, and again when it is retried.
//! - Memory does not grow with a batch, but for two bits for each of its lines, and what finding them takes: bodies in
//!   flight take [`BODY_BYTES`], lines that were read ahead a mebibyte, answers what [`client`] says, whatever their
//!   number.

mod api;
pub mod client;
mod first;
mod given_up;
pub(crate) mod journal;
mod pacing;
mod queue;
mod read_ahead;
mod record;
mod request;
mod rows;
mod sender;
#[cfg(test)]
mod tests;
mod upstream;
pub(crate) mod work;
mod writer;

pub use self::api::OnlineApi;
pub use self::client::{ENDPOINTS, Endpoint};
pub use self::first::FIRST_ANSWERS;
pub use self::upstream::{
    ATTEMPTS, BATCHES, BODY_BYTES, CONCURRENCY, CONCURRENCY_MAX, FIRST_PATIENCE, LAST_ANSWERS, OPEN_BATCHES, REFUSALS,
    Upstream, UpstreamOptions,
};
