//! Scripted faults: what goes wrong in the local server, and when, so that people can test their own tools.
//!
//! In: a script, in TOML, and the calls and batches of a server. Out: the same calls and batches, with the faults in
//! them.
//!
//! ```toml
//! [[fault]]
//! do = "accept_then_drop"   # the first batch is made, but the client never hears of it
//! call = "create"
//! nth = 1
//!
//! [[fault]]
//! do = "status"             # every third download is too much for the service
//! call = "content"
//! every = 3
//! status = 429
//! retry_after = 2
//! ```
//!
//! What always holds:
//! - The billing ledger stays the truth, whatever happens to answers and files: a request that was answered is billed
//!   once per batch, also when its row is dropped; an error row, and a row that an expired batch did not come to, are
//!   not billed.
//! - The same script, seed and calls give the same faults. What counts calls begins anew with each start of the
//!   server, what counts batches does not.
//! - A fault that acted is in `access.jsonl`, in the line of its call (`"fault":"accept_then_drop"`; several are
//!   joined by `+`; the `status` is `null` if the answer was cut off), or, when it acted on the rows or the end of a
//!   batch, in `faults.jsonl`: `{"at","batch_id","fault","rows"}`. One that found nothing to act on is not.
//!
//! # When a fault acts
//!
//! | member | the fault acts |
//! |---|---|
//! | `call = "create"` | on these calls, or one of a list: `upload`, `put`, `preprocess`, `create`, `retrieve`, `list`, `cancel`, `content`, `file`, `files`, `delete`, `any` |
//! | `nth = 1`, `nth = [1, 3]` | on the first, or on the first and third |
//! | `from = 2`, `to = 5` | from the second through the fifth |
//! | `every = 2` | on the second, fourth, sixth … |
//! | `probability = 0.1` | on one in ten, drawn by the seed of the server |
//! | `batch = 2`, `batch = [1, 4]` | on calls about the second batch created in the server's directory, or about its files |
//! | `file = "output"` | on calls about files that are an `output`, an `error` or an `input` file of a batch |
//!
//! All that is given must hold. `nth` and its like count the calls that `call`, `batch` and `file` let through, from 1.
//! Of the faults that answer a call, or change how bytes get across, the first in the script that picks the call acts;
//! those that change what is shown of batches act all, one after the other. Faults in rows and ends count batches
//! instead of calls, in the order of their creation, and take no `call`.
//!
//! # How a call is answered
//!
//! | `do` | what goes wrong | plays |
//! |---|---|---|
//! | `accept_then_drop`, `how = "close"` or `"reset"` | it is done, and the connection cut without an answer | a load balancer restarts at the worst moment |
//! | `accept_then_status`, *answer* | it is done, and answered with 502 or *answer* | a gateway gives up on a backend that did its work; a 201 whose body is garbage |
//! | `accept_slow`, `delay` | it is done at once, and answered after `delay` | an overloaded service, a client with a timeout |
//! | `drop_before`, `how` | nothing is done, and the connection cut | a network that fails on the way there |
//! | `late_commit`, `delay`, *answer* | 504 now, and the batch appears after `delay` | a queue behind a gateway |
//! | `status`, *answer* | nothing is done; the call is answered with *answer* | rate limits, outages, maintenance pages |
//! | `redirect`, `location`, `status = 302` | it is sent elsewhere: `location` is `"same"`, `"loop"`, `"file"`, a path, or a URL, `{path}` in it being that of the call. The announcement of an upload stays valid, and only leads elsewhere | captive portals, hostile services |
//! | `quote_key`, `status = 401`, `form = "text"` | nothing is done; the refusal quotes the caller's key: as it is (`"text"`), with each character escaped as in JSON (`"escaped"`) or in URLs (`"percent"`), in `"base64"`, or in the title of a page (`"html"`) | services and proxies that quote what they do not know |
//! | `turn_away`, `batches = 1`, `status = 429` | while as many batches are at work a create is refused, with words about a full queue | limits on what is enqueued |
//! | `visibility_lag`, `calls = 1`, `status = 404` | the first `calls` of the calls `create` and `file` that name a file do not see it | a store that is consistent in the end |
//!
//! An *answer* is `status`, and if wanted `body`, `content_type`, `headers = { name = "value" }`, and `retry_after`
//! (seconds or any text) or `retry_after_in` (a time, sent as a date). Without `body`, it is an error in the shape of
//! the service.
//!
//! # How bytes get across
//!
//! These act on `content` unless `call` says otherwise, and on the answer; `truncate`, `reset`, `slow` and `hang` act
//! on the body of an upload when `call` is `put` or `upload`.
//!
//! | `do` | what goes wrong | plays |
//! |---|---|---|
//! | `truncate`, `at`, `length = "whole"` | the body ends after `at` bytes. `Content-Length` is that of the whole body; with `"cut"` that of what comes; with `"absent"` there is none, and the end looks like any | a proxy with a time or size limit |
//! | `reset`, `at` | the connection is reset after `at` bytes | a crash, a lost route |
//! | `content_length`, `add` | `Content-Length` says that much more or, below 0, less | a proxy that rewrites bodies |
//! | `ignore_range` | a request for a range gets the whole, with 200 | servers without ranges |
//! | `misaligned_range`, `by = 1`, `lie = false` | a request for a range gets one that begins `by` bytes later, with `lie` under the name of the right one | a cache that serves blocks |
//! | `refuse_range` | a request for a range gets 416 | a file that became shorter |
//! | `change_etag` | a request for a range finds another `ETag`; with `If-Range`, the whole file | a file replaced between two parts of a download |
//! | `gzip` | the body is compressed, unasked | a CDN that knows better |
//! | `gzip_bomb`, `bytes = 10000000000` | the body is that many zeros, a mebibyte more or less, compressed a thousandfold | a hostile service |
//! | `slow`, `bytes_per_second` | bytes come at that rate | a bad line |
//! | `hang`, `delay`, `at = 0` | after the headers and `at` bytes, nothing comes for `delay` | a stalled proxy |
//!
//! # What is shown of batches
//!
//! The first six act on `list`, `same_id` on `create`, the others on `retrieve` and `list`.
//!
//! | `do` | what goes wrong | plays |
//! |---|---|---|
//! | `list_lag`, `delay` | batches younger than `delay` are not listed | a stale replica |
//! | `list_omit`, `newest = 1` | the newest batches are not listed | a list that is cut off |
//! | `list_duplicate` | each is listed twice | pages that overlap |
//! | `list_null` | the list is `null` | what the service says when there is none |
//! | `list_huge`, `entries = 10000` | as many batches of somebody else follow | an account with a long history |
//! | `list_foreign`, `entries` | entries of others stand before and behind ours: each a text that is JSON, such as `'null'`, or else some thirty that nobody would expect | other programs in the same account |
//! | `show`, `set = {…}`, `unset = […]`, `looks`, `while` | members are set or left out, at the first `looks` looks at a batch, while it has the status `while` | statuses that are not documented, `error_file_id = ""`, COMPLETED without `output_file_id` |
//! | `bad_id`, `id`, `field = "output_file_id"` | an id is `"dots"` (`../`), `"encoded_dots"` (`%2e%2e`), `"newline"`, `"nul"`, `"long"` (10 KB) or `"empty"` | a hostile service |
//! | `same_id` | a created batch has the id of the first one | a cache in front of the service |
//! | `regress`, `looks = 1` | after COMPLETED was shown once, `IN_PROGRESS` is for `looks` looks | a stale replica |
//!
//! # What a batch gives back
//!
//! Each takes `rows` (lines of the input, from 1) or `share` (0 to 1, drawn by the seed from the bytes of the
//! request: the same requests in each batch), and otherwise acts on every row; the last three act on both files.
//!
//! | `do` | what goes wrong | plays |
//! |---|---|---|
//! | `drop_rows` | rows are missing; with `counted = true` the batch counts them as answered | lost results |
//! | `duplicate_rows`, `different = false` | rows come twice, the second time with another text | a worker that was retried |
//! | `unknown_ids`, `id = "unknown"` | rows name a request that nobody sent; with `"case"`, `"space"`, `"number"`, `"decomposed"` or `"escapes"`, almost the right one | mixed-up batches, ids that were normalised |
//! | `both_files`, `code`, `message` | requests have an output and an error | a retry after a timeout |
//! | `error_rows`, `code`, `message`, `once = false` | requests fail; with `once`, only in the first batch that has them | an overloaded model |
//! | `nul`, `bad_utf8`, `lone_surrogate`, `bigints` | rows have these in an additional member | what models write |
//! | `deep`, `depth = 1000000` | rows have that many arrays inside one another | a hostile service |
//! | `duplicate_keys` | rows have their `custom_id` twice | a sloppy writer |
//! | `huge_line`, `bytes`, `last = false` | rows have that many bytes more, in front of all else or behind it | endless generation |
//! | `blank_lines` | an empty line and one of spaces follow | a sloppy writer |
//! | `no_final_newline`, `crlf`, `bom` | the files end without a newline, have CR LF, begin with a byte order mark | a sloppy writer |
//! | `joined` | two rows stand on each line | files put together that had no final newline |
//!
//! # How a batch ends
//!
//! | `do` | what goes wrong | plays |
//! |---|---|---|
//! | `expire`, `share = 0` | EXPIRED, with the rows of that share of its requests | the completion window |
//! | `fail`, `share = 0`, `message` | FAILED, the same way, with `message` as its `error` | internal errors |
//! | `never` | `IN_PROGRESS` until it is cancelled | a batch that got stuck |
//! | `no_room`, `batches = 1` | FAILED with `token_limit_exceeded` before anything of it is done, while as many that are older are at work | limits on what is enqueued |

