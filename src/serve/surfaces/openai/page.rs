//! Lists in pages.
//!
//! In: everything there is, in its order, and what a client asked for. Out:
//! `{"object":"list","data","first_id","last_id","has_more"}`. Invariants: a client that asks on from the last id of
//! each page sees each entry once, unless entries go meanwhile.

use serde::{Deserialize, Serialize};

use crate::serve::api::error::ApiError;

/// Which page is asked for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct PageQuery {
    pub(crate) after: Option<String>,
    pub(crate) limit: Option<usize>,
}

/// One page.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// The page that was asked for, of at most `usual` entries if nothing was said, and of `most` in any case.
pub(crate) fn page<E, T>(
    entries: &[E],
    PageQuery { after, limit }: PageQuery,
    (usual, most): (usize, usize),
    id: impl Fn(&E) -> &str,
    show: impl Fn(&E) -> T,
) -> Result<Page<T>, ApiError> {
    let limit = limit.unwrap_or(usual);
    if limit == 0 || limit > most {
        return Err(ApiError::bad_request(format!("Invalid 'limit': {limit} is not from 1 to {most}")));
    }
    let start = match &after {
        None => 0,
        Some(after) => {
            let place = entries.iter().position(|entry| id(entry) == after);
            1 + place.ok_or_else(|| ApiError::bad_request(format!("Invalid 'after': there is no {after}")))?
        }
    };
    let rest = &entries[start..];
    let shown = &rest[..rest.len().min(limit)];
    Ok(Page {
        object: "list",
        data: shown.iter().map(show).collect(),
        first_id: shown.first().map(|entry| id(entry).to_owned()),
        last_id: shown.last().map(|entry| id(entry).to_owned()),
        has_more: rest.len() > limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paged(after: Option<&str>, limit: Option<usize>) -> Option<(Vec<&'static str>, bool)> {
        let asked = PageQuery { after: after.map(str::to_owned), limit };
        let page = page(&["a", "b", "c", "d", "e"], asked, (3, 4), |entry| entry, |entry| *entry).ok()?;
        assert_eq!(page.first_id.as_deref(), page.data.first().copied());
        assert_eq!(page.last_id.as_deref(), page.data.last().copied());
        Some((page.data, page.has_more))
    }

    #[test]
    fn pages_follow_one_another() {
        assert_eq!(paged(None, None), Some((vec!["a", "b", "c"], true)));
        assert_eq!(paged(Some("c"), None), Some((vec!["d", "e"], false)));
        assert_eq!(paged(Some("a"), Some(4)), Some((vec!["b", "c", "d", "e"], false)));
        assert_eq!(paged(Some("e"), None), Some((vec![], false)));
        assert_eq!(paged(Some("nobody"), None), None);
        assert_eq!((paged(None, Some(0)), paged(None, Some(5))), (None, None));
    }
}
