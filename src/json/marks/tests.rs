//! All widths find the marks that a reader finds which goes byte by byte.

use proptest::prelude::*;

use super::*;

/// The marks of a text, found the plain way.
fn model(text: &[u8]) -> Vec<usize> {
    let (mut marks, mut at) = (Vec::new(), 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' => {
                let (is_wrong, length) = escape(&text[at..]);
                if is_wrong {
                    marks.push(at + 1);
                }
                at += length;
                continue;
            }
            b'"' | 0..b' ' => marks.push(at),
            _ => {}
        }
        at += 1;
    }
    // A control character is its own mark, escaped or not; behind the text there is nothing to mark.
    marks.retain(|mark| *mark < text.len());
    marks
}

/// Whether the escape that a text begins with is wrong, and the bytes that belong to it if it is not.
fn escape(text: &[u8]) -> (bool, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let are_digits = digits.iter().all(u8::is_ascii_hexdigit);
        are_digits.then(|| u16::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
    };
    match text.get(1) {
        Some(b'u') => match (unit(0), unit(6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (false, 12),
            (Some(0xd800..=0xdfff) | None, _) => (true, 2),
            (Some(_), _) => (false, 6),
        },
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => (false, 2),
        _ => (true, 2),
    }
}

fn marks_of(width: Width, text: &[u8]) -> Vec<usize> {
    let (mut marks, mut found, mut at) = (Marks::of_width(width), Vec::new(), 0);
    while let Some(mark) = marks.next_from(at, text) {
        found.push(mark);
        at = mark + 1;
    }
    found.retain(|mark| *mark < text.len());
    found
}

fn assert_marks(text: &[u8]) {
    let wanted = model(text);
    for width in Width::all() {
        assert_eq!(marks_of(width, text), wanted, "{width:?}: {}", text.escape_ascii());
    }
}

#[test]
fn marks_are_what_a_string_cannot_pass_over() {
    for (text, wanted) in [
        (r#"{"a":"say \"hi\"","b":"C:\dir"}"#, &[1, 3, 5, 16, 18, 20, 22, 26, 29][..]),
        ("\t[1,\r2]\n", &[0, 4, 7]),
        (r"\\ud83d\ude00", &[8]),
        (r"\ud83d\ude00 \ude00\ud83d", &[14, 20]),
        (r"\ud83d\u0041\ud83d", &[1, 13]),
        (r"\u12g4\u00E9\x\", &[1, 13]),
        ("\\u12\n\"a\"", &[1, 4, 5, 7]),
        ("\\\n\"a\"", &[1, 2, 4]),
        ("\\ud83d\n\\ude00", &[1, 6, 8]),
    ] {
        assert_eq!(model(text.as_bytes()), wanted, "{text}");
        assert_marks(text.as_bytes());
    }
}

#[test]
fn every_byte_is_judged_alike_at_every_place() {
    for before in 0..=2 * BLOCK_BYTES {
        for escape in
            [r"\n", r"\\", r"\x", r"\u00e9", r"\u00g9", r"\ud55c", r"\ud83d\ude00", r"\ud83d", r"\ude00", r"\"]
        {
            for behind in ["\"", "\n\"", "\\ude00\"", "é"] {
                let text = format!("{}{escape}{behind}{}", "x".repeat(before), "y".repeat(90));
                assert_marks(text.as_bytes());
                assert_marks(&text.as_bytes()[..before + escape.len()]);
            }
        }
    }
    for byte in 0..=u8::MAX {
        for before in [0, 1, 15, 16, 31, 32, 63] {
            let text =
                [&vec![b'x'; before][..], &[byte, b'\\', byte, b'\\', b'u', b'0', byte, b'0', byte, b'"']].concat();
            assert_marks(&text);
        }
    }
}

#[test]
fn texts_are_marked_one_after_another_and_whatever_their_length() {
    for width in Width::all() {
        let mut marks = Marks::of_width(width);
        for text in
            [r#""\ud83d"#.to_owned(), "\\".to_owned(), format!("{}\"\n", "\\u00e9 ".repeat(5000)), "\"".repeat(9000)]
        {
            marks.restart();
            let mut at = 0;
            for wanted in model(text.as_bytes()) {
                assert_eq!(marks.next_from(at, text.as_bytes()), Some(wanted));
                at = wanted + 1;
            }
            assert!(marks.next_from(at, text.as_bytes()).is_none_or(|mark| mark >= text.len()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn all_widths_find_the_marks_of_any_text(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "\"", "\\", "\\\\", "\\\"", "\\u", "\\ud83d", "\\ude00", "\\uD7FF", "\\u00e9", "\n", "\t", "\r", "\u{1}", "\u{7f}",
                    "é", "漢", "{", "ud83d", "1a",
                ]).prop_map(str::to_owned),
                "[a-zA-Z0-9 ]{0,40}",
            ],
            0..60,
        ),
        times in prop_oneof![9 => Just(1_usize), 1 => Just(40)],
    ) {
        assert_marks(pieces.concat().repeat(times).as_bytes());
    }

    #[test]
    fn all_widths_find_the_marks_of_any_bytes(text in prop::collection::vec(any::<u8>(), 0..300)) {
        assert_marks(&text);
    }
}
