//! Escapes: which bytes of a block are escaped, and which escapes are wrong.
//!
//! In: one block after another. Out: its marks.
//!
//! Nearly all escapes are judged by masks, all of a block at once. One by one go only those that a mask cannot judge:
//! surrogates, whose second half has to be the next escape behind the first; and the few whose digits are in the next
//! block. The second half is found by its place, so that in `\\ud83d\ude00`, which begins with an escaped backslash,
//! it has no first half.

use super::lanes::{BLOCK_BYTES, Lanes, Letters, Look};

/// The entry in `DIGITS` of a byte that is not a hexadecimal digit.
const NO_DIGIT: u8 = 0xff;

/// The value of each byte as a hexadecimal digit.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value: u8 = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        digits[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// The bits with even numbers.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// What one block leaves to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Escapes {
    /// Whether the next block's first byte is escaped: 1 or 0.
    pending: u64,
    /// The place of the `u` of a second half whose first half has been seen.
    second_half: usize,
}

impl Default for Escapes {
    fn default() -> Self {
        Self { pending: 0, second_half: usize::MAX }
    }
}

impl Escapes {
    /// The marks of a block, which is at `at` in the text.
    #[inline(always)]
    pub(super) fn marks<L: Lanes>(&mut self, lanes: L, block: &[u8; BLOCK_BYTES], text: &[u8], at: usize) -> u64 {
        let Look { stops, backslashes } = lanes.look(block);
        if backslashes | self.pending == 0 {
            return stops;
        }
        let escaped = self.escaped(backslashes);
        let letters = lanes.letters(block);
        let mut wrong = escaped & !letters.escapes;
        let units = escaped & letters.units;
        if units != 0 {
            wrong |= self.wrong_of(doubtful(units, letters), text, at);
        }
        stops & !(escaped & letters.quotes) | wrong
    }

    /// The bytes that are escaped: those behind an odd number of backslashes.
    #[inline(always)]
    fn escaped(&mut self, backslashes: u64) -> u64 {
        // A backslash that is itself escaped begins nothing.
        let backslashes = backslashes & !self.pending;
        let behind = backslashes << 1 | self.pending;
        // Adding a run's first bit to the run carries a one to the first bit behind it. Only of runs that begin at odd
        // places: there, and only there, the even places of the run and behind it change.
        let odd_starts = backslashes & !EVEN & !behind;
        let (carried, pending) = odd_starts.overflowing_add(backslashes);
        self.pending = u64::from(pending);
        (EVEN ^ carried << 1) & behind
    }

    /// Judges these escapes one by one, each by the place of its `u`; returns those that are wrong.
    #[inline(always)]
    fn wrong_of(&mut self, mut units: u64, text: &[u8], at: usize) -> u64 {
        let mut wrong = 0;
        while units != 0 {
            let unit = units.trailing_zeros();
            units &= units - 1;
            wrong |= u64::from(self.is_wrong(text, at + unit as usize)) << unit;
        }
        wrong
    }

    /// Whether the escape whose `u` is at this place is wrong.
    #[inline(never)]
    fn is_wrong(&mut self, text: &[u8], at: usize) -> bool {
        match code_unit(text, at) {
            Some(0xd800..=0xdbff) => {
                let second = at + 6;
                let is_pair = text.get(at + 5..=second) == Some(b"\\u")
                    && matches!(code_unit(text, second), Some(0xdc00..=0xdfff));
                if is_pair {
                    self.second_half = second;
                }
                !is_pair
            }
            Some(0xdc00..=0xdfff) => at != self.second_half,
            Some(_) => false,
            None => true,
        }
    }
}

/// Those of the escapes, by the places of their `u`, that have no four digits in this block, or may be surrogates.
#[inline(always)]
fn doubtful(units: u64, letters: Letters) -> u64 {
    let Letters { digits, ds, octals, .. } = letters;
    let all_digits = digits >> 1 & digits >> 2 & digits >> 3 & digits >> 4;
    let surrogates = ds >> 1 & !octals >> 2;
    units & (!all_digits | surrogates)
}

/// The value of the four hexadecimal digits behind the place of a `u`.
fn code_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits: &[u8; 4] = text.get(at + 1..)?.first_chunk()?;
    let values = digits.map(|digit| DIGITS[usize::from(digit)]);
    // Only `NO_DIGIT` has upper bits.
    let all_digits = values.iter().all(|value| *value < 16);
    all_digits.then(|| values.iter().fold(0, |unit, value| unit << 4 | u16::from(*value)))
}