mod answer;
pub(crate) mod batch_faults;
mod bodies;
pub(crate) mod connection;
mod fields;
pub(crate) mod once;
pub(crate) mod request_faults;
mod rows;
mod script;
pub(crate) mod selector;
mod transfer;
pub(crate) mod view_faults;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::fields::FaultsError;
pub use self::script::Faults;

pub(super) use self::rows::{Forms, LineEnds};
pub(super) use crate::serve::faults::batch_faults::Ending;

use self::script::{Role, Rule, Verb};
use super::Shared;
use super::batches::rfc3339;
use super::store::Store;
use super::surface::Surface;
use crate::serve::access_log::Endpoint;
use crate::serve::faults::connection::Wire;
use crate::serve::faults::once::Seen;
use crate::serve::faults::request_faults::Acting;
use crate::serve::faults::view_faults::Show;
use crate::storage::durable;
use crate::storage::durable::FileError;

/// Bytes of an answer about batches that faults in it can be put into.
const SHOWN_BYTES: usize = 256 << 20;

/// A script at work.
#[derive(Debug)]
pub(super) struct Script {
    rules: Vec<Rule>,
    surface: &'static dyn Surface,
    seed: u64,
    /// The calls that each rule looked at so far.
    counts: Mutex<Vec<u64>>,
    /// How often a rule looked at a certain batch or file.
    looks: Mutex<HashMap<(usize, String), u64>>,
    seen: Seen,
    log_path: PathBuf,
    log: Option<Mutex<File>>,
}

