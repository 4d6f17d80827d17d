//! The hash of a line, or of a block of lines: XXH3-64.
//!
//! In: bytes. Out: their hash, which is kept in files and so never changes.
//!
//! Two crates compute it, with the same values: `twox-hash` takes the widest vectors that the processor has, and half
//! the time over what is long; `xxhash-rust` has the shorter way to what needs no vectors.

use twox_hash::XxHash3_64;
use xxhash_rust::xxh3::xxh3_64;

/// Up to this many bytes XXH3 uses no vectors.
const SHORT_BYTES_MAX: usize = 240;

/// The hash of these bytes.
#[must_use]
#[inline]
pub fn hash_line(bytes: &[u8]) -> u64 {
    if bytes.len() > SHORT_BYTES_MAX { XxHash3_64::oneshot(bytes) } else { xxh3_64(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_crates_have_the_same_values() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte.wrapping_mul(31)).take(200_000).collect();
        for length in (0..3000).chain([4095, 4096, 4097, 65_536, 131_071, 200_000]) {
            assert_eq!(XxHash3_64::oneshot(&bytes[..length]), xxh3_64(&bytes[..length]), "{length} bytes");
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // From the test vectors of xxHash.
        assert_eq!(hash_line(b""), 0x2d06_8005_38d3_94c2);
    }

    proptest! {
        #[test]
        fn the_hash_is_that_of_one_crate(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(hash_line(&bytes), xxh3_64(&bytes));
        }
    }
}
