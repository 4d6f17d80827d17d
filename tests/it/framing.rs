//! Reply files without one reply per line, and replies of any length: each reply is found, or the file is rejected by
//! name.

use std::io::Write;

use batchline::dialect::{Dialect, TOGETHER};
use serde_json::Value;

use crate::program::{Place, end_within_memory};
use crate::requests::{assert_same, generated, ids, lines, replies, replies_in, request};
use crate::service::{DIALECTS, Service};

/// Bytes by which a reply is made too large for memory.
const HUGE_BYTES: usize = 100 << 20;

const MERGE: &str = "merge in.jsonl -o out.jsonl --errors failed.jsonl --aside kept --replies";

/// Requests, and the replies to them in an order that is not theirs.
fn laid_out(dialect: &'static dyn Dialect, count: u64) -> (Place, Vec<u8>, Vec<Vec<u8>>) {
    let (place, requests) = (Place::new(), generated(count));
    place.write("in.jsonl", &requests);
    let mut rows: Vec<Vec<u8>> = lines(&replies_in(dialect, &requests)).into_iter().map(<[u8]>::to_vec).collect();
    rows.reverse();
    (place, requests, rows)
}

#[test]
fn several_whole_objects_on_a_line_are_as_many_replies() {
    for dialect in DIALECTS {
        let (place, requests, rows) = laid_out(dialect, 12);
        for between in ["", " ", "\t", "\r"] {
            let text: Vec<Vec<u8>> = rows.chunks(3).map(|some| some.join(between.as_bytes())).collect();
            place.write("joined.jsonl", text.join(&b'\n'));
            place.run(&format!("{MERGE} joined.jsonl")).with_code(0).saying("replies: 12, 0 duplicate");
            assert_same(&place.read("out.jsonl"), &replies_in(dialect, &requests));
        }
        // As `cat` puts files together that have no last line end, one of them with a byte order mark.
        let parts: Vec<Vec<u8>> = rows.chunks(5).map(|some| some.join(&b'\n')).collect();
        place.write("together.jsonl", [&parts[0][..], &parts[1], b"\n\xef\xbb\xbf", &parts[2]].concat());
        place.run(&format!("{MERGE} together.jsonl")).with_code(0).saying("replies: 12, 0 duplicate");
        assert_same(&place.read("out.jsonl"), &replies_in(dialect, &requests));
    }
}

#[test]
fn in_a_run_two_rows_on_a_line_are_two_replies() {
    for dialect in DIALECTS {
        let (place, requests) = (Place::new(), generated(31));
        place.write("in.jsonl", &requests);
        let faults = "[[fault]]\ndo = 'joined'\n[[fault]]\ndo = 'error_rows'\nrows = [3, 7, 8]\ncode = 'invalid_request'\nmessage = 'no'\n";
        let service = Service::faulty(dialect, faults);
        let ended = place.run(&format!("run in.jsonl -o out.jsonl {}", service.arguments())).with_code(6);
        assert!(!ended.stderr.contains("fetching them again"), "{}", ended.stderr);
        let output = place.read("out.jsonl");
        assert_eq!(ids(&output), ids(&requests));
        let wanted = service.replies(&requests);
        let same = lines(&output).into_iter().zip(lines(&wanted)).filter(|(given, wanted)| given == wanted).count();
        assert_eq!(same, 22, "three of each batch have failed");
        assert_eq!(service.books().calls("create_batch"), 3, "one for each model");
        assert_eq!(service.books().billed().len(), 22);
        assert_eq!(service.books().faults(), 6);
    }
}

