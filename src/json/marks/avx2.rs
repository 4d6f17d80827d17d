//! Vectors of 32 bytes, of processors with AVX2. With those of 64 bytes of AVX-512, marks took as long (requests of
//! `generate` and short lines) or up to an eighth less (code).
//!
//! All of it has to be inlined into the function for which `pulp` enables the instructions: anything that is called
//! instead is compiled without them, and ten times slower.

use std::arch::x86_64::__m256i;

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::Stretch;
use super::lanes::{BLOCK_BYTES, Lanes, Letters, Look};

/// The marking of a stretch with such vectors.
pub(super) struct Marking<'t> {
    pub(super) stretch: Stretch<'t>,
    pub(super) lanes: V3,
}

impl NullaryFnOnce for Marking<'_> {
    type Output = usize;

    #[inline(always)]
    fn call(self) -> usize {
        self.stretch.mark(self.lanes)
    }
}

/// Classes of bytes, one bit each, with the upper and the lower halves of their bytes. A byte has the classes that the
/// halves have in common, so two look-ups in tables of sixteen find them.
const CLASSES: [(u8, &[u8], &[u8]); 8] = [
    (1 << 0, &[0x2], &[0x2, 0xf]),
    (1 << 1, &[0x5], &[0xc]),
    (1 << 2, &[0x6], &[0x2, 0x6, 0xe]),
    (1 << 3, &[0x7], &[0x2, 0x4, 0x5]),
    (1 << 4, &[0x3], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (1 << 5, &[0x4, 0x6], &[1, 2, 3, 4, 5, 6]),
    (D, &[0x4, 0x6], &[4]),
    (OCTAL, &[0x3], &[0, 1, 2, 3, 4, 5, 6, 7]),
];

/// `"` and `/`; `\\`; `b`, `f` and `n`; `r`, `t` and `u`.
const ESCAPES: u8 = 0b1111;
/// `0` to `9`; letters.
const DIGITS: u8 = 0b11 << 4;
const D: u8 = 1 << 6;
const OCTAL: u8 = 1 << 7;

/// The classes of each half of a byte.
const UPPER: [u8; 16] = halves(true);
const LOWER: [u8; 16] = halves(false);

const fn halves(upper: bool) -> [u8; 16] {
    let (mut table, mut class) = ([0; 16], 0);
    while class < CLASSES.len() {
        let (bit, uppers, lowers) = CLASSES[class];
        let halves = if upper { uppers } else { lowers };
        let mut half = 0;
        while half < halves.len() {
            table[halves[half] as usize] |= bit;
            half += 1;
        }
        class += 1;
    }
    table
}

impl Lanes for V3 {
    #[inline(always)]
    fn look(self, block: &[u8; BLOCK_BYTES]) -> Look {
        let [first, second]: [__m256i; 2] = pulp::cast(*block);
        Look {
            stops: word(self, stops(self, first), stops(self, second)),
            backslashes: word(self, equal(self, first, b'\\'), equal(self, second, b'\\')),
        }
    }

    #[inline(always)]
    fn letters(self, block: &[u8; BLOCK_BYTES]) -> Letters {
        let [first, second]: [__m256i; 2] = pulp::cast(*block);
        let all = [classes(self, first), classes(self, second)];
        Letters {
            quotes: word(self, equal(self, first, b'"'), equal(self, second, b'"')),
            escapes: of_class(self, all, ESCAPES),
            units: word(self, equal(self, first, b'u'), equal(self, second, b'u')),
            digits: of_class(self, all, DIGITS),
            ds: of_class(self, all, D),
            octals: of_class(self, all, OCTAL),
        }
    }
}

#[inline(always)]
fn splat(byte: u8) -> __m256i {
    pulp::cast([byte; 32])
}

#[inline(always)]
fn equal(lanes: V3, bytes: __m256i, byte: u8) -> __m256i {
    lanes.avx2._mm256_cmpeq_epi8(bytes, splat(byte))
}

/// Quotes and control characters: the latter are their own minimum with the last one.
#[inline(always)]
fn stops(lanes: V3, bytes: __m256i) -> __m256i {
    let least = lanes.avx2._mm256_min_epu8(bytes, splat(b' ' - 1));
    let controls = lanes.avx2._mm256_cmpeq_epi8(least, bytes);
    lanes.avx2._mm256_or_si256(controls, equal(lanes, bytes, b'"'))
}

#[inline(always)]
fn classes(lanes: V3, bytes: __m256i) -> __m256i {
    let avx2 = lanes.avx2;
    let upper = avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(bytes), splat(0x0f));
    let of_upper = avx2._mm256_shuffle_epi8(pulp::cast([UPPER; 2]), upper);
    // Bytes beyond ASCII have no class: the look-up gives zero if the highest bit is set.
    avx2._mm256_and_si256(of_upper, avx2._mm256_shuffle_epi8(pulp::cast([LOWER; 2]), bytes))
}

/// A bit for each byte that has one of the classes.
#[inline(always)]
fn of_class(lanes: V3, [first, second]: [__m256i; 2], class: u8) -> u64 {
    let (first, second) =
        (lanes.avx2._mm256_and_si256(first, splat(class)), lanes.avx2._mm256_and_si256(second, splat(class)));
    !word(lanes, equal(lanes, first, 0), equal(lanes, second, 0))
}

/// A bit for each lane that is set.
#[inline(always)]
fn word(lanes: V3, first: __m256i, second: __m256i) -> u64 {
    let first = lanes.avx2._mm256_movemask_epi8(first).cast_unsigned();
    let second = lanes.avx2._mm256_movemask_epi8(second).cast_unsigned();
    u64::from(first) | u64::from(second) << 32
}
