//! The endpoints of a service as data: a method and a path for each call, and the pagination of its list of batches.
//!
//! In: an id. Out: the segments of a path, and how a list is read.
//!
//! Invariants: an id fills one segment, or a part of one, whatever characters it has.

use std::borrow::Cow;

/// The placeholder of a path.
const ARGUMENT: &str = "{}";

/// The method of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Makes or changes.
    Post,
    /// Removes.
    Delete,
}

/// A call: its method, and its path below the base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, without a leading slash. `{}` is replaced by the call's argument, as a whole segment or a part of one:
    /// `batches/{}/cancel`, `batches/{}:cancel`.
    pub path: &'static str,
}

/// The endpoints of a service.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Creates a batch. `{}` is its model.
    pub create: Route,
    /// Gets a batch.
    pub batch: Route,
    /// Lists the batches.
    pub list: Route,
    /// Cancels a batch; `None` if the service does not support it.
    pub cancel: Option<Route>,
    /// Gets the content that a batch's [`output_file_id`](crate::model::batch::Batch::output_file_id) or
    /// `error_file_id` identifies; it may be an id of any kind.
    pub content: Route,
    /// Gets the metadata of a file; `None` if there is none.
    pub file: Option<Route>,
    /// Deletes a file; `None` where files cannot be deleted, or there are none.
    pub delete_file: Option<Route>,
}

/// The routes of services with separate files and batches, named as OpenAI's.
pub static FILES_AND_BATCHES: Routes = Routes {
    create: Route::post("batches"),
    batch: Route::get("batches/{}"),
    list: Route::get("batches"),
    cancel: Some(Route::post("batches/{}/cancel")),
    content: Route::get("files/{}/content"),
    file: Some(Route::get("files/{}")),
    delete_file: Some(Route::delete("files/{}")),
};

impl Route {
    /// A GET.
    #[must_use]
    pub const fn get(path: &'static str) -> Self {
        Self { method: Method::Get, path }
    }

    /// A POST.
    #[must_use]
    pub const fn post(path: &'static str) -> Self {
        Self { method: Method::Post, path }
    }

    /// A DELETE.
    #[must_use]
    pub const fn delete(path: &'static str) -> Self {
        Self { method: Method::Delete, path }
    }

    /// The segments of the path of the call about `argument`.
    #[must_use]
    pub fn segments<'a>(&self, argument: &'a str) -> Vec<Cow<'a, str>> {
        let filled = |segment: &'static str| match segment {
            ARGUMENT => Cow::Borrowed(argument),
            _ => match segment.split_once(ARGUMENT) {
                Some((before, after)) => Cow::Owned(format!("{before}{argument}{after}")),
                None => Cow::Borrowed(segment),
            },
        };
        self.path.split('/').map(filled).collect()
    }
}

/// The format of a list of batches. A bare array and `null` are accepted from every service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFormat {
    /// The member with the batches, where the list is an object.
    pub entries: &'static str,
    /// The parameter for the page size, and its maximum; `None` if the list is not paginated.
    pub page: Option<(&'static str, usize)>,
    /// How to request the next page.
    pub next: NextPage,
}

/// How to request the next page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextPage {
    /// The parameter is the id of the last batch seen. There is a next page if `has_more` is true.
    AfterLast(&'static str),
    /// The parameter is a token, from a member of the page. There is a next page if there is a token.
    Token {
        /// The parameter.
        parameter: &'static str,
        /// The member.
        member: &'static str,
    },
    /// The parameter is the page number. There is a next page if this one is full.
    Number {
        /// The parameter.
        parameter: &'static str,
        /// The number of the first page.
        first: u64,
    },
}

impl ListFormat {
    /// The value of the parameter for the first page, if it needs one.
    pub(crate) fn first_page(&self) -> Option<String> {
        match self.next {
            NextPage::Number { first, .. } => Some(first.to_string()),
            NextPage::AfterLast(_) | NextPage::Token { .. } => None,
        }
    }
}

impl NextPage {
    /// The parameter that selects a page.
    pub(crate) fn parameter(&self) -> &'static str {
        match self {
            Self::AfterLast(parameter) | Self::Token { parameter, .. } | Self::Number { parameter, .. } => parameter,
        }
    }

    /// The member of a page that identifies the next one.
    pub(crate) fn token(&self) -> Option<&'static str> {
        if let Self::Token { member, .. } = self { Some(member) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_in_its_segment() {
        for (path, id, segments) in [
            ("batches", "x", &["batches"][..]),
            ("batches/{}/cancel", "a/../b", &["batches", "a/../b", "cancel"]),
            ("batches/{}:cancel", "{}", &["batches", "{}:cancel"]),
            ("models/{}:batchGenerateContent", "m", &["models", "m:batchGenerateContent"]),
        ] {
            assert_eq!(Route::get(path).segments(id), segments, "{path}");
        }
    }
}
