//! The server's own side of a dialect: what it takes and shows that others would take and show otherwise.
//!
//! In: calls, lines, ends of requests. Out: how each looks.
//!
//! Invariant: a request has the same digest in every dialect, because what only some lines have besides is left out of
//! it. So the same input gets the same answers, and the same bill, whichever dialect it came in.

use std::borrow::Cow;
use std::fmt::Debug;

use crate::dialect::Dialect;
use crate::dialect::row_form::RowForm;
use crate::serve::api::error::ErrorShape;
use crate::serve::batch::input::{Checked, Refusal};
use crate::serve::batch::row::Answered;
use crate::serve::limits::Limits;
use crate::storage::read_at::ReadAt;

/// See the module.
pub(crate) trait Surface: Debug + Send + Sync {
    /// The dialect that it is the side of.
    fn dialect(&self) -> &'static dyn Dialect;

    /// A request line as digests know it: without the whitespace around it, and without what other dialects' lines do
    /// not have.
    fn bare<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]>;

    /// A header that may carry the key, besides `Authorization`.
    fn key_header(&self) -> Option<&'static str>;

    /// How a call of this path is refused.
    fn error_shape(&self, path: &str) -> ErrorShape;

    /// Whether a POST to the files brings the content with it.
    fn uploads_whole(&self) -> bool;

    /// Checks the input file of a batch.
    fn check(&self, input: &dyn ReadAt, limits: &Limits, endpoint: &str) -> Result<Checked, Refusal>;

    /// Whether a batch shows for a while that its rows are there and only their files are not.
    fn finalizes(&self) -> bool;

    /// Whether each request that was not executed before its batch ended has a row that says so.
    fn reports_unexecuted(&self) -> bool;

    /// How rows look.
    fn row_form(&self) -> RowForm;

    /// Appends the row of a request that was looked at and refused.
    fn refuse(&self, answered: Answered<'_>, message: &str, row: &mut Vec<u8>);
}
