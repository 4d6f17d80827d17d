//! To be written.

pub mod custom_id;
pub mod defect;
pub mod reply;
pub mod shard_state;
pub mod shown;
pub(crate) mod tag;