/// The names of the faults that acted on one call.
#[derive(Debug, Default)]
pub(super) struct Fired(Mutex<Vec<String>>);

impl Fired {
    fn add(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    }

    /// The names, or `None` when no fault acted.
    pub(super) fn names(&self) -> Option<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!names.is_empty()).then(|| names.join("+"))
    }
}

impl Script {
    /// Puts `faults` to work in the server of `directory`.
    pub(super) fn open(
        faults: Faults,
        (surface, seed): (&'static dyn Surface, u64),
        directory: &Path,
        store: &Store,
    ) -> Result<Self, FileError> {
        let log_path = directory.join("faults.jsonl");
        let log = if faults.is_empty() { None } else { Some(Mutex::new(durable::append(&log_path)?)) };
        let number_of = |id: &str| store.batches.get(id).map(|batch| batch.number);
        Ok(Self {
            counts: Mutex::new(vec![0; faults.rules.len()]),
            rules: faults.rules,
            surface,
            seed,
            looks: Mutex::default(),
            seen: Seen::open(directory.join("faults"), number_of)?,
            log_path,
            log,
        })
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    fn seed_of(&self, rule: &Rule) -> u64 {
        xxh3_64_with_seed(&rule.index.to_le_bytes(), self.seed)
    }

    fn picks_batch(&self, rule: &Rule, number: u64) -> bool {
        rule.batches.as_ref().is_none_or(|batches| batches.contains(&number))
            && rule.picks.pick(number, self.seed_of(rule))
    }

    /// Counts one more call for a rule. Gives its number if the rule picks it.
    fn pick_call(&self, rule: &Rule) -> Option<u64> {
        let number = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts[rule.index] += 1;
            counts[rule.index]
        };
        rule.picks.pick(number, self.seed_of(rule)).then_some(number)
    }

    /// Counts a look of a rule at a batch or file, and gives its number.
    fn look(&self, rule: &Rule, id: &str) -> u64 {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = looks.entry((rule.index, id.to_owned())).or_default();
        *looks += 1;
        *looks
    }

    fn record(&self, rule: &Rule, batch: &str, rows: Option<u64>) -> Result<(), FileError> {
        let Some(log) = &self.log else { return Ok(()) };
        let at = rfc3339(Timestamp::now().as_microsecond());
        let line = format!("{}\n", json!({"at": at, "batch_id": batch, "fault": rule.name, "rows": rows}));
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write_all(line.as_bytes()).map_err(FileError::on("write", &self.log_path))
    }
}

impl Rule {
    /// Whether it acts on calls with this path, as far as `batch` and `file` go.
    fn admits(&self, store: &Store, path: &str) -> bool {
        if self.batches.is_none() && self.file.is_none() {
            return true;
        }
        let Some(id) = id_in(path) else { return false };
        let is_listed = |number: u64| self.batches.as_ref().is_none_or(|batches| batches.contains(&number));
        if let Some(batch) = store.batches.get(id) {
            return self.file.is_none() && is_listed(batch.number);
        }
        let wants = |role| self.file.is_none_or(|wanted| wanted == role);
        let is = |named: &Option<String>| named.as_deref() == Some(id);
        let users = store.batches.select(|batch| {
            is_listed(batch.number)
                && (wants(Role::Output) && is(&batch.output_file_id)
                    || wants(Role::Error) && is(&batch.error_file_id)
                    || wants(Role::Input) && batch.input_file_id == id)
        });
        !users.is_empty()
    }

