//! The list of batches, which comes in pages.
//!
//! In: nothing. Out: all batches, in the service's order. What always holds: the list is whole or an error. A list that has no end, or
//! turns in a circle, is an error, too: one that was cut off would make a batch in doubt look as if it was never created.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::remote::client::Http;
use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::service::Batch;
use crate::remote::wire::RawBatch;

/// Batches asked for at a time: the most that the dialect allows.
const PAGE_BATCHES: usize = 100;

/// Most pages of one list.
const PAGES_MAX: usize = 2_000;

/// Asks for page after page.
pub(in crate::remote) async fn list(http: &Http) -> Result<Vec<Batch>, RemoteError> {
    let limit = PAGE_BATCHES.to_string();
    let mut batches: Vec<Batch> = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..PAGES_MAX {
        let after = batches.last().map(|batch| batch.id.clone());
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let answer = http.query(&["batches"], &query).await?.successful().await?;
        let target = answer.target().to_owned();
        let page: Page = answer.json_streamed().await?;
        let goes_on = page.goes_on();
        let known = seen.len();
        for raw in page.batches {
            let batch = raw.read(&target)?;
            seen.insert(batch.id.clone());
            batches.push(batch);
        }
        if !goes_on {
            return Ok(batches);
        }
        if seen.len() == known {
            let message = "the list says that it goes on, and shows nothing new";
            return Err(RemoteError::new(ErrorKind::Protocol, target).with_message(message));
        }
    }
    let message = format!("the list has more than {} batches", PAGES_MAX * PAGE_BATCHES);
    Err(RemoteError::new(ErrorKind::TooLarge, "GET batches").with_message(&message))
}

/// A page: `{"data":[…],"has_more"}`, a bare array, or `null`.
#[derive(Default)]
struct Page {
    batches: Vec<RawBatch>,
    has_more: Option<bool>,
    /// Whether it is a page at all, of which there may be more.
    is_paged: bool,
}

impl Page {
    /// Whether there may be another one. A service that does not say so is asked, unless the page had room for more.
    fn goes_on(&self) -> bool {
        self.is_paged && !self.batches.is_empty() && self.has_more.unwrap_or(self.batches.len() >= PAGE_BATCHES)
    }
}

impl<'de> Deserialize<'de> for Page {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PageVisitor)
    }
}

struct PageVisitor;

impl<'de> Visitor<'de> for PageVisitor {
    type Value = Page;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of batches")
    }

    fn visit_unit<E>(self) -> Result<Page, E> {
        Ok(Page::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Page, A::Error> {
        let mut page = Page::default();
        while let Some(batch) = list.next_element()? {
            page.batches.push(batch);
        }
        Ok(page)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page, A::Error> {
        let mut page = Page { is_paged: true, ..Page::default() };
        let mut has_data = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "data" => {
                    has_data = true;
                    page.batches = map.next_value::<Option<Vec<RawBatch>>>()?.unwrap_or_default();
                }
                "has_more" => page.has_more = map.next_value::<Option<bool>>()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        // An object without it is something else: an error that was answered with 200, say.
        if has_data { Ok(page) } else { Err(serde::de::Error::missing_field("data")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::retry::Observer;
    use crate::remote::service::Api;
    use crate::remote::testing::{Server, answer, api_as};

    /// A service with `count` batches that shows its pages as `page` says, given the batches on it and whether there are more.
    async fn service(count: usize, page: fn(&str, bool) -> String) -> Server {
        Server::start(move |line, _| {
            let after = line.split_once("after=b-").map_or(0, |(_, number)| number.parse::<usize>().unwrap() + 1);
            let end = (after + PAGE_BATCHES).min(count);
            let shown: Vec<String> = (after..end).map(|number| format!(r#"{{"id":"b-{number}"}}"#)).collect();
            answer(200, "", page(&shown.join(","), end < count))
        })
        .await
    }

    async fn listed(server: &Server) -> Result<Vec<String>, RemoteError> {
        let batches = api_as("openai", &server.url, 1, Observer::default()).batches().await?;
        Ok(batches.into_iter().map(|batch| batch.id).collect())
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
    async fn lists_without_pages_are_lists_and_what_is_none_is_refused() {
        for (body, count) in [("null", 0), ("[]", 0), (r#"[{"id":"a"}]"#, 1), (r#"{"data":null,"has_more":false}"#, 0)]
        {
            let server = Server::start(move |_, _| answer(200, "", body)).await;
            assert_eq!(listed(&server).await.unwrap().len(), count, "{body}");
        }
        for body in
            ["{}", r#"{"error":{"message":"no"}}"#, r#"{"data":[{"id":"../x"}]}"#, r#"{"data":[{}]}"#, "3", "<html>"]
        {
            let server = Server::start(move |_, _| answer(200, "", body)).await;
            assert_eq!(listed(&server).await.unwrap_err().kind(), ErrorKind::Protocol, "{body}");
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
}
