//! Reads the relevant parts of one line of a reply file.
//!
//! In: a line. Out: a [`Reply`], or nothing.
//!
//! A reply is one JSON object, whole by its brackets. A line that was truncated, at any byte, is not a reply: what it
//! would have said is unknown. A whole one has been paid for, so no parser may lose it, however malformed. Three
//! readers are tried in turn, each for what the previous one rejects, and give the same `Parts`:
//!
//! | reader | reads | cost |
//! | --- | --- | --- |
//! | the scanner (`json/scanner/`) | JSON in UTF-8 as services write it, nearly every line | one pass over all lines of a block, nothing is built |
//! | simd-json (`json/tape.rs`) | all other JSON, such as nesting beyond 64 levels | a tape of the line, twice the time |
//! | a scan of brackets (`json::brackets`) | whole objects that are not JSON: a lone surrogate, `NaN`, bytes that are not UTF-8, nesting beyond 1,024 levels | a pass over each level that is searched |
//!
//! The last one also reads objects that are too large for memory, directly from their file (any `Tree`).
//!
//! Only a line that is not whole, or has no `custom_id`, is unreadable, and even that is kept.
//!
//! Invariants: readers that both accept a line read the same values. Of duplicate members, the first counts.

use crate::dialect::reply::reply_of;
use crate::dialect::reply_parts;
use crate::dialect::reply_parts::{Parts, ReplyNames};
use crate::json::marks::{Marks, Width};
use crate::json::tape::TapeReader;
use crate::json::tree::{Raw, Tree};
use crate::model::custom_id::IdHasher;
use crate::model::reply::{Reply, ReplyRole};

/// Reads replies; each thread has one.
#[derive(Debug)]
pub struct ReplyReader {
    ids: IdHasher,
    names: &'static ReplyNames,
    marks: Marks,
    tapes: TapeReader,
}

impl ReplyReader {
    /// A reader with empty buffers that hashes ids with `ids`, for replies with these member names.
    #[must_use]
    pub fn new(ids: IdHasher, names: &'static ReplyNames) -> Self {
        Self::of_width(ids, names, Width::default())
    }

    /// The same, with vectors of this width.
    #[must_use]
    pub fn of_width(ids: IdHasher, names: &'static ReplyNames, width: Width) -> Self {
        Self { ids, names, marks: Marks::of_width(width), tapes: TapeReader::default() }
    }

    /// Reads a line, without its terminator; `None` if it is not whole, or identifies no request.
    pub fn read(&mut self, line: &[u8], role: ReplyRole) -> Option<Reply> {
        let parts = reply_parts::scanned(line, self.names, &mut self.marks);
        self.read_scanned(parts, line, role)
    }

    /// Reads a line of which the scanner found these parts, if it accepted it.
    pub(crate) fn read_scanned(
        &mut self,
        parts: Option<Parts<'_, Raw<'_>>>,
        line: &[u8],
        role: ReplyRole,
    ) -> Option<Reply> {
        let scanned = parts.and_then(|parts| reply_of(&parts, role, self.ids));
        scanned.or_else(|| self.parse(line, role)).or_else(|| self.read_tree(Raw(line), role))
    }

    /// The names of the members of the replies.
    pub(crate) fn names(&self) -> &'static ReplyNames {
        self.names
    }

    /// Reads an object that is too large for memory.
    pub(crate) fn read_tree<'l>(&self, object: impl Tree<'l>, role: ReplyRole) -> Option<Reply> {
        reply_of(&Parts::of(object, self.names)?, role, self.ids)
    }

    fn parse(&mut self, line: &[u8], role: ReplyRole) -> Option<Reply> {
        let Self { ids, names, tapes, .. } = self;
        tapes.read(line, |tree| reply_of(&Parts::of(tree, names)?, role, *ids))
    }
}

