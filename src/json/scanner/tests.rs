//! The scanner accepts only JSON, and it accepts what services and people write.

use proptest::prelude::*;

use super::*;

/// A line after a few random edits.
pub(crate) fn edited(line: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (0_usize..200, 0_usize..6, "[\\[\\]{},:\"\\\\u0-9a-eE.+ \t\r\n-]{0,4}");
    prop::collection::vec(edit, 1..4).prop_map(|edits| {
        let mut line = line.to_vec();
        for (from, length, patch) in edits {
            let from = from.min(line.len());
            let to = (from + length).min(line.len());
            line.splice(from..to, patch.into_bytes());
        }
        line
    })
}

/// Whether the whole text is one value.
fn scans(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    Scanner::of(text, &mut Marks::default()).whole(Scanner::value).is_some()
}

/// A value nested in others.
fn within(value: &str) -> String {
    format!(r#"{{"a":"b","c":{{"d":"e","x":{value}}}}}"#)
}

#[test]
fn json_is_accepted() {
    for value in [
        "0",
        "-0",
        "10",
        "-1.5e+3",
        "1E2",
        "123456789012345678901234567890",
        "1e999",
        "\"\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[[],{}]",
        "true",
        "[true,false,null]",
        r#"{"a":{"b":[1,{"c":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}]}}"#,
        r#" [ 1 , { "a" : 2 } ] "#,
        "\t[\r1\n,\t{\t\"a\"\r:\n2\t}\n]\r",
        "[\t]",
        "{\r}",
        r#""a string of more than sixteen bytes, with \"quotes\" in it""#,
        r#""{\"not\":[an object""#,
        "\"\u{2028}é漢\"",
    ] {
        assert!(scans(within(value).as_bytes()) && scans(value.as_bytes()), "{value}");
    }
    assert!(scans(format!("{}1{}", "[".repeat(64), "]".repeat(64)).as_bytes()));
}

#[test]
fn invalid_or_too_deep_text_is_rejected() {
    for value in [
        "",
        "01",
        "1.",
        ".5",
        "-",
        "1e",
        "1e+",
        "+1",
        "0x1",
        "tru",
        "nul",
        "truefalse",
        "[1,]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":1,}",
        "[}",
        "{]",
        "{a:1}",
        "\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83d\\u0041\"",
        "1}",
        "[1]]",
        "\u{b}1",
        "\u{c}1",
        "\u{0}1",
        "\u{a0}1",
        "1\t2",
        "t\true",
        "\"\t\"",
        "\"\r\"",
        "\"\n\"",
        "\t\"\t\"",
        "\"\u{1}\"",
        "'a'",
        "NaN",
    ] {
        assert!(!scans(within(value).as_bytes()) && !scans(value.as_bytes()), "{value}");
    }
    assert!(!scans(format!("{}1{}", "[".repeat(65), "]".repeat(65)).as_bytes()));
    assert!(!scans(b"\"\xff\""));
}

#[test]
fn members_are_read_in_order_and_values_stay_raw() {
    let (mut marks, mut seen) = (Marks::default(), Vec::new());
    let text = r#" { "a" : [1, {"b":2}] ,"c":"d\n","\u0065":{} } "#;
    let read = Scanner::of(text, &mut marks).whole(|scanner| {
        scanner.members(|scanner, key| {
            seen.push((key.0, scanner.follows(b'{'), scanner.raw_value()?));
            Some(())
        })
    });
    assert!(read.is_some());
    assert_eq!(seen, [("a", false, r#"[1, {"b":2}]"#), ("c", false, r#""d\n""#), (r"\u0065", true, "{}")]);
    assert_eq!(Scanner::of("{}", &mut marks).members(|_, _| None), Some(()));
    for broken in ["{", "{\"a\"}", "{\"a\":1,}", "{,}", "[]"] {
        assert_eq!(Scanner::of(broken, &mut marks).members(|scanner, _| scanner.value()), None);
    }
}

/// A value with white space of every kind between its tokens, nested within the scanner's depth limit.
fn spaced() -> impl Strategy<Value = String> {
    let space = || "[ \t\r\n]{0,3}";
    let text = || any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
    let leaf = prop_oneof![
        prop::sample::select(vec!["null", "true", "false", "-0.5e+3", "0", "\"\\ud83d\\ude00\""])
            .prop_map(str::to_owned),
        any::<u64>().prop_map(|number| number.to_string()),
        text(),
    ];
    leaf.prop_recursive(5, 32, 4, move |inner| {
        let element = (space(), inner, space()).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let member = (space(), text(), space(), element.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            (space(), prop::collection::vec(element, 0..4)).prop_map(|(empty, all)| match all.len() {
                0 => format!("[{empty}]"),
                _ => format!("[{}]", all.join(",")),
            }),
            (space(), prop::collection::vec(member, 0..4)).prop_map(|(empty, all)| match all.len() {
                0 => format!("{{{empty}}}"),
                _ => format!("{{{}}}", all.join(",")),
            }),
        ]
    })
}

proptest! {
    #[test]
    fn an_escape_is_seen_wherever_it_is(text in "[a-zZ^é漢\\]]{0,40}", at in 0_usize..40) {
        prop_assert!(!RawString(&text).is_escaped());
        let at = text.floor_char_boundary(at.min(text.len()));
        let escaped = format!("{}\\{}", &text[..at], &text[at..]);
        prop_assert!(RawString(&escaped).is_escaped());
    }

    /// What a parser accepts, the scanner accepts, with any white space in it; and both end at the same position.
    #[test]
    fn json_with_any_white_space_is_scanned(value in spaced(), before in "[ \t\r\n]{0,70}", behind in "[ \t\r\n]{0,3}") {
        let text = format!("{before}{value}{behind}");
        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
        prop_assert_eq!(Scanner::of(&text, &mut Marks::default()).whole(Scanner::raw_value), Some(value.as_str()));
    }

    /// However a valid line is edited, it is accepted only if `serde_json` accepts all of it.
    #[test]
    fn accepted_lines_are_json(
        line in edited(br#"{"a":"id-1","b":{"model":"m","messages":[{"role":"user","content":"h\u00e9 \"q\""}],"n":-1.5e3,"o":[true,null,{}]}}"#),
    ) {
        if scans(&line) {
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok(), "{}", String::from_utf8_lossy(&line));
        }
    }
}
