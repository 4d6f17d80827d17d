//! Confirmation on the terminal: before paid requests are sent again, and before runs are removed.

use crate::program::{Place, wait_until};
use crate::requests::{assert_same, generated};
use crate::service::{DIALECTS, Service};

/// A place whose requests have all been answered once.
fn answered(service: &Service, requests: &[u8]) -> (Place, String) {
    let place = Place::new();
    place.write("in.jsonl", requests);
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    place.run(&command).with_code(0);
    (place, command)
}

#[test]
fn resending_answered_requests_needs_confirmation() {
    for dialect in DIALECTS {
        let (service, requests) = (Service::speaking(dialect, "--batch-time 0ms"), generated(20));
        let (place, command) = answered(&service, &requests);
        let accepted = service.books().accepted();
        // Grown, edited, shortened, in another order.
        let edited =
            String::from_utf8(requests.clone()).unwrap().replacen("\"role\":\"user\"", "\"role\":\"system\"", 1);
        let reversed: Vec<u8> =
            crate::requests::lines(&requests).into_iter().rev().flat_map(|line| [line, b"\n"].concat()).collect();
        for (text, sends) in [(generated(21), 21), (edited.into_bytes(), 20), (generated(19), 19), (reversed, 20)] {
            place.write("in.jsonl", &text);
            let told = place.run(&command).with_code(2).saying("nothing was sent: an earlier run over in.jsonl (");
            let told = told.saying(&format!("has answers to 20 of 20 requests; this one would send all {sends}"));
            let run = place.run_directory();
            told.saying(run.to_str().unwrap()).saying("hint: pass --yes");
            // Records for a program: no question, whoever sits there.
            let told = place.program(&format!("{command} --json")).typing("y\n").run().with_code(2);
            assert!(told.stderr.contains("\"exit\":2") && !told.stderr.contains("[y/N]"), "{}", told.stderr);
            for no in ["n\n", "\n", "\u{4}", "never\n"] {
                let told = place.program(&command).typing(no).run().with_code(2);
                told.saying(&format!("this run would send all {sends} again. Continue? [y/N]"));
            }
            assert_eq!((place.unnamed_runs().len(), service.books().accepted()), (0, accepted));
        }
        // As it was, it is the run that is there.
        place.write("in.jsonl", &requests);
        place.run(&command).with_code(0).saying("already complete");

        place.write("in.jsonl", generated(21));
        place.program(&command).typing("y\n").run().with_code(0).saying("starting 21 requests");
        assert_same(&place.read("out.jsonl"), &service.replies(&generated(21)));
        // Once begun, it is the run that the same command resumes.
        place.run(&command).with_code(0).saying("already complete: 21 requests");
        // The newest of them is told.
        place.write("in.jsonl", generated(22));
        place.run(&command).with_code(2).saying("answers to 21 of 21 requests");
        place.run(&format!("{command} --yes")).with_code(0).saying("starting 22 requests");
        assert_same(&place.read("out.jsonl"), &service.replies(&generated(22)));
    }
}

#[test]
fn a_run_that_shares_a_file_is_asked_about_by_whatever_path() {
    let (service, requests) = (Service::start(), generated(20));
    let (place, _) = answered(&service, &requests);
    place.write("more.jsonl", String::from_utf8(generated(9)).unwrap().replace("req-", "more-"));
    std::os::unix::fs::symlink("in.jsonl", place.path("link.jsonl")).unwrap();
    std::fs::hard_link(place.path("in.jsonl"), place.path("hard.jsonl")).unwrap();
    for inputs in ["in.jsonl more.jsonl", "more.jsonl ./in.jsonl", "link.jsonl more.jsonl", "hard.jsonl more.jsonl"] {
        let command = format!("run {inputs} {} -o out.jsonl", service.arguments());
        let told = place.run(&command).with_code(2);
        told.saying("an earlier run over in.jsonl").saying("answers to 20 of 20 requests; this one would send all 29");
    }
    // A directory of its own makes no other requests of them.
    let apart = format!("run in.jsonl {} --run-dir apart -o out.jsonl", service.arguments());
    place.run(&apart).with_code(2).saying("this one would send all 20");
    let piped = place.program(&format!("run {} --run-dir apart", service.arguments())).input(requests.clone()).run();
    piped.with_code(2).saying("this one would send all 20");
    place.run(&format!("{apart} --yes")).with_code(0);
    place.run(&apart).with_code(0).saying("already complete");
    // Another file is.
    place.run(&format!("run more.jsonl {} -o out.jsonl", service.arguments())).with_code(0);
}

#[test]
fn another_service_or_endpoint_is_another_run_on_purpose() {
    let (service, requests) = (Service::start(), generated(20));
    let (place, _) = answered(&service, &requests);
    place.write("in.jsonl", generated(21));
    let other = Service::speaking(batchline::dialect::OPENAI, "--batch-time 0ms");
    for options in ["--provider local --poll-interval 50ms".to_owned(), other.arguments()] {
        place.run(&format!("run in.jsonl {options} -o out.jsonl")).with_code(0).saying("starting 21 requests");
    }
}

#[test]
fn submitted_requests_count_and_unsent_ones_do_not() {
    let (service, requests) = (Service::start_with("--batch-time 10m"), generated(20));
    let place = Place::new();
    place.write("in.jsonl", &requests);
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    // Nobody is there.
    let nowhere = "run in.jsonl --provider local --base-url http://127.0.0.1:9 --poll-interval 50ms -o out.jsonl";
    let mut begun = place.program(nowhere).start();
    wait_until(|| !place.runs().is_empty());
    begun.kill();
    begun.end();
    place.write("in.jsonl", generated(21));
    let mut begun = place.program(nowhere).start();
    wait_until(|| place.runs().len() == 2);
    begun.kill();
    begun.end();

    let mut begun = place.program(&command).start();
    wait_until(|| service.books().accepted() == 3);
    begun.kill();
    begun.end();
    place.write("in.jsonl", generated(22));
    let told = place.run(&command).with_code(2);
    told.saying("has answers to 0 of 21 requests, and 21 at the service; this one would send all 22");
}
