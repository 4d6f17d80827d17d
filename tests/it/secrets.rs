//! The key is in the header of calls to the service, and nowhere else.

use std::path::Path;

use crate::program::Place;
use crate::requests::{generated, replies};
use crate::service::Service;

/// A key that stands nowhere by chance.
const CANARY: &str = "canary-5b1f0c9e7d3a4826-do-not-sing";

#[test]
fn the_key_stands_in_no_file_no_message_and_no_argument() {
    let (place, service, requests) = (Place::new(), Service::start_with("--batch-time 500ms"), generated(30));
    place.write("in.jsonl", &requests);
    let command = format!("run in.jsonl -o out.jsonl --json --base-url {} --poll-interval 50ms", service.base_url());
    // Whatever makes programs or their libraries talkative.
    let talkative = [("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full"), ("BATCHLINE_LOG", "trace")];
    let program =
        talkative.into_iter().fold(place.program(&command), |program, (name, value)| program.env(name, value));
    let running = program.env("TOGETHER_API_KEY", CANARY).start();
    let arguments = std::fs::read(format!("/proc/{}/cmdline", running.id())).unwrap();
    assert!(!contains(&arguments, CANARY));
    let ended = running.end().with_code(0);
    assert!(!contains(ended.stderr.as_bytes(), CANARY) && !contains(&ended.stdout, CANARY));
    assert_eq!(place.read("out.jsonl"), replies(&requests));
    assert_nowhere_below(&place.path(""), CANARY);
    assert!(service.books().calls("create_batch") > 0);
    // Nor where the service keeps its log of calls.
    service.books().each_file(|path, content| assert!(!contains(content, CANARY), "{}", path.display()));
}

#[test]
fn a_key_that_the_service_refuses_is_not_repeated_in_the_message() {
    let place = Place::new();
    write_private(&place.path("key"), "the-right-one");
    let service = Service::start_in(place, "--api-key-file key");
    let place = Place::new();
    place.write("in.jsonl", generated(3));
    let command = format!("run in.jsonl --base-url {}", service.base_url());
    let ended = place.program(&command).env("TOGETHER_API_KEY", CANARY).run().with_code(3);
    assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
    assert_nowhere_below(&place.path(""), CANARY);
}

/// Writes a file that its owner alone can read.
pub(crate) fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Insists that no file below a directory has the word in it.
#[track_caller]
pub(crate) fn assert_nowhere_below(directory: &Path, word: &str) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_nowhere_below(&path, word);
        } else {
            assert!(!contains(&std::fs::read(&path).unwrap(), word), "{}", path.display());
        }
    }
}

fn contains(text: &[u8], word: &str) -> bool {
    memchr::memmem::find(text, word.as_bytes()).is_some()
}
