//! Vectors of 16 bytes, of any processor.

use wide::u8x16;

use super::lanes::{BLOCK_BYTES, Lanes, Letters, Look};

#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    #[inline(always)]
    fn look(self, block: &[u8; BLOCK_BYTES]) -> Look {
        Look {
            stops: bits(block, |bytes| equal(bytes, b'"') | at_most(bytes, b' ' - 1)),
            backslashes: bits(block, |bytes| equal(bytes, b'\\')),
        }
    }

    #[inline(always)]
    fn letters(self, block: &[u8; BLOCK_BYTES]) -> Letters {
        let lower = |bytes: u8x16| bytes | u8x16::splat(b'a' - b'A');
        let behind = |bytes: u8x16, first: u8| bytes - u8x16::splat(first);
        let escapes = |bytes| {
            let found = b"\"\\/bfnrtu".map(|letter| equal(bytes, letter));
            found.into_iter().fold(u8x16::ZERO, |any, letter| any | letter)
        };
        Letters {
            quotes: bits(block, |bytes| equal(bytes, b'"')),
            escapes: bits(block, escapes),
            units: bits(block, |bytes| equal(bytes, b'u')),
            digits: bits(block, |bytes| at_most(behind(bytes, b'0'), 9) | at_most(behind(lower(bytes), b'a'), 5)),
            ds: bits(block, |bytes| equal(lower(bytes), b'd')),
            octals: bits(block, |bytes| at_most(behind(bytes, b'0'), 7)),
        }
    }
}

/// A bit for each byte whose lane `ask` sets.
#[inline(always)]
fn bits(block: &[u8; BLOCK_BYTES], ask: impl Fn(u8x16) -> u8x16) -> u64 {
    let (words, _) = block.as_chunks::<16>();
    let answers = words.iter().enumerate().map(|(number, word)| {
        let answer = ask(u8x16::new(*word)).to_bitmask();
        u64::from(answer) << (16 * number)
    });
    answers.fold(0, |bits, word| bits | word)
}

#[inline(always)]
fn equal(bytes: u8x16, byte: u8) -> u8x16 {
    bytes.simd_eq(u8x16::splat(byte))
}

#[inline(always)]
fn at_most(bytes: u8x16, most: u8) -> u8x16 {
    bytes.min(u8x16::splat(most)).simd_eq(bytes)
}
