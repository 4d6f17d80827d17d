//! The table of surfaces: the one place where the server finds its side of a dialect.

use super::echo;
use super::openai::OpenAi;
use super::surface::Surface;
use super::together::Together;
use crate::dialect::{Dialect, TOGETHER};

/// All of them.
static SURFACES: [&dyn Surface; 2] = [&Together, &OpenAi];

/// The server's side of a dialect, if it has one.
pub(super) fn surface_of(dialect: &dyn Dialect) -> Option<&'static dyn Surface> {
    SURFACES.into_iter().find(|surface| surface.dialect().name() == dialect.name())
}

/// The row with which the server answers `line` (given without its newline) in Together's dialect, itself without a newline: a row of
/// the output file, or of the error file when the request asks for a failure.
#[must_use]
pub fn echo_reply(line: &[u8]) -> Vec<u8> {
    echo_reply_in(TOGETHER, line)
}

/// The same in another dialect; nothing in one that the server does not speak.
#[must_use]
pub fn echo_reply_in(dialect: &dyn Dialect, line: &[u8]) -> Vec<u8> {
    surface_of(dialect).map(|surface| echo::reply(surface, line)).unwrap_or_default()
}