/// Files that somebody might take for files of replies, what they are called, and the line that shows it.
fn strays(requests: &[u8], rows: &[Vec<u8>]) -> Vec<(&'static str, Vec<u8>, &'static str, usize)> {
    let values: Vec<Value> = rows.iter().map(|row| serde_json::from_slice(row).unwrap()).collect();
    let pretty: Vec<Vec<u8>> = values.iter().map(|value| serde_json::to_vec_pretty(value).unwrap()).collect();
    let spread = "JSON that is spread over several lines";
    let (good, jsonl) = (rows[0].clone(), rows.join(&b'\n'));
    let utf16 = |little: bool, mark: bool| {
        let text = String::from_utf8(jsonl.clone()).unwrap();
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect::<Vec<u8>>()
    };
    let mut zip = Vec::from(*b"PK\x03\x04");
    zip.extend_from_slice(&jsonl);
    vec![
        ("pretty", pretty.join(&b'\n'), spread, 1),
        ("pretty-tail", [&good[..], b"\n\n", &pretty[1]].concat(), spread, 3),
        ("pretty-wide", [b"{ \"first\": 1,\n".to_vec(), pretty[0][2..].to_vec()].concat(), spread, 2),
        ("pretty-array", serde_json::to_vec_pretty(&values).unwrap(), "a JSON array", 1),
        ("array", serde_json::to_vec(&values).unwrap(), "a JSON array", 1),
        ("array-tail", [&good[..], b"\n", &serde_json::to_vec(&values).unwrap()].concat(), "a JSON array", 2),
        ("array-of-lines", [b"[\n", &rows.join(&b",\n"[..])[..], b"\n]\n"].concat(), "a JSON array", 1),
        ("elements", rows.join(&b",\n"[..]), "a JSON array", 1),
        ("on-one-line", rows.join(&b", "[..]), "a JSON array", 1),
        ("input", requests.to_vec(), "a request", 1),
        ("requests", [&good[..], b"\n", lines(requests)[0]].concat(), "a request", 2),
        ("joined-requests", [&good[..], lines(requests)[0]].concat(), "a request", 1),
        ("bodies", br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#.to_vec(), "a request", 1),
        ("page", b"<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>\n".to_vec(), "an HTML or XML page", 1),
        ("page-tail", [&jsonl[..], b"\n<html>\n<body>"].concat(), "an HTML or XML page", rows.len() + 1),
        ("xml", b"\n<Error><Code>NoSuchKey</Code></Error>".to_vec(), "an HTML or XML page", 2),
        ("zip", zip, "compressed data", 1),
        ("program", b"\x7fELF\x02\x01\x01\0\0\0\n\0".to_vec(), "binary data", 1),
        ("table", b"custom_id,reply\nrequest-1,yes\n".to_vec(), "text that is not JSON", 1),
        ("words", b"upstream connect error".to_vec(), "text that is not JSON", 1),
        ("utf16-le", utf16(true, true), "UTF-16 text", 1),
        ("utf16-be", utf16(false, true), "UTF-16 text", 1),
        ("utf16-bare", utf16(true, false), "UTF-16 text", 1),
    ]
}

#[test]
fn files_of_other_kinds_are_rejected_and_nothing_is_written() {
    for dialect in DIALECTS {
        let (place, requests, rows) = laid_out(dialect, 9);
        place.write("good.jsonl", rows.join(&b'\n'));
        place.write("out.jsonl", "from before");
        for (name, content, form, line) in strays(&requests, &rows) {
            place.write(name, content);
            let ended = place.run(&format!("{MERGE} good.jsonl {name}")).with_code(2);
            ended.saying(&format!("{name}:{line} is not a reply: it looks like {form}")).saying("hint: ");
            std::fs::remove_file(place.path(name)).unwrap();
            assert_eq!(place.names(), ["good.jsonl", "in.jsonl", "out.jsonl"], "{name}");
            assert_eq!(place.read("out.jsonl"), b"from before", "{name}");
        }
    }
}

#[test]
fn damaged_lines_are_set_aside_and_the_others_count() {
    let (place, requests, mut rows) = laid_out(TOGETHER, 6);
    let lost = rows.pop().unwrap();
    for end in [1, 2, lost.len() / 2, lost.len() - 1] {
        for damaged in [&lost[..end], &lost[lost.len() - end..]] {
            place.write("replies.jsonl", [damaged, b"\n", &rows.join(&b'\n')].concat());
            place.run(&format!("{MERGE} replies.jsonl")).with_code(6).saying("replies: 6").saying("1 unreadable");
            assert_eq!(lines(&place.read("kept-unreadable.jsonl")), [damaged]);
            assert_same(&place.read("out.jsonl"), &replies(&lines(&requests)[1..].join(&b'\n')));
        }
    }
}

#[test]
fn in_a_run_a_download_that_is_no_file_of_replies_is_fetched_again() {
    for dialect in DIALECTS {
        let requests = generated(12);
        let rows: Vec<Vec<u8>> = lines(&replies_in(dialect, &requests)).into_iter().map(<[u8]>::to_vec).collect();
        // With a reply in it, it is a reply file, and as good as it goes.
        let has_reply = |content: &[u8]| {
            lines(content).iter().any(|line| rows.iter().any(|row| line.starts_with(row) && !line.ends_with(b",")))
        };
        for (name, content, ..) in strays(&requests, &rows).into_iter().filter(|(_, content, ..)| !has_reply(content)) {
            let Ok(text) = String::from_utf8(content) else { continue };
            let text: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
            let script = format!(
                "[[fault]]\ndo = 'status'\ncall = 'content'\nnth = 1\nstatus = 200\nbody = {}\n",
                Value::from(text)
            );
            let (place, service) = (Place::new(), Service::faulty(dialect, &script));
            place.write("in.jsonl", &requests);
            place.run(&format!("run in.jsonl -o out.jsonl {}", service.arguments())).with_code(0);
            assert_same(&place.read("out.jsonl"), &service.replies(&requests));
            service.books().assert_billed_once(&requests);
            assert_eq!(service.books().faults(), 1, "{name}");
        }
    }
}

#[test]
fn compressed_replies_and_pipes_give_what_files_give() {
    let gzip = |text: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    };
    for dialect in DIALECTS {
        let (place, requests, rows) = laid_out(dialect, 40);
        let (first, second) = (rows[..15].join(&b'\n'), rows[15..].join(&b'\n'));
        place.write("first", gzip(&first));
        place.write("first-marked.jsonl", [b"\xef\xbb\xbf", &first[..]].concat());
        place.write("second.zst", zstd::encode_all(&second[..], 3).unwrap());
        place.write("second.jsonl", &second);
        place.write("members.gz", [gzip(&first), gzip(b"\n"), gzip(&second)].concat());
        let wanted = replies_in(dialect, &requests);
        for command in [
            "merge in.jsonl --replies first second.zst",
            "merge in.jsonl --replies second.jsonl first-marked.jsonl",
            "merge in.jsonl --replies members.gz",
        ] {
            assert_same(&place.run(command).with_code(0).stdout, &wanted);
        }
        for script in [
            "cat second.zst | $BATCHLINE merge in.jsonl --replies first -",
            "cat second.jsonl | $BATCHLINE merge in.jsonl --replies /dev/stdin first",
            "$BATCHLINE merge in.jsonl --replies first /dev/fd/3 3<second.jsonl",
            "mkfifo pipe; cat second.jsonl >pipe & $BATCHLINE merge in.jsonl --replies pipe first",
            "cat in.jsonl | $BATCHLINE merge - --replies first second.zst",
        ] {
            assert_same(&place.shell(script).run().with_code(0).stdout, &wanted);
        }
        assert!(!place.names().iter().any(|name| name.starts_with('.')), "{:?}", place.names());
        place.shell("cat in.jsonl | $BATCHLINE merge - --replies first -").run().with_code(2).saying("only once");
        place.write("cut.gz", &gzip(&first)[..100]);
        place.run("merge in.jsonl --replies cut.gz second.jsonl").with_code(2).saying("cannot read cut.gz");
        // Told of by its name and not by that of a copy.
        place.write("input.gz", gzip(&requests));
        place.run("merge in.jsonl --replies input.gz").with_code(2).saying("input.gz:1 is not a reply");
    }
}

