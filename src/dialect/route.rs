//! Where a service takes its calls, as data: a method and a path for each, and how its list of batches goes on.
//!
//! In: an id. Out: the segments of a path, and how a list is read. Invariant: an id is one segment, or a part of one, whatever is in it.

use std::borrow::Cow;

use reqwest::Method;

/// The placeholder of a path.
const ARGUMENT: &str = "{}";

/// A call: its method, and its path below the base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, without a slash before it. `{}` stands for what the call is about, in a segment of its own or in a part of one:
    /// `batches/{}/cancel`, `batches/{}:cancel`.
    pub path: &'static str,
}

/// Where a service takes each of its calls.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Creates a batch. `{}` is its model.
    pub create: Route,
    /// Gets a batch.
    pub batch: Route,
    /// Lists the batches.
    pub list: Route,
    /// Cancels a batch; `None` if nobody can.
    pub cancel: Option<Route>,
    /// Gets the content that a batch's [`output_file_id`](crate::model::batch::Batch::output_file_id) or `error_file_id` names, which may
    /// be an id of any kind.
    pub content: Route,
    /// Gets what there is to say of a file; `None` if nothing is.
    pub file: Option<Route>,
    /// Deletes a file; `None` where files cannot be deleted, or there are none.
    pub delete_file: Option<Route>,
}

/// The routes of services that keep files apart from batches, as OpenAI named them.
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
        Self { method: Method::GET, path }
    }

    /// A POST.
    #[must_use]
    pub const fn post(path: &'static str) -> Self {
        Self { method: Method::POST, path }
    }

    /// A DELETE.
    #[must_use]
    pub const fn delete(path: &'static str) -> Self {
        Self { method: Method::DELETE, path }
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

/// How a list of batches comes. A bare array and `null` are lists everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFormat {
    /// The member with the batches, where the list is an object.
    pub entries: &'static str,
    /// The parameter for the number of batches on a page, and the most that it takes; `None` where there are no pages.
    pub page: Option<(&'static str, usize)>,
    /// How the next page is asked for.
    pub next: NextPage,
}

/// How the next page of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextPage {
    /// This parameter has the id of the last batch that was seen. There is a next page if `has_more` says so.
    AfterLast(&'static str),
    /// The parameter has the token that the page has as its member. There is a next page if there is a token.
    Token {
        /// The parameter.
        parameter: &'static str,
        /// The member.
        member: &'static str,
    },
    /// The parameter has the number of the page. There is a next page if this one is full.
    Number {
        /// The parameter.
        parameter: &'static str,
        /// The number of the first page.
        first: u64,
    },
}

impl ListFormat {
    /// What the first page is asked for with, if with anything.
    pub(crate) fn first_page(&self) -> Option<String> {
        match self.next {
            NextPage::Number { first, .. } => Some(first.to_string()),
            NextPage::AfterLast(_) | NextPage::Token { .. } => None,
        }
    }
}

impl NextPage {
    /// The parameter that asks for a page.
    pub(crate) fn parameter(&self) -> &'static str {
        match self {
            Self::AfterLast(parameter) | Self::Token { parameter, .. } | Self::Number { parameter, .. } => parameter,
        }
    }

    /// The member of a page that names the next one.
    pub(crate) fn token(&self) -> Option<&'static str> {
        if let Self::Token { member, .. } = self { Some(member) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stands_in_its_segment_whatever_it_is() {
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
