//! OpenAI's dialect, and that of all who copied it, where it differs from others.

mod create;
mod upload;

pub(super) use create::create;
pub(super) use upload::upload;
