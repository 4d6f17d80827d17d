//! To be written.

pub mod batch;
pub mod custom_id;
pub mod defect;
pub mod outcome;
pub mod reply;
pub mod shard;
pub mod shard_state;
pub mod shown;
pub(crate) mod tag;
