//! The list of batches, in one piece or paginated.
//!
//! In: nothing. Out: the batches that have a valid id, in the service's order.
//!
//! Invariants:
//! - `[…]`, `{"data":[…]}` and `null` are lists in every dialect; further pages are fetched as long as there are any.
//! - The list is complete or an error. An endless or circular list is an error, too: in an incomplete list, a
//!   submission with an unknown outcome would look as if its batch was never created.
//! - Most entries belong to others. Each is delimited by its brackets and parsed separately: a malformed one is
//!   counted, and affects no other.
//! - Memory is that of the batches, at most [`LIST_BATCHES`], and one entry.

use std::collections::HashSet;
use std::io::BufRead;

use serde_json::Value;

use super::client::Http;
use super::response::broken_off;
use crate::dialect::Dialect;
use crate::dialect::route::{ListFormat, NextPage};
use crate::dialect::wire::{BatchObject, Entry};
use crate::json::brackets::{Brackets, Broken, Captured, is_key};
use crate::model::batch::is_valid_id;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::redact::Redactor;
use crate::remote::service::Listing;

/// Maximum pages of a list.
const PAGES_MAX: usize = 2_000;

/// Maximum entries of a list: in memory, the smallest ones take thirty times the bytes of their text.
const LIST_BATCHES: usize = 100_000;

/// Maximum bytes of a page's member that are read.
const MEMBER_BYTES: usize = 64 << 10;

/// Maximum bytes of an entry that are read; no service writes longer ones.
const ENTRY_BYTES: usize = 1 << 20;

/// Requests all pages in turn, or the list in one piece.
pub(super) async fn list(http: &Http, dialect: &'static dyn Dialect) -> Result<Listing, RemoteError> {
    let format = dialect.list();
    let mut listing = Listing::default();
    let (mut ids, mut cursors) = (HashSet::new(), HashSet::new());
    let mut cursor = format.first_page();
    for _ in 0..PAGES_MAX {
        let limit = format.page.map(|(parameter, most)| (parameter, most.to_string()));
        let parameters = limit.into_iter().chain(cursor.clone().map(|cursor| (format.next.parameter(), cursor)));
        let parameters: Vec<(&str, String)> = parameters.collect();
        let query: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = http.query(&dialect.routes().list, &query).await?.successful().await?;
        let (status, target) = (answer.status(), answer.target().to_owned());
        let redactor = http.redactor.clone();
        let mut page = answer
            .streamed(move |body| read_page(body, dialect, redactor))
            .await?
            .map_err(|error| error.of(&target, status))?;
        let goes_on = page.goes_on(&format);
        cursor = page.next(&format, cursor);
        let known = ids.len();
        ids.extend(page.listing.batches.iter().map(|batch| batch.id.clone()));
        listing.add(page.listing);
        if listing.entries() > LIST_BATCHES {
            let message = format!("the list has more than {LIST_BATCHES} batches");
            return Err(RemoteError::new(ErrorKind::TooLarge, target).with_message(&message));
        }
        if !goes_on {
            return Ok(listing);
        }
        let is_new = cursor.as_ref().is_some_and(|cursor| cursors.insert(cursor.clone()));
        if !is_new && ids.len() == known || cursor.is_none() {
            let message = "the list says that it has another page, but shows nothing new";
            return Err(RemoteError::new(ErrorKind::Protocol, target).with_message(message));
        }
    }
    let message = format!("the list has more than {PAGES_MAX} pages");
    Err(RemoteError::new(ErrorKind::TooLarge, "GET batches").with_message(&message))
}

/// A page: `{"data":[…],"has_more"}`, a bare array, or `null`.
#[derive(Debug)]
struct Page {
    dialect: &'static dyn Dialect,
    redactor: Redactor,
    listing: Listing,
    /// Entries of any kind.
    entries: usize,
    has_more: Option<bool>,
    /// The token of the next page, if the dialect uses tokens.
    token: Option<String>,
    /// Where the next page begins: behind its last entry, as far as that can be named.
    last: Option<String>,
    /// Whether the last entry has an id.
    ends_named: bool,
    /// Whether it is a page at all, of which there may be more.
    is_paged: bool,
}

