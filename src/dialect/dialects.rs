//! The table of dialects.

use super::openai::OpenAi;
use super::protocol::Dialect;
use super::together::Together;

/// Together's: presigned PUT uploads, `{"job": …}` around a created batch, lists without pagination.
pub const TOGETHER: &dyn Dialect = &Together;

/// OpenAI's: multipart POST uploads, bare batches with `metadata`, paginated lists.
pub const OPENAI: &dyn Dialect = &OpenAi;

/// All dialects.
pub static DIALECTS: &[&dyn Dialect] = &[TOGETHER, OPENAI];

/// The dialect of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Dialect> {
    DIALECTS.iter().copied().find(|dialect| dialect.name() == name)
}
