//! Network timeouts.

use std::time::Duration;

/// Timeout of establishing a connection, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum silence while data is expected, or is to be accepted by the other side.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Timeout of the whole call that creates a batch.
pub const BILLING_TIMEOUT: Duration = Duration::from_mins(2);

/// Maximum wait for the response to an upload after its last byte was passed on. What the system has buffered by then
/// must still drain.
pub const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);

/// The least that must come in during [`IDLE_TIMEOUT`], in bytes per second.
pub const LEAST_BYTES_PER_SECOND: u32 = 1024;

/// The timeouts of operations. The default consists of the constants of this module.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// See [`CONNECT_TIMEOUT`].
    pub connect: Duration,
    /// See [`IDLE_TIMEOUT`].
    pub idle: Duration,
    /// See [`BILLING_TIMEOUT`].
    pub billing: Duration,
    /// See [`ANSWER_TIMEOUT`].
    pub answer: Duration,
    /// See [`LEAST_BYTES_PER_SECOND`].
    pub least_bytes_per_second: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: CONNECT_TIMEOUT,
            idle: IDLE_TIMEOUT,
            billing: BILLING_TIMEOUT,
            answer: ANSWER_TIMEOUT,
            least_bytes_per_second: LEAST_BYTES_PER_SECOND,
        }
    }
}
