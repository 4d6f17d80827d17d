//! What is asked of 64 bytes at once. An answer is a word with one bit for each byte, the first byte's lowest.

/// Bytes that are looked at at once: one bit of a word each.
pub(super) const BLOCK_BYTES: usize = 64;

/// Vectors of some width.
pub(super) trait Lanes: Copy {
    /// What is asked of every block.
    fn look(self, block: &[u8; BLOCK_BYTES]) -> Look;

    /// What is asked of a block with escapes.
    fn letters(self, block: &[u8; BLOCK_BYTES]) -> Letters;
}

/// What matters in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Quotes and control characters.
    pub(super) stops: u64,
    pub(super) backslashes: u64,
}

/// What matters in a block with escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Letters {
    pub(super) quotes: u64,
    /// Bytes that follow the backslash of an escape: `"\/bfnrtu`.
    pub(super) escapes: u64,
    /// `u`.
    pub(super) units: u64,
    /// Hexadecimal digits.
    pub(super) digits: u64,
    /// `d` and `D`, with which the digits of all surrogates begin.
    pub(super) ds: u64,
    /// `0` to `7`, which follow a `d` that does not begin a surrogate.
    pub(super) octals: u64,
}
