//! Batches: from a recorded batch to its result files.
//!
//! [`lifecycle`] takes a batch from status to status, and has it executed in between: [`execute`] reads each line of
//! the [`input`] as a [`request`], answers it with an [`echo`], and adds the [`row`] to the [`results`]; what a cancel
//! or the end of the window leaves over gets its rows from [`unexecuted`]. An [`upstream`](super::upstream) does the
//! same with answers of its own.

pub(crate) mod context;
pub(crate) mod echo;
mod ending;
pub(crate) mod execute;
pub(crate) mod input;
pub(crate) mod lifecycle;
pub(crate) mod progress;
pub(crate) mod request;
pub(crate) mod results;
pub(crate) mod row;
pub(crate) mod stop;
pub(crate) mod unexecuted;
