//! What a server accepts.

/// What the server accepts. The first three are judged when a batch is VALIDATING, and end it FAILED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in an input file.
    pub requests: u64,
    /// Bytes in an input file.
    pub bytes: u64,
    /// Bytes in a line, without its newline.
    pub line_bytes: u64,
    /// Bytes in an upload: beyond, it is refused with 413.
    pub upload_bytes: u64,
}

impl Default for Limits {
    /// Together's documented limits (whether its "MB" are of 10^6 or 2^20 bytes is not known; here they are of 10^6),
    /// and 5 GiB for an upload, beyond which its SDKs go over to uploads in parts.
    fn default() -> Self {
        Self { requests: 50_000, bytes: 100_000_000, line_bytes: 10_000_000, upload_bytes: 5 << 30 }
    }
}

/// Bytes that the body of a call may have, except for uploads.
pub(crate) const FORM_BYTES: usize = 64 << 10;
