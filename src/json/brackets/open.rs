//! The stack of brackets that are open at a position in JSON text.
//!
//! In: brackets as they open and close. Out: the depth, and whether a closing bracket matches the opening one.
//!
//! Invariants: memory is one bit per open bracket, up to `KINDS_MAX`; the kinds of deeper ones are unknown.

/// Maximum depth at which the kinds of brackets are known, and mismatches detected: 8 MiB of bits.
const KINDS_MAX: u64 = 64 * 1024 * 1024;

/// The open brackets.
#[derive(Default)]
pub(crate) struct Open {
    /// How many.
    pub(crate) depth: u64,
    /// A bit for each: whether it is an object's.
    kinds: Vec<u64>,
}

impl Open {
    /// Opens a bracket, of an object or of an array.
    pub(crate) fn push(&mut self, is_object: bool) {
        if let Some((word, bit)) = place_of(self.depth) {
            if word == self.kinds.len() {
                self.kinds.push(0);
            }
            self.kinds[word] = self.kinds[word] & !bit | if is_object { bit } else { 0 };
        }
        self.depth += 1;
    }

    /// Closes a bracket; `None` if none is open, or if the innermost is of the other kind.
    pub(crate) fn pop(&mut self, is_object: bool) -> Option<()> {
        self.depth = self.depth.checked_sub(1)?;
        match place_of(self.depth) {
            Some((word, bit)) if (self.kinds[word] & bit != 0) != is_object => None,
            _ => Some(()),
        }
    }
}

/// The word and the bit that hold the kind of the bracket at this depth.
fn place_of(depth: u64) -> Option<(usize, u64)> {
    let word = usize::try_from(depth / u64::from(u64::BITS)).ok()?;
    (depth < KINDS_MAX).then_some((word, 1 << (depth % u64::from(u64::BITS))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mismatched_brackets_are_detected_up_to_the_known_depth() {
        let mut open = Open::default();
        open.push(true);
        assert!(open.pop(false).is_none(), "the other kind");
        assert!(open.pop(true).is_none(), "nothing is open");
        let mut open = Open { depth: KINDS_MAX, kinds: Vec::new() };
        open.push(true);
        assert!(open.pop(false).is_some(), "deeper ones are counted");
        assert_eq!((open.depth, open.kinds.len()), (KINDS_MAX, 0));
    }
}
