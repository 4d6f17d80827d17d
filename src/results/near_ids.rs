//! Matches replies whose ids are nearly those of requests.
//!
//! In: unmatched replies, by their exact ids, and, if there are any, the ids of all requests that they may answer. Out:
//! for each, the one request that it answers after all, or none.
//!
//! Services pass ids through systems that change them: a number loses its quotes, blanks are removed or added,
//! characters are composed or decomposed, escapes change to lower case. Such a reply was paid for, and without it its
//! request would be sent again. Two ids are nearly the same if they have the same [`canonical`] form.
//!
//! Invariants: a reply with the exact id of a request never goes to another request, and a request with an exact reply
//! gets no other one. An ambiguous reply matches no request. While all replies match exactly, nothing is done and no id
//! is read. Memory is the replies that are kept, whose number is limited; further ones stay unmatched.

use std::borrow::Cow;
use std::collections::HashMap;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::ResultsError;
use super::reply_file::{Found, ReplyFile};
use super::reply_text::ReplyText;
use crate::model::custom_id::IdHasher;

/// Approximate memory per reply that is to be matched, in bytes.
pub(super) const STRANGER_BYTES: usize = 256;

/// Minimum memory for such replies, whatever the budget: 4 MiB of them.
pub(super) const STRANGERS_MIN: usize = 16 * 1024;

/// The text with its characters composed: NFC.
fn composed(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(text.nfc().collect()),
    }
}

/// The form that nearly equal ids share: trimmed, composed, the hexadecimal digits of `%C3` and `\u00E9` in lower case.
pub(super) fn canonical(id: &str) -> Cow<'_, str> {
    let id = id.trim();
    let has_escapes = memchr::memchr2(b'%', b'\\', id.as_bytes()).is_some();
    match composed(id) {
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

/// The candidate requests.
#[derive(Debug, Clone, Copy)]
enum Meant {
    Nobody,
    One(u64),
    Several,
}

/// Replies that are to be matched.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    found: Vec<Found>,
    most: usize,
}

impl Strangers {
    /// Takes up to a maximum number of replies.
    pub(super) fn new(most: usize) -> Self {
        Self { found: Vec::new(), most }
    }

    /// Takes a reply, or returns it when full.
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

    /// All of them, unmatched.
    pub(super) fn answering_nobody(self) -> Vec<(Found, Option<u64>)> {
        self.found.into_iter().map(|found| (found, None)).collect()
    }

