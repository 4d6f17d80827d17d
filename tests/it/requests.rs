//! Requests to send, and the replies that they must get: an echo follows from its request line alone, so the whole
//! output of a run is known beforehand.

use batchline::dialect::{Dialect, TOGETHER};
use batchline::generate::{Amount, GenerateOptions, generate};
use batchline::serve::echo_reply_in;
use serde::Deserialize;
use serde_json::Value;

/// A realistic prompt set, three models in turn; the same at each call.
pub(crate) fn generated(requests: u64) -> Vec<u8> {
    let options = GenerateOptions { amount: Amount::Requests(requests), ..GenerateOptions::default() };
    let mut prompts = Vec::new();
    generate(&options, &mut prompts).unwrap();
    prompts
}

/// A request that the service answers.
pub(crate) fn request(custom_id: &str, model: &str) -> String {
    format!(
        r#"{{"custom_id":"{custom_id}","body":{{"model":"{model}","messages":[{{"role":"user","content":"Say {custom_id}."}}]}}}}"#
    )
}

/// The lines that say something, without their ends and a byte order mark.
pub(crate) fn lines(text: &[u8]) -> Vec<&[u8]> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.trim_ascii().is_empty()).collect()
}

/// What a run of these requests must give in Together's dialect, byte for byte.
pub(crate) fn replies(requests: &[u8]) -> Vec<u8> {
    replies_in(TOGETHER, requests)
}

/// The same in any dialect.
pub(crate) fn replies_in(dialect: &'static dyn Dialect, requests: &[u8]) -> Vec<u8> {
    let reply = |line: &[u8]| echo_reply_in(dialect, line).into_iter().chain(*b"\n");
    lines(requests).into_iter().flat_map(reply).collect()
}

/// The answers of output lines alone, in their order; `null` for an error.
pub(crate) fn bodies(output: &[u8]) -> Vec<Value> {
    let body = |line| serde_json::from_slice::<Value>(line).unwrap()["response"]["body"].clone();
    lines(output).into_iter().map(body).collect()
}

/// The ids of requests or replies, in their order.
pub(crate) fn ids(text: &[u8]) -> Vec<String> {
    // The rest may hold numbers that no type holds.
    #[derive(Deserialize)]
    struct Named {
        custom_id: String,
    }
    let id = |line| serde_json::from_slice::<Named>(line).unwrap().custom_id;
    lines(text).into_iter().map(id).collect()
}

/// Insists that two texts are the same, without showing megabytes of them.
#[track_caller]
pub(crate) fn assert_same(given: &[u8], wanted: &[u8]) {
    if given == wanted {
        return;
    }
    let text = |line: Option<&&[u8]>| {
        line.map_or("no line".to_owned(), |line| String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned())
    };
    let (given, wanted): (Vec<&[u8]>, Vec<&[u8]>) =
        (given.split(|byte| *byte == b'\n').collect(), wanted.split(|byte| *byte == b'\n').collect());
    let differs = (0..given.len().max(wanted.len())).find(|at| given.get(*at) != wanted.get(*at)).unwrap_or_default();
    panic!("line {} is\n{}\nand should be\n{}", differs + 1, text(given.get(differs)), text(wanted.get(differs)));
}

/// Error lines as they stand in a file of their own: each with the `body` of its request.
pub(crate) fn with_bodies(errors: &[u8], requests: &[u8]) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Request<'l> {
        custom_id: String,
        #[serde(borrow)]
        body: &'l serde_json::value::RawValue,
    }
    let requests: Vec<Request<'_>> =
        lines(requests).into_iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    let mut text = Vec::new();
    for (line, id) in lines(errors).into_iter().zip(ids(errors)) {
        let body = requests.iter().find(|request| request.custom_id == id).unwrap().body;
        text.extend_from_slice(line.strip_suffix(b"}").unwrap());
        text.extend_from_slice(format!(",\"body\":{body}}}\n").as_bytes());
    }
    text
}
