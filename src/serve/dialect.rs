//! The two dialects that the server speaks.
//!
//! Invariant: a request has the same digest in both, because what OpenAI's lines have besides is left out of it. So the same input
//! gets the same answers, and the same bill, whichever dialect it came in.

use std::borrow::Cow;

use crate::json::exact::Object;
pub(super) use crate::remote::Dialect;
use crate::storage::lines::trim_json_whitespace;

impl Dialect {
    /// A request line as digests know it: without the whitespace around it, and in OpenAI's dialect without its
    /// `method` and `url`.
    pub(super) fn bare(self, line: &[u8]) -> Cow<'_, [u8]> {
        let (line, _) = trim_json_whitespace(line);
        match self {
            Self::Together => Cow::Borrowed(line),
            Self::OpenAi => without_envelope(line).unwrap_or(Cow::Borrowed(line)),
        }
    }
}

/// `None` for what is no object.
fn without_envelope(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let object = Object::read(std::str::from_utf8(line).ok()?).ok()?;
    Some(match object.without(&["method", "url"]) {
        Cow::Borrowed(bare) => Cow::Borrowed(bare.as_bytes()),
        Cow::Owned(bare) => Cow::Owned(bare.into_bytes()),
    })
}
