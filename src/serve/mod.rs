//! The local Batch API server of `batchline serve`: Together's surface or OpenAI's, on a laptop, with no key.
//!
//! In: HTTP calls, as the official SDKs make them. Out: files, batches and replies, kept in one directory.
//!
//! A server speaks one [`Dialect`](crate::dialect::Dialect) to all its clients, chosen when it is started. In
//! Together's:
//!
//! | call | answer |
//! |---|---|
//! | `POST /files` | 302 to where the content is to be PUT, with `X-Together-File-Id`; 409 `{"file_id"}` for content it has |
//! | `PUT /storage/{id}?signature=` | 200 with an `ETag`; needs no token |
//! | `POST /files/{id}/preprocess` | the file |
//! | `POST /files/upload` | the file, sent in one go |
//! | `GET /files`, `GET /files/{id}`, `DELETE /files/{id}` | `{"data":[…]}`, the file, `{"id","object","deleted"}` |
//! | `GET /files/{id}/content` | the bytes, or one range of them |
//! | `POST /batches` | 201 `{"job":{…}}` |
//! | `GET /batches`, `GET /batches/{id}`, `POST /batches/{id}/cancel` | a bare array or `null`, the batch, the batch |
//! | `GET /v3/whoami` | who the token belongs to |
//!
//! In OpenAI's:
//!
//! | call | answer |
//! |---|---|
//! | `POST /files` | the file, sent in one go as multipart with its `purpose` |
//! | `GET /files` | a page: `{"object":"list","data","first_id","last_id","has_more"}`; takes `after`, `limit`, `order`, `purpose` |
//! | `GET /files/{id}`, `DELETE /files/{id}`, `GET /files/{id}/content` | the file, `{"id","object","deleted"}`, the bytes |
//! | `POST /batches` | the batch, with its `metadata`; 400 for an unknown file, endpoint or window |
//! | `GET /batches` | a page; takes `after` and `limit` |
//! | `GET /batches/{id}`, `POST /batches/{id}/cancel` | the batch; 409 for one that has ended |
//!
//! There a line needs `method` and `url`, a batch has one model and a window that really ends, and a request that was
//! not done by then has a row in the error file. A key may come as `api-key` instead of `Authorization`.
//!
//! Any number of `/v1` may precede each path.
//!
//! Invariants:
//! - Without an [`upstream`], a batch is answered with an **echo**, which says that it is one. A reply follows from the
//!   bytes of its request line alone ([`echo_reply`]); the order of the rows follows from [`ServeOptions::seed`] and
//!   the batch's id.
//! - Requests and replies go to and from disk in pieces: memory does not grow with the size of files. It holds the
//!   records of all files and batches, about a kilobyte each.
//! - A kill at any moment loses nothing that a client was told. The next server on the directory executes unfinished
//!   batches from the start, with the same results, and `billing/BATCH.jsonl` has each request that was answered
//!   with an output row once: `{"batch_id","custom_id","digest"}`, the digest as in [`request_digest`]. Error rows
//!   are not billed. A power cut may lose anything: an echo can be made again, and does not wait for the disk.
//! - With an upstream the same holds, and nothing is answered a second time because a server ended, nor lost by a power
//!   cut; see there.
//! - `access.jsonl` has one line for each call, and never a token.
//! - Web pages and calls to hosts that it is not known as get nothing ([`ServeOptions::hosts`]); clients that are slow,
//!   silent or many are kept within [`ConnectionLimits`], and what all of them keep here within
//!   [`ServeOptions::quota`].
//! - What goes wrong on purpose is what the script of [`faults`] says, and it is recorded.

mod api;
mod background;
mod batch;
mod clock;
mod error;
pub mod faults;
mod hex;
mod limits;
mod options;
mod server;
mod store;
mod surfaces;
pub mod upstream;

pub use self::api::connections::ConnectionLimits;
pub use self::api::guard::host_name;
pub use self::batch::request::request_digest;
pub use self::error::ServeError;
pub use self::faults::{Faults, FaultsError};
pub use self::limits::Limits;
pub use self::options::ServeOptions;
pub use self::server::Server;
pub use self::store::quota::QuotaChoice;
pub use self::surfaces::{echo_reply, echo_reply_in};
pub use self::upstream::{Again, UpstreamOptions};
