//! Replies whose ids are nearly those of requests.
//!
//! In: replies that answer nobody by their ids as they stand there, and, if there are any, the ids of all requests they may answer. Out:
//! for each, the one request that it answers after all, or that there is none.
//!
//! Services pass ids through systems that change them on their way: a number loses its quotes, blanks get lost or appear, composed
//! characters are taken apart or put together, escapes come back in lower case. Such a reply was paid for, and without it its request would
//! be sent again. Two ids are nearly the same if they have the same [`canonical`] form.
//!
//! What always holds: an id that is a request's own is never given to another request, and a request that has a reply by its own id gets no
//! other one. Where two requests could be meant, none is. Nothing is done, and no id of a request is read, while every reply finds its
//! request. Memory is the replies that are kept for it, of which there is a most; those beyond it answer nobody.

use std::borrow::Cow;
use std::collections::HashMap;

use icu_normalizer::ComposingNormalizerBorrowed;

use super::ResultsError;
use super::index::{self, ReplyFile};
use super::reply_file::Found;
use super::reply_text::ReplyText;
use crate::custom_id::IdHasher;

/// Memory that a reply takes while it looks for its request, in bytes, about.
pub(super) const STRANGER_BYTES: usize = 256;

/// Replies that are looked at whatever the memory: 4 MiB of them.
pub(super) const STRANGERS_MIN: usize = 16 * 1024;

/// Composes characters: NFC.
const COMPOSED: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();

/// What is the same in ids that are nearly the same: without white space around it, composed, the hexadecimal digits of `%C3` and `\u00E9`
/// in lower case.
pub(super) fn canonical(id: &str) -> Cow<'_, str> {
    let id = id.trim();
    let has_escapes = memchr::memchr2(b'%', b'\\', id.as_bytes()).is_some();
    match COMPOSED.normalize(id) {
        composed if has_escapes => Cow::Owned(with_small_escapes(&composed)),
        composed => composed,
    }
}

fn with_small_escapes(id: &str) -> String {
    let mut small = id.to_owned();
    for (at, _) in id.match_indices(['%', '\\']) {
        let (digits, length) = if id[at..].starts_with("\\u") { (at + 2, 4) } else { (at + 1, 2) };
        let digits = digits..digits + length;
        let are_digits = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if (length == 4 || id[at..].starts_with('%')) && id.get(digits.clone()).is_some_and(are_digits) {
            small[digits].make_ascii_lowercase();
        }
    }
    small
}

/// Who could be meant.
#[derive(Debug, Clone, Copy)]
enum Meant {
    Nobody,
    One(u64),
    Several,
}

/// Replies that look for their requests.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    found: Vec<Found>,
    most: usize,
}

impl Strangers {
    /// Takes so many at most.
    pub(super) fn new(most: usize) -> Self {
        Self { found: Vec::new(), most }
    }

    /// Takes a reply, or gives it back.
    pub(super) fn take(&mut self, mut found: Found) -> Option<Found> {
        if self.found.len() >= self.most {
            return Some(found);
        }
        if let Some(reply) = &mut found.reply {
            // It is read again where it is needed.
            reply.error = None;
        }
        self.found.push(found);
        None
    }

    /// All of them, none of which answers anybody.
    pub(super) fn answering_nobody(self) -> Vec<(Found, Option<u64>)> {
        self.found.into_iter().map(|found| (found, None)).collect()
    }

    /// The requests that are meant, in the order of the files. `each_id` tells the number and the id of each request; it is not called if
    /// there is nobody to look for.
    pub(super) fn meet<E: From<ResultsError>>(
        mut self,
        files: &[ReplyFile],
        ids: IdHasher,
        each_id: impl FnOnce(&mut dyn FnMut(u64, &str)) -> Result<(), E>,
    ) -> Result<Vec<(Found, Option<u64>)>, E> {
        if self.found.is_empty() {
            return Ok(Vec::new());
        }
        let place_of = |number: u32| files.iter().position(|file| file.number == number);
        self.found.sort_by_key(|found| (place_of(found.file), found.offset));
        let hash = |id: &str| ids.hash(&canonical(id));
        let mut hashes = Vec::with_capacity(self.found.len());
        for Found { file, offset, length, .. } in &self.found {
            let path = index::path_of(files, *file);
            let id = ReplyText::open(path, *offset, *length).and_then(|text| text.id());
            hashes.push(id.map_err(ResultsError::from)?.map(|id| hash(&id)));
        }
        let mut meant: HashMap<u128, Meant> = hashes.iter().flatten().map(|hash| (*hash, Meant::Nobody)).collect();
        each_id(&mut |number, id| {
            if let Some(meant) = meant.get_mut(&hash(id)) {
                *meant = if let Meant::Nobody = meant { Meant::One(number) } else { Meant::Several };
            }
        })?;
        let request = |hash: Option<u128>| match meant.get(&hash?) {
            Some(Meant::One(number)) => Some(*number),
            _ => None,
        };
        Ok(self.found.into_iter().zip(hashes.into_iter().map(request)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_services_change_on_their_way_stay_nearly_the_same() {
        for (one, other) in [
            (" a", "a"),
            ("a\u{a0}\n", "a"),
            ("é", "e\u{301}"),
            ("\u{ac00}", "\u{1100}\u{1161}"),
            ("Å", "\u{212b}"),
            ("a%C3%A9", "a%c3%a9"),
            (r"\u00E9x", r"\u00e9x"),
            (" %2F e\u{301}", "%2f é"),
        ] {
            assert_eq!(canonical(one), canonical(other), "{one:?} {other:?}");
        }
        for (one, other) in [
            ("a", "A"),
            ("a b", "a  b"),
            ("%C3", "C3"),
            ("%G1", "%g1"),
            ("%4", "%"),
            (r"\U00E9", r"\u00e9"),
            (r"\u00E", r"\u00e"),
            (r"\AB", r"\ab"),
            ("ﬁ", "fi"),
            ("07", "7"),
            ("%é", "%e"),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one:?} {other:?}");
        }
        assert!(matches!(canonical("request-1"), Cow::Borrowed("request-1")));
    }
}