impl Page {
    fn new(dialect: &'static dyn Dialect, redactor: Redactor) -> Self {
        let (listing, entries, has_more, token) = (Listing::default(), 0, None, None);
        Self { dialect, redactor, listing, entries, has_more, token, last: None, ends_named: false, is_paged: false }
    }

    /// Whether there may be another one. Where a list comes in pages, a service that does not say so is asked, unless
    /// the page had room for more.
    fn goes_on(&self, format: &ListFormat) -> bool {
        let is_full = format.page.is_some_and(|(_, most)| self.entries >= most);
        match format.next {
            NextPage::AfterLast(_) => self.is_paged && self.entries > 0 && self.has_more.unwrap_or(is_full),
            NextPage::Token { .. } => self.token.is_some(),
            NextPage::Number { .. } => is_full,
        }
    }

    /// The cursor of the next page, if `cursor` was that of this one.
    fn next(&mut self, format: &ListFormat, cursor: Option<String>) -> Option<String> {
        match format.next {
            NextPage::AfterLast(_) => self.last.take().or(cursor),
            NextPage::Token { .. } => self.token.take(),
            NextPage::Number { .. } => Some((cursor?.parse::<u64>().ok()? + 1).to_string()),
        }
    }

    fn has_too_many(&self) -> bool {
        self.listing.entries() > LIST_BATCHES
    }

    /// What came of reading, if there are not too many entries.
    fn unless_too_many(&self, read: Result<(), Broken>) -> Result<(), NoList> {
        if self.has_too_many() { Err(NoList::TooMany) } else { Ok(read?) }
    }

    fn take(&mut self, entry: Captured) {
        self.entries += 1;
        let bytes = self.redactor.bytes(entry.bytes);
        let read = if entry.whole { self.dialect.batch(&bytes) } else { None };
        let entry = read.map_or(Entry::Odd, BatchObject::into_entry);
        self.ends_named = matches!(entry, Entry::Batch(_));
        match entry {
            Entry::Batch(batch) => {
                self.last = Some(batch.id.clone());
                self.listing.batches.push(*batch);
            }
            Entry::Unnamed(file) => self.listing.unnamed.push(file),
            Entry::Odd => self.listing.odd += 1,
        }
    }
}

/// Why a response is not a list.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoList {
    #[error("the response is not a list of batches")]
    OtherThing,
    #[error("the response is a list of batches that is not whole JSON")]
    NotWhole,
    #[error("the response has more than {LIST_BATCHES} batches")]
    TooMany,
    #[error(transparent)]
    Read(#[from] std::io::Error),
}

impl NoList {
    fn of(self, target: &str, status: u16) -> RemoteError {
        let kind = match self {
            Self::OtherThing => ErrorKind::Protocol,
            // It may have been cut, and come whole the next time.
            Self::NotWhole => ErrorKind::Interrupted,
            Self::TooMany => ErrorKind::TooLarge,
            Self::Read(error) => return broken_off(error, target.to_owned()),
        };
        RemoteError::new(kind, target).with_status(status).with_message(&self.to_string())
    }
}

impl From<Broken> for NoList {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::NotWhole => Self::NotWhole,
            Broken::Read(error) => Self::Read(error),
        }
    }
}

/// Reads a list, or a page of one, as it comes in.
fn read_page(body: impl BufRead, dialect: &'static dyn Dialect, redactor: Redactor) -> Result<Page, NoList> {
    // What is at the end, so that a word there ends, too.
    let mut brackets = Brackets::lenient(body.chain(&b" "[..]));
    let mut page = Page::new(dialect, redactor);
    brackets.space()?;
    match brackets.peek()? {
        Some(b'[') => {
            let read = read_entries(&mut brackets, &mut page);
            page.unless_too_many(read)?;
        }
        Some(b'{') => read_object(&mut brackets, &mut page)?,
        Some(b'n') if brackets.captured(MEMBER_BYTES)?.bytes == b"null" => {}
        _ => return Err(NoList::OtherThing),
    }
    brackets.space()?;
    if brackets.peek()?.is_some() { Err(NoList::NotWhole) } else { Ok(page) }
}

