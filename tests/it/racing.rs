//! Two processes at once on one input: one of them does the work, and nothing is paid for twice.

use crate::program::{Place, report};
use crate::requests::{assert_same, generated, replies};
use crate::service::Service;

const RACES: usize = 20;

#[test]
fn of_two_concurrent_processes_one_is_rejected() {
    let (mut turned_away, mut both) = (0, 0);
    let requests = generated(60);
    for race in 0..RACES {
        let (place, service) = (Place::new(), Service::start_with("--batch-time 50ms"));
        place.write("in.jsonl", &requests);
        let run = format!("run in.jsonl {} --shard-requests 9", service.arguments());
        if race % 2 == 1 {
            // A run that is there already, instead of one that both make.
            let mut begun = place.program(&run).start();
            crate::program::wait_until(|| service.books().accepted() >= 1);
            begun.kill();
            begun.end();
        }
        let started = ["one", "other"].map(|out| place.program(&format!("{run} -o {out}.jsonl")).start());
        let ended = started.map(crate::program::Running::end);
        let codes: Vec<Option<i32>> = ended.iter().map(|ended| ended.status.code()).collect();
        match codes[..] {
            [Some(0), Some(0)] => both += 1,
            [Some(0), Some(9)] | [Some(9), Some(0)] => turned_away += 1,
            _ => panic!("{codes:?}: {} {}", ended[0].stderr, ended[1].stderr),
        }
        for (ended, out) in ended.iter().zip(["one.jsonl", "other.jsonl"]) {
            if ended.status.success() {
                assert_same(&place.read(out), &replies(&requests));
            } else {
                let told = ["is locked by another process", "was just created by another process"];
                assert!(told.iter().any(|words| ended.stderr.contains(words)), "{}", ended.stderr);
                assert!(!place.has(out));
            }
        }
        assert_eq!((place.runs().len(), place.unnamed_runs().len()), (1, 0));
        assert_eq!(service.books().accepted(), 9);
        service.books().assert_billed_once(&requests);
    }
    report(&format!("{RACES} races: {turned_away} losers turned away, {both} came one after the other"));
    assert!(turned_away >= RACES / 2, "only {turned_away} of {RACES} were races");
}