/// A reply with a member that makes it huge, first or last.
fn huge(reply: &[u8], last: bool) -> Vec<u8> {
    let fault = [br#""fault":""#, &vec![b'x'; HUGE_BYTES][..], b"\""].concat();
    let members = &reply[1..reply.len() - 1];
    let (one, other) = if last { (members, &fault[..]) } else { (&fault[..], members) };
    [b"{", one, b",", other, b"}"].concat()
}

/// The reply that [`huge`] was made of.
fn shrunk(huge: &[u8], last: bool) -> Vec<u8> {
    let fault = [br#""fault":""#, &vec![b'x'; HUGE_BYTES][..], b"\""].concat();
    let (before, after) = if last { (&b","[..], &b""[..]) } else { (&b""[..], &b","[..]) };
    let fault = [before, &fault, after].concat();
    let first = huge.windows(10).position(|bytes| bytes == br#""fault":"x"#).unwrap() - before.len();
    assert!(huge[first..].starts_with(&fault), "all of it is there");
    [&huge[..first], &huge[first + fault.len()..]].concat()
}

/// Insists on an error of this request, in a line that is JSON, with the request's body behind it.
fn assert_failed(line: &[u8], request: &[u8]) {
    let (error, sent): (Value, Value) =
        (serde_json::from_slice(line).unwrap(), serde_json::from_slice(request).unwrap());
    assert_eq!((&error["custom_id"], &error["error"]["message"]), (&sent["custom_id"], &"no".into()));
    let sent = request.windows(8).position(|bytes| bytes == br#","body":"#).unwrap();
    assert!(line.ends_with(&request[sent..]), "{}", String::from_utf8_lossy(line));
}

#[test]
fn in_a_run_replies_too_large_for_memory_are_paid_once_and_delivered_byte_for_byte() {
    for (dialect, last) in DIALECTS.into_iter().zip([true, false]) {
        let (place, requests) = (Place::new(), five_requests());
        place.write("in.jsonl", &requests);
        let script = format!(
            "[[fault]]\ndo = 'huge_line'\nrows = [2, 4]\nbytes = {HUGE_BYTES}\nlast = {last}\n\
             [[fault]]\ndo = 'error_rows'\nrows = [4, 5]\ncode = 'invalid_request'\nmessage = 'no'\n"
        );
        let service = Service::faulty(dialect, &script);
        let to = "-o out.jsonl --errors failed.jsonl --memory 256MiB";
        let (ended, _) =
            end_within_memory(place.program(&format!("run in.jsonl {to} {}", service.arguments())).start());
        ended.with_code(6);
        let wanted = service.replies(&requests);
        let wanted = lines(&wanted);
        let wanted = [wanted[0], b"\n", &huge(wanted[1], last), b"\n", wanted[2], b"\n"].concat();
        assert_same(&place.read("out.jsonl"), &wanted);
        let (failed, requests) = (place.read("failed.jsonl"), lines(&requests));
        let failed = lines(&failed);
        assert_eq!(failed.len(), 2);
        assert_failed(&shrunk(failed[0], last), requests[3]);
        assert_failed(failed[1], requests[4]);
        assert_eq!((service.books().calls("create_batch"), service.books().billed().len()), (1, 3), "{dialect}");
    }
}

fn five_requests() -> Vec<u8> {
    (1..=5).map(|n| request(&format!("r{n}"), "m") + "\n").collect::<String>().into_bytes()
}

#[test]
fn merge_takes_replies_too_large_for_memory_with_what_goes_with_them() {
    for (dialect, last) in DIALECTS.into_iter().zip([false, true]) {
        let (place, requests) = (Place::new(), five_requests());
        place.write("in.jsonl", &requests);
        let replies = replies_in(dialect, &requests);
        let replies = lines(&replies);
        let error = br#"{"id":"e","custom_id":"r4","error":{"code":"invalid_request","message":"no"}}"#;
        let stranger = String::from_utf8(replies[0].to_vec()).unwrap().replace("\"r1\"", "\"r9\"").into_bytes();
        let [output, error] = [replies[1], &error[..]].map(|reply| huge(reply, last));
        // Two on a line, the first and the third too long; one that nobody sent, one twice, and one that is cut.
        place.write("one.jsonl", [&output, replies[0], b"\r\n", &error, b"\n", replies[2]].concat());
        place.write(
            "two.jsonl",
            [&huge(&stranger, last), &b"\n"[..], &output, b"\n", &error[..error.len() - 1]].concat(),
        );
        place.write("three.jsonl", huge(replies[2], last));
        let command = format!("{MERGE} one.jsonl two.jsonl three.jsonl --memory 256MiB");
        let (ended, _) = end_within_memory(place.program(&command).start());
        let said = "replies: 8, 1 duplicate, 1 in conflict, 1 unknown, 1 unreadable";
        ended.with_code(6).saying("3 outputs, 1 error, 1 missing").saying(said);
        assert_same(&place.read("out.jsonl"), &[replies[0], b"\n", &output, b"\n", replies[2], b"\n"].concat());
        let failed = place.read("failed.jsonl");
        assert_failed(&shrunk(lines(&failed)[0], last), lines(&requests)[3]);
        assert_same(&place.read("kept-unknown.jsonl"), &[&huge(&stranger, last)[..], b"\n"].concat());
        assert_same(&place.read("kept-conflicts.jsonl"), &[&huge(replies[2], last)[..], b"\n"].concat());
        assert_same(&place.read("kept-unreadable.jsonl"), &[&error[..error.len() - 1], b"\n"].concat());
    }
}

#[test]
fn in_the_common_shape_a_reply_too_large_for_memory_is_what_a_small_one_is() {
    let (place, requests) = (Place::new(), five_requests());
    place.write("in.jsonl", &requests);
    let shaped = |size: usize| {
        let x = "x".repeat(size);
        let rows = [
            format!(r#"{{"id":"b","custom_id":"r1","response":{{"status_code":200,"body":{{"t":"{x}"}}}}}}"#),
            format!(
                r#"{{"custom_id":"r2","response":{{"status_code":"400","body":{{"error":{{"message":"{x}\n","code":7}}}}}}}}"#
            ),
            // What says no message is told as it stands.
            format!(r#"{{"custom_id":"r3","error":{{"reason":["{x}",{{"é":"\""}}]}}}}"#),
            format!(r#"{{"custom_id":"r4","response":null,"error":null,"other":"{x}"}}"#),
            format!(r#"{{"custom_id":"r5","result":{{"type":"succeeded","message":{{"content":["{x}"]}}}}}}"#),
        ];
        place.write("replies.jsonl", rows.join("\n"));
        let command = format!("{MERGE} replies.jsonl --shape common --memory 256MiB");
        let (ended, _) = end_within_memory(place.program(&command).start());
        ended.with_code(6).saying("2 outputs, 3 errors, 0 missing");
        let files = ["out.jsonl", "failed.jsonl"].map(|name| String::from_utf8(place.read(name)).unwrap());
        files.map(|file| {
            assert!(file.lines().all(|line| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok()));
            file.replace(&x, "").lines().map(str::to_owned).collect::<Vec<_>>()
        })
    };
    let (small, large) = (shaped(5), shaped(20 << 20));
    assert_eq!(small.each_ref().map(Vec::len), [2, 3]);
    assert_eq!(small, large);
}
