//! The outline of a reply that is too large to be held: its members, with long values cut.
//!
//! In: an object, piece by piece, whatever its length. Out: a small object that says the same about who is answered, how it went and what
//! it used, for the [reader](super::reply_reader) of any other reply.
//!
//! What always holds: the object is passed over to its end, and is whole by its brackets. Members stay in their order, the first
//! [`DEPTH_MAX`] levels of objects are kept, and a value of up to [`VALUE_BYTES_MAX`] stays as it is. A longer string is cut, a longer array
//! is `[true]`, so that it is not empty. The outline has about [`OUTLINE_BYTES_MAX`] at most: what readers look for has room in it when
//! nothing else has any more.

use std::io::BufRead;

use crate::brackets::{Brackets, Broken, KEY_BYTES_MAX, is_key};

/// Longest value that stays as it is, in bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an outline, but for the last value in it.
const OUTLINE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of an outline in which any member has room.
const ANY_BYTES_MAX: usize = OUTLINE_BYTES_MAX / 2;

/// Objects inside one another whose members are kept: a reply, its response, the body, its error, and some that are wrapped in that.
const DEPTH_MAX: u32 = 8;

/// What readers of replies look for. At most as many as a word has bits.
const SOUGHT: [&str; 15] = [
    "custom_id",
    "response",
    "result",
    "error",
    "errors",
    "status_code",
    "body",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "code",
    "message",
    "type",
];

/// Passes over the object that begins at this place, and returns its outline.
pub(super) fn outline(object: &mut Brackets<impl BufRead>) -> Result<Vec<u8>, Broken> {
    let mut outline = Vec::new();
    add_object(object, 1, &mut outline)?;
    Ok(outline)
}

fn add_object(object: &mut Brackets<impl BufRead>, depth: u32, outline: &mut Vec<u8>) -> Result<(), Broken> {
    let mut seen = 0_u32;
    outline.push(b'{');
    object.members(|object, key| {
        if !has_room(key, outline.len(), &mut seen) {
            return object.value();
        }
        // No value ends with this bracket: it is that of the object.
        if !outline.ends_with(b"{") {
            outline.push(b',');
        }
        outline.extend_from_slice(key);
        outline.push(b':');
        add_value(object, depth, outline)
    })?;
    outline.push(b'}');
    Ok(())
}

/// Whether a member has room behind so many bytes. Of those that are sought the first counts.
fn has_room(key: &[u8], length: usize, seen: &mut u32) -> bool {
    if key.len() == KEY_BYTES_MAX {
        return false;
    }
    let Some(which) = SOUGHT.iter().position(|name| is_key(key, name)) else { return length < ANY_BYTES_MAX };
    let is_first = *seen & 1 << which == 0;
    *seen |= 1 << which;
    is_first && length < OUTLINE_BYTES_MAX
}