    /// Whether it acts on what is shown of a batch.
    fn is_about(&self, store: &Store, batch: &str) -> bool {
        self.batches
            .as_ref()
            .is_none_or(|batches| store.batches.get(batch).is_some_and(|batch| batches.contains(&batch.number)))
    }
}

/// The id of the file or batch that a path names.
fn id_in(path: &str) -> Option<&str> {
    let mut segments = path.trim_start_matches('/').split('/');
    matches!(segments.next(), Some("files" | "batches" | "storage")).then(|| segments.next())?
}

/// Lets a call pass to the server, with the faults that the script has for it.
pub(super) async fn pass(
    shared: &Arc<Shared>,
    endpoint: Endpoint,
    wire: &Wire,
    fired: &Fired,
    request: Request,
    next: Next,
) -> Response {
    let script = &shared.faults;
    let mut conduct = None;
    let mut shows = Vec::new();
    for rule in script.rules() {
        match &rule.verb {
            Verb::Conduct(calls, fault)
                if calls.contain(endpoint) && rule.admits(&shared.store, request.uri().path()) =>
            {
                if let Some(number) = script.pick_call(rule) {
                    conduct = conduct.or(Some((Acting { shared, rule, endpoint, number, wire, fired }, fault)));
                }
            }
            Verb::Show(calls, fault) if calls.contain(endpoint) && script.pick_call(rule).is_some() => {
                shows.push((rule, fault));
            }
            _ => {}
        }
    }
    let response = match conduct {
        Some((acting, fault)) => fault.act(acting, request, next).await,
        None => next.run(request).await,
    };
    if shows.is_empty() || wire.is_cut() || !response.status().is_success() {
        return response;
    }
    show(shared, &shows, fired, response).await
}

/// Puts faults into an answer about batches. One that is not JSON stays as it is.
async fn show(shared: &Shared, shows: &[(&Rule, &Show)], fired: &Fired, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = body::to_bytes(body, SHOWN_BYTES).await else {
        return Response::from_parts(parts, body::Body::empty());
    };
    let Ok(mut answer) = serde_json::from_slice::<Value>(&bytes) else {
        return Response::from_parts(parts, body::Body::from(bytes));
    };
    let mut strangers = 0;
    for (rule, fault) in shows {
        if fault.change(&mut answer, rule, shared) {
            fired.add(&rule.name);
        }
        if let Show::ListHuge { entries } = fault
            && !answer.is_object()
        {
            strangers += entries;
        }
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Show::body(&answer, strangers))
}
