//! Together's dialect: how a file goes up, and what a batch is created with. The rest is common to all dialects.

mod create;
mod upload;

pub(super) use create::create;
pub(super) use upload::upload;
