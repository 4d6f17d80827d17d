//! The table of dialects.

use super::openai::OpenAi;
use super::protocol::Dialect;
use super::together::Together;

/// Together's: upload by a presigned PUT, `{"job": …}` around a created batch, lists without pages.
pub const TOGETHER: &dyn Dialect = &Together;

/// OpenAI's: upload by one multipart POST, bare batches with `metadata`, lists with pages.
pub const OPENAI: &dyn Dialect = &OpenAi;

/// All of them.
pub static DIALECTS: &[&dyn Dialect] = &[TOGETHER, OPENAI];

/// The dialect of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Dialect> {
    DIALECTS.iter().copied().find(|dialect| dialect.name() == name)
}
