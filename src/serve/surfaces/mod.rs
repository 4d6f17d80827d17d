//! The server's sides of the dialects that it speaks, and the one table in which they are found.

pub(crate) mod openai;
pub(crate) mod surface;
pub(crate) mod together;

use axum::Router;

use self::openai::OpenAi;
use self::surface::Surface;
use self::together::Together;
use crate::dialect::{Dialect, TOGETHER};
use crate::serve::api::state::ApiState;
use crate::serve::batch::echo;

/// The server's side of one dialect.
pub(crate) struct Side {
    pub(crate) surface: &'static dyn Surface,
    /// The calls that it takes, apart from the download of files.
    pub(crate) routes: fn() -> Router<ApiState>,
}

/// All of them.
static SIDES: [Side; 2] =
    [Side { surface: &Together, routes: together::routes }, Side { surface: &OpenAi, routes: openai::routes }];

/// The server's side of a dialect, if it has one.
pub(crate) fn side_of(dialect: &dyn Dialect) -> Option<&'static Side> {
    SIDES.iter().find(|side| side.surface.dialect().name() == dialect.name())
}

/// The row with which the server answers `line` (given without its newline) in Together's dialect, itself without a
/// newline: a row of the output file, or of the error file when the request asks for a failure.
#[must_use]
pub fn echo_reply(line: &[u8]) -> Vec<u8> {
    echo_reply_in(TOGETHER, line)
}

/// The same in another dialect; nothing in one that the server does not speak.
#[must_use]
pub fn echo_reply_in(dialect: &dyn Dialect, line: &[u8]) -> Vec<u8> {
    side_of(dialect).map(|side| echo::reply(side.surface, line)).unwrap_or_default()
}
