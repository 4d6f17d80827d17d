//! Ctrl-C and SIGTERM: a quick exit that says how to resume, no partial output, and nothing paid twice by resuming.

use rustix::process::Signal;

use crate::program::{Place, wait_until};
use crate::requests::{assert_same, generated, replies};
use crate::service::Service;

#[test]
fn a_signal_ends_the_run_with_its_code_and_the_same_command_resumes() {
    for (signal, code, words) in [(Signal::INT, 130, "interrupted"), (Signal::TERM, 143, "terminated")] {
        let (place, requests) = (Place::new(), generated(60));
        let service = Service::start_with("--batch-time 1s");
        place.write("in.jsonl", &requests);
        let command = format!("run in.jsonl {} --shard-requests 10 -o out.jsonl", service.arguments());
        let running = place.program(&command).start();
        wait_until(|| service.books().calls("create_batch") >= 3);
        running.signal(signal);
        running.end().with_code(code).saying(words).saying("run the same command to resume");
        assert!(!place.has("out.jsonl"));
        place.run(&command).with_code(0).saying("resuming 60 requests");
        assert_same(&place.read("out.jsonl"), &replies(&requests));
        assert_eq!(service.books().calls("create_batch"), 6);
        service.books().assert_billed_once(&requests);
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_beside_the_output() {
    let (place, service) = (Place::new(), Service::start_with("--batch-time 10m"));
    place.write("in.jsonl", generated(6));
    let running = place.program(&format!("run in.jsonl {} -o out.jsonl", service.arguments())).start();
    wait_until(|| service.books().calls("create_batch") == 3);
    running.signal(Signal::INT);
    running.end().with_code(130);
    assert_eq!(place.names(), [".batchline", "in.jsonl"]);
}

#[test]
fn a_signal_is_heard_while_the_input_is_still_awaited() {
    let place = Place::new();
    let running = place.program("run - --provider local").silent_input().start();
    // It has its directory, so all that it waits for is its input.
    wait_until(|| place.unnamed_runs().iter().any(|run| run.join("lock").metadata().is_ok_and(|lock| lock.len() > 0)));
    running.signal(Signal::INT);
    running.end().with_code(130);
    // What it left there half done goes with the next run.
    let requests = generated(3);
    let ended = place.program("run - --provider local --poll-interval 50ms").input(requests.clone()).run().with_code(0);
    assert_same(&ended.stdout, &replies(&requests));
    assert_eq!((place.runs().len(), place.unnamed_runs().len()), (1, 0));
}

#[test]
fn a_signal_is_heard_while_the_service_does_not_answer() {
    let (place, service, requests) = (Place::new(), Service::start(), generated(30));
    place.write("in.jsonl", &requests);
    service.freeze();
    let command = format!("run in.jsonl {} -o out.jsonl", service.arguments());
    let running = place.program(&command).start();
    wait_until(|| running.stderr_so_far().contains("starting 30 requests"));
    running.signal(Signal::INT);
    running.end().with_code(130);
    service.thaw();
    place.run(&command).with_code(0);
    assert_same(&place.read("out.jsonl"), &replies(&requests));
    service.books().assert_billed_once(&requests);
}

#[test]
fn a_second_signal_ends_a_run_without_a_reader() {
    let (place, service, requests) = (Place::new(), Service::start(), generated(1000));
    place.write("in.jsonl", &requests);
    let command = format!("run in.jsonl {}", service.arguments());
    // The output is larger than a pipe holds.
    let (program, reader) = place.program(&command).unread_output();
    let mut running = program.start();
    wait_until(|| service.books().calls("get_content") == 3);
    running.signal(Signal::INT);
    wait_until(|| {
        if running.is_alive() {
            running.signal(Signal::INT);
        }
        !running.is_alive()
    });
    running.end().with_code(130);
    drop(reader);
    assert_same(&place.run(&command).with_code(0).stdout, &replies(&requests));
    service.books().assert_billed_once(&requests);
}
