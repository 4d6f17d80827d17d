//! The two dialects that the server speaks.
//!
//! What always holds: a request has the same digest in both, because what OpenAI's lines have besides is left out of it. So the same input
//! gets the same answers, and the same bill, whichever dialect it came in.

use std::borrow::Cow;

use super::json;
pub(super) use crate::remote::Dialect;
use crate::storage::lines::trim_json_whitespace;

impl Dialect {
    /// A request line as digests know it: without the whitespace around it, and in OpenAI's dialect without its
    /// `method` and `url`.
    pub(super) fn bare(self, line: &[u8]) -> Cow<'_, [u8]> {
        let (line, _) = trim_json_whitespace(line);
        match self {
            Self::Together => Cow::Borrowed(line),
            Self::OpenAi => json::without(line, &["method", "url"]),
        }
    }
}