/// The request's id in a reply object, as text.
pub(crate) fn id_of<'l>(object: impl Tree<'l>, names: &ReplyNames) -> Option<String> {
    Some(Parts::of(object, names)?.id?.text.into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::reply::{ReplyKind, Usage};

    const IDS: IdHasher = IdHasher { key: 1 };

    fn read(line: &[u8], role: ReplyRole) -> Option<Reply> {
        ReplyReader::new(IDS, &ReplyNames::COMMON).read(line, role)
    }

    /// One of the three readers.
    #[derive(Debug, Clone, Copy)]
    pub(crate) enum Reader {
        Scanner,
        Tape,
        Brackets,
    }

    impl Reader {
        pub(crate) const ALL: [Self; 3] = [Self::Scanner, Self::Tape, Self::Brackets];
    }

    /// The result of this reader alone.
    pub(crate) fn read_by(reader: Reader, line: &[u8], role: ReplyRole) -> Option<Reply> {
        match reader {
            Reader::Scanner => {
                reply_of(&reply_parts::scanned(line, &ReplyNames::COMMON, &mut Marks::default())?, role, IDS)
            }
            Reader::Tape => ReplyReader::new(IDS, &ReplyNames::COMMON).parse(line, role),
            Reader::Brackets => ReplyReader::new(IDS, &ReplyNames::COMMON).read_tree(Raw(line), role),
        }
    }

    #[test]
    fn tokens_are_counted_in_every_position() {
        let chat = r#""usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#;
        let message = r#""usage":{"input_tokens":7,"output_tokens":3}"#;
        for members in [
            format!(r#""response":{{"status_code":200,"body":{{{chat}}}}}"#),
            format!(r#""response":{{"status_code":200,"body":{{"output":[],{message}}}}}"#),
            format!(r#""response":{{"choices":[],{chat}}}"#),
            format!(r#""result":{{"type":"succeeded","message":{{{message}}}}}"#),
            format!(r#""response":{{"status_code":500,"body":{{{chat},"error":{{"message":"no"}}}}}}"#),
        ] {
            let line = format!(r#"{{"custom_id":"a",{members}}}"#);
            for reader in Reader::ALL {
                let reply = read_by(reader, line.as_bytes(), ReplyRole::Output).unwrap();
                assert_eq!(reply.usage, Usage { prompt: 7, completion: 3 }, "{reader:?} of {line}");
            }
        }
    }

    /// A line in which every relevant member is duplicated, and its body by the first of each.
    pub(crate) fn line_with_repeated_members() -> (String, String) {
        let usage = |tokens: u32| format!(r#""usage":{{"prompt_tokens":{tokens},"prompt_tokens":9}}"#);
        let first = format!("{{{},{}}}", usage(7), usage(8));
        let response =
            format!(r#""response":{{"status_code":200,"body":{first},"body":{{"error":"no"}},"status_code":500}}"#);
        let line =
            format!(r#"{{"custom_id":"a",{response},"response":null,"custom_id":"b","error":null,"error":"no"}}"#);
        (line, first)
    }

    /// See the table in `json/mod.rs`.
    #[test]
    fn every_reader_takes_the_first_of_duplicate_members() {
        let (line, _) = line_with_repeated_members();
        let failed = r#"{"custom_id":"a","error":{"code":"c","code":"d","message":"m"},"error":null,"custom_id":"b"}"#;
        for reader in Reader::ALL {
            let reply = read_by(reader, line.as_bytes(), ReplyRole::Output).unwrap();
            let found = (reply.id_hash, reply.kind, reply.usage.prompt);
            assert_eq!(found, (IDS.hash("a"), ReplyKind::Output, 7), "{reader:?}");
            let reply = read_by(reader, failed.as_bytes(), ReplyRole::Output).unwrap();
            assert_eq!((reply.id_hash, reply.error.as_deref()), (IDS.hash("a"), Some("c: m")), "{reader:?}");
        }
    }

    /// Malformed values.
    fn malformed_values() -> Vec<Vec<u8>> {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let mut values: Vec<Vec<u8>> = [
            r#""\ud83d""#,
            "NaN",
            "-Infinity",
            "123456789012345678901234567890123456789012345",
            "1e999",
            "\"tab\t\"",
            r#""\x""#,
            "[1,]",
            deep.as_str(),
        ]
        .map(|value| value.as_bytes().to_vec())
        .to_vec();
        values.push(b"\"\xff\xfe\"".to_vec());
        values.push(b"\"\0\"".to_vec());
        values
    }

    #[test]
    fn malformed_replies_keep_id_status_error_and_tokens() {
        for value in malformed_values() {
            let line = |template: &str| {
                let (before, after) = template.split_once("MALFORMED").unwrap();
                [before.as_bytes(), &value, after.as_bytes()].concat()
            };
            let usage = r#""usage":{"prompt_tokens":7,"completion_tokens":3}"#;
            for (template, kind, error, tokens) in [
                (format!(r#"{{"custom_id":"a","response":{{"status_code":200,"body":{{"t":MALFORMED,{usage}}}}}}}"#), ReplyKind::Output, None, 7),
                (r#"{"x":MALFORMED,"custom_id":"a","response":{"status_code":200,"body":{}}}"#.to_owned(), ReplyKind::Output, None, 0),
                (format!(r#"{{"custom_id":"a","response":{{"body":{{{usage}}},"status_code":500,"x":MALFORMED}}}}"#), ReplyKind::Retryable, Some("status 500"), 7),
                (r#"{"custom_id":"a","response":{"status_code":400,"body":{"x":MALFORMED,"error":{"message":"no"}}},"error":null}"#.to_owned(), ReplyKind::Error, Some("no"), 0),
                (r#"{"custom_id":"a","error":{"x":MALFORMED,"message":"Internal Server Error"}}"#.to_owned(), ReplyKind::Retryable, Some("Internal Server Error"), 0),
                (r#"{"error":{"code":"batch_expired"},"response":null,"custom_id":"a","x":MALFORMED}"#.to_owned(), ReplyKind::Retryable, Some("batch_expired"), 0),
            ] {
                for role in [ReplyRole::Output, ReplyRole::Error] {
                    let line = line(&template);
                    let reply = read(&line, role).unwrap_or_else(|| panic!("{:.200}", line.escape_ascii()));
                    let found = (reply.id_hash, reply.kind, reply.error.as_deref(), reply.usage.prompt);
                    assert_eq!(found, (IDS.hash("a"), kind, error, tokens), "{:.200}", line.escape_ascii());
                }
            }
        }
        // In the message itself: it is decoded with replacements.
        let line = b"{\"custom_id\":\"a\",\"error\":{\"code\":\"c\",\"message\":\"timed out \xff \\ud83d\"}}";
        let reply = read(line, ReplyRole::Error).unwrap();
        assert_eq!(
            (reply.kind, reply.error.as_deref()),
            (ReplyKind::Retryable, Some("c: timed out \u{fffd} \u{fffd}"))
        );
    }

    #[test]
    fn lines_without_an_id_are_not_replies() {
        for line in [
            "nonsense",
            "{}",
            "[]",
            "null",
            r#"{"custom_id":null}"#,
            r#"{"custom_id":["a"]}"#,
            r#"{"custom_id":NaN}"#,
            r#"{"custom_id":-Infinity}"#,
            r#"{"custom_id":true}"#,
            r#"{"id":"custom_id"}"#,
        ] {
            assert_eq!(read(line.as_bytes(), ReplyRole::Output), None, "{line}");
        }
    }

    /// Rows as services write them: outputs and errors of each dialect, also malformed ones.
    fn rows() -> Vec<Vec<u8>> {
        let mut rows: Vec<Vec<u8>> = [
            r#"{"id":"br_1","custom_id":"a","response":{"status_code":200,"body":{"id":"x","choices":[{"message":{"role":"assistant","content":"hello \"wo\\rld\" é}{"}}],"usage":{"prompt_tokens":7,"completion_tokens":3}}}}"#,
            r#"{"id":"br_1","custom_id":"a","error":{"code":"batch_client_error","message":"Internal Server Error"}}"#,
            r#"{"id":"batch_req_1","custom_id":"a","response":{"status_code":200,"request_id":"r","body":{"choices":[],"usage":{}}},"error":null}"#,
            r#"{"id":"batch_req_1","custom_id":"a","response":{"status_code":400,"request_id":"r","body":{"error":{"message":"no","type":"t","param":null,"code":null}}},"error":null}"#,
            r#"{"id":"batch_req_1","custom_id":"a","response":null,"error":{"code":"batch_expired","message":"late"}}"#,
            r#"{"id":"br_1","custom_id":"a","response":{"status_code":200,"body":"<html>"},"error":{"code":"not_json","message":"the upstream's answer is not JSON"}}"#,
            r#"{"id": "380f3", "error": null, "response": {"status_code": 200, "request_id": "b-1", "body": {"choices": []}}, "custom_id": "a"}"#,
            r#"{"custom_id":"a","response":{"id":"c","choices":[{"text":"t"}],"usage":{"prompt_tokens":1}}}"#,
            r#"{"custom_id":"a","result":{"type":"succeeded","message":{"id":"msg","content":[{"type":"text","text":"t"}],"usage":{"input_tokens":1,"output_tokens":2}}}}"#,
            r#"{"custom_id":"a","result":{"type":"errored","error":{"type":"error","error":{"type":"api_error","message":"m"}}}}"#,
            "{\t\"custom_id\" : \"a\" ,\t\"response\" : { \"status_code\":200 , \"body\" : [ 1 ] } }",
            r#"{"custom\u005fid":"a","response":{"status_code":200,"body":{"n":NaN,"t":"\ud83d"}}}"#,
        ]
        .map(|row| row.as_bytes().to_vec())
        .to_vec();
        rows.push(b"{\"custom_id\":\"a\",\"response\":{\"status_code\":200,\"body\":{\"t\":\"\xff\xfe\"}}}".to_vec());
        rows
    }

    #[test]
    fn a_row_truncated_at_any_byte_is_not_a_reply() {
        for row in rows() {
            let whole = read(&row, ReplyRole::Output).unwrap();
            assert_eq!(whole.id_hash, IDS.hash("a"));
            for at in 1..row.len() {
                for cut in [&row[..at], &row[at..]] {
                    for role in [ReplyRole::Output, ReplyRole::Error] {
                        assert_eq!(read(cut, role), None, "{}", cut.escape_ascii());
                    }
                    // A service that continues after a truncated row, or starts it again.
                    let glued = [cut, row.as_slice()].concat();
                    assert_eq!(read(&glued, ReplyRole::Output), None, "{}", glued.escape_ascii());
                }
            }
        }
    }

    /// A value that may contain relevant members, or looks like it.
    pub(crate) fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            (0_u64..600).prop_map(|number| number.to_string()),
            Just("1.5".to_owned()),
            Just("-3".to_owned()),
            Just("99999999999999999999".to_owned()),
            "[a-c]{0,3}".prop_map(|text| format!("{text:?}")),
            Just(r#""a\n\u00e9\"""#.to_owned()),
            Just(r#""500""#.to_owned()),
            Just(r#""timed out""#.to_owned()),
            Just(r#""errored""#.to_owned()),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            let key = prop::sample::select(vec![
                "custom_id",
                "response",
                "result",
                "type",
                "status_code",
                "request_id",
                "body",
                "usage",
                "prompt_tokens",
                "completion_tokens",
                "input_tokens",
                "output_tokens",
                "error",
                "errors",
                "code",
                "message",
                "other",
            ]);
            let members = prop::collection::vec((key, inner.clone()), 0..5).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(key, value)| format!("{key:?} : {value}")).collect();
                format!("{{{}}}", members.join(", "))
            });
            prop_oneof![4 => members, 1 => prop::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(",")))]
        })
    }

    /// A line with these members.
    pub(crate) fn line_of(id: &str, response: &str, error: &str, result: Option<String>) -> String {
        let result = result.map_or(String::new(), |result| format!(r#","result":{result}"#));
        format!(r#"{{"custom_id":{id},"response":{response},"x":{response},"error":{error}{result}}}"#)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// All readers find the same in any line.
        #[test]
        fn all_readers_read_the_same(
            id in value(), response in value(), error in value(), result in prop::option::of(value()), named: bool, role: bool,
        ) {
            let role = if role { ReplyRole::Output } else { ReplyRole::Error };
            let id = if named { format!("\"{}\"", id.len()) } else { id };
            let line = line_of(&id, &response, &error, result);
            let [scanned, parsed, framed] = Reader::ALL.map(|reader| read_by(reader, line.as_bytes(), role));
            prop_assert_eq!(&scanned, &framed, "{}", line);
            // A tape does not know how a number was written.
            let is_number = scanned.as_ref().is_some_and(|reply| !reply.id_is_string);
            prop_assert!(parsed == scanned || parsed.is_none() && is_number, "{}", line);
            prop_assert!(scanned.is_some() || !named, "{}", line);
        }
    }
}