    /// The matched requests, in the order of the files. `each_id` yields the number and the id of each request; it is
    /// not called if there is nothing to match.
    pub(super) fn meet<E: From<ResultsError>>(
        mut self,
        files: &[ReplyFile],
        ids: IdHasher,
        each_id: impl FnOnce(&mut dyn FnMut(u64, &str)) -> Result<(), E>,
    ) -> Result<Vec<(Found, Option<u64>)>, E> {
        if self.found.is_empty() {
            return Ok(Vec::new());
        }
        let places: HashMap<u32, usize> = files.iter().map(|file| file.number).zip(0..).collect();
        self.found.sort_by_key(|found| (places[&found.file], found.offset));
        let hash = |id: &str| ids.hash(&canonical(id));
        let mut hashes = Vec::with_capacity(self.found.len());
        for Found { file, offset, length, .. } in &self.found {
            let id = ReplyText::open(&files[places[file]].path, *offset, *length).and_then(|text| text.id());
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::id_table::IdTable;
    use super::super::index::{IndexOptions, index};
    use super::super::reply_file::Strays;
    use super::super::reply_index::Slot;
    use super::super::side_files::SideFiles;
    use super::*;
    use crate::model::outcome::Indexed;
    use crate::model::reply::ReplyRole;
    use crate::storage::durable;

    const IDS: IdHasher = IdHasher { key: 3 };

    /// Ids of requests, in groups of those that are nearly the same.
    const GROUPS: [&[&str]; 10] = [
        &["7", " 7", "7\u{a0}"],
        &["007"],
        &["1.0", "1.0 "],
        &["é", "e\u{301}", "é\t"],
        &["a%C3%A9", "a%c3%A9"],
        &["a/b\u{1f600}"],
        &["n", "n "],
        &["N"],
        &["1e1"],
        &["10"],
    ];

    /// Ids of replies as they are written, the group that they are near to, and the id that they are.
    const WRITTEN: [(&str, usize, Option<&str>); 24] = [
        ("7", 0, None),
        (r#""7""#, 0, Some("7")),
        (r#"" 7""#, 0, Some(" 7")),
        (r#""7\n""#, 0, None),
        ("007", 1, None),
        (r#""007""#, 1, Some("007")),
        ("1.0", 2, None),
        (r#""1.0""#, 2, Some("1.0")),
        (r#""é""#, 3, Some("é")),
        (r#""\u00E9""#, 3, Some("é")),
        (r#""e\u0301""#, 3, Some("e\u{301}")),
        (r#"" \u00e9""#, 3, None),
        (r#""a%C3%A9""#, 4, Some("a%C3%A9")),
        (r#""a%c3%a9""#, 4, None),
        (r#""a\/b\uD83D\uDE00""#, 5, Some("a/b\u{1f600}")),
        (r#""a\/b\ud83d\ude00 ""#, 5, None),
        (r#""n""#, 6, Some("n")),
        (r#""\u006e\u0020""#, 6, Some("n ")),
        (r#"" N""#, 7, None),
        ("1e1", 8, None),
        ("10", 9, None),
        ("10.0", usize::MAX, None),
        (r#""""#, usize::MAX, None),
        ("-7", usize::MAX, None),
    ];

    /// What a reply file becomes, told in the plainest words: all who claim each request, those by its own id or else
    /// those by one that is near to it alone; of them the first, but an output before an error.
    fn model(requests: &[(usize, &str)], replies: &[(usize, bool, u8)]) -> (Vec<Option<usize>>, Indexed) {
        let mut indexed = Indexed { replies: replies.len() as u64, ..Indexed::default() };
        let mut kept = Vec::new();
        let mut claimed = 0;
        for (group, id) in requests {
            let by = |wanted: &dyn Fn(usize, Option<&str>) -> bool| -> Vec<usize> {
                let is_such = |reply: &(usize, bool, u8)| wanted(WRITTEN[reply.0].1, WRITTEN[reply.0].2);
                (0..replies.len()).filter(|place| is_such(&replies[*place])).collect()
            };
            let mut claims = by(&|_, exact| exact == Some(*id));
            let is_alone = requests.iter().filter(|(other, _)| other == group).count() == 1;
            if claims.is_empty() && is_alone {
                claims = by(&|near, _| near == *group);
                indexed.recognised += u64::from(!claims.is_empty());
            }
            claimed += claims.len() as u64;
            let mut winner: Option<usize> = None;
            for claim in claims {
                let Some(other) = winner.replace(claim) else { continue };
                let is_same = text(replies[other]) == text(replies[claim]);
                *(if is_same { &mut indexed.duplicates } else { &mut indexed.conflicts }) += 1;
                if is_same || replies[other].1 || !replies[claim].1 {
                    winner = Some(other);
                }
            }
            if let Some(winner) = winner {
                *(if replies[winner].1 { &mut indexed.outputs } else { &mut indexed.errors }) += 1;
            }
            kept.push(winner);
        }
        indexed.unknown = indexed.replies - claimed;
        (kept, indexed)
    }

    fn text((written, is_output, n): (usize, bool, u8)) -> String {
        let id = WRITTEN[written].0;
        if is_output {
            format!(r#"{{"custom_id":{id},"response":{{"status_code":200,"body":{{"n":{n}}}}}}}"#)
        } else {
            format!(r#"{{"custom_id":{id},"error":{{"code":"c","message":"{n}"}}}}"#)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn ids_of_their_own_come_first_and_near_ones_only_where_one_request_can_be_meant(
            requests in prop::sample::subsequence(
                GROUPS.iter().zip(0..).flat_map(|(ids, group)| ids.iter().map(move |id| (group, *id))).collect::<Vec<_>>(),
                1..17,
            ).prop_shuffle(),
            replies in prop::collection::vec((0..WRITTEN.len(), any::<bool>(), 0_u8..2), 0..24),
            threads in 1_usize..3,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let (mut content, mut offsets) = (String::new(), BTreeMap::new());
            for (number, reply) in replies.iter().enumerate() {
                offsets.insert(content.len() as u64, number);
                content.push_str(&text(*reply));
                content.push('\n');
            }
            let file = ReplyFile { number: 0, path: directory.path().join("0.jsonl"), role: ReplyRole::Output };
            durable::publish_bytes(&file.path, content.as_bytes()).unwrap();
            let table = IdTable::new(requests.iter().map(|(_, id)| IDS.hash(id)));
            let mut slots: Vec<Option<Slot>> = vec![None; requests.len()];
            let mut aside = SideFiles::new(&directory.path().join("aside"));
            let options = IndexOptions { ids: IDS, threads, strays: Strays::Refuse };
            let each_id = |tell: &mut dyn FnMut(u64, &str)| -> Result<(), ResultsError> {
                requests.iter().zip(0..).for_each(|((_, id), number)| tell(number, id));
                Ok(())
            };
            let indexed = index(&[file], &table, options, each_id, &mut slots, &mut aside).unwrap();
            let (kept, wanted) = model(&requests, &replies);
            let found: Vec<Option<usize>> = slots.iter().map(|slot| slot.map(|slot| offsets[&slot.offset])).collect();
            prop_assert_eq!(found, kept, "{:?} {}", requests, content);
            let Indexed { labels, checksums, .. } = indexed.clone();
            prop_assert_eq!(indexed, Indexed { labels, checksums, ..wanted }, "{:?} {}", requests, content);
        }
    }

    #[test]
    fn no_more_replies_are_held_than_may_be() {
        let mut strangers = Strangers::new(2);
        let found = |offset| Found { file: 0, offset, length: Some(1), reply: None, request: None };
        assert!(strangers.take(found(0)).is_none() && strangers.take(found(1)).is_none());
        assert_eq!(strangers.take(found(2)).map(|found| found.offset), Some(2));
        assert_eq!(strangers.answering_nobody().len(), 2);
        assert!(size_of::<Found>() + size_of::<(Found, Option<u64>)>() <= 2 * STRANGER_BYTES);
    }

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
