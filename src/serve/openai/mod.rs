//! OpenAI's dialect, where it differs from Together's.
//!
//! In: the same files and batches. Out: the same, as OpenAI's service takes and shows them: files with their content in one call, lists in
//! pages, batches with counts, metadata, a window that really ends, and rows for the requests that were not done.

mod batches;
mod files;
mod input;
mod page;
mod surface;
mod undone;
mod window;

pub(super) use surface::OpenAi;
pub(super) use undone::leave_undone;