fn read_object(brackets: &mut Brackets<impl BufRead>, page: &mut Page) -> Result<(), NoList> {
    page.is_paged = true;
    let format = page.dialect.list();
    let (mut has_data, mut last_id) = (false, None);
    let read = brackets.members(|brackets, key| {
        if is_key(key, format.entries) && brackets.peek()? == Some(b'[') {
            has_data = true;
            return read_entries(brackets, page);
        }
        let member = brackets.captured(MEMBER_BYTES)?;
        let value = || serde_json::from_slice::<Value>(&member.bytes).ok().filter(|_| member.whole);
        if is_key(key, format.entries) {
            // Without it the object is something else, such as an error with status 200.
            has_data |= value() == Some(Value::Null);
        } else if format.next.token().is_some_and(|token| is_key(key, token)) {
            page.token = value().and_then(|value| value.as_str().map(str::to_owned)).filter(|token| !token.is_empty());
        } else if is_key(key, "has_more") {
            page.has_more = page.has_more.or_else(|| value()?.as_bool());
        } else if is_key(key, "last_id") {
            last_id = last_id.take().or_else(|| Some(value()?.as_str()?.to_owned()).filter(|id| is_valid_id(id)));
        }
        Ok(())
    });
    page.unless_too_many(read)?;
    if !has_data {
        return Err(NoList::OtherThing);
    }
    if !page.ends_named {
        // `has_more` is less reliable than the entries themselves, but here no entry has an id.
        page.last = last_id.or(page.last.take());
    }
    Ok(())
}

