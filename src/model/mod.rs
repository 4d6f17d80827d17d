//! The words of this crate as types: what the rooms above hand to each other.
//!
//! In and out: nothing. Invariant: nothing here reads, writes, waits or knows another room.

pub mod batch;
pub mod custom_id;
pub mod defect;
pub mod incident;
pub mod outcome;
pub mod phase;
pub mod reply;
pub mod shard;
pub mod shard_state;
pub mod shown;
pub(crate) mod tag;