fn add_value(value: &mut Brackets<impl BufRead>, depth: u32, outline: &mut Vec<u8>) -> Result<(), Broken> {
    let first = value.peek()?;
    if first == Some(b'{') && depth < DEPTH_MAX {
        return add_object(value, depth + 1, outline);
    }
    let captured = value.captured(VALUE_BYTES_MAX)?;
    match first {
        _ if captured.whole => outline.extend_from_slice(&captured.bytes),
        Some(b'"') => {
            outline.extend_from_slice(cut_string(&captured.bytes));
            outline.push(b'"');
        }
        Some(b'[') => outline.extend_from_slice(b"[true]"),
        Some(b'{') => outline.extend_from_slice(br#"{"":true}"#),
        // A number of so many digits, or whatever else stands there: no reader makes anything of it.
        _ => outline.push(b'1'),
    }
    Ok(())
}

/// A string that lacks its end, cut in front of the character that may lack its own.
fn cut_string(text: &[u8]) -> &[u8] {
    let mut end = 1;
    loop {
        let length = match text.get(end..) {
            Some([b'\\', b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', ..]) => 12,
            Some([b'\\', b'u', ..]) => 6,
            Some([0xf0..=0xff, ..]) => 4,
            Some([0xe0..=0xef, ..]) => 3,
            Some([b'\\' | 0xc0..=0xdf, ..]) => 2,
            _ => 1,
        };
        if end + length > text.len() {
            return &text[..end];
        }
        end += length;
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::super::reply::ReplyRole;
    use super::super::reply_reader::ReplyReader;
    use super::*;
    use crate::custom_id::IdHasher;

    fn outline_of(line: &[u8]) -> Option<Vec<u8>> {
        let mut brackets = Brackets::new(BufReader::with_capacity(1000, line));
        outline(&mut brackets).ok()
    }

    #[test]
    fn small_objects_are_their_own_outline() {
        for line in [
            &br#"{"custom_id":"a","response":{"status_code":200,"body":{"a":[1,{"b":[]}],"usage":{"x":{"y":{"z":1}}}}},"e":[]}"#[..],
            b"{}",
            b"{\"s\":\"\xff\",\"n\":NaN,\"\\u0041\":\"\\ud83d\"}",
        ] {
            assert_eq!(outline_of(line).unwrap(), line, "{}", line.escape_ascii());
        }
        assert_eq!(outline_of(b"{ \"a\" : 1 , \"b\" : { } }").unwrap(), br#"{"a":1,"b":{}}"#);
        assert_eq!(outline_of(br#"{"custom_id":"a","x":1,"custom_id":"b"}"#).unwrap(), br#"{"custom_id":"a","x":1}"#);
    }

    #[test]
    fn long_values_are_cut_and_stay_what_they_are() {
        let long = VALUE_BYTES_MAX + 10;
        for (piece, escaped) in
            [("x", false), ("\u{1f600}", false), ("é", false), ("\\n", true), (r"\ud83d\ude00", true)]
        {
            for shift in 0..12 {
                let text = format!("{}{}", "a".repeat(shift), piece.repeat(long / piece.len() + 1));
                let line = format!(r#"{{"m":"{text}","end":1}}"#);
                let outline = outline_of(line.as_bytes()).unwrap();
                let value: serde_json::Value = serde_json::from_slice(&outline).unwrap();
                let kept = value["m"].as_str().unwrap();
                assert!(kept.len() > 10_000 && (escaped || text.starts_with(kept)), "{piece} {shift}");
                assert_eq!(value["end"], 1);
            }
        }
        let array = format!(r#"{{"a":[{}0],"d":{}}}"#, "1,".repeat(long), "7".repeat(long));
        assert_eq!(outline_of(array.as_bytes()).unwrap(), br#"{"a":[true],"d":1}"#);
        let nested = |inner: &str| (0..DEPTH_MAX).fold(inner.to_owned(), |inner, _| format!(r#"{{"a":{inner}}}"#));
        let deep = nested(&format!(r#"{{"m":"{}"}}"#, "x".repeat(long)));
        assert_eq!(outline_of(deep.as_bytes()).unwrap(), nested(r#"{"":true}"#).into_bytes());
    }

    #[test]
    fn what_is_sought_has_room_and_the_outline_stays_small() {
        let clutter: Vec<String> = (0..200_000).map(|n| format!(r#""k{n}":{n},"error":null,"#)).collect();
        let clutter = clutter.concat();
        let line = format!(r#"{{{clutter}"response":{{{clutter}"status_code":500}},"custom_id":"a"}}"#);
        let outline = outline_of(line.as_bytes()).unwrap();
        assert!(outline.len() < OUTLINE_BYTES_MAX);
        assert!(outline.ends_with(br#""status_code":500},"custom_id":"a"}"#));
        let long_key = format!(r#"{{"{}":1,"custom_id":"a"}}"#, "k".repeat(1000));
        assert_eq!(outline_of(long_key.as_bytes()).unwrap(), br#"{"custom_id":"a"}"#);
    }

    #[test]
    fn a_cut_object_has_no_outline() {
        let line = br#"{"custom_id":"a","response":{"status_code":200,"body":{"t":"x\"}"}},"l":[[{}]]}"#;
        assert!((0..line.len()).all(|end| outline_of(&line[..end]).is_none()));
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("false".to_owned()),
            (150_u64..600).prop_map(|number| number.to_string()),
            "[a-c]{0,3}".prop_map(|text| format!("{text:?}")),
            Just(format!("{:?}", "x".repeat(70_000))),
            Just(format!("[{}]", "1,".repeat(40_000) + "1")),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            let key = prop::sample::select(&SOUGHT[..]);
            prop::collection::vec((key, inner), 0..6).prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(key, value)| format!("{key:?} : {value}")).collect();
                format!("{{{}}}", members.join(", "))
            })
        })
    }

    proptest! {
        #[test]
        fn a_reader_reads_the_same_in_the_outline(response in value(), error in value(), output: bool, order: bool) {
            let role = if output { ReplyRole::Output } else { ReplyRole::Error };
            let members = [format!(r#""response":{response}"#), format!(r#""error":{error}"#)];
            let [one, other] = if order { &members } else { &[members[1].clone(), members[0].clone()] };
            let line = format!(r#"{{"filler":"{}",{one},"custom_id":"a",{other}}}"#, "x".repeat(100_000));
            let mut reader = ReplyReader::new(IdHasher { key: 5 });
            let outline = outline_of(line.as_bytes()).unwrap();
            prop_assert_eq!(reader.read(&outline, role), reader.read(line.as_bytes(), role));
        }
    }
}