/// Reads an array; not to its end when there are too many entries.
fn read_entries(brackets: &mut Brackets<impl BufRead>, page: &mut Page) -> Result<(), Broken> {
    brackets.elements(|brackets| {
        let entry = brackets.captured(ENTRY_BYTES)?;
        page.take(entry);
        if page.has_too_many() { Err(Broken::NotWhole) } else { Ok(()) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::OPENAI;
    use crate::remote::http::testing::{Server, answer, api_as};
    use crate::remote::retry::Observer;
    use crate::remote::service::Api;

    /// What OpenAI's dialect has on a page.
    const PAGE_BATCHES: usize = 100;

    /// A service with `count` batches that shows its pages as `page` says, given the batches on it and whether there
    /// are more.
    async fn service(count: usize, page: fn(&str, bool) -> String) -> Server {
        Server::start(move |line, _| {
            let after = line.split_once("after=b-").map_or(0, |(_, number)| number.parse::<usize>().unwrap() + 1);
            let end = (after + PAGE_BATCHES).min(count);
            let shown: Vec<String> = (after..end).map(|number| format!(r#"{{"id":"b-{number}"}}"#)).collect();
            answer(200, "", page(&shown.join(","), end < count))
        })
        .await
    }

    async fn listed_as(provider: &str, server: &Server) -> Result<Vec<String>, RemoteError> {
        let listing = api_as(provider, &server.url, 1, Observer::default()).batches().await?;
        Ok(listing.batches.into_iter().map(|batch| batch.id).collect())
    }

    async fn listed(server: &Server) -> Result<Vec<String>, RemoteError> {
        listed_as("openai", server).await
    }

    #[tokio::test]
    async fn all_pages_are_read_in_order_whatever_they_leave_out() {
        let full = |data: &str, more: bool| {
            format!(r#"{{"object":"list","data":[{data}],"first_id":null,"last_id":"b-9","has_more":{more}}}"#)
        };
        let bare = |data: &str, _: bool| format!(r#"{{"data":[{data}]}}"#);
        let null = |data: &str, _: bool| format!(r#"{{"has_more":null,"data":[{data}]}}"#);
        for (count, pages) in [(0, 1), (1, 1), (100, 1), (101, 2), (250, 3)] {
            for (page, more_asked) in [(full as fn(&str, bool) -> String, false), (bare, true), (null, true)] {
                let server = service(count, page).await;
                let wanted: Vec<String> = (0..count).map(|number| format!("b-{number}")).collect();
                assert_eq!(listed(&server).await.unwrap(), wanted);
                // A full page that does not say whether it is the last is followed by an empty one.
                let extra = usize::from(more_asked && count > 0 && count % PAGE_BATCHES == 0);
                assert_eq!(server.seen().len(), pages + extra, "{count}");
            }
        }
        let server = service(101, full).await;
        listed(&server).await.unwrap();
        assert_eq!(
            server.seen().iter().map(|seen| seen.line.clone()).collect::<Vec<_>>(),
            ["GET /v1/batches?limit=100", "GET /v1/batches?limit=100&after=b-99"]
        );
    }

    #[tokio::test]
    async fn lists_of_every_kind_are_lists_in_every_dialect_and_what_is_none_is_refused() {
        for provider in ["together", "openai"] {
            for (body, count) in [
                ("null", 0),
                (" null\n", 0),
                ("[]", 0),
                (r#"[{"id":"a"}]"#, 1),
                (r#"{"data":null,"has_more":false}"#, 0),
                (r#"{"data":[{"id":"a"},{"id":"b"}]}"#, 2),
                (r#"{"has_more":false,"d\u0061ta":[{"id":"a"}],"total":1e999,"last_id":null}"#, 1),
                (r#"{"object":"list","data":[{"id":"a"}],"has_more":null}"#, 1),
            ] {
                let server = Server::start(move |_, _| answer(200, "", body)).await;
                assert_eq!(listed_as(provider, &server).await.unwrap().len(), count, "{provider}: {body}");
                assert_eq!(server.seen().len(), 1, "{provider}: {body}");
            }
            for body in
                ["{}", r#"{"error":{"message":"no"}}"#, r#"{"data":{"id":"a"}}"#, r#"{"data":"x"}"#, "3", "<html>"]
            {
                let server = Server::start(move |_, _| answer(200, "", body)).await;
                assert_eq!(listed_as(provider, &server).await.unwrap_err().kind(), ErrorKind::Protocol, "{body}");
            }
            // Cut, though nothing shows it: it may come whole the next time.
            for body in [r#"[{"id":"a"}"#, r#"{"data":[{"id":"a"},"#, r#"{"data":[{"id":"a"}]"#, "[{]"] {
                let server = Server::start(move |_, _| answer(200, "", body)).await;
                assert_eq!(listed_as(provider, &server).await.unwrap_err().kind(), ErrorKind::Interrupted, "{body}");
            }
        }
    }

    #[tokio::test]
    async fn pages_are_followed_past_entries_that_cannot_be_named() {
        let page = |data: &str, last: &str| format!(r#"{{"data":[{data}],"has_more":true,"last_id":{last}}}"#);
        for (provider, first) in [("openai", "GET /v1/batches?limit=100"), ("together", "GET /v1/batches")] {
            let server = Server::start(move |line, _| {
                let body = match line.split_once("after=").map(|(_, after)| after) {
                    None => page(r#"{"id":"a"},null"#, r#""s3://x/1?""#),
                    Some("s3%3A%2F%2Fx%2F1%3F") => page("3,[]", r#""second""#),
                    Some("second") => page(r#"{"id":"b"},{"id":null}"#, "null"),
                    _ => r#"{"data":[{"id":"c"}],"has_more":false}"#.to_owned(),
                };
                answer(200, "", body)
            })
            .await;
            assert_eq!(listed_as(provider, &server).await.unwrap(), ["a", "b", "c"]);
            assert_eq!((&*server.seen()[0].line, server.seen().len()), (first, 4));
            // If no entry on it has an id, the next page is unknown.
            let server = Server::start(move |_, _| answer(200, "", page("3", "null"))).await;
            assert_eq!(listed_as(provider, &server).await.unwrap_err().kind(), ErrorKind::Protocol);
        }
    }

    #[tokio::test]
    async fn a_list_that_turns_in_a_circle_is_an_error() {
        let server = Server::start(|_, _| answer(200, "", r#"{"data":[{"id":"a"},{"id":"b"}],"has_more":true}"#)).await;
        assert_eq!(listed(&server).await.unwrap_err().kind(), ErrorKind::Protocol);
        assert_eq!(server.seen().len(), 2);
        let server = Server::start(|_, _| answer(200, "", r#"{"data":[],"has_more":true}"#)).await;
        assert!(listed(&server).await.unwrap().is_empty(), "nothing is nothing");
    }

    /// Malformed entries with matching brackets.
    const ODD: [&[u8]; 34] = [
        b"null",
        b"3",
        b"-1e999",
        b"true",
        b"\"a text, with ] and } and \\\" in it\"",
        b"[]",
        b"[[[{}]]]",
        b"{}",
        b"{\"id\":null}",
        b"{\"id\":\"\"}",
        b"{\"id\":[\"a\"]}",
        b"{\"id\":{\"id\":\"a\"}}",
        b"{\"id\":true,\"status\":7}",
        b"{\"id\":\"a\\u0000b\"}",
        b"{\"id\":\"a\\nb\"}",
        b"{\"id\":\"..\"}",
        b"{\"id\":\"\\ud800\"}",
        b"{\"id\":\"\xff\xfe\"}",
        b"{\"id\":NaN}",
        b"{\"object\":\"batch\",\"status\":\"completed\"}",
        b"NaN",
        b"undefined",
        b"{\"\\ud800\":1}",
        b"{\"metadata\":{\"batchline_run\":7}}",
        b"{\"a\":[1e400,NaN,Infinity,'x']}",
        b"\"\xff\"",
        b"{1:2}",
        b"{\"id\" \"a\"}",
        b"{\"id\":}",
        b"{,}",
        b"{\"a\":\"\t\x01\"}",
        b"[1,2,{\"id\":\"a\"}]",
        b"{\"id\":\"\\x\"}",
        b"{\"status\":\"IN_PROGRESS\",\"output_file_id\":\"f\"}",
    ];

    /// Entries that are batches, for all that is wrong with them.
    const UGLY: [&[u8]; 12] = [
        b"{\"id\":\"s3://bucket/key?a=b#c\"}",
        b"{\"id\":7}",
        b"{\"id\":\"a\",\"id\":\"b\"}",
        b"{\"id\":\"a\",\"progress\":NaN,\"created_at\":1e999}",
        b"{\"id\":\"a\",\"output_file_id\":\"\\u0000\",\"error_file_id\":\"..\",\"input_file_id\":[]}",
        b"{\"id\":\"a\",\"error\":\"\xff\\ud800\",\"status\":{}}",
        b"{\"id\":\"a\",\"errors\":[[[[[null]]]]],\"metadata\":\"x\"}",
        b"{\"id\":\"..\\/..\\/x\",\"x\":\"\x00\"}",
        b"{\"id\":\"\xc3\xa4 \\u202e\"}",
        b"{ \"\\u0069d\" : \"a\" , \"request_counts\" : {\"total\":-1} }",
        b"{\"id\":\"a\",\"job_deadline\":\"never\",\"model\":null}",
        b"{\"id\":\"a\",\"status\":\"\\u001b[2J\"}",
    ];

    fn entries_of(list: &[u8]) -> Page {
        read_page(list, OPENAI, Redactor::default()).unwrap_or_else(|error| panic!("{error}: {}", list.escape_ascii()))
    }

    #[test]
    fn an_entry_is_what_it_is_whatever_is_wrong_with_it() {
        for entry in ODD {
            let Page { listing, entries, .. } = entries_of(&[b"[", entry, b"]"].concat());
            assert!(listing.batches.is_empty() && listing.unnamed.is_empty(), "{}", entry.escape_ascii());
            assert!((1..=2).contains(&entries) && listing.odd == entries as u64, "{}", entry.escape_ascii());
        }
        for entry in UGLY {
            let Page { listing, .. } = entries_of(&[b"[", entry, b"]"].concat());
            let [batch] = listing.batches.try_into().unwrap();
            assert!(is_valid_id(&batch.id), "{}", entry.escape_ascii());
            assert_eq!((batch.output_file_id, batch.error_file_id), (None, None), "{}", entry.escape_ascii());
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(crate::model::batch::ID_BYTES + 1));
        let huge = format!(r#"{{"id":"a","x":"{}"}}"#, "x".repeat(ENTRY_BYTES));
        let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        for entry in [long, huge, deep] {
            let Page { listing, .. } = entries_of(format!(r#"{{"data":[{entry},{{"id":"b"}}]}}"#).as_bytes());
            assert_eq!((listing.odd, &*listing.batches[0].id), (1, "b"), "{}", &entry[..20]);
        }
        let unnamed = entries_of(br#"[{"id":null,"input_file_id":"f-1"},{"id":"\n","input_file_id":"f-2"}]"#).listing;
        assert_eq!((unnamed.unnamed, unnamed.odd), (vec!["f-1".to_owned(), "f-2".to_owned()], 0));
    }

    /// See the table in `json/mod.rs`.
    #[test]
    fn of_a_member_that_is_there_twice_the_first_counts_and_of_data_all() {
        let page = entries_of(
            br#"{"has_more":true,"data":[{"id":"a","id":"b","status":"FAILED","status":"COMPLETED"}],"d\u0061ta":[{"id":"c"},3],"has_more":false,"last_id":"x","l\u0061st_id":"y"}"#,
        );
        let ids: Vec<_> = page.listing.batches.iter().map(|batch| (&*batch.id, batch.status.to_string())).collect();
        assert_eq!(ids[0], ("a", crate::model::batch::BatchStatus::Failed.to_string()));
        assert_eq!((ids.len(), ids[1].0, page.has_more, page.last.as_deref()), (2, "c", Some(true), Some("x")));
    }

    /// A batch like many, and an entry of any kind.
    fn entry() -> impl Strategy<Value = (Vec<u8>, Option<String>)> {
        let good = "[a-z0-9_-]{1,9}".prop_map(|id| {
            let text = format!(r#"{{"id":"{id}","status":"IN_PROGRESS","x":[{{"id":"no"}},"]"]}}"#);
            (text.into_bytes(), Some(id))
        });
        let odd = prop::sample::select(ODD.to_vec()).prop_map(|text| (text.to_vec(), None));
        let text = prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| {
            let escaped = |byte: u8| if matches!(byte, b'"' | b'\\') { vec![b'\\', byte] } else { vec![byte] };
            let inner: Vec<u8> = bytes.into_iter().flat_map(escaped).collect();
            ([b"{\"odd\":\"", inner.as_slice(), b"\"}"].concat(), None)
        });
        prop_oneof![good, odd, text]
    }

    proptest! {
        /// No entry of a list affects another one, whatever it is and however the list is formatted.
        #[test]
        fn the_batches_of_a_list_are_found_among_entries_of_any_kind(
            entries in prop::collection::vec(entry(), 0..30),
            separator in prop::sample::select(vec![&b","[..], b" ,\r\n\t", b",,", b", "]),
            is_page: bool,
            piece in 1_usize..50,
        ) {
            let (texts, ids): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
            let wanted: Vec<String> = ids.into_iter().flatten().collect();
            let list = [b"[", texts.join(separator).as_slice(), b"]"].concat();
            let list = if is_page { [b"{\"object\":\"list\",\"data\":", list.as_slice(), b"}\n"].concat() } else { list };
            let body = std::io::BufReader::with_capacity(piece, &list[..]);
            let page = read_page(body, OPENAI, Redactor::default());
            let page = page.map_err(|error| TestCaseError::fail(error.to_string()))?;
            let found: Vec<String> = page.listing.batches.into_iter().map(|batch| batch.id).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
